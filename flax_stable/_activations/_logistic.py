"""The logistic function of an argument in two words, for functions with a parameter."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import exp_scaled, log1p


def twice_odds(y: jax.Array, rest: jax.Array) -> jax.Array:
    """``1 - tanh(|y + rest| / 2) = 2 e / (1 + e)``, e = exp(-|y + rest|)."""
    e, far = _exp(y, rest)
    e = jnp.where(far, 0, e)
    return 2 * (e / (1 + e))


def logistic(y: jax.Array, rest: jax.Array) -> jax.Array:
    """``1 / (1 + exp(-(y + rest)))``; ``rest`` is far below most of ``y``."""
    e, far = _exp(y, rest)
    e = jnp.where(far, math.exp(-_shift(y)) * e, e)
    numerator = jnp.where(y < 0, e, 1)
    return numerator - numerator * (e / (1 + e))


def logistic_slope(
    scale: jax.typing.ArrayLike, y: jax.Array, rest: jax.Array
) -> jax.Array:
    """``scale`` times the slope of `logistic`, good where only their product is normal.

    The slope is e / (1 + e)^2, and e itself far out.
    """
    e, far = _exp(y, rest)
    factor = jnp.where(far, math.exp(-_shift(y)) * scale, scale)
    return factor * (e / jnp.where(far, 1, 1 + e * (2 + e)))


def log1p_exp(scale: jax.Array, y: jax.Array, rest: jax.Array) -> jax.Array:
    """``log(1 + exp(-|y + rest|)) / scale``, like `logistic_slope`."""
    e, far = _exp(y, rest)
    return jnp.where(far, (math.exp(-_shift(y)) / scale) * e, log1p(e) / scale)


def entropy(scale: jax.Array, y: jax.Array, rest: jax.Array) -> jax.Array:
    """``log(1 + e) + |y| e / (1 + e)`` over ``scale``, e = exp(-|y + rest|)."""
    e, far = _exp(y, rest)
    a = jnp.abs(y)
    factor = math.exp(-_shift(y)) / scale
    return jnp.where(far, factor * (e + a * e), (log1p(e) + a * (e / (1 + e))) / scale)


def _shift(y: jax.Array) -> float:
    """By how much exponents are lifted: exp(-shift) happens to be a number, almost."""
    return 60.625 if y.dtype == np.float32 else 488.5


def _exp(y: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(-|y + rest|), and where it is taken times exp(shift) because it is small."""
    shift = _shift(y)
    a = jnp.abs(y)
    far = a > shift
    scale, hi, lo = exp_scaled(
        jnp.where(far, shift, 0) - a, jnp.where(y < 0, -rest, rest)
    )
    return jnp.where(a > 2.43 * shift, 0, scale * (1 + (hi + lo))), far
