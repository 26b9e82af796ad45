"""What the layers refuse, and how they say so."""

import re

import jax
import jax.numpy as jnp
import pytest
from _layers import KEY, nnx_linear
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return fs.linen.StableSoftplusDense(4, name="hidden")(x)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Outer(name="block")(x)


@pytest.mark.parametrize("shape", [(2, 5), (), (3, 1)])
@pytest.mark.parametrize(
    "model, name",
    [
        (fs.linen.StableSoftplusDense(4), "StableSoftplusDense"),
        (Outer(), "StableSoftplusDense 'hidden'"),
        (Model(), "StableSoftplusDense 'block/hidden'"),
    ],
)
def test_linen_inputs_of_the_wrong_shape(model, name, shape):
    variables = model.init(KEY, jnp.ones((1, 3)))
    message = (
        f"{name} expects inputs of shape (..., 3), but got shape {shape}. Move the "
        "features to the last axis, or initialize the layer for this width."
    )
    for apply in (model.apply, jax.jit(model.apply)):
        with pytest.raises(ValueError, match=re.escape(message)):
            apply(variables, jnp.ones(shape))


def test_linen_cannot_be_initialized_from_a_scalar():
    message = (
        "StableSoftplusDense expects inputs of shape (..., features), but got shape ()."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fs.linen.StableSoftplusDense(4).init(KEY, jnp.float32(1))


@pytest.mark.parametrize("shape", [(2, 5), (), (3, 1)])
def test_nnx_inputs_of_the_wrong_shape(shape):
    message = (
        f"StableSoftplusLinear expects inputs of shape (..., 3), but got shape {shape}."
        " Move the features to the last axis, or build the layer for this width."
    )
    layer = nnx_linear()
    for call in (layer, nnx.jit(layer)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(jnp.ones(shape))


def test_raw_kernels_of_the_wrong_kind():
    layer = nnx_linear()
    x = jnp.ones((2, 3))
    linen = fs.linen.StableSoftplusDense(4, use_bias=False)
    for raw_kernel, error, message in (
        (
            jnp.ones((2, 3, 4)),
            ValueError,
            "expects a raw_kernel of shape (inputs, outputs), but holds one of shape "
            "(2, 3, 4). Call a stack of layers by vmap or scan.",
        ),
        (
            jnp.ones((3, 4), jnp.int8),
            TypeError,
            "expects a raw_kernel of real floating dtype, but holds one of dtype int8. "
            "Cast the parameters.",
        ),
    ):
        layer.raw_kernel = nnx.Param(raw_kernel)
        with pytest.raises(error, match=re.escape("StableSoftplusLinear " + message)):
            layer(x)
        with pytest.raises(error, match=re.escape("StableSoftplusDense " + message)):
            linen.apply({"params": {"raw_kernel": raw_kernel}}, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: fs.linen.StableSoftplusDense(4, **o).init(KEY, jnp.ones((1, 3))),
        nnx_linear,
    ],
    ids=["linen", "nnx"],
)
def test_kernels_that_cannot_be(make):
    with pytest.raises(ValueError, match="kernel_init describes the positive kernel"):
        make(kernel_init=nn.initializers.lecun_normal())
    with pytest.raises(TypeError, match="of real floating dtype, but got dtype int32"):
        make(param_dtype=jnp.int32)
    # Under jit the values are not known: they come out as NaN.
    negative = nn.initializers.constant(-1.0)
    leaves = jax.jit(lambda: jax.tree.leaves(make(kernel_init=negative)))()
    assert any(jnp.isnan(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("name", ["ELU", "Sigmoid", "Tanh"])
def test_a_residual_that_cannot_be(name):
    message = f"{name.lower()} keeps its 'input' or its 'output'.*residual='all'"
    with pytest.raises(ValueError, match=message):
        getattr(fs.linen, name)(residual="all").apply({}, 1.0)
    with pytest.raises(ValueError, match=message):
        getattr(fs.nnx, name)(residual="all")(1.0)
