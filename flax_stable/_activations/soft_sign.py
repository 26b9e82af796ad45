"""`soft_sign`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ._elementwise import as_floating, elementwise


@jax.jit
def soft_sign(x: jax.typing.ArrayLike) -> jax.Array:
    return _soft_sign(as_floating("soft_sign", x))


def _soft_sign_value(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -1e30, 1e30)
    return x / (1 + jnp.abs(x))


def _power(x: jax.Array, n: int) -> jax.Array:
    """(1 + |x|)^n; where it overflows its reciprocal is no normal number.

    The last factor makes up for the rounding of all.
    """
    a = jnp.minimum(jnp.abs(x), np.finfo(x.dtype).max)
    large, small = jnp.maximum(a, 1), jnp.minimum(a, 1)
    t = large + small
    return math.prod([t] * (n - 1), start=t + n * (small - (t - large)))


_reciprocal: Callable = elementwise(
    lambda x: 1 / (1 + jnp.abs(x)), lambda x: -jnp.sign(x) * _soft_sign_slope(x)
)
_curvature: Callable = elementwise(
    lambda x: -2 * jnp.sign(x) / _power(x, 3),
    lambda x: -3 * jnp.sign(x) * _curvature(x) * _reciprocal(x),
)
_soft_sign_slope: Callable = elementwise(lambda x: 1 / _power(x, 2), _curvature)
_soft_sign = elementwise(_soft_sign_value, _soft_sign_slope)
