"""The positive parameterization: transform, initializer, reading, scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze

import flax_stable as fs
from flax_stable._positive import (
    dense,
    near_permutation,
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
        f"the smallest one it returned is {smallest}. Take an initializer of positive "
        "values, such as the default near_permutation()."
    )


def test_values_under_jit_cannot_be_refused():
    raw = jax.jit(to_raw_kernel)(jnp.array([1.0, 0.0, -1.0]))
    assert jnp.isfinite(raw[0]) and raw[1] == -jnp.inf and jnp.isnan(raw[2])
    assert jax.eval_shape(to_raw_kernel, jnp.array([-1.0])).shape == (1,)


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
@pytest.mark.parametrize(
    "init, who",
    [
        (near_permutation(), "near_permutation initializes"),
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


@pytest.mark.parametrize(
    "n, m, dtype",
    [
        (1, 1, "float32"),
        (1, 5, "float32"),
        (5, 1, "float32"),
        (512, 512, "float32"),
        (64, 10, "float32"),
        (10, 64, "float16"),
        (6, 4, "bfloat16"),
    ],
)
def test_near_permutation(n, m, dtype):
    spread = 0.125
    kernel = near_permutation(spread)(KEY, (n, m), jnp.dtype(dtype))
    assert kernel.shape == (n, m) and kernel.dtype == dtype
    kernel = np.float64(kernel)
    small = spread / n
    matched = kernel > 1.75 * small
    # All inputs and all outputs are used, evenly, and no pair twice.
    assert matched.sum() == max(n, m)
    assert set(matched.sum(0)) <= {max(1, n // m), -(-n // m)}
    assert set(matched.sum(1)) <= {max(1, m // n), -(-m // n)}
    rest = kernel - matched / matched.sum(0)
    error = jnp.finfo(dtype).eps
    assert rest.min() >= 0.5 * small - error and rest.max() <= 1.5 * small + error
    assert kernel.min() > 0


def test_near_permutation_is_random():
    init = near_permutation()
    draws = [init(k, (32, 32)) for k in jax.random.split(KEY, 3)]
    order = [np.argmax(k, axis=0) for k in draws]
    assert not (order[0] == order[1]).all() and not (order[1] == order[2]).all()
    np.testing.assert_array_equal(draws[0], init(jax.random.split(KEY, 3)[0], (32, 32)))
    # Outputs that share their input are still told apart.
    wide = init(KEY, (2, 8))
    assert len({tuple(c) for c in np.asarray(wide).T}) == 8


@pytest.mark.parametrize("spread", [0.0, -0.1, float("nan")])
def test_near_permutation_refuses_a_spread_that_is_not_positive(spread):
    with pytest.raises(ValueError) as e:
        near_permutation(spread)
    assert str(e.value) == (
        f"near_permutation expects a positive spread, but got {spread}. For almost no "
        "spread take a small number, such as 1e-3."
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_near_permutation_refuses_other_ranks(shape):
    with pytest.raises(ValueError) as e:
        near_permutation()(KEY, shape)
    assert str(e.value) == (
        "near_permutation initializes kernels of shape (inputs, outputs), but got "
        f"shape {shape}. Use jax.vmap for a stack of kernels."
    )


def lecun_softplus(key, shape):
    return fs.softplus(jax.nn.initializers.lecun_normal()(key, shape))


def even(key, shape):
    return jax.random.uniform(key, shape, minval=0.5, maxval=1.5) / shape[0]


def scale_through_layers(init, activation, layers=8, width=512, examples=256):
    """Per layer: mean magnitude, spread over the examples, gradient's magnitude."""
    key, *keys = jax.random.split(KEY, layers + 1)
    kernels = [init(k, (width, width)) for k in keys]

    def forward(shifts, x):
        xs = []
        for kernel, shift in zip(kernels, shifts, strict=True):
            x = activation(dense(x, kernel, None, jax.lax.dot_general) + shift)
            xs.append(x)
        return x, xs

    x, g = jax.random.normal(key, (2, examples, width))
    shifts = [jnp.zeros_like(x)] * layers
    _, pull_back, xs = jax.vjp(lambda s: forward(s, x), shifts, has_aux=True)
    (grads,) = pull_back(g)
    return np.array(
        [
            [jnp.abs(x).mean() for x in xs],
            [jnp.sqrt(x.var(axis=0).mean()) for x in xs],
            [jnp.sqrt((g**2).mean()) for g in grads],
        ]
    )


@pytest.mark.parametrize(
    "activation",
    [lambda x: x, fs.tanh, fs.softplus, jax.nn.relu],
    ids=["nothing", "tanh", "softplus", "relu"],
)
def test_scales_stay_through_eight_layers(activation):
    scales = scale_through_layers(near_permutation(), activation)
    assert (scales.max(axis=1) < 5 * scales.min(axis=1)).all(), scales
    assert scales.min() > 0.1 and scales.max() < 10, scales


def test_other_initializers_explode_or_collapse():
    mean, spread, _ = scale_through_layers(lecun_softplus, fs.softplus)
    assert mean[-1] > 1e15
    mean, spread, _ = scale_through_layers(even, fs.softplus)
    assert mean[-1] < 10 and spread[-1] < 0.01


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


def test_kernels_without_elements():
    for shape in ((0, 3), (3, 0)):
        assert fs.near_permutation()(jax.random.key(0), shape).shape == shape
