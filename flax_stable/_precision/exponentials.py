"""Exponentials: kernels with a known error, and results too small to be numbers."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .rounding import polynomial

# ln 2 in two parts, by dtype: the first has few enough bits that its product with any
# exponent is exact.
LN2 = {
    np.dtype(np.float32): (0.693145751953125, 1.4286068203094173e-06),
    np.dtype(np.float64): (0.6931471803691238, 1.9082149292705877e-10),
}

# The coefficients were fitted in the maximum norm (Lawson's iteration on 2000 Chebyshev
# nodes), rounded to float32 one after the other, the rest fitted again after each.

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2.  In float32 the error times r^2 is below
# 2^-33; in float64 this is the Taylor series.
_EXP = {
    np.dtype(np.float32): (
        0.5,
        0.1666666716337204,
        0.041666463017463684,
        0.008333204314112663,
        0.0013935085153207183,
        0.00019947388500440866,
    ),
    np.dtype(np.float64): tuple(1 / math.factorial(k) for k in range(2, 16)),
}

# The same with an error below 2^-28, for what is rounded anyway.
_EXP_RATIO = {
    **_EXP,
    np.dtype(np.float32): (
        0.5,
        0.1666651964187622,
        0.041666414588689804,
        0.008368817158043385,
        0.001393968821503222,
    ),
}


def expm1(x: jax.Array) -> jax.Array:
    """``exp(x) - 1``; beyond the range of normal numbers ``x`` is held at its ends.

    Largest error observed in float32: 0.81 ULP for negative ``x``, 1.4 for positive.
    """
    scale, high, tail = expm1_parts(x)
    return scale * (high + tail) + (scale - 1)


def expm1_parts(x: jax.Array, low: jax.typing.ArrayLike = 0.0) -> tuple:
    """``exp(x - low) = scale (1 + high + tail)``, ``low`` far below most of ``x``.

    ``scale`` is a power of two, ``high`` is exact and ``tail`` a fifth of it at most.
    """
    info = np.finfo(x.dtype)
    x = jnp.clip(x, math.ceil(np.log(info.tiny)), math.floor(np.log(info.max)) - 1)
    n, high, tail = exp_parts(x, low)
    return power_of_two(n), high, tail


def exp(x: jax.Array) -> jax.Array:
    """``exp(x)`` for ``x <= 0``, cheaper than XLA's, which is for all numbers.

    Largest error observed in float32: 1.0 ULP.
    """
    power, z = split_exp(jnp.maximum(x, math.floor(np.log(np.finfo(x.dtype).tiny))))
    return power * (1 + z)


def split_exp(x: jax.Array, lift: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """``lift exp(x) = power (1 + z)``, where that is a normal number.

    ``power`` and ``lift`` are powers of two, and ``|z| < 0.42``.
    """
    n, z = exp_ratio(x, _EXP)
    return power_of_two(n, lift), z


def exp_parts(x: jax.Array, low: jax.typing.ArrayLike = 0.0) -> tuple:
    """``exp(x - low) = 2^n (1 + high + tail)``, as `expm1_parts` has it."""
    ln2_high, ln2_low = LN2[x.dtype]
    n = jnp.round((x - low) * (1 / math.log(2)))
    high, low = x - n * ln2_high, n * ln2_low + low
    r = high - low
    return n, high, r * r * polynomial(_EXP[x.dtype], r) - low


def power_of_two(n: jax.Array, lift: float = 1.0) -> jax.Array:
    """``lift 2^n`` for an integer ``n``, 0 for the one below the normal numbers."""
    # The integer is in the last bits of a sum with a number whose last bit is worth 1.
    info = np.finfo(n.dtype)
    last = n + (1.5 * 2.0**info.nmant + (info.maxexp - 1) + math.log2(lift))
    bits = lax.bitcast_convert_type(last, np.int32 if info.bits == 32 else np.int64)
    return lax.bitcast_convert_type(bits << info.nmant, n.dtype)


# By what `faint_exp` lifts its results above the smallest normal number.
LIFT = 2.0**32


def faint_exp(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``y, power, z`` with ``y = -|x|`` and ``exp(y) LIFT = power (1 + z)``.

    ``power`` is a power of two and ``|z| < 0.42``.  ``y`` is held where ``power`` is 0,
    so that products of the two are never infinite or NaN.
    """
    info = np.finfo(x.dtype)
    y = -jnp.minimum(jnp.abs(x), (info.maxexp + 31) * math.log(2))
    n, high, tail = exp_parts(y)
    return y, power_of_two(n, LIFT), high + tail


class Exp(NamedTuple):
    """``exp(y) = power (1 + z) unlift`` with a power of two that is a number."""

    y: jax.Array
    power: jax.Array
    z: jax.Array
    unlift: float

    @property
    def whole(self) -> jax.Array:
        """``exp(y)``, as it counts beside 1."""
        s = self.power * self.unlift
        return s + s * self.z


def exp_ratio(y: jax.Array, coefficients: dict = _EXP_RATIO) -> tuple:
    """``n`` and ``z`` with ``exp(y) = 2^n (1 + z)``: as `exp_parts`, but rounded."""
    ln2_high, ln2_low = LN2[y.dtype]
    n = jnp.round(y * (1 / math.log(2)))
    return n, _short_expm1((y - n * ln2_high) - n * ln2_low, coefficients)


def exp2_ratio(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``n`` and ``z`` with ``2^(high + low) = 2^n (1 + z)``."""
    n = jnp.round(high + low)
    return n, _short_expm1(math.log(2) * ((high - n) + low), _EXP_RATIO)


def _short_expm1(r: jax.Array, coefficients: dict) -> jax.Array:
    return r + r * r * polynomial(coefficients[r.dtype], r)


def lifted(y: jax.Array, n: jax.Array, z: jax.Array) -> Exp:
    """``exp(y) = 2^n (1 + z)``, lifted as in `faint_exp`."""
    return Exp(y, power_of_two(n, LIFT), z, 1 / LIFT)


def halved(y: jax.Array, n: jax.Array, z: jax.Array) -> tuple[Exp, jax.Array]:
    """``exp(y) = 2^n (1 + z)`` over the square of a scale, and that.

    The scale is 1, but where the power would be far below 1.  Together they reach
    beyond the square of the smallest normal number.
    """
    half = jnp.minimum(jnp.round(0.5 * n + far_exponent(n) / 2), 0)
    return Exp(y, power_of_two(n - 2 * half), z, 1.0), power_of_two(half)


def far_exponent(n: jax.Array) -> int:
    """Exponents up to this one leave room for the factors of a product."""
    return 3 * np.finfo(n.dtype).maxexp // 4


class Root(NamedTuple):
    """A number next to a root of a function, and the function there."""

    at: float
    value: float


def exp_sum(
    y: jax.Array,
    e: jax.Array,
    terms: tuple[tuple[float, float], ...],
    roots: dict[Any, Root],
) -> jax.Array:
    """The sum of ``(p + q y) e^k`` over the k-th pairs ``p, q``, where ``e = exp(y)``.

    About the root that is given for a dtype, where the sum cancels, it is the Taylor
    series at the number next to the root: the difference to that is exact.
    """
    (p, q), *others = terms
    total: Any = 0.0
    for a, b in reversed(others):
        total = e * ((a + b * y if b else a) + total)
    total = (p + q * y) + total
    if y.dtype not in roots:
        return total
    root = roots[y.dtype]
    t = y - root.at
    # What the first term adds stays apart: being most, it is not to be rounded twice.
    near = polynomial(_exp_series(others, root, y.dtype), t) + q * t
    return jnp.where(jnp.abs(t) < _RADIUS, near, total)


_RADIUS = 0.25


def _exp_series(terms: list, root: Root, dtype: np.dtype) -> tuple[float, ...]:
    """What ``terms`` add to the Taylor series of an `exp_sum`, to its last bit."""
    series = [root.value]
    negligible = np.finfo(dtype).eps / 16
    while (
        len(series) < 3 or abs(series[-1]) * _RADIUS ** (len(series) - 1) > negligible
    ):
        i = len(series)
        coefficient = 0.0
        for k, (a, b) in enumerate(terms, 1):
            ratio = (a + b * root.at) * k / i + b
            power = k ** (i - 1) / math.factorial(i - 1)
            coefficient += math.exp(k * root.at) * ratio * power
        series.append(coefficient)
    return tuple(series)


def scaled_exp(scale: jax.typing.ArrayLike, x: jax.Array) -> jax.Array:
    """``scale exp(x)`` for ``x <= 0`` and ``scale`` above.

    Where a large scale lifts ``exp(x)`` from below the normal numbers, part of the
    scale goes into the exponent.
    """
    shift = 64 if x.dtype == np.float32 else 512
    x = jnp.where(x > 0, 0, x)
    far = x < -shift
    scale = jnp.where(far, math.exp(-shift) * scale, scale)
    return scale * jnp.exp(jnp.where(far, x + shift, x))
