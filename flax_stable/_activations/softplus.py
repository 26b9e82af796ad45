"""`softplus` and its inverse."""

import jax
import jax.numpy as jnp

from ._elementwise import as_floating, elementwise


@jax.jit
def softplus(x):
    return jax.nn.softplus(as_floating("softplus", x))


@jax.jit
def inverse_softplus(y):
    return jnp.log(jnp.expm1(as_floating("inverse_softplus", y)))
