"""Numbers in two parts, and what a product or a quotient leaves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .exponentials import exp_parts, power_of_two


def product(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x y``, rounded, and what that left, which a function of it would magnify."""
    upper = head(y)
    x_upper = head(x)
    return _two_parts(x_upper * upper, (x - x_upper) * upper + x * (y - upper))


def quotient(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x / y``, rounded, and what that left; beyond 1000 it is held there.

    The reciprocal belongs to a parameter and may cost something; its leading half times
    halves of ``x`` are exact.
    """
    reciprocal = head(1 / y)
    upper = head(y)
    rest = ((1 - upper * reciprocal) - (y - upper) * reciprocal) / y
    bound = jnp.minimum(1e3 * jnp.abs(y), np.finfo(x.dtype).max)
    x = jnp.clip(x, -bound, bound)
    x_upper = head(x)
    low = (x - x_upper) * reciprocal + x * rest
    return _two_parts(x_upper * reciprocal, low)


def head(x: jax.Array) -> jax.Array:
    """``x`` without the lower half of its bits: products of two heads are exact."""
    integer, dropped = (np.int32, 12) if x.dtype == np.float32 else (np.int64, 27)
    bits = lax.bitcast_convert_type(x, integer) & -(1 << dropped)
    return lax.bitcast_convert_type(bits, x.dtype)


def _two_parts(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``high + low``, rounded, and the rest; ``high`` is exact, so FMA is harmless."""
    total = high + low
    return total, (high - total) + low


# A number in two parts: a head with half of the bits, and the rest, rounded.
Parts = tuple[jax.Array, jax.Array]


def constant_parts(value: float, rest: float, dtype: np.dtype) -> tuple:
    """``value + rest`` as two constants, the first with half of the dtype's bits."""
    _, exponent = math.frexp(value)
    unit = 2.0 ** (exponent - (12 if dtype == np.float32 else 26))
    high = math.floor(value / unit) * unit
    return np.array(high, dtype), np.array((value - high) + rest, dtype)


def nearest_parts(value: float, rest: float, dtype: np.dtype) -> tuple:
    """``value + rest`` as two constants, the first the nearest of the dtype."""
    high = np.array(value, dtype)
    return high, np.array((value - float(high)) + rest, dtype)


def sum_parts(large: jax.Array, small: jax.Array) -> Parts:
    """``large + small``, where ``0 <= small <= large``, as a head and what it lacks."""
    high = head(large + small)
    return high, (large - high) + small


def quotient_parts(x: jax.Array, y: Parts) -> Parts:
    """``x / (y[0] + y[1])`` as a head and what it lacks; ``y[0]`` is a head."""
    inverse = 1 / (y[0] + y[1])
    high = head(x * inverse)
    return high, ((x - high * y[0]) - high * y[1]) * inverse


def product_parts(x: Parts, y: Parts) -> jax.Array:
    """The product, rounded once: ``x[0]`` and ``y[0]`` are heads."""
    return x[0] * y[0] + (x[0] * y[1] + x[1] * (y[0] + y[1]))


def lifted_exp_parts(x: jax.Array, low: jax.Array) -> tuple[jax.Array, Parts]:
    """``exp(x - low)`` as 2^-h times a power of two, times a head and what it lacks.

    h is 64 in float32 and 512 in float64: the power underflows long after the result.
    """
    n, r, tail = exp_parts(x, low)
    high = head(1 + r)
    power = power_of_two(n + np.finfo(x.dtype).maxexp // 2)
    return power, (high, (r - (high - 1)) + tail)


def unlift(x: jax.Array) -> np.ndarray:
    """2^-h, which makes `lifted_exp_parts` whole: the last factor of a product."""
    return np.array(2.0 ** -(np.finfo(x.dtype).maxexp // 2), x.dtype)


def square_parts(a: jax.Array) -> Parts:
    """``a * a`` as an exact product and a small one."""
    high = head(a)
    return high * high, (a - high) * (a + high)
