"""The logarithm of the complement of an exponential."""

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import expm1, log1p
from ._elementwise import as_floating, elementwise
from .softplus import _curvature


@jax.jit
def log1mexp(x: jax.typing.ArrayLike) -> jax.Array:
    return _log1mexp(as_floating("log1mexp", x))


def _log1mexp_value(x: jax.Array) -> jax.Array:
    small = jnp.log(-expm1(-x))
    return jnp.where(x < 0.6931472, small, log1p(-jnp.exp(-jnp.maximum(x, 0.5))))


def _log1mexp_slope(x: jax.Array) -> jax.Array:
    """exp(-x) / (1 - exp(-x)), in which no number overflows."""
    a = jnp.abs(x)
    return jnp.where(x < 0, np.nan, jnp.exp(-a) / jnp.abs(expm1(-a)))


_log1mexp = elementwise(_log1mexp_value, elementwise(_log1mexp_slope, _curvature))
