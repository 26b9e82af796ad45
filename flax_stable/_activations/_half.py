"""The plain forms: what inputs of 16 bits and less take, in float32, rounded once.

XLA's own ``exp`` is as good as these results need, and the cheapest that hardware has.
Where digits cancel, around the root of a derivative, a few terms of its Taylor series
take over.

An exponential that scales a result is a factor of its own, so that nothing underflows
before the result does: a function gives ``p, m, f`` and means ``p m f^n``, with
``f = exp(-w / n)`` where it decays as ``exp(-w)`` and ``f = 1`` where it does not.  The
input itself is ``p``, if it is a factor.  Alone a function takes the square root of the
exponential, n = 2; where a large number multiplies it, the fourth root.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._precision import coefficients, polynomial

Factors = tuple[jax.typing.ArrayLike, jax.Array, jax.Array]


def _scaled(factors: Callable[[jax.Array, int], Factors]) -> Callable[..., jax.Array]:
    """The function that is the product of ``factors``, or its product with ``times``.

    They are multiplied in an order in which none underflows before the product.
    """

    @functools.wraps(factors)
    def function(x: jax.Array, times: jax.Array | None = None) -> jax.Array:
        if times is None:
            p, m, f = factors(x, 2)
            return f * p * m * f
        p, m, f = factors(x, 4)
        near = jnp.abs(p) < 0.5
        large, small = jnp.where(near, times, p), jnp.where(near, p, times)
        return small * f * f * (large * m * f) * f

    return function


def _exp(w: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """``f = exp(-|w| / n)``, for a product held above 0, and ``f^n``."""
    if n == 2:
        f = jnp.exp(-0.5 * jnp.abs(w))
        return f, f * f
    f = jnp.exp(-jnp.minimum(0.25 * jnp.abs(w), 85))
    return f, (f * f) * (f * f)


def _below(x: jax.Array, f: jax.Array) -> jax.Array:
    """``f`` for negative ``x``, where functions decay, and 1 for the others."""
    return jnp.where(x < 0, f, 1)


def _clipped_below(x: jax.Array, end: float) -> jax.Array:
    """``x`` down to where the function is 0, so that -inf times 0 is no NaN."""
    return jnp.maximum(x, -end)


def _near(
    x: jax.Array, radius: float, root_and_series: tuple, other: jax.Array
) -> jax.Array:
    """``d (series[0] + series[1] d + ...)``, d = x - root, next to a root.

    Elsewhere it is ``other``.  (x - hi) - lo is what XLA folds in JAX 0.10: the second
    word is multiplied first.
    """
    (hi, lo), series = root_and_series
    d = x - hi
    near = d * polynomial(series, d) - lo * series[0]
    return jnp.where(jnp.abs(d) < radius, near, other)


def sigmoid(x: jax.Array, times: jax.Array | None = None) -> jax.Array:
    return 1 / (1 + jnp.exp(-x)) if times is None else _times_sigmoid(x, times)


@_scaled
def _times_sigmoid(x: jax.Array, n: int) -> Factors:
    f, e = _exp(x, n)
    return 1.0, 1 / (1 + e), _below(x, f)


@_scaled
def sigmoid_slope(x: jax.Array, n: int) -> Factors:
    """e / (1 + e)^2."""
    f, e = _exp(x, n)
    return 1.0, 1 / ((1 + e) * (1 + e)), f


@_scaled
def tanh_slope(x: jax.Array, n: int) -> Factors:
    """4 e / (1 + e)^2, e = exp(-2 |x|)."""
    f, e = _exp(2 * x, n)
    return 1.0, 4 / ((1 + e) * (1 + e)), f


@_scaled
def silu(x: jax.Array, n: int) -> Factors:
    f, e = _exp(x, n)
    return _clipped_below(x, 400), 1 / (1 + e), _below(x, f)


@_scaled
def silu_slope(x: jax.Array, n: int) -> Factors:
    """e (1 + y + e) / (1 + e)^2, y = -|x|, or 1 minus that for positive x."""
    f, e = _exp(x, n)
    y = -jnp.minimum(jnp.abs(x), 400)
    return _slope(x, f, e, _near(y, 0.125, coefficients.HALF_SILU, 1 + y + e))


def _slope(x: jax.Array, f: jax.Array, e: jax.Array, factor: jax.Array) -> Factors:
    """e factor / (1 + e)^2 for negative x, or 1 minus that."""
    m = factor / ((1 + e) * (1 + e))
    return 1.0, jnp.where(x < 0, m, 1 - e * m), _below(x, f)


# The cubic of gelu in the form with tanh is x (A + B x^2).
_A, _B = coefficients.GELU_A[0], coefficients.GELU_B[0]


@_scaled
def gelu(x: jax.Array, n: int) -> Factors:
    x = _clipped_below(x, 14)
    f, e = _exp(x * (_A + _B * (x * x)), n)
    return x, 1 / (1 + e), _below(x, f)


@_scaled
def gelu_slope(x: jax.Array, n: int) -> Factors:
    """e (1 + e - a w') / (1 + e)^2, a = |x|, or 1 minus that for positive x."""
    a = jnp.minimum(jnp.abs(x), 14)
    f, e = _exp(a * (_A + _B * (a * a)), n)
    factor = 1 + e - a * (_A + 3 * _B * (a * a))
    return _slope(x, f, e, _near(a, 0.0625, coefficients.HALF_GELU, factor))


def _tail(x: jax.Array, n: int) -> tuple[jax.Array, ...]:
    """a = |x|, held, p and q with Q(a) = e p / q, then f and e = exp(-a^2 / 2)."""
    a = jnp.minimum(jnp.abs(x), 27)
    p, q = coefficients.HALF_TAIL
    return a, polynomial(p, a), polynomial(q, a), *_exp(0.5 * a * a, n)


@_scaled
def exact_gelu(x: jax.Array, n: int) -> Factors:
    _, p, q, f, e = _tail(x, n)
    m = p / q
    return _clipped_below(x, 27), jnp.where(x < 0, m, 1 - e * m), _below(x, f)


@_scaled
def exact_gelu_slope(x: jax.Array, n: int) -> Factors:
    """Q(a) - a phi(a) for negative x, or 1 minus that."""
    a, p, q, f, e = _tail(x, n)
    m = p / q - a * (1 / math.sqrt(2 * math.pi))
    m = _near(a, 0.25, coefficients.HALF_EXACT_GELU, m)
    return 1.0, jnp.where(x < 0, m, 1 - e * m), _below(x, f)


@_scaled
def mish(x: jax.Array, n: int) -> Factors:
    """x tanh(softplus(x)): x n / (n + 2) with n = e (2 + e), e = exp(x), divided by e^2
    for positive x.
    """
    f, e = _exp(x, n)
    below = x < 0
    top = jnp.where(below, 2 + e, 1 + 2 * e)
    bottom = jnp.where(below, 2 + e * (2 + e), 1 + e * (2 + 2 * e))
    return _clipped_below(x, 400), top / bottom, _below(x, f)


@_scaled
def mish_slope(x: jax.Array, n: int) -> Factors:
    """e (4 (1 + x) + (6 + 4 x) e + 4 e^2 + e^3) / (2 + 2 e + e^2)^2, e = exp(x).

    For positive x the powers of e are divided by e^4.
    """
    f, e = _exp(x, n)
    y = -jnp.minimum(jnp.abs(x), 400)
    low = 4 * (1 + y) + e * ((6 + 4 * y) + e * (4 + e))
    low = _near(y, 0.0625, coefficients.HALF_MISH, low)
    high = 1 + e * (4 + e * ((6 - 4 * y) + e * (4 - 4 * y)))
    below = x < 0
    bottom = jnp.where(below, 2 + e * (2 + e), 1 + e * (2 + 2 * e))
    return 1.0, jnp.where(below, low, high) / (bottom * bottom), _below(x, f)
