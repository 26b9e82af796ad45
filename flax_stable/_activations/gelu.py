"""`gelu`, in both forms."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    LIFT,
    Exp,
    Words,
    coefficients,
    exp2_reduced,
    exp_reduced,
    hi_word,
    lift_scaled,
    mul_words,
    nearest_words,
    polynomial,
    power_of_two,
    short_words,
    unlift,
)
from .._precision.coefficients import F32, F64
from .._public import compiled
from . import _half
from ._elementwise import as_floating, assert_bool, elementwise
from ._few_bit import few_bit
from .normal import density, density_words, far, mills_words
from .sigmoid import sigmoid_slope, tanh
from .silu import over_one_plus


@compiled("approximate", "bits")
def gelu(
    x: jax.typing.ArrayLike, approximate: bool = True, *, bits: int | None = None
) -> jax.Array:
    r"""The Gaussian error linear unit, as `jax.nn.gelu`.

    .. math::
      \mathrm{gelu}(x) = x \Phi(x) \approx \frac{x}{2} \left(1 + \tanh\left(
      \sqrt{2 / \pi}\, (x + 0.044715\, x^3)\right)\right)

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      approximate: whether to take the form with tanh, or that with the normal
        distribution function :math:`\Phi`.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass, and approximates the derivative; ``None`` keeps the input.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with the density :math:`\varphi`, those of the exact form are
    :math:`\Phi(x) + x \varphi(x)` and :math:`\varphi(x) (2 - x^2)`.  The other form is
    :math:`x\, s(w)` with the logistic function s and a cubic w, and has the derivatives
    :math:`s + x w' s (1 - s)` and
    :math:`s (1 - s) (2 w' + x w'' - x w'^2 \tanh(w / 2))`.  Around its roots each is a
    multiple of the distance to the root, and keeps its bits.

    Limits: 0 and inf in value (`jax.nn` gives NaN at -inf), 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input.  With ``bits`` it is a code of so many bits for each element,
    packed along the last axis; the first derivative, in forward mode too, is then a
    step function: of those of 2^bits steps the closest one for a standard normal input,
    off by 29, 13, 6.5 and 3.6% of the norm with 1 to 4 bits.  The second is 0.
    See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 2.0, 3.8 and 5.2 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``bits`` is none of these.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.gelu(jnp.array([-3.0, -1.0, 1.0]))
      Array([-0.00363739, -0.15880801,  0.841192  ], dtype=float32)
      >>> fs.gelu(jnp.array([-10.0, -1.0, 1.0]), approximate=False)
      Array([-7.6198530e-23, -1.5865526e-01,  8.4134471e-01], dtype=float32)
      >>> jax.grad(fs.gelu)(1e30)  # jax.nn.gelu: nan
      Array(1., dtype=float32, weak_type=True)
      >>> _, vjp = jax.vjp(lambda x: fs.gelu(x, bits=3), jnp.ones((4, 1024)))
      >>> sum(kept.nbytes for kept in jax.tree.leaves(vjp))  # of 16384
      1536

    References:
      Hendrycks and Gimpel, `Gaussian Error Linear Units (GELUs)
      <https://arxiv.org/abs/1606.08415>`_, 2016.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    assert_bool("gelu", "approximate", approximate)
    return _GELU_RULES[bool(approximate)](bits)(as_floating("gelu", x))


def _exact_value(x: jax.Array) -> jax.Array:
    """max(x, 0) - |x| Q(|x|); x / 2 where parts of numbers would be flushed."""
    a = far(x)
    power, density = density_words(a)
    tail = power * mul_words(mills_words(a, a), density) * unlift(x)
    return jnp.where(a < 1e-20, 0.5 * x, jnp.maximum(x, 0) - tail)


def _exact_slope(x: jax.Array) -> jax.Array:
    """Q(a) - a phi(a), a = |x|, or 1 minus that; a series about the root."""
    a = far(x)
    power, density = density_words(a)
    m, m_rest = mills_words(jnp.ones_like(a), a)
    c, c_rest = short_words(*coefficients.INVERSE_SQRT_2PI, x.dtype)
    b = hi_word(a)
    # The difference of two exact products, and what these lack.
    y, y_rest = m - c * b, m_rest - (c * (a - b) + c_rest * a)
    y, y_rest = hi_word(y), (y - hi_word(y)) + y_rest
    tail = power * mul_words((y, y_rest), density) * unlift(x)
    root, root_rest = nearest_words(*coefficients.EXACT_GELU_ROOT, x.dtype)
    d = x - root
    series = polynomial(coefficients.EXACT_GELU_SLOPE[x.dtype], jnp.clip(d, -0.5, 0.5))
    near = d * series - root_rest * series
    return jnp.where(jnp.abs(d) < 0.4, near, jnp.where(x < 0, tail, 1 - tail))


def _exact_curvature(x: jax.Array) -> jax.Array:
    """phi(x) (2 - x^2): next to the root each of the three products is exact."""
    a = far(x)
    power, (hi, rest) = density_words(a)
    b = hi_word(a)
    bend = ((2 - b * b) - 2 * b * (a - b)) - (a - b) * (a - b)
    y = (hi + rest) * (np.array(coefficients.INVERSE_SQRT_2PI[0], x.dtype) * bend)
    return power * y * unlift(x)


_curvature: Callable = elementwise(
    _exact_curvature, lambda x: density(x) * (_clipped(x) * (_clipped(x) ** 2 - 4))
)
_slope: Callable = elementwise(_exact_slope, _curvature)
_half_slope = elementwise(_half.exact_gelu_slope, _curvature)
half_exact_gelu = elementwise(_half.exact_gelu, _half_slope)
_exact: Callable = elementwise(
    _exact_value,
    _slope,
    "gelu",
    half_value=_half.exact_gelu,
    half_slope=_half_slope,
)


def _clipped(x: jax.Array) -> jax.Array:
    """``x`` where the function bends at all: no power of it overflows."""
    return jnp.clip(x, -45, 45)


# The form with tanh is x / (1 + exp(-w)), w = A x + B x^3, in two words each; over ln 2
# as well.
_A, _B = coefficients.GELU_A, coefficients.GELU_B
_A_LOG2, _B_LOG2 = coefficients.GELU_A_LOG2, coefficients.GELU_B_LOG2

# From where on, by dtype, x times the logistic is 0.
_ZERO = {F32: 10.85, F64: 21.5}


# By dtype: the least units of a^2 and of B with which their product, added to A, is
# exact; where exp(-w) times LIFT is held, below the least power of two.
_UNITS = {F32: (2.0**-8, 2.0**-11), F64: (2.0**-17, 2.0**-29)}
_HELD = {F32: 10.905, F64: 21.377}


def _hi_and_lo(x: jax.Array) -> Words:
    """``|x|``, held, in two words."""
    a = jnp.minimum(jnp.abs(x), _HELD[x.dtype])
    return hi_word(a), a - hi_word(a)


def _odd(a: Words, factor: int) -> Words:
    """``A + factor B a^2``: an exact sum and the rest."""
    unit, unit_of_b = _UNITS[a[0].dtype]
    b = math.floor(_B[0] / unit_of_b) * unit_of_b
    start = math.floor(_A[0] / (unit * unit_of_b)) * (unit * unit_of_b)
    square, rest = a[0] * a[0], a[1] * (2 * a[0] + a[1])
    square_hi = jnp.round(square * (1 / unit)) * unit
    lo = ((_B[0] - b) + _B[1]) * (square + rest) + b * ((square - square_hi) + rest)
    return start + factor * (b * square_hi), ((_A[0] - start) + _A[1]) + factor * lo


def _times(a: Words, y: Words) -> Words:
    """The product: that of the first words, exact, and the rest."""
    hi = hi_word(y[0])
    lo = a[1] * y[0] + (a[0] * (y[0] - hi) + (a[0] + a[1]) * y[1])
    return a[0] * hi, lo


def cubic_words(a: Words) -> Words:
    """The cubic w of two words: an exact product and the rest."""
    return _times(a, _odd(a, 1))


def _exp_abs_scaled(a: Words) -> tuple[jax.Array, jax.Array]:
    """``exp(-w) LIFT = power (1 + z)``, as `exp_abs_scaled` has it."""
    w, rest = cubic_words(a)
    n, hi, lo = exp_reduced(-w, rest)
    return power_of_two(n, LIFT), hi + lo


def cubic_log2(x: jax.Array) -> Words:
    """The cubic w over ln 2: an exact product and the rest.

    Of h (a + b h^2), with the first word h of x, most of the sum is exact.
    """
    unit, unit_of_b = _UNITS[x.dtype]
    b = round(_B_LOG2[0] / unit_of_b) * unit_of_b
    a = round(_A_LOG2[0] / (unit * unit_of_b)) * (unit * unit_of_b)
    h = hi_word(x)
    square = h * h
    square_hi = jnp.round(square * (1 / unit)) * unit
    total = a + b * square_hi
    hi = hi_word(total)
    rest = (_A_LOG2[0] - a + _A_LOG2[1]) + (_B_LOG2[0] - b + _B_LOG2[1]) * square
    rest = (total - hi) + (rest + b * (square - square_hi))
    slope = _A_LOG2[0] + 3 * _B_LOG2[0] * (x * h)
    return h * hi, h * rest + (x - h) * slope


def _tanh_value(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-w)), held where it is 0 and where the sum is 1."""
    held = jnp.maximum(x, -_ZERO[x.dtype])
    hi, lo = cubic_log2(-jnp.minimum(held, 9))
    return over_one_plus(held, *exp2_reduced(hi, lo))


def slope_of_cubic(x: jax.Array, e: Exp) -> jax.Array:
    """e (1 + e - a w') / (1 + e)^2 for x < 0, or 1 minus that for positive x.

    Given is e = exp(-w) at a = |x|, for -a.
    """
    y, s = e.y, e.whole
    a, a_rest = nearest_words(*_A, x.dtype)
    bend = 3 * _B[0] * (y * y)
    rise = a + bend
    h, hi = hi_word(y), hi_word(rise)
    rest = h * ((a - hi) + (bend + a_rest)) + (y - h) * rise
    far = e.power * ((1 + h * hi) + (s + rest))
    far = (far + far * e.z) * e.unlift
    # Where this counts the square is close to 1.
    above = s * (2 + s)
    root, root_rest = nearest_words(
        -coefficients.GELU_ROOT[0], -coefficients.GELU_ROOT[1], x.dtype
    )
    d = y + root
    series = polynomial(coefficients.GELU_SLOPE[x.dtype], jnp.maximum(d, -0.6))
    near = d * series + root_rest * series
    tail = jnp.where(d > -0.5, near, far - far * (above / (1 + above)))
    return jnp.where(x < 0, tail, 1 - tail)


def _tanh_slope(x: jax.Array) -> jax.Array:
    y = -jnp.minimum(jnp.abs(x), _HELD[x.dtype])
    return slope_of_cubic(x, lift_scaled(y, *exp2_reduced(*cubic_log2(y))))


def _tanh_curvature(x: jax.Array) -> jax.Array:
    """e / (1 + e)^2 times 2 w' + x w'' - x w'^2 (1 - e) / (1 + e), which is even."""
    a = _hi_and_lo(x)
    power, z = _exp_abs_scaled(a)
    e = power / LIFT * (1 + z)
    y = _odd(a, 3)
    t, rest = _times(a, y)
    bend = mul_words(
        (hi_word(t), (t - hi_word(t)) + rest),
        (hi_word(y[0]), y[0] - hi_word(y[0]) + y[1]),
    )
    b = a[0] + a[1]
    rise = 2 * _A[0] + 12 * _B[0] * (b * b)
    far = (rise - bend) + bend * (2 * e / (1 + e))
    root, root_rest = nearest_words(*coefficients.GELU_BEND_ROOT, x.dtype)
    u = ((root - a[0] * a[0]) - 2 * a[0] * a[1]) - a[1] * a[1]
    series = polynomial(coefficients.GELU_BEND[x.dtype], jnp.minimum(b * b, 5))
    near = u * series + root_rest * series
    s = power * jnp.where(b < 2.2, near, far)
    return (s + s * z) / (1 + e * (2 + e)) / LIFT


def _tanh_third(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -20, 20)
    w1, cubic = (
        _A[0] + 3 * _B[0] * x * x,
        6 * _B[0] * x,
    )
    w = x * (_A[0] + _B[0] * x * x)
    t = tanh(0.5 * w)
    bend = 2 * w1 + x * cubic - x * w1 * w1 * t
    slope = 4 * cubic - w1 * t * (w1 + 2 * x * cubic) - 2 * x * w1**3 * sigmoid_slope(w)
    return sigmoid_slope(w) * (slope - w1 * t * bend)


_tanh_bend: Callable = elementwise(_tanh_curvature, _tanh_third)
_tanh_first: Callable = elementwise(_tanh_slope, _tanh_bend)
_half_tanh_slope = elementwise(_half.gelu_slope, _tanh_bend)
half_gelu = elementwise(_half.gelu, _half_tanh_slope)
_tanh_form: Callable = elementwise(
    _tanh_value,
    _tanh_first,
    "gelu",
    half_value=_half.gelu,
    half_slope=_half_tanh_slope,
)
_GELU_RULES = {
    True: few_bit(_tanh_form, "gelu"),
    False: few_bit(_exact, "gelu(approximate=False)"),
}
