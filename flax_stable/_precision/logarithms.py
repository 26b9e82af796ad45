"""Logarithms of `1 + u` with a known error."""

import jax
import jax.numpy as jnp
import numpy as np

from . import coefficients
from .rounding import polynomial

# log((1 + s) / (1 - s)) / s^3 less its pole, in powers of s^2 <= 0.0405: the series.
_LOG_F64 = tuple(2 / k for k in range(3, 28, 2))


def log1p(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``-2/3 <= u <= 1``.

    Largest error observed in float32: 0.91 ULP.
    """
    return log_product(*log1p_reduced(u))


def log1p_short(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``0 <= u <= 1`` without choices: of its cost one half is left.

    Largest error observed in float32: 1.5 ULP.
    """
    if u.dtype == np.float64:
        return log1p(u)
    return u - u * u * polynomial(coefficients.LOG1P_SHORT, u)


def log1p_half(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``0 <= u <= 1``, good for a result of 16 bits."""
    return u - u * u * polynomial(coefficients.LOG1P_HALF, u)


def log1p_reduced(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``k`` and ``f``, exact, with ``1 + u = 2^k (1 + f)`` and ``-1/3 <= f <= 1/2``."""
    large, small = u > 0.5, u < -0.3
    k = jnp.where(large, 1, jnp.where(small, -1, 0)).astype(u.dtype)
    return k, jnp.where(large, 0.5 * u - 0.5, jnp.where(small, 2 * u + 1, u))


def log_product(
    k: jax.Array, f: jax.Array, lost: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """``log(2^k (1 + f)) - lost``, ``f`` between -1/3 and 1/2, with a tiny ``lost``."""
    ln2_hi, ln2_lo = coefficients.LN2[f.dtype]
    if f.dtype == np.float32:
        lacks = f * f * polynomial(coefficients.LOG1P, f)
    else:
        s, half = f / (2 + f), 0.5 * f * f
        lacks = half - s * (half + s * s * polynomial(_LOG_F64, s * s))
    return k * ln2_hi + (f - ((lacks - k * ln2_lo) + lost))
