"""The plain forms: what inputs of 16 bits and less take, in float32, rounded once.

XLA's own ``exp`` is as good as these results need, and the cheapest that hardware has.
Where digits cancel, around the root of a derivative, a few terms of its Taylor series
take over.

An exponential that scales a result is a factor of its own, so that nothing underflows
before the result does: a function gives ``p, m, f`` and means ``p m f^n``, with
``f = exp(-w / n)`` where it decays as ``exp(-w)`` and ``f = 1`` where it does not.  The
input itself is ``p``, if it is a factor.  A function that decays on one side alone may
add a mask of the other side, where it means ``p (m f^n - 1)``.  Alone a function takes
the square root of the exponential, n = 2; where a large number multiplies it, the
fourth root.

No slope shares an exponential with its value: XLA would keep that from the forward pass
to the backward pass, an array of float32 beside the input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._precision import coefficients, polynomial

Parts = tuple[Any, ...]


def _scaled(parts: Callable[[jax.Array, int], Parts]) -> Callable[..., jax.Array]:
    """The function that ``parts`` describes, or its product with ``times``.

    The factors are multiplied in an order in which none underflows before the product.
    """

    @functools.wraps(parts)
    def function(x: jax.Array, times: jax.Array | None = None) -> jax.Array:
        p, m, f, *above = parts(x, 4 if times is not None else 2)
        if times is None:
            # XLA on CPU ends a loop at a quotient that is used twice: m is used once.
            m = m * f
            y = p * f * m
            return jnp.where(above[0], p * (m * f - 1), y) if above else y
        if above:
            m = jnp.where(above[0], m * (f * f) * (f * f) - 1, m)
            f = jnp.where(above[0], 1, f)
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
def _times_sigmoid(x: jax.Array, n: int) -> Parts:
    f, e = _exp(x, n)
    return 1.0, 1 / (1 + e), _below(x, f)


@_scaled
def sigmoid_slope(x: jax.Array, n: int) -> Parts:
    """e / (1 + e)^2."""
    f, e = _exp(x, n)
    return 1.0, 1 / ((1 + e) * (1 + e)), f


@_scaled
def tanh_slope(x: jax.Array, n: int) -> Parts:
    """4 e / (1 + e)^2, e = exp(-2 |x|)."""
    f, e = _exp(2 * x, n)
    return 1.0, 4 / ((1 + e) * (1 + e)), f


@_scaled
def silu(x: jax.Array, n: int) -> Parts:
    f, e = _exp(x, n)
    return _clipped_below(x, 400), 1 / (1 + e), _below(x, f)


@_scaled
def silu_slope(x: jax.Array, n: int) -> Parts:
    """e (1 + y + e) / (1 + e)^2, y = -|x|, or 1 minus that for positive x."""
    y = -jnp.minimum(jnp.abs(x), 400)
    f, e = _exp(y, n)
    return _slope(x, f, e, _near(y, 0.125, coefficients.HALF_SILU, 1 + y + e))


def _slope(x: jax.Array, f: jax.Array, e: jax.Array, factor: jax.Array) -> Parts:
    """e factor / (1 + e)^2 for negative x, or 1 minus that."""
    return _mirrored(x, factor / ((1 + e) * (1 + e)), f)


def _mirrored(x: jax.Array, m: jax.Array, f: jax.Array) -> Parts:
    """m f^n for negative x, and 1 less it for the others."""
    below = x < 0
    return jnp.where(below, 1, -1), m, f, ~below


# The cubic of gelu in the form with tanh is x (A + B x^2).
_A, _B = coefficients.GELU_A[0], coefficients.GELU_B[0]


@_scaled
def gelu(x: jax.Array, n: int) -> Parts:
    x = _clipped_below(x, 14)
    f, e = _exp(x * (_A + _B * (x * x)), n)
    return x, 1 / (1 + e), _below(x, f)


@_scaled
def gelu_slope(x: jax.Array, n: int) -> Parts:
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
def exact_gelu(x: jax.Array, n: int) -> Parts:
    a, p, q, f, _ = _tail(x, n)
    return jnp.where(x < 0, -a, -x), p / q, f, x >= 0


@_scaled
def exact_gelu_slope(x: jax.Array, n: int) -> Parts:
    """Q(a) - a phi(a) for negative x, or 1 minus that."""
    a, p, q, f, _ = _tail(x, n)
    m = p / q - a * (1 / math.sqrt(2 * math.pi))
    m = _near(a, 0.25, coefficients.HALF_EXACT_GELU, m)
    return _mirrored(x, m, f)


@_scaled
def mish(x: jax.Array, n: int) -> Parts:
    """x tanh(softplus(x)): x n / (n + 2) with n = e (2 + e), e = exp(x), divided by e^2
    for positive x.
    """
    f, e = _exp(x, n)
    below = x < 0
    top = jnp.where(below, 2 + e, 1 + 2 * e)
    bottom = jnp.where(below, 2 + e * (2 + e), 1 + e * (2 + 2 * e))
    return _clipped_below(x, 400), top / bottom, _below(x, f)


@_scaled
def mish_slope(x: jax.Array, n: int) -> Parts:
    """e (4 (1 + x) + (6 + 4 x) e + 4 e^2 + e^3) / (2 + 2 e + e^2)^2, e = exp(x).

    For positive x the powers of e are divided by e^4.
    """
    y = -jnp.minimum(jnp.abs(x), 400)
    f, e = _exp(y, n)
    low = 4 * (1 + y) + e * ((6 + 4 * y) + e * (4 + e))
    low = _near(y, 0.0625, coefficients.HALF_MISH, low)
    high = 1 + e * (4 + e * ((6 - 4 * y) + e * (4 - 4 * y)))
    below = x < 0
    bottom = jnp.where(below, 2 + e * (2 + e), 1 + e * (2 + 2 * e))
    return 1.0, jnp.where(below, low, high) / (bottom * bottom), _below(x, f)


def softcap(x: jax.Array, cap: jax.Array) -> jax.Array:
    """cap tanh(t), t = x / cap, which is x before t underflows."""
    t = x / cap
    return jnp.where(jnp.abs(t) < 2.0**-11, x, cap * jnp.tanh(t))


def softcap_slope(x: jax.Array, cap: jax.Array) -> jax.Array:
    return tanh_slope(x / cap)


def elu(x: jax.Array, alpha: jax.typing.ArrayLike = 1.0) -> jax.Array:
    """alpha expm1(x) up to 0, by 2 t / (1 - t) with t = tanh(x / 2): half the work.

    Next to 0 it is alpha x, before the half of x underflows.
    """
    t = jnp.tanh(0.5 * jnp.where(x > 0, 0, x))
    near = jnp.where(x > 0, 1, alpha) * x
    return jnp.where(x > -1e-30, near, alpha * (2 * t / (1 - t)))


def exp_below(x: jax.Array, alpha: jax.typing.ArrayLike = 1.0) -> jax.Array:
    """alpha exp(x) up to 0, by square roots: a large alpha meets no zero."""
    root = jnp.exp(0.5 * jnp.where(x > 0, 0, x))
    return jnp.where(x > 0, 0, alpha * root * root)
