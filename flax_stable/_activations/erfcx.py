"""`erfcx`, whose value and derivatives all come from one function without cancelling.

For positive x, erfcx is a continued fraction: 1 / sqrt(pi) over x + 1 / (2 (x + t)),
where t = 1 / (x + u) and u = 3 / (2 (x + ...)).  With d = 2 x (x + t) + 1 its first
derivative is -2 / d, the second 4 t / d and the third -8 t u / d, over sqrt(pi).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    Words,
    coefficients,
    exp_reduced,
    hi_word,
    nearest_words,
    polynomial,
    power_of_two,
    square_words,
)
from .._public import compiled
from ._elementwise import as_floating, elementwise
from .normal import mills_words

_C = coefficients.INVERSE_SQRT_PI


def _u(x: jax.Array) -> jax.Array:
    """u for ``x >= 0``; ``1.5 / x`` where the rest is beyond the last bit."""
    far = 2.0**13 if x.dtype == np.float32 else 2.0**27
    p, q = coefficients.ERFCX_U[x.dtype]
    near, beyond = jnp.minimum(x, far), jnp.maximum(x, far)
    ratio = polynomial(p, near) / polynomial(q, near)
    return jnp.where(x < far, ratio, 1.5 / beyond)


def _t_and_d(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """t, and d = 2 x (x + t) + 1: for ``x >= 0``."""
    t = 1 / (x + _u(x))
    return t, 2 * x * (x + t) + 1


def _tail(x: jax.Array) -> Words:
    """``erfcx(x)`` for ``x >= 0``, and what that lacks."""
    a = jnp.minimum(x, 2)
    hi, lo = mills_words(jnp.full_like(a, 2), math.sqrt(2) * a)
    c, c_rest = nearest_words(*_C, x.dtype)
    b = jnp.maximum(x, 2)
    # sqrt(pi) x erfcx(x) is 1 - 1 / d.
    y = c / b
    y_rest = y * (c_rest / c - 1 / _t_and_d(b)[1])
    return jnp.where(x < 2, hi, y), jnp.where(x < 2, lo, y_rest)


def _value(x: jax.Array) -> jax.Array:
    """Below 0, 2 exp(x^2) less the tail, and inf where that overflows."""
    a = jnp.abs(x)
    tail, tail_rest = _tail(a)
    # At the bound the power of two is inf.
    square, rest = square_words(
        jnp.minimum(a, 9.41 if x.dtype == np.float32 else 26.64)
    )
    n, hi, lo = exp_reduced(square, -rest)
    top = hi_word(1 + hi)
    inverse = power_of_two(-jnp.minimum(n, 99))
    # The first difference is exact next to 0, where most cancels.
    total = 2 * top - tail * inverse
    total += 2 * ((hi - (top - 1)) + lo) - tail_rest * inverse
    return jnp.where(x < 0, power_of_two(n) * total, tail + tail_rest)


def _slope_value(x: jax.Array) -> jax.Array:
    """-2 / sqrt(pi) / d; below 0 both terms of 2 x erfcx(x) - 2 / sqrt(pi) are < 0."""
    _, d = _t_and_d(jnp.maximum(x, 0))
    return jnp.where(
        x < 0,
        2 * x * _value(x) - 2 * _C[0],
        -2 * _C[0] / d,
    )


def _curvature_value(x: jax.Array) -> jax.Array:
    """4 / sqrt(pi) t / d, or 2 erfcx(x) + 2 x erfcx'(x) where that hardly cancels."""
    t, d = _t_and_d(jnp.maximum(x, 0))
    below = 2 * _value(x) + 2 * x * _slope_value(x)
    return jnp.where(x < 0.25, below, 4 * _C[0] * t / d)


def _third(x: jax.Array) -> jax.Array:
    """-2 erfcx''(x) u; 4 erfcx' + 2 x erfcx'' below 0."""
    below, above = jnp.minimum(x, 0), jnp.maximum(x, 0)
    below = 4 * _slope(below) + 2 * below * _curvature(below)
    return jnp.where(x < 0, below, -2 * _curvature(above) * _u(above))


_curvature: Callable = elementwise(_curvature_value, _third)
_slope: Callable = elementwise(_slope_value, _curvature)
_erfcx: Callable = elementwise(_value, _slope, "erfcx")


@compiled()
def erfcx(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The scaled complementary error function, as in `scipy.special`.

    .. math::
      \mathrm{erfcx}(x) = e^{x^2} \mathrm{erfc}(x)
      = \frac{2}{\sqrt{\pi}} \int_0^\infty e^{-t^2 - 2 x t} \, dt

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`2 x \, \mathrm{erfcx}(x) - 2 / \sqrt{\pi}`, the
    second :math:`2 \, \mathrm{erfcx}(x) + 2 x \, \mathrm{erfcx}'(x)`.  For positive
    ``x`` neither is a difference: they fall as :math:`-1 / x^2` and :math:`2 / x^3`,
    over :math:`\sqrt{\pi}`, and keep their bits.

    Limits: inf and 0 in value, -inf and 0 in the first derivative, inf and 0 in the
    second; infinite where the exact number overflows, in float32 from -9.4 down.  NaN
    gives NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 2.0, 3.7 and 5.0 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.erfcx(jnp.array([-1.0, 0.0, 100.0])).round(5)
      Array([5.00898, 1.     , 0.00564], dtype=float32)
      >>> print(f"{jax.grad(fs.erfcx)(1e10):.4e}")
      -5.6419e-21

    References:
      Abramowitz and Stegun, `Handbook of Mathematical Functions
      <https://personal.math.ubc.ca/~cbm/aands/page_298.htm>`_, 1964: 7.1.14, the
      continued fraction.
    """
    return _erfcx(as_floating("erfcx", x))
