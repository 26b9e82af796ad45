"""Logarithms of `1 + u` with a known error."""

import jax
import jax.numpy as jnp
import numpy as np

from .exponentials import LN2
from .rounding import polynomial

# (f - log(1 + f)) / f^2 on -1/3 <= f <= 1/2; the error times f^2 is below 2^-27 of the
# logarithm.
_LOG = (
    0.4999999701976776,
    -0.33333250880241394,
    0.25000348687171936,
    -0.20006169378757477,
    0.16660410165786743,
    -0.1413983553647995,
    0.12434312701225281,
    -0.12428643554449081,
    0.11885110288858414,
    -0.06016407161951065,
)

# The same on 0 <= f <= 1; the error times f^2 is below 2^-27.4 of the logarithm.
_LOG1P = (
    0.4999993145465851,
    -0.33330464363098145,
    0.24958018958568573,
    -0.19692102074623108,
    0.15344880521297455,
    -0.10661128163337708,
    0.05745723098516464,
    -0.020086241886019707,
    0.003290468594059348,
)

_COARSE_LOG1P = (
    0.4999074637889862,
    -0.3314042091369629,
    0.23611322045326233,
    -0.15102732181549072,
    0.06785090267658234,
    -0.01458822563290596,
)

# log((1 + s) / (1 - s)) / s^3 less its pole, in powers of s^2 <= 0.0405: the series.
_LOG_F64 = tuple(2 / k for k in range(3, 28, 2))


def log1p(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``-2/3 <= u <= 1``.

    Largest error observed in float32: 0.91 ULP.
    """
    return log_product(*binary_scaled(u))


def short_log1p(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``0 <= u <= 1`` without choices: of its cost one half is left.

    Largest error observed in float32: 1.5 ULP.
    """
    if u.dtype == np.float64:
        return log1p(u)
    return u - u * u * polynomial(_LOG1P, u)


def coarse_log1p(u: jax.Array) -> jax.Array:
    """``log(1 + u)`` for ``0 <= u <= 1``, good for a result of 16 bits."""
    return u - u * u * polynomial(_COARSE_LOG1P, u)


def binary_scaled(u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``k`` and ``f``, exact, with ``1 + u = 2^k (1 + f)`` and ``-1/3 <= f <= 1/2``."""
    large, small = u > 0.5, u < -0.3
    k = jnp.where(large, 1, jnp.where(small, -1, 0)).astype(u.dtype)
    return k, jnp.where(large, 0.5 * u - 0.5, jnp.where(small, 2 * u + 1, u))


def log_product(
    k: jax.Array, f: jax.Array, lost: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """``log(2^k (1 + f)) - lost``, ``f`` between -1/3 and 1/2, with a tiny ``lost``."""
    ln2_high, ln2_low = LN2[f.dtype]
    if f.dtype == np.float32:
        lacks = f * f * polynomial(_LOG, f)
    else:
        s, half = f / (2 + f), 0.5 * f * f
        lacks = half - s * (half + s * s * polynomial(_LOG_F64, s * s))
    return k * ln2_high + (f - ((lacks - k * ln2_low) + lost))
