"""The logistic family: `sigmoid`, `log_sigmoid`, `tanh`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    coefficients,
    exp_reduced,
    expm1,
    polynomial,
    power_of_two,
    split_exp,
)
from .._public import compiled
from . import _half
from ._elementwise import as_floating, by_residual, elementwise
from ._few_bit import few_bit


@compiled("residual")
def sigmoid(x: jax.typing.ArrayLike, *, residual: str = "input") -> jax.Array:
    r"""The logistic function, as `jax.nn.sigmoid`.

    .. math::
      \mathrm{sigmoid}(x) = \frac{1}{1 + e^{-x}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-|x|}`, the first is :math:`e / (1 + e)^2` and
    the second :math:`-\mathrm{sign}(x)\, e (1 - e) / (1 + e)^3`.  Neither cancels: the
    first does not vanish before :math:`|x| = 87`, the second keeps all bits around its
    root at 0.

    Limits: 0 and 1 in value, 0 in every derivative.  NaN gives NaN.

    Residual: the input.  ``residual="output"`` keeps the output instead, which the next
    layer often keeps anyway, and pays in accuracy: the first derivative is then
    :math:`y (1 - y)`, and higher ones are derivatives of that.  Its error stays below
    2.7 ULP in float32 and 1.4 in 16 bits up to ``x = 1`` and grows as :math:`e^x` from
    there; from 17.4 (in float16 8.4, in bfloat16 6.3) the derivative is 0.  The second
    is not good to its last bits around its root at 0.

    Accuracy: in float32 errors observed stay below 1.7, 2.4 and 4.5 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.505 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``residual`` is neither of the two.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.sigmoid(jnp.array([-1.0, 0.0, 1.0]))
      Array([0.26894143, 0.5       , 0.7310586 ], dtype=float32)
      >>> bool(jax.grad(fs.sigmoid)(80.0) > 0)  # 1 - sigmoid(80) would be zero
      True
      >>> float(jax.grad(lambda x: fs.sigmoid(x, residual="output"))(80.0))
      0.0

    References:
      Higham, `Accuracy and Stability of Numerical Algorithms
      <https://doi.org/10.1137/1.9780898718027>`_, 2nd edition, 2002, chapter 1:
      formulas that do not cancel.
    """
    return by_residual("sigmoid", _SIGMOID_RULES, residual)(as_floating("sigmoid", x))


@compiled("residual", "bits")
def tanh(
    x: jax.typing.ArrayLike, *, residual: str = "input", bits: int | None = None
) -> jax.Array:
    r"""The hyperbolic tangent, as `jax.nn.tanh`.

    .. math::
      \tanh(x) = \mathrm{sign}(x) \frac{1 - e^{-2|x|}}{1 + e^{-2|x|}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass instead, and approximates the derivative.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-2|x|}`, the first is :math:`4 e / (1 + e)^2` and
    the second :math:`-8\,\mathrm{sign}(x)\, e (1 - e) / (1 + e)^3`.  They do not vanish
    where the value rounds to 1, as :math:`1 - \tanh^2` does.

    Limits: -1 and 1 in value, 0 in every derivative.  NaN gives NaN.

    Residual: the input.  ``residual="output"`` keeps the output instead, which the next
    layer often keeps anyway, and pays in accuracy: the first derivative is then
    :math:`(1 - y)(1 + y)`, and higher ones are derivatives of that.  Its error stays
    below 4 ULP in float32 and 2 in 16 bits up to ``|x| = 1`` and grows as
    :math:`e^{2|x|}` from there; from 9.1 (in float16 4.6, in bfloat16 3.5) the
    derivative is 0.  With ``bits`` it is a code of so many bits for each element,
    packed along the last axis; the first derivative, in forward mode too, is then a
    step function of the magnitude: of those of 2^bits steps the closest one for a
    standard normal input, off by 21, 10, 5.1 and 2.5% of the norm with 1 to 4 bits.
    The second is 0.  See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 1.6, 2.4 and 4.5 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.505 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``residual`` is neither of the two, or ``bits`` is none of these or
        comes with ``residual``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.tanh(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.7615942,  0.       ,  0.7615942], dtype=float32)
      >>> bool(jax.grad(fs.tanh)(20.0) > 0)  # 1 - tanh(20)**2 would be zero
      True

    References:
      Higham, `Accuracy and Stability of Numerical Algorithms
      <https://doi.org/10.1137/1.9780898718027>`_, 2nd edition, 2002, chapter 1:
      formulas that do not cancel.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    rule = by_residual("tanh", _TANH_RULES, residual)
    if bits is not None:
        if residual != "input":
            raise ValueError(
                f"tanh keeps either its {residual} or bits={bits}, but got both. Leave "
                "one of them out."
            )
        rule = _tanh_rule(bits)
    return rule(as_floating("tanh", x))


def _exp_abs(x: jax.Array) -> jax.Array:
    """exp(-|x|), and 0 where that is no normal number."""
    bound = math.ceil(-np.log(np.finfo(x.dtype).tiny))
    power, z = split_exp(-jnp.minimum(jnp.abs(x), bound))
    return power * (1 + z)


def _sigmoid_value(x: jax.Array) -> jax.Array:
    """1 - w for x >= 0 and e - e w below, with e = exp(-|x|), w = e / (1 + e)."""
    e = _exp_abs(x)
    numerator = jnp.where(x < 0, e, 1)
    return numerator - numerator * (e / (1 + e))


def _sigmoid_slope(x: jax.Array) -> jax.Array:
    """e / (1 + e)^2, e = exp(-|x|), of which the errors cancel as e grows."""
    e = _exp_abs(x)
    return e / (1 + e * (2 + e))


def _tanh_value(x: jax.Array) -> jax.Array:
    """m / (2 + m), m = exp(2|x|) - 1, and an odd polynomial where that loses bits.

    It does so until it exceeds 1/4, at 0.2554.
    """
    a = jnp.abs(x)
    if x.dtype == np.float64:
        m = expm1(-2 * a)
        return jnp.where(x == 0, x, jnp.copysign(-m / (2 + m), x))
    power, z = split_exp(2 * jnp.minimum(a, 10))
    m = (power - 1) + power * z
    near = a + a * (a * a) * polynomial(coefficients.TANH, a * a)
    return jnp.copysign(jnp.where(a < 0.26, near, m / (2 + m)), x)


def _double_tanh_slope(x: jax.Array) -> jax.Array:
    """2 tanh'(x) = h / (1 + h / 4 + h^2 / 64), h = 8 exp(-2|x|).

    Twice, because tanh'' = -2 tanh tanh' is a normal number where tanh' is none any
    more.  h is made of parts, since its eighth underflows before.
    """
    bound = 0.5 * (3 - np.log(np.finfo(x.dtype).tiny)).astype(x.dtype)
    n, hi, lo = exp_reduced(-2 * jnp.minimum(jnp.abs(x), bound))
    power = power_of_two(n + 3)
    h = power * (1 + (hi + lo))
    return h / (1 + h * (0.25 + h * 0.015625))


def _sigmoid_curvature(x: jax.Array) -> jax.Array:
    return -sigmoid_slope(x) * _tanh(0.5 * x)


def _double_tanh_curvature(x: jax.Array) -> jax.Array:
    return -2 * _double_slope(x) * _tanh(x)


sigmoid_slope: Callable = elementwise(_sigmoid_slope, _sigmoid_curvature)
_half_slope = elementwise(_half.sigmoid_slope, _sigmoid_curvature)
half_sigmoid = elementwise(_half.sigmoid, _half_slope)
_SIGMOID_RULES: dict[str, Callable] = {
    "input": elementwise(
        _sigmoid_value,
        sigmoid_slope,
        "sigmoid",
        half_value=_half.sigmoid,
        half_slope=_half_slope,
    ),
    "output": elementwise(
        _sigmoid_value,
        lambda y: y * (1 - y),
        "sigmoid",
        residual="output",
        half_value=_half.sigmoid,
    ),
}
_double_slope: Callable = elementwise(_double_tanh_slope, _double_tanh_curvature)
_tanh: Callable = elementwise(
    _tanh_value,
    lambda x: 0.5 * _double_slope(x),
    "tanh",
    half_value=jnp.tanh,
    half_slope=elementwise(_half.tanh_slope, lambda x: 0.5 * _double_tanh_curvature(x)),
)
_TANH_RULES: dict[str, Callable] = {
    "input": _tanh,
    "output": elementwise(
        _tanh_value,
        lambda y: (1 - y) * (1 + y),
        "tanh",
        residual="output",
        half_value=jnp.tanh,
    ),
}
_tanh_rule = few_bit(_tanh, "tanh", even=True)
