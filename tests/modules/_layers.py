"""Layers, inputs and comparisons that the tests of the modules share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

KEY = jax.random.key(0)


def normal(*shape, dtype=jnp.float32, seed=1):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def assert_same(a, b):
    """Bitwise, dtypes included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def linen_dense(features=4, in_features=3, **options):
    layer = fs.linen.StableSoftplusDense(
        features, **{"bias_init": nn.initializers.normal(), **options}
    )
    return layer, layer.init(KEY, jnp.ones((1, in_features)))["params"]


def nnx_linear(in_features=3, out_features=4, **options):
    return fs.nnx.StableSoftplusLinear(
        in_features, out_features, rngs=nnx.Rngs(0), **options
    )
