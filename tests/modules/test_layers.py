"""The modules, one API against the other and against Flax's layers."""

import dataclasses
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY, assert_same, linen_dense, nnx_linear, normal
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

# Flax's own fields, defaults and results


def linen_fields(cls):
    return [(f.name, f.default) for f in dataclasses.fields(cls)]


def nnx_arguments(cls):
    found = inspect.signature(cls.__init__).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


TRANSFORM = [("beta", 1.0), ("floor", 0.0)]
# Ours, Flax's, and the initializer whose default differs.
LINEN = [
    ("StableSoftplusDense", nn.Dense, "kernel_init"),
    ("StableSoftplusDenseGeneral", nn.DenseGeneral, "kernel_init"),
    ("StableSoftplusConv", nn.Conv, "kernel_init"),
    ("StableSoftplusEinsum", nn.Einsum, "kernel_init"),
    ("StableSoftplusEmbed", nn.Embed, "embedding_init"),
]
NNX = [
    ("StableSoftplusLinear", nnx.Linear, "kernel_init"),
    ("StableSoftplusLinearGeneral", nnx.LinearGeneral, "kernel_init"),
    ("StableSoftplusConv", nnx.Conv, "kernel_init"),
    ("StableSoftplusEinsum", nnx.Einsum, "kernel_init"),
    ("StableSoftplusEmbed", nnx.Embed, "embedding_init"),
]


@pytest.mark.parametrize(("name", "cls", "init"), LINEN)
def test_linen_fields_are_those_of_flax(name, cls, init):
    theirs = linen_fields(cls)
    ours = linen_fields(getattr(fs.linen, name))
    flax_has = {f[0] for f in theirs}
    added = [f for f in ours if f[0] not in flax_has]
    monotone = [("monotone", None)] if name == "StableSoftplusDense" else []
    assert added == TRANSFORM + monotone
    kept = [f for f in ours if f[0] in flax_has]
    assert [f[0] for f in kept] == [f[0] for f in theirs]
    differ = [a[0] for a, b in zip(kept, theirs, strict=True) if a != b]
    assert differ == [init]


@pytest.mark.parametrize(("name", "cls", "init"), NNX)
def test_nnx_arguments_are_those_of_flax(name, cls, init):
    theirs = nnx_arguments(cls)
    ours = nnx_arguments(getattr(fs.nnx, name))
    kept, added = ours[: len(theirs)], ours[len(theirs) :]
    monotone = [("monotone", None)] if name == "StableSoftplusLinear" else []
    assert [(p[0], p[2]) for p in added] == TRANSFORM + monotone
    assert [p[:2] for p in kept] == [p[:2] for p in theirs]

    def value(default):
        # A MappingProxyType has no equality: compare what it holds.
        return dict(default) if isinstance(default, Mapping) else default

    differ = {
        a[0] for a, b in zip(kept, theirs, strict=True) if value(a[2]) != value(b[2])
    }
    # Zeros are zeros, by another function.
    assert differ - {"bias_init"} == {init}


def doubled_product(*args, precision=None):
    return 2 * jax.lax.dot_general(*args, precision=precision)


class CountedProduct(nn.Module):
    """A product with a state of its own, as quantized ones have."""

    @nn.compact
    def __call__(self, *args, precision=None):
        count = self.variable("counts", "calls", lambda: jnp.int32(0))
        count.value += 1
        return doubled_product(*args, precision=precision)


def halve_dtype(*args, dtype=None):
    """A promotion of the user's own, in the way of Linen or of NNX."""
    arrays = args[0] if isinstance(args[0], tuple) else args
    return tuple(None if x is None else x.astype(jnp.float16) for x in arrays)


SHAPES = [(3,), (2, 5, 3)]
OPTIONS = [
    {},
    {"use_bias": False},
    {"dtype": jnp.bfloat16},
    {"dtype": jnp.float16, "use_bias": False},
    {"param_dtype": jnp.bfloat16, "dtype": jnp.float32},
    {"precision": "highest"},
    {"bias_init": nn.initializers.ones},
    {"kernel_init": nn.initializers.constant(0.25)},
    {"promote_dtype": halve_dtype},
]


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"dot_general": doubled_product},
        {"dot_general_cls": lambda: doubled_product},
        {"dot_general_cls": CountedProduct, "dot_general": jax.lax.dot_general},
    ],
    ids="-".join,
)
def test_linen_is_dense_of_the_positive_kernel(options):
    x = normal(2, 3)
    layer = fs.linen.StableSoftplusDense(4, **options)
    variables = layer.init(KEY, x)
    dtype = options.get("param_dtype", jnp.float32)
    assert variables["params"]["raw_kernel"].dtype == dtype
    theirs = nn.Dense(4, **options)
    dense_variables = fs.linen.positive_kernels(variables)
    assert jax.tree.structure(dense_variables) == jax.tree.structure(
        theirs.init(KEY, x)
    )
    for shape in SHAPES:
        x = normal(*shape)
        assert_same(
            layer.apply(variables, x, mutable=["counts"]),
            theirs.apply(dense_variables, x, mutable=["counts"]),
        )


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
        {"preferred_element_type": jnp.float32, "use_bias": False},
    ],
    ids="-".join,
)
def test_nnx_is_linear_of_the_positive_kernel(options):
    layer = nnx_linear(**options)
    dtype = options.get("param_dtype", jnp.float32)
    assert layer.raw_kernel.dtype == layer.kernel.dtype == dtype
    assert (layer.bias is None) == (options.get("use_bias") is False)
    theirs = nnx.Linear(3, 4, rngs=nnx.Rngs(0), **options)
    theirs.kernel[...] = layer.kernel
    # Flax adds the bias to a product of another dtype, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        for shape in SHAPES:
            x = normal(*shape)
            assert_same(layer(x), theirs(x))


def test_nnx_product_of_the_users_own_gets_only_what_was_asked_for():
    layer = nnx_linear(dot_general=doubled_product)
    x = normal(2, 3)
    assert_same(layer(x), doubled_product(x, layer.kernel, (((1,), (0,)), ((), ()))))


def test_kernel_init_describes_the_positive_kernel():
    init = nn.initializers.constant(0.25)
    _, params = linen_dense(kernel_init=init)
    layer = nnx_linear(kernel_init=init)
    for raw_kernel in (params["raw_kernel"], layer.raw_kernel[...]):
        assert_same(raw_kernel, fs.inverse_softplus(jnp.full((3, 4), 0.25)))
    assert_same(layer.kernel, fs.softplus(layer.raw_kernel[...]))
    message = "kernel of StableSoftplusLinear is computed from raw_kernel. Set that"
    with pytest.raises(AttributeError, match=message):
        layer.kernel = nnx.Param(jnp.ones((3, 4)))


def test_the_default_kernel_is_a_near_permutation():
    _, params = linen_dense(16, 16)
    for kernel in (
        fs.linen.positive_kernels(params)["kernel"],
        nnx_linear(16, 16).kernel,
    ):
        assert (kernel > 0).all()
        for axis in (0, 1):
            assert ((kernel > 1).sum(axis) == 1).all()
            assert ((kernel < 0.15 / 16).sum(axis) == 15).all()


# Linen and NNX


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linen_and_nnx_agree_bitwise(dtype, use_bias, shape, jit):
    options = {"dtype": dtype, "use_bias": use_bias}
    linen, params = linen_dense(7, 5, **options)
    graph, state = nnx.split(nnx_linear(5, 7, **options))
    nnx.replace_by_pure_dict(state, params)
    x, g = normal(*shape), normal(*shape[:-1], 7, seed=2)

    def of_linen(params, x):
        return (linen.apply({"params": params}, x).astype(g.dtype) * g).sum()

    def of_nnx(state, x):
        return (nnx.merge(graph, state)(x).astype(g.dtype) * g).sum()

    wrap = jax.jit if jit else lambda f: f
    out_linen, (d_params, dx_linen) = wrap(jax.value_and_grad(of_linen, (0, 1)))(
        params, x
    )
    out_nnx, (d_state, dx_nnx) = wrap(jax.value_and_grad(of_nnx, (0, 1)))(state, x)
    assert set(params) == ({"raw_kernel", "bias"} if use_bias else {"raw_kernel"})
    assert_same((out_linen, dx_linen), (out_nnx, dx_nnx))
    assert_same(d_params, nnx.to_pure_dict(d_state))
    assert jnp.any(d_params["raw_kernel"] != 0) and jnp.any(dx_nnx != 0)


def test_the_gradient_is_that_of_the_formula():
    x, g = normal(16, 5), normal(16, 7, seed=2)
    linen, params = linen_dense(7, 5)
    params["raw_kernel"] = raw_kernel = 4 * normal(5, 7, seed=3)

    def loss(params):
        return (linen.apply({"params": params}, x) * g).sum()

    grads = jax.grad(loss)(params)
    x, g, raw = (np.asarray(a, np.float64) for a in (x, g, raw_kernel))
    slope = 1 / (1 + np.exp(-raw))
    error = np.abs(grads["raw_kernel"] - x.T @ g * slope)
    # A sum of 16 products in float32, in any order.
    np.testing.assert_array_less(error, 16 * 2**-24 * (np.abs(x).T @ np.abs(g)) * slope)
    error = np.abs(grads["bias"] - g.sum(0))
    np.testing.assert_array_less(error, 16 * 2**-24 * np.abs(g).sum(0))


def test_outputs_increase_with_every_input():
    layer = nnx_linear(5, 7)
    layer.raw_kernel[...] = 10 * normal(5, 7)
    jacobian = jax.jacfwd(layer)(normal(5))
    assert (jacobian > 0).all()
