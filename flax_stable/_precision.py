"""Compute wide, round once; float32 kernels with a known error.

XLA's own ``log1p`` is off by 2.5 units in the last place in float32 and slow, ``expm1``
by 5 in older releases.  The kernels here are polynomials of few terms, with powers of
two made of bits; XLA's ``exp`` is good to 1 unit, and used as it is.

XLA folds ``(x - a) - b`` into ``x - (a + b)``: a constant in two parts therefore goes
into a sum with a rounded term between the two.  On CPU it ends a loop at a quotient of
two arrays that is used twice, which costs passes over the memory: formulas in float32
use each quotient once, or multiply by a reciprocal.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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

# For results of 16 bits: 2^t on |t| <= 1/2, below 2^-18 of it, and the last one again,
# below 2^-19.
_COARSE_EXP2 = (
    0.9999992847442627,
    0.6931218504905701,
    0.2402472048997879,
    0.055917758494615555,
    0.009570729918777943,
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


def widen(x: jax.Array) -> jax.Array:
    """``x`` in the dtype of the formulas: float64 if it is that, else float32."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def narrow(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` rounded, once, to the dtype of ``like``, and weakly typed where that is."""
    x = x.astype(like.dtype)
    # An update in place is the public way to keep a weak type over a bit cast.
    return jnp.zeros_like(like).at[...].set(x) if like.weak_type else x


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
    ln2_high, ln2_low = LN2[x.dtype]
    n = jnp.round(x * (1 / math.log(2)))
    r = (x - n * ln2_high) - n * ln2_low
    return power_of_two(n, lift), r + r * r * polynomial(_EXP[x.dtype], r)


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


def coarse_exp(x: jax.Array) -> jax.Array:
    """``exp(x)`` for ``-88 <= x <= 88``, good for a result of 16 bits."""
    t = x * (1 / math.log(2))
    n = jnp.round(t)
    return power_of_two(n) * polynomial(_COARSE_EXP2, t - n)


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


def polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """``coefficients[0] + coefficients[1] x + ...`` by Horner's rule."""
    y = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = y * x + c
    return y


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


def exp_ratio(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``n`` and ``z`` with ``exp(y) = 2^n (1 + z)``: as `exp_parts`, but rounded."""
    ln2_high, ln2_low = LN2[y.dtype]
    n = jnp.round(y * (1 / math.log(2)))
    return n, _short_expm1((y - n * ln2_high) - n * ln2_low)


def exp2_ratio(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``n`` and ``z`` with ``2^(high + low) = 2^n (1 + z)``."""
    n = jnp.round(high + low)
    return n, _short_expm1(math.log(2) * ((high - n) + low))


def _short_expm1(r: jax.Array) -> jax.Array:
    return r + r * r * polynomial(_EXP_RATIO[r.dtype], r)


def lifted(y: jax.Array, n: jax.Array, z: jax.Array) -> Exp:
    """``exp(y) = 2^n (1 + z)``, lifted as in `faint_exp`."""
    return Exp(y, power_of_two(n + math.log2(LIFT)), z, 1 / LIFT)


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
