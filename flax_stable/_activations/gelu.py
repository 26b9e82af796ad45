"""`gelu`, in both forms."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    LIFT,
    Exp,
    Parts,
    constant_parts,
    exp2_ratio,
    exp_parts,
    head,
    lifted,
    nearest_parts,
    polynomial,
    power_of_two,
    product_parts,
    unlift,
)
from .._public import compiled
from . import _half
from ._elementwise import as_floating, assert_bool, elementwise
from ._few_bit import few_bit
from .normal import INVERSE_SQRT_2PI, density, density_parts, far, mills_parts
from .sigmoid import sigmoid_slope, tanh
from .silu import gated


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


_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)


def _exact_value(x: jax.Array) -> jax.Array:
    """max(x, 0) - |x| Q(|x|); x / 2 where parts of numbers would be flushed."""
    a = far(x)
    power, density = density_parts(a)
    tail = power * product_parts(mills_parts(a, a), density) * unlift(x)
    return jnp.where(a < 1e-20, 0.5 * x, jnp.maximum(x, 0) - tail)


def _series(root: float, count: int) -> tuple[float, ...]:
    """f'(root + d) / d in powers of d: the integral of phi(x) (2 - x^2)."""
    e = [math.exp(-root * root / 2) / math.sqrt(2 * math.pi)]
    e.append(-root * e[0])
    for k in range(1, count):
        e.append(-(root * e[k] + e[k - 1]) / (k + 1))
    b = (2 - root * root, -2 * root, -1)
    return tuple(
        sum(b[i] * e[k - i] for i in range(min(k, 2) + 1)) / (k + 1)
        for k in range(count)
    )


_ROOT = -0.7517915246935645, 1.4956759177e-17
_NEAR = {
    np.dtype(np.float32): _series(_ROOT[0], 10),
    np.dtype(np.float64): _series(_ROOT[0], 24),
}


def _exact_slope(x: jax.Array) -> jax.Array:
    """Q(a) - a phi(a), a = |x|, or 1 minus that; a series about the root."""
    a = far(x)
    power, density = density_parts(a)
    m, m_rest = mills_parts(jnp.ones_like(a), a)
    c, c_rest = constant_parts(*INVERSE_SQRT_2PI, x.dtype)
    b = head(a)
    # The difference of two exact products, and what these lack.
    y, y_rest = m - c * b, m_rest - (c * (a - b) + c_rest * a)
    y, y_rest = head(y), (y - head(y)) + y_rest
    tail = power * product_parts((y, y_rest), density) * unlift(x)
    root, root_rest = nearest_parts(*_ROOT, x.dtype)
    d = x - root
    series = polynomial(_NEAR[x.dtype], jnp.clip(d, -0.5, 0.5))
    near = d * series - root_rest * series
    return jnp.where(jnp.abs(d) < 0.4, near, jnp.where(x < 0, tail, 1 - tail))


def _exact_curvature(x: jax.Array) -> jax.Array:
    """phi(x) (2 - x^2): next to the root each of the three products is exact."""
    a = far(x)
    power, (high, rest) = density_parts(a)
    b = head(a)
    bend = ((2 - b * b) - 2 * b * (a - b)) - (a - b) * (a - b)
    y = (high + rest) * (np.array(INVERSE_SQRT_2PI[0], x.dtype) * bend)
    return power * y * unlift(x)


_curvature: Callable = elementwise(
    _exact_curvature, lambda x: density(x) * (_held(x) * (_held(x) ** 2 - 4))
)
_slope: Callable = elementwise(_exact_slope, _curvature)
_half_slope = elementwise(_half.exact_gelu_slope, _curvature)
half_exact_gelu = elementwise(_half.exact_gelu, _half_slope)
_exact: Callable = elementwise(
    _exact_value,
    _slope,
    "gelu",
    coarse=_half.exact_gelu,
    coarse_slope=_half_slope,
)


def _held(x: jax.Array) -> jax.Array:
    """``x`` where the function bends at all: no power of it overflows."""
    return jnp.clip(x, -45, 45)


# The form with tanh is x / (1 + exp(-w)), w = a x + b x^3, in two parts each.
_A = 1.5957691216057308, -9.9693088091109e-17
_B = 0.07135481627260025, -6.1751499181553e-19
# Over ln 2 they are these; from where on, by dtype, x times the logistic is 0.
_A_LOG2 = 2.3022081981443248, 1.3132826040769712e-16
_B_LOG2 = 0.1029432395800235, -5.9781774007187444e-18
_ZERO = {_F32: 10.85, _F64: 21.5}
_TANH_ROOT = -0.7524614220710163, 3.6355605092077e-17
_BEND_ROOT_SQUARE = 2.0121536229556503, 1.9240756912848e-16

_SLOPE = {
    _F32: (
        0.4304001033306122,
        0.3875184655189514,
        -0.01578398235142231,
        -0.1139453798532486,
        -0.016602475196123123,
        0.019688541069626808,
        0.005172458477318287,
        -0.002425116254016757,
        -0.0007424906943924725,
        0.00022322233417071402,
    ),
    _F64: (
        0.4304000910248585,
        0.38751844613578895,
        -0.015782853521847988,
        -0.11394448308096125,
        -0.016619328343055524,
        0.01968230945995288,
        0.0052610592549867715,
        -0.0024227318487825165,
        -0.0009274420231326858,
        0.0002639276791179191,
        0.00012425226454349233,
        -3.4956474516096394e-05,
        -1.5950692536348128e-05,
        5.920048707705819e-06,
        2.4321572589189168e-06,
        -9.938680986769121e-07,
        -4.2590314323322654e-07,
        1.4736617599788154e-07,
        6.520361220862169e-08,
        -1.952799846299059e-08,
        -3.15503919456085e-09,
    ),
}

_BEND = {
    _F32: (
        1.5861304998397827,
        0.20405606925487518,
        -0.0003710442688316107,
        0.0011997517431154847,
        -0.00014281280164141208,
        1.1404835277062375e-05,
        -6.302659585344372e-07,
        1.817962669292683e-08,
    ),
    _F64: (
        1.5861305055443105,
        0.20405596582465624,
        -0.0003706844629173645,
        0.0011990769129317732,
        -0.00014199474806836322,
        1.0763672213862462e-05,
        -3.048882123245915e-07,
        -9.129129948384673e-08,
        2.5409906257319362e-08,
        -4.317743842205308e-09,
        5.779275906268528e-10,
        -6.402581395298295e-11,
        5.848222215761792e-12,
        -4.251824806744135e-13,
        2.2991725746173187e-14,
        -8.163246384115768e-16,
        1.4164412086624852e-17,
    ),
}


# By dtype: the least units of a^2 and of B with which their product, added to A, is
# exact; where exp(-w) times LIFT is held, below the least power of two.
_UNITS = {_F32: (2.0**-8, 2.0**-11), _F64: (2.0**-17, 2.0**-29)}
_HELD = {_F32: 10.905, _F64: 21.377}


def _near(x: jax.Array) -> Parts:
    """``|x|``, held, as a head and what it lacks."""
    a = jnp.minimum(jnp.abs(x), _HELD[x.dtype])
    return head(a), a - head(a)


def _odd(a: Parts, factor: int) -> Parts:
    """``A + factor B a^2``: an exact sum and what it lacks."""
    unit, unit_of_b = _UNITS[a[0].dtype]
    b = math.floor(_B[0] / unit_of_b) * unit_of_b
    start = math.floor(_A[0] / (unit * unit_of_b)) * (unit * unit_of_b)
    square, rest = a[0] * a[0], a[1] * (2 * a[0] + a[1])
    coarse = jnp.round(square * (1 / unit)) * unit
    low = ((_B[0] - b) + _B[1]) * (square + rest) + b * ((square - coarse) + rest)
    return start + factor * (b * coarse), ((_A[0] - start) + _A[1]) + factor * low


def _times(a: Parts, y: Parts) -> Parts:
    """The product, as one of heads and what that lacks."""
    high = head(y[0])
    low = a[1] * y[0] + (a[0] * (y[0] - high) + (a[0] + a[1]) * y[1])
    return a[0] * high, low


def exponent_parts(a: Parts) -> Parts:
    """The cubic w of a head and what it lacks: an exact product and what that lacks."""
    return _times(a, _odd(a, 1))


def _faint_exp(a: Parts) -> tuple[jax.Array, jax.Array]:
    """``exp(-w) LIFT = power (1 + z)``, as `faint_exp` has it."""
    w, rest = exponent_parts(a)
    n, high, tail = exp_parts(-w, rest)
    return power_of_two(n, LIFT), high + tail


def cubic_log2(x: jax.Array) -> Parts:
    """The cubic w over ln 2: an exact product and what it lacks.

    Of h (a + b h^2), with the head h of x, most of the sum is exact.
    """
    unit, unit_of_b = _UNITS[x.dtype]
    b = round(_B_LOG2[0] / unit_of_b) * unit_of_b
    a = round(_A_LOG2[0] / (unit * unit_of_b)) * (unit * unit_of_b)
    h = head(x)
    square = h * h
    coarse = jnp.round(square * (1 / unit)) * unit
    total = a + b * coarse
    high = head(total)
    rest = (_A_LOG2[0] - a + _A_LOG2[1]) + (_B_LOG2[0] - b + _B_LOG2[1]) * square
    rest = (total - high) + (rest + b * (square - coarse))
    slope = _A_LOG2[0] + 3 * _B_LOG2[0] * (x * h)
    return h * high, h * rest + (x - h) * slope


def _tanh_value(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-w)), held where it is 0 and where the sum is 1."""
    held = jnp.maximum(x, -_ZERO[x.dtype])
    high, low = cubic_log2(-jnp.minimum(held, 9))
    return gated(held, *exp2_ratio(high, low))


def slope_of_cubic(x: jax.Array, e: Exp) -> jax.Array:
    """e (1 + e - a w') / (1 + e)^2 for x < 0, or 1 minus that for positive x.

    Given is e = exp(-w) at a = |x|, for -a.
    """
    y, s = e.y, e.whole
    a, a_rest = nearest_parts(*_A, x.dtype)
    bend = 3 * _B[0] * (y * y)
    rise = a + bend
    h, high = head(y), head(rise)
    rest = h * ((a - high) + (bend + a_rest)) + (y - h) * rise
    far = e.power * ((1 + h * high) + (s + rest))
    far = (far + far * e.z) * e.unlift
    # Where this counts the square is close to 1.
    above = s * (2 + s)
    root, root_rest = nearest_parts(-_TANH_ROOT[0], -_TANH_ROOT[1], x.dtype)
    d = y + root
    series = polynomial(_SLOPE[x.dtype], jnp.maximum(d, -0.6))
    near = d * series + root_rest * series
    tail = jnp.where(d > -0.5, near, far - far * (above / (1 + above)))
    return jnp.where(x < 0, tail, 1 - tail)


def _tanh_slope(x: jax.Array) -> jax.Array:
    y = -jnp.minimum(jnp.abs(x), _HELD[x.dtype])
    return slope_of_cubic(x, lifted(y, *exp2_ratio(*cubic_log2(y))))


def _tanh_curvature(x: jax.Array) -> jax.Array:
    """e / (1 + e)^2 times 2 w' + x w'' - x w'^2 (1 - e) / (1 + e), which is even."""
    a = _near(x)
    power, z = _faint_exp(a)
    e = power / LIFT * (1 + z)
    y = _odd(a, 3)
    t, rest = _times(a, y)
    bend = product_parts(
        (head(t), (t - head(t)) + rest), (head(y[0]), y[0] - head(y[0]) + y[1])
    )
    b = a[0] + a[1]
    rise = 2 * _A[0] + 12 * _B[0] * (b * b)
    far = (rise - bend) + bend * (2 * e / (1 + e))
    root, root_rest = nearest_parts(*_BEND_ROOT_SQUARE, x.dtype)
    u = ((root - a[0] * a[0]) - 2 * a[0] * a[1]) - a[1] * a[1]
    series = polynomial(_BEND[x.dtype], jnp.minimum(b * b, 5))
    near = u * series + root_rest * series
    s = power * jnp.where(b < 2.2, near, far)
    return (s + s * z) / (1 + e * (2 + e)) / LIFT


def _tanh_third(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -20, 20)
    w1, cubic = _A[0] + 3 * _B[0] * x * x, 6 * _B[0] * x
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
    coarse=_half.gelu,
    coarse_slope=_half_tanh_slope,
)
_GELU_RULES = {
    True: few_bit(_tanh_form, "gelu"),
    False: few_bit(_exact, "gelu(approximate=False)"),
}
