"""Exponentials: kernels with a known error, and results too small to be numbers."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import coefficients
from .rounding import polynomial

_EXP_SHORT = {**coefficients.EXP, coefficients.F32: coefficients.EXP_SHORT}


def expm1(x: jax.Array) -> jax.Array:
    """``exp(x) - 1``; beyond the range of normal numbers ``x`` is held at its ends.

    Largest error observed in float32: 0.81 ULP for negative ``x``, 1.4 for positive.
    """
    scale, hi, lo = exp_scaled(x)
    return scale * (hi + lo) + (scale - 1)


def exp_scaled(x: jax.Array, lo: jax.typing.ArrayLike = 0.0) -> tuple:
    """``exp(x - lo) = scale (1 + hi + lo)``, ``lo`` far below most of ``x``.

    ``scale`` is a power of two, ``hi`` is exact and what is added to that is a fifth of
    it at most.
    """
    info = np.finfo(x.dtype)
    x = jnp.clip(x, math.ceil(np.log(info.tiny)), math.floor(np.log(info.max)) - 1)
    n, hi, lo = exp_reduced(x, lo)
    return power_of_two(n), hi, lo


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
    n, z = exp_reduced_short(x, coefficients.EXP)
    return power_of_two(n, lift), z


def exp_reduced(x: jax.Array, lo: jax.typing.ArrayLike = 0.0) -> tuple:
    """``exp(x - lo) = 2^n (1 + hi + lo)``, as `exp_scaled` has it.

    Range reduction after Cody and Waite: ``n`` times the first word of ln 2 is exact,
    and so is its difference from ``x``.
    """
    ln2_hi, ln2_lo = coefficients.LN2[x.dtype]
    n = jnp.round((x - lo) * (1 / math.log(2)))
    hi, lo = x - n * ln2_hi, n * ln2_lo + lo
    r = hi - lo
    return n, hi, r * r * polynomial(coefficients.EXP[x.dtype], r) - lo


def power_of_two(n: jax.Array, lift: float = 1.0) -> jax.Array:
    """``lift 2^n`` for an integer ``n``, 0 for the one below the normal numbers."""
    # The integer is in the last bits of a sum with a number whose last bit is worth 1.
    info = np.finfo(n.dtype)
    last = n + (1.5 * 2.0**info.nmant + (info.maxexp - 1) + math.log2(lift))
    bits = lax.bitcast_convert_type(last, np.int32 if info.bits == 32 else np.int64)
    return lax.bitcast_convert_type(bits << info.nmant, n.dtype)


# By what `exp_abs_scaled` lifts its results above the smallest normal number.
LIFT = 2.0**32


def exp_abs_scaled(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``y, power, z`` with ``y = -|x|`` and ``exp(y) LIFT = power (1 + z)``.

    ``power`` is a power of two and ``|z| < 0.42``.  ``y`` is held where ``power`` is 0,
    so that products of the two are never infinite or NaN.
    """
    info = np.finfo(x.dtype)
    y = -jnp.minimum(jnp.abs(x), (info.maxexp + 31) * math.log(2))
    n, hi, lo = exp_reduced(y)
    return y, power_of_two(n, LIFT), hi + lo


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


def exp_reduced_short(y: jax.Array, fit: dict = _EXP_SHORT) -> tuple:
    """``n`` and ``z`` with ``exp(y) = 2^n (1 + z)``: as `exp_reduced`, but rounded."""
    ln2_hi, ln2_lo = coefficients.LN2[y.dtype]
    n = jnp.round(y * (1 / math.log(2)))
    return n, _short_expm1((y - n * ln2_hi) - n * ln2_lo, fit)


def exp2_reduced(hi: jax.Array, lo: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``n`` and ``z`` with ``2^(hi + lo) = 2^n (1 + z)``."""
    n = jnp.round(hi + lo)
    return n, _short_expm1(math.log(2) * ((hi - n) + lo), _EXP_SHORT)


def _short_expm1(r: jax.Array, fit: dict) -> jax.Array:
    return r + r * r * polynomial(fit[r.dtype], r)


def lift_scaled(y: jax.Array, n: jax.Array, z: jax.Array) -> Exp:
    """``exp(y) = 2^n (1 + z)``, lifted as in `exp_abs_scaled`."""
    return Exp(y, power_of_two(n, LIFT), z, 1 / LIFT)


def half_scaled(y: jax.Array, n: jax.Array, z: jax.Array) -> tuple[Exp, jax.Array]:
    """``exp(y) = 2^n (1 + z)`` over the square of a scale, and that.

    The scale is 1, but where the power would be far below 1.  Together they reach
    beyond the square of the smallest normal number.
    """
    half = jnp.minimum(jnp.round(0.5 * n + far_exponent(n) / 2), 0)
    return Exp(y, power_of_two(n - 2 * half), z, 1.0), power_of_two(half)


def far_exponent(n: jax.Array) -> int:
    """Exponents up to this one leave room for the factors of a product."""
    return 3 * np.finfo(n.dtype).maxexp // 4


def exp_polynomial(
    y: jax.Array,
    e: jax.Array,
    terms: tuple[tuple[float, float], ...],
    roots: dict[np.dtype, tuple[float, float]],
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
    at, _ = root = roots[y.dtype]
    t = y - at
    # What the first term adds stays apart: being most, it is not to be rounded twice.
    near = polynomial(_exp_series(others, root, y.dtype), t) + q * t
    return jnp.where(jnp.abs(t) < _RADIUS, near, total)


_RADIUS = 0.25


def _exp_series(
    terms: list, root: tuple[float, float], dtype: np.dtype
) -> tuple[float, ...]:
    """What ``terms`` add to the Taylor series at a root, to its last bit."""
    at, value = root
    series = [value]
    negligible = np.finfo(dtype).eps / 16
    while (
        len(series) < 3 or abs(series[-1]) * _RADIUS ** (len(series) - 1) > negligible
    ):
        i = len(series)
        coefficient = 0.0
        for k, (a, b) in enumerate(terms, 1):
            ratio = (a + b * at) * k / i + b
            power = k ** (i - 1) / math.factorial(i - 1)
            coefficient += math.exp(k * at) * ratio * power
        series.append(coefficient)
    return tuple(series)


def times_exp(scale: jax.typing.ArrayLike, x: jax.Array) -> jax.Array:
    """``scale exp(x)`` for ``x <= 0`` and ``scale`` above.

    Where a large scale lifts ``exp(x)`` from below the normal numbers, part of the
    scale goes into the exponent.
    """
    shift = 64 if x.dtype == np.float32 else 512
    x = jnp.where(x > 0, 0, x)
    far = x < -shift
    scale = jnp.where(far, math.exp(-shift) * scale, scale)
    return scale * jnp.exp(jnp.where(far, x + shift, x))
