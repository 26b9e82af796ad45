"""The normal distribution: the tail that `gelu` needs, and `log_ndtr`.

With phi the density and Q(a) the probability of the tail beyond a >= 0, the hazard
phi(a) / Q(a) is a + q(a), where q falls from sqrt(2 / pi) to 1 / a.  That and a density
with the square of its argument exact are all there is to it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    Words,
    add_words,
    coefficients,
    div_words,
    exp_words_scaled,
    hi_word,
    log_product,
    mul_words,
    nearest_words,
    polynomial,
    short_words,
    square_words,
    unlift,
)
from .._public import compiled
from ._elementwise import as_floating, elementwise


def far(x: jax.Array) -> jax.Array:
    """``|x|``, held where the density times any small power is zero."""
    return jnp.minimum(jnp.abs(x), 16 if x.dtype == np.float32 else 42)


def _ratio_of(quotient: tuple, a: jax.Array) -> jax.Array:
    return polynomial(quotient[0], a) / polynomial(quotient[1], a)


def density_words(a: jax.Array) -> tuple[jax.Array, Words]:
    """``exp(-a^2 / 2)`` as `exp_words_scaled` gives it."""
    square, rest = square_words(a)
    return exp_words_scaled(-0.5 * square, 0.5 * rest)


def mills_words(x: jax.Array, a: jax.Array) -> Words:
    """``x Q(a) exp(a^2 / 2)``: near 1 / (a + sqrt(2 / pi)) times 0.4."""
    k, k_rest = short_words(*coefficients.SQRT_2_OVER_PI, a.dtype)
    c, c_rest = short_words(*coefficients.INVERSE_SQRT_2PI, a.dtype)
    hi, lo = add_words(jnp.maximum(a, k), jnp.minimum(a, k))
    t, t_rest = div_words(x, (hi, lo + k_rest))
    p, q = coefficients.MILLS[a.dtype]
    more = c_rest + a * polynomial(p, a) / polynomial(q, a)
    y = c * t
    return hi_word(y), (y - hi_word(y)) + (c * t_rest + more * (t + t_rest))


def excess(a: jax.Array) -> jax.Array:
    """The hazard less ``a``, for any ``a >= 0``."""
    far = 2.0**14 if a.dtype == np.float32 else 2.0**28
    p, q = coefficients.EXCESS[a.dtype]
    b = jnp.minimum(a, far)
    return jnp.where(a < far, polynomial(p, b) / polynomial(q, b), 1 / a)


def _density_value(x: jax.Array) -> jax.Array:
    power, (hi, rest) = density_words(far(x))
    return power * (coefficients.INVERSE_SQRT_2PI[0] * (hi + rest)) * unlift(x)


density: Callable = elementwise(
    _density_value, lambda x: -jnp.clip(x, -45, 45) * density(x)
)


_BELOW = -0.42


def _log_ndtr_value(x: jax.Array) -> jax.Array:
    """log(phi / hazard) far below 0, the logarithm of 1 - Q or of Q from there on.

    The first is a sum of terms of one sign, whose roundings are taken along; the second
    starts from twice the tail less 1 where that is exact.
    """
    # Beyond, half the square overflows, and its parts would say NaN.
    a = jnp.minimum(jnp.abs(x), 3e19 if x.dtype == np.float32 else 2e154)
    q = excess(a)
    large, small = jnp.maximum(a, q), jnp.minimum(a, q)
    hazard = large + small
    rest = ((large - hazard) + small) / hazard
    h = hi_word(a)
    half_square, lo = (0.5 * h) * h, (0.5 * (a - h)) * (a + h)
    constant, constant_rest = nearest_words(*coefficients.HALF_LOG_2PI, x.dtype)
    first = jnp.maximum(half_square, constant)
    total = half_square + constant
    lost = jnp.where(a < 1e4, (first - total) + jnp.minimum(half_square, constant), 0)
    log = jnp.log(hazard)
    below = -(total + (log + (rest + lo + lost + constant_rest)))

    b = far(x)
    power, density = density_words(b)
    scale = power * unlift(x)
    hi, lo = mills_words(jnp.ones_like(b), b)
    y = scale * (hi * density[0])
    y_rest = scale * (hi * density[1] + lo * (density[0] + density[1]))
    tail = power * mul_words((hi, lo), density) * unlift(x)
    half = tail > 0.3
    f = jnp.where(half, jnp.where(x < 0, 1, -1) * ((2 * y - 1) + 2 * y_rest), -tail)
    # What a tail that counts has lost in rounding, over the logarithm's argument.
    lost = jnp.where(half | (tail < 1e-6), 0, ((y - tail) + y_rest) / (1 - tail))
    k = jnp.where(half, -1, 0).astype(x.dtype)
    above = log_product(k, jnp.clip(f, -0.35, 0.5), lost)
    return jnp.where(x < _BELOW, below, above)


def _ratio(x: jax.Array) -> jax.Array:
    """phi(x) / (1 - Q(x)) for x >= 0, before `unlift`."""
    b = far(x)
    power, density = density_words(b)
    tail = power * mul_words(mills_words(jnp.ones_like(b), b), density) * unlift(x)
    phi = mul_words(short_words(*coefficients.INVERSE_SQRT_2PI, x.dtype), density)
    rest = hi_word(1 - tail)
    return power * sum(div_words(phi, (rest, (1 - rest) - tail)))


def _log_ndtr_slope(x: jax.Array) -> jax.Array:
    """The hazard at -x below 0, phi(x) / (1 - Q(x)) above."""
    a = jnp.abs(x)
    return jnp.where(x < 0, a + excess(a), _ratio(x) * unlift(x))


def _log_ndtr_curvature(x: jax.Array) -> jax.Array:
    """-h q with the hazard h = a + q below 0, -r (x + r), r = phi / (1 - Q), above."""
    a = jnp.minimum(jnp.abs(x), 1e4 if x.dtype == np.float32 else 1e9)
    r = _ratio(x)
    above = r * (a + r * unlift(x)) * unlift(x)
    if x.dtype == np.float32:
        below = 1 - _ratio_of(coefficients.LOG_NDTR_LACK, a)
    else:
        below = (a + excess(a)) * excess(a)
    return -jnp.where(x < 0, below, above)


def _log_ndtr_third(x: jax.Array) -> jax.Array:
    """h (q (a + 2 q) - 1) below 0, 2 / a^3 far below, r ((x + r) (x + 2 r) - 1) up."""
    a, b = jnp.clip(-x, 0, 1e3), jnp.maximum(-x, 1e3)
    near = _slope(-a) * _ratio_of(coefficients.LOG_NDTR_BEND, a)
    x_above = jnp.clip(x, 0, 45)
    r = _slope(x_above)
    above = r * ((x_above + r) * (x_above + 2 * r) - 1)
    return jnp.where(x < 0, jnp.where(x > -1e3, near, 2 / b / b / b), above)


_curvature: Callable = elementwise(_log_ndtr_curvature, _log_ndtr_third)
_slope: Callable = elementwise(_log_ndtr_slope, _curvature)
_log_ndtr: Callable = elementwise(_log_ndtr_value, _slope, "log_ndtr")


@compiled()
def log_ndtr(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The logarithm of the normal distribution function, as in `jax.scipy.special`.

    .. math::
      \mathrm{log\_ndtr}(x) = \log \Phi(x) = \log \int_{-\infty}^x
      \frac{e^{-t^2 / 2}}{\sqrt{2 \pi}} \, dt

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with the density :math:`\varphi`, the first is
    :math:`r = \varphi(x) / \Phi(x)` and the second :math:`-r (x + r)`.  For negative
    ``x`` neither is a difference: :math:`x + r` falls as :math:`1 / |x|` and keeps its
    bits.

    Limits: -inf and 0 in value, inf and 0 in the first derivative, -1 and 0 in the
    second.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.8, 2.7 and 3.8 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.log_ndtr(jnp.array([-10.0, 0.0, 3.0]))
      Array([-5.3231285e+01, -6.9314718e-01, -1.3508099e-03], dtype=float32)
      >>> jax.grad(fs.log_ndtr)(-1e10)
      Array(1.e+10, dtype=float32, weak_type=True)

    References:
      Gordon, `Values of Mills' Ratio of Area to Bounding Ordinate
      <https://doi.org/10.1214/aoms/1177731721>`_, 1941: the bounds between which the
      hazard lies.
    """
    return _log_ndtr(as_floating("log_ndtr", x))
