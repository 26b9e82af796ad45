"""Compute wide, round once; float32 kernels with a known error.

XLA's own float32 ``exp``, ``log1p`` and ``tanh`` are off by up to 5 units in the last
place, differently on every device and in every release.  The kernels here use nothing
but additions, multiplications, a division, integer operations and bit casts, so that
they give the same accuracy everywhere.

They return *pairs* ``(head, tail)``, which stand for the number ``head + tail`` to some
34 bits.  The head has at most 12 significant bits, so that a product of two heads is
exact, whether or not the compiler fuses it with the addition that follows.  Heads are
cut by a bit mask because a compiler cannot see through one: it is free to turn
``(1 + x) - 1`` into ``x``, and XLA does.

In float64 the kernels are JAX's functions, the pairs have a tail of zero or nearly so,
and the result is as good as ordinary arithmetic makes it.

None of these functions has a useful derivative of its own (a bit cast has none): call
them from a formula whose derivative is given by another formula.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[jax.Array, jax.Array]

# ln 2 in three parts: 16 bits, 16 bits and the rest, so that products with an exponent
# of 8 bits are exact.
_LN2 = (0.693145751953125, 1.4285324141383171e-06, 7.440616872633754e-11)
_LN2_LOW = _LN2[1] + _LN2[2]

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2: a minimax fit of degree 5 whose error
# times r^2 is below 2^-33 (1.0e-10).
_EXP = (
    0.5,
    0.1666666716337204,
    0.041666463017463684,
    0.008333204314112663,
    0.001393509446643293,
    0.00019947656255681068,
)

# (log((1 + s) / (1 - s)) / s - 2) / s^2 as a polynomial in s^2 on 0 <= s^2 <= 0.0405,
# which is -0.335 <= f <= 0.504 for s = f / (2 + f): a minimax fit of degree 3 whose
# error times s^3 is below 2^-36 (7.6e-12).
_LOG = (
    0.6666666269302368,
    0.40000948309898376,
    0.2850273847579956,
    0.24161052703857422,
)
# Both were fitted by Lawson's iteration on 400 Chebyshev nodes against 40-digit values,
# the coefficients rounded to float32 one after the other, lowest first, and the
# remaining ones fitted again after each.


# The same in float64, to x^16 on |x| < 0.36: Taylor's series is enough.
_EXP_DOUBLE = tuple(1 / math.factorial(k) for k in range(2, 17))


def widen(x: jax.Array) -> jax.Array:
    """``x`` in the dtype of the formulas: float64 if it is that, else float32."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def narrow(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` rounded, once, to the dtype of ``like``, and weakly typed where that is."""
    x = x.astype(like.dtype)
    # An update in place is the public way to keep a weak type over a bit cast.
    return like.at[...].set(x) if like.weak_type else x


def rounded(a: Pair) -> jax.Array:
    """The number that a pair stands for: its only rounding."""
    return a[0] + a[1]


def negative(a: Pair) -> Pair:
    """``-a``, exactly."""
    return -a[0], -a[1]


def multiply(a: Pair, b: Pair) -> Pair:
    """``a * b`` with an error of some 2^-34 relative."""
    high, low = _product(a, b)
    head = _head(high + low)
    return head, (high - head) + low


def multiply_rounded(a: Pair, b: Pair) -> jax.Array:
    """``a * b``, rounded once."""
    high, low = _product(a, b)
    return high + low


def reciprocal(a: Pair) -> Pair:
    """``1 / a`` with an error of some 2^-34 relative, from a single division."""
    q = 1 / (a[0] + a[1])
    head = _head(q)
    return head, ((1 - head * a[0]) - head * a[1]) * q


def exp(x: jax.Array, shift: int = 0) -> tuple[Pair, jax.Array]:
    """``exp(x) * 2**shift`` for ``x <= 0``, as a pair and a factor to be applied last.

    The factor is apart because the pair's tail would underflow long before the product.
    In float32 it is a power of two, 0 where the product is below the smallest normal.
    Largest error observed, rounded to one float32: 0.7 ULP.
    """
    if x.dtype == np.float64:
        # Toward the smallest normal number the exponential goes in two equal factors.
        small = x < -700
        y = jnp.exp(jnp.where(small, 0.5 * x, x))
        return (y, jnp.zeros_like(y)), jnp.where(small, y, 1) * 2.0**shift
    r, tail, n = _reduce(x)
    head = _head(1 + r)
    return (head, ((1 - head) + r) + tail), _power_of_two(n + shift)


def expm1(x: jax.Array) -> Pair:
    """``exp(x) - 1`` for ``x <= 40``.

    Below ``|x|`` of 2^-100 the tail underflows and the relative accuracy is lost: there
    the caller uses ``x``.  Largest error observed, rounded to one float32: 0.8 ULP.
    """
    if x.dtype == np.float64:
        y = _expm1_double(x)
        return y, jnp.zeros_like(y)
    high, low, rest = _expm1_parts(x)
    head = _head(high + (low + rest))
    return head, ((high - head) + low) + rest


def one_plus(a: Pair, scale: jax.Array) -> Pair:
    """``1 + a * scale`` for ``0 <= a * scale <= 1``."""
    high, low = a[0] * scale, a[1] * scale
    head = _head(1 + (high + low))
    return head, ((1 - head) + high) + low


def log1p(a: Pair, scale: jax.Array) -> Pair:
    """``log1p(a * scale)`` for ``0 <= a * scale <= 1``; the head is a full float.

    Largest error observed, rounded to one float32: 1.0 ULP.
    """
    u = rounded(a)
    low = ((a[0] - u) + a[1]) * scale
    u = u * scale
    if u.dtype == np.float64:
        y = jnp.log1p(u)
        return y, jnp.zeros_like(y)
    halve = u > 0.5
    return _log(
        jnp.where(halve, np.float32(1), np.float32(0)),
        jnp.where(halve, 0.5 * (u - 1), u),
        jnp.where(halve, 0.5 * low, low),
    )


def log_expm1(x: jax.Array) -> jax.Array:
    """``log(exp(x) - 1)`` for ``0 < x <= 40``, accurate on both sides of its root ln 2.

    Largest error observed in float32: 1.0 ULP.
    """
    if x.dtype == np.float64:
        # The low part of ln 2 goes in later: beside the high one, XLA adds up the two.
        d = _expm1_double(x - np.log(2))
        d = 2 * (d - 2.3190468138462996e-17 * (1 + d))
        # XLA's log1p loses 7 bits below sqrt(1/2) - 1.
        near = jnp.where(jnp.abs(d) < 0.29, jnp.log1p(d), jnp.log(1 + d))
        large = x + jnp.log(1 - jnp.exp(-x))
        small = jnp.log(_expm1_double(x))
        return jnp.where(x < 0.35, small, jnp.where(x < 1.04, near, large))
    # exp(x) - 1 = 2^k (1 + f), with 1 + f between sqrt(1/2) and sqrt(2).  Near the root
    # k is 0 and f is what _expm1_parts found without cancellation.
    high, low, rest = _expm1_parts(x)
    y = high + (low + rest)
    low = ((high - y) + low) + rest
    sqrt_half = np.int32(0x3F3504F3)
    bits = lax.bitcast_convert_type(y, np.int32) + (np.int32(0x3F800000) - sqrt_half)
    k = (bits >> 23) - 127
    m = lax.bitcast_convert_type((bits & 0x007FFFFF) + sqrt_half, np.float32)
    low = low * _power_of_two(-k)
    f = (m - 1) + low
    return rounded(_log(k.astype(np.float32), f, ((m - 1) - f) + low))


def two_sum(a: jax.Array, b: jax.Array) -> Pair:
    """``a + b`` rounded, and what the rounding left out; finite numbers only."""
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def _product(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[0] * b[1] + a[1] * (b[0] + b[1])


def _head(x: jax.Array) -> jax.Array:
    """``x`` cut to 12 significant bits; in float64 as it is."""
    if x.dtype == np.float64:
        return x
    bits = lax.bitcast_convert_type(x, np.uint32) & np.uint32(0xFFFFF000)
    return lax.bitcast_convert_type(bits, np.float32)


def _power_of_two(n: jax.Array) -> jax.Array:
    """2^n for an integer n below 128; 0 where that is below the smallest normal."""
    return lax.bitcast_convert_type(jnp.maximum(n + 127, 0) << 23, np.float32)


def _reduce(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(r, tail, n)`` with exp(x) = 2^n (1 + r + tail) and |r| <= ln(2) / 2."""
    # Below -90 everything is 0, with a shift by 3 too, and the integer stays small.
    x = jnp.maximum(x, np.float32(-90))
    n = lax.round(x * np.float32(1 / np.log(2)), lax.RoundingMethod.TO_NEAREST_EVEN)
    high, middle, lowest = (np.float32(part) for part in _LN2)
    near = x - n * high
    r = near - n * middle
    low = ((near - r) - n * middle) - n * lowest
    # 1.5 * 2^23 brings the integer into the low bits, which beats a conversion in time.
    bits = lax.bitcast_convert_type(n + np.float32(12582912), np.int32)
    return r, low + r * r * _polynomial(_EXP, r), bits - np.int32(0x4B400000)


def _expm1_double(x: jax.Array) -> jax.Array:
    """exp(x) - 1 in float64, by Taylor's series where XLA's is off by 4 ULP."""
    series = x + x * x * _polynomial(_EXP_DOUBLE, x)
    return jnp.where(jnp.abs(x) < 0.36, series, jnp.expm1(x))


def _expm1_parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """exp(x) - 1 as three terms, none large beside the one before, unless that is 0."""
    r, tail, n = _reduce(x)
    scale = _power_of_two(n)
    # scale - 1 is exact down to 2^-24 only.
    small = n < -12
    high = jnp.where(small, np.float32(-1), scale - 1)
    return high, scale * jnp.where(small, 1 + r, r), scale * tail


def _log(k: jax.Array, f: jax.Array, low: jax.Array) -> Pair:
    """k ln 2 + log(1 + f + low): f in [-0.335, 0.504], low within its last bit."""
    s = f / (2 + f)
    z = s * s
    half = 0.5 * f * f
    correction = half - s * (half + z * _polynomial(_LOG, z))
    low = low * (1 - f * (1 - f)) + k * np.float32(_LN2_LOW)
    high = k * np.float32(_LN2[0])
    head = high + f
    return head, ((high - head) + f) + (low - correction)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    y = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y = y * x + x.dtype.type(c)
    return y
