"""Kernels and their raw parameters: trees, boxes and initializers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze

import flax_stable as fs
from flax_stable._positive.kernels import (
    positive_kernels,
    raw_kernel_init,
    to_kernel,
    to_raw_kernel,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_raw_kernel_gives_the_kernel_back(dtype):
    kernel = jnp.array([1e-3, 0.1, 0.5, 1.0, 3.0, 20.0], dtype)
    back = to_kernel(to_raw_kernel(kernel))
    assert back.dtype == kernel.dtype
    # A raw value near -7, rounded to half an ULP, moves the kernel by |raw| of those.
    rtol = 8 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(np.float64(back), np.float64(kernel), rtol=rtol)


@pytest.mark.parametrize(
    "box", [nn.Partitioned, nn.LogicallyPartitioned], ids=lambda b: b.__name__
)
def test_transforms_reach_into_boxes(box):
    boxed = box(jnp.ones((2, 3)), names=("a", "b"))
    raw = to_raw_kernel(boxed)
    assert type(raw) is box and raw.names == ("a", "b")
    np.testing.assert_array_equal(raw.value, fs.inverse_softplus(jnp.ones((2, 3))))
    np.testing.assert_array_equal(to_kernel(raw).value, fs.softplus(raw.value))


def test_raw_kernel_init_passes_everything_on():
    def init(key, shape, dtype, scale=1.0):
        return jnp.full(shape, scale, dtype)

    raw = raw_kernel_init(init)(KEY, (2, 3), jnp.float16, scale=2.0)
    assert raw.shape == (2, 3) and raw.dtype == jnp.float16
    assert (raw == fs.inverse_softplus(jnp.float16(2))).all()


@pytest.mark.parametrize(
    "value, smallest", [(-0.5, "-0.5"), (0.0, "0.0"), (float("nan"), "nan")]
)
def test_values_that_are_not_positive_are_refused(value, smallest):
    with pytest.raises(ValueError) as e:
        to_raw_kernel(jnp.array([1.0, value]))
    assert str(e.value) == (
        "kernel_init describes the positive kernel and must return values above 0, but "
        f"the smallest one is {smallest}. Take an initializer of positive values, such "
        "as near_permutation()."
    )


def test_values_below_twice_the_floor_start_there():
    raw = to_raw_kernel(jnp.array([1e-6, 0.1, 0.25, 1.0]), floor=0.1)
    np.testing.assert_allclose(
        to_kernel(raw, floor=0.1), [0.2, 0.2, 0.25, 1], rtol=1e-6
    )
    raw = jax.jit(lambda k: to_raw_kernel(k, floor=0.1))(jnp.array([0.0, -1.0]))
    assert jnp.isnan(raw).all()


def test_values_under_jit_cannot_be_refused():
    raw = jax.jit(to_raw_kernel)(jnp.array([1.0, 0.0, -1.0]))
    assert jnp.isfinite(raw[0]) and raw[1] == -jnp.inf and jnp.isnan(raw[2])
    assert jax.eval_shape(to_raw_kernel, jnp.array([-1.0])).shape == (1,)


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
@pytest.mark.parametrize(
    "init, who",
    [
        (fs.near_permutation(), "near_permutation initializes"),
        (raw_kernel_init(jax.nn.initializers.ones), "kernel_init must return"),
    ],
)
def test_a_dtype_that_is_not_floating_is_refused(init, who, dtype):
    with pytest.raises(TypeError) as e:
        init(KEY, (2, 3), jnp.dtype(dtype))
    assert str(e.value) == (
        f"{who} a positive kernel of real floating dtype, but got dtype {dtype}. "
        "Choose param_dtype=float32 or another float."
    )


def test_positive_kernels():
    raw = jnp.array([[-1.0, 2.0]])
    tree = {
        "params": {
            "Dense_0": {"kernel": raw, "bias": raw[0]},
            "block": {"inner": {"raw_kernel": raw, "bias": raw[0]}},
        },
        "batch_stats": {"mean": raw[0]},
    }
    kernels = positive_kernels(freeze(tree))
    assert kernels["params"]["Dense_0"]["kernel"] is raw
    assert kernels["batch_stats"] == {"mean": tree["batch_stats"]["mean"]}
    inner = kernels["params"]["block"]["inner"]
    assert set(inner) == {"kernel", "bias"}
    np.testing.assert_array_equal(inner["kernel"], fs.softplus(raw))


def test_positive_kernels_keeps_boxes():
    box = nn.Partitioned(jnp.zeros((2, 3)), names=(None, "model"))
    kernel = positive_kernels({"raw_kernel": box})["kernel"]
    assert kernel.names == (None, "model")
    assert (kernel.value == fs.softplus(jnp.float32(0))).all()


def test_positive_kernels_refuses_other_things():
    with pytest.raises(TypeError) as e:
        positive_kernels(jnp.ones(3))
    assert str(e.value).startswith(
        "positive_kernels expects the nested dicts of Linen parameters, but got "
    )
    assert str(e.value).endswith("An NNX layer has its positive kernel as .kernel.")
