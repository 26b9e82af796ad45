"""Numbers in two words, hi and lo, and what a product or a quotient leaves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .exponentials import exp_reduced, power_of_two


def two_prod(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x y``, rounded, and what that left, which a function of it would magnify."""
    x_hi, y_hi = hi_word(x), hi_word(y)
    return fast_two_sum(x_hi * y_hi, (x - x_hi) * y_hi + x * (y - y_hi))


def two_div(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x / y``, rounded, and what that left; beyond 1000 it is held there.

    The reciprocal belongs to a parameter and may cost something; its leading half times
    halves of ``x`` are exact.
    """
    reciprocal = hi_word(1 / y)
    y_hi = hi_word(y)
    rest = ((1 - y_hi * reciprocal) - (y - y_hi) * reciprocal) / y
    bound = jnp.minimum(1e3 * jnp.abs(y), np.finfo(x.dtype).max)
    x = jnp.clip(x, -bound, bound)
    x_hi = hi_word(x)
    return fast_two_sum(x_hi * reciprocal, (x - x_hi) * reciprocal + x * rest)


def hi_word(x: jax.Array) -> jax.Array:
    """``x`` without the lower half of its bits: products of two such are exact."""
    integer, dropped = (np.int32, 12) if x.dtype == np.float32 else (np.int64, 27)
    bits = lax.bitcast_convert_type(x, integer) & -(1 << dropped)
    return lax.bitcast_convert_type(bits, x.dtype)


def fast_two_sum(hi: jax.Array, lo: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``hi + lo``, rounded, and the rest; ``hi`` is exact, so FMA is harmless."""
    total = hi + lo
    return total, (hi - total) + lo


# A number in two words: hi, with half of the bits, and lo, the rest, rounded.
Words = tuple[jax.Array, jax.Array]


def short_words(value: float, rest: float, dtype: np.dtype) -> tuple:
    """``value + rest`` as two constants, the first with half of the dtype's bits."""
    _, exponent = math.frexp(value)
    unit = 2.0 ** (exponent - (12 if dtype == np.float32 else 26))
    hi = math.floor(value / unit) * unit
    return np.array(hi, dtype), np.array((value - hi) + rest, dtype)


def nearest_words(value: float, rest: float, dtype: np.dtype) -> tuple:
    """``value + rest`` as two constants, the first the nearest of the dtype."""
    hi = np.array(value, dtype)
    return hi, np.array((value - float(hi)) + rest, dtype)


def add_words(large: jax.Array, small: jax.Array) -> Words:
    """``large + small``, where ``0 <= small <= large``, in two words."""
    hi = hi_word(large + small)
    return hi, (large - hi) + small


def div_words(x: jax.Array, y: Words) -> Words:
    """``x / (y[0] + y[1])`` in two words; ``y[0]`` has half of the bits."""
    inverse = 1 / (y[0] + y[1])
    hi = hi_word(x * inverse)
    return hi, ((x - hi * y[0]) - hi * y[1]) * inverse


def mul_words(x: Words, y: Words) -> jax.Array:
    """The product, rounded once: ``x[0]`` and ``y[0]`` have half of the bits."""
    return x[0] * y[0] + (x[0] * y[1] + x[1] * (y[0] + y[1]))


def exp_words_scaled(x: jax.Array, lo: jax.Array) -> tuple[jax.Array, Words]:
    """``exp(x - lo)`` as 2^-h times a power of two, times two words.

    h is 64 in float32 and 512 in float64: the power underflows long after the result.
    """
    n, r, r_lo = exp_reduced(x, lo)
    hi = hi_word(1 + r)
    power = power_of_two(n + np.finfo(x.dtype).maxexp // 2)
    return power, (hi, (r - (hi - 1)) + r_lo)


def unlift(x: jax.Array) -> np.ndarray:
    """2^-h, which makes `exp_words_scaled` whole: the last factor of a product."""
    return np.array(2.0 ** -(np.finfo(x.dtype).maxexp // 2), x.dtype)


def square_words(a: jax.Array) -> Words:
    """``a * a`` as an exact product and a small one."""
    hi = hi_word(a)
    return hi * hi, (a - hi) * (a + hi)
