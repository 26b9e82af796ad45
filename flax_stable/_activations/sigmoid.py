"""The logistic family: `sigmoid`, `log_sigmoid`, `tanh`."""

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    Pair,
    exp,
    expm1,
    log1p,
    multiply,
    multiply_rounded,
    negative,
    one_plus,
    reciprocal,
    rounded,
    two_sum,
)
from ._elementwise import as_floating, elementwise


@jax.jit
def sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The logistic function, as `jax.nn.sigmoid`.

    .. math::
      \mathrm{sigmoid}(x) = \frac{1}{1 + e^{-x}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-|x|}`, the first is :math:`e / (1 + e)^2` and
    the second :math:`-\mathrm{sign}(x)\, e (1 - e) / (1 + e)^3`.  Neither cancels: the
    first does not vanish before :math:`|x| = 87`, the second keeps all bits around its
    root at 0.

    Limits: 0 and 1 in value, 0 in every derivative.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32, the largest error observed was 0.69, 0.71 and 0.81
    ULP in value, first and second derivative, eager and compiled, in reverse and
    forward mode.  In float16 and bfloat16 it was 0.501 ULP over all inputs.  Results
    below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.sigmoid(jnp.array([-1.0, 0.0, 1.0]))
      Array([0.26894143, 0.5       , 0.7310586 ], dtype=float32)
      >>> bool(jax.grad(fs.sigmoid)(80.0) > 0)  # 1 - sigmoid(80) would be zero
      True

    References:
      Higham, `Accuracy and Stability of Numerical Algorithms
      <https://doi.org/10.1137/1.9780898718027>`_, 2nd edition, 2002, chapter 1:
      formulas that do not cancel.
    """
    return _sigmoid(as_floating("sigmoid", x))


@jax.jit
def log_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The logarithm of the logistic function, as `jax.nn.log_sigmoid`.

    .. math::
      \log \mathrm{sigmoid}(x) = \min(x, 0) - \log(1 + e^{-|x|})

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`\mathrm{sigmoid}(-x)`, the second
    :math:`-\mathrm{sigmoid}'(x)`, each by the formula of `flax_stable.sigmoid`.

    Limits: -inf and 0 in value, 1 and 0 in the first derivative, 0 in the second.
    NaN gives NaN.

    Residual: the input.

    Accuracy: in float32, the largest error observed was 0.96, 0.69 and 0.71
    ULP in value, first and second derivative, eager and compiled, in reverse and
    forward mode.  In float16 and bfloat16 it was 0.501 ULP over all inputs.  Results
    below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.log_sigmoid(jnp.array([-100.0, 0.0, 1.0]))
      Array([-100.       ,   -0.6931472,   -0.3132617], dtype=float32)
      >>> jax.grad(fs.log_sigmoid)(-100.0)
      Array(1., dtype=float32, weak_type=True)

    References:
      Maechler, `Accurately Computing log(1 - exp(-|a|))
      <https://cran.r-project.org/package=Rmpfr/vignettes/log1mexp-note.pdf>`_, 2012.
    """
    return _log_sigmoid(as_floating("log_sigmoid", x))


@jax.jit
def tanh(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The hyperbolic tangent, as `jax.nn.tanh`.

    .. math::
      \tanh(x) = \mathrm{sign}(x) \frac{1 - e^{-2|x|}}{1 + e^{-2|x|}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-2|x|}`, the first is :math:`4 e / (1 + e)^2` and
    the second :math:`-8\,\mathrm{sign}(x)\, e (1 - e) / (1 + e)^3`.  They do not vanish
    where the value rounds to 1, as :math:`1 - \tanh^2` does.

    Limits: -1 and 1 in value, 0 in every derivative.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32, the largest error observed was 0.72, 0.71 and 0.79
    ULP in value, first and second derivative, eager and compiled, in reverse and
    forward mode.  In float16 and bfloat16 it was 0.501 ULP over all inputs.  Results
    below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

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
    """
    return _tanh(as_floating("tanh", x))


def _factors(x: jax.Array, shift: int = 0) -> tuple[Pair, jax.Array, Pair]:
    """``p, scale, v`` with exp(-|x|) 2^shift = p scale and sigmoid(|x|) = v."""
    p, scale = exp(-jnp.abs(x), shift)
    return p, scale, reciprocal(one_plus(p, scale * 2.0**-shift))


def _linear_at_zero(x: jax.Array, factor: float, y: jax.Array) -> jax.Array:
    """``y``, but ``factor * x`` where an odd function has no other term to speak of.

    There the tails of pairs would underflow, and with them the last bits of ``y``.
    """
    tiny = 0.5 * np.sqrt(np.finfo(x.dtype).eps)
    return jnp.where(jnp.abs(x) < tiny, factor * x, y)


def sigmoid_value(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)), the exponential always of -|x|."""
    p, scale, v = _factors(x)
    return jnp.where(x < 0, multiply_rounded(p, v) * scale, rounded(v))


def sigmoid_slope(x: jax.Array, shift: int = 0) -> jax.Array:
    """e / (1 + e)^2 with e = exp(-|x|), times 2^shift."""
    p, scale, v = _factors(x, shift)
    return multiply_rounded(p, multiply(v, v)) * scale


def sigmoid_curvature(x: jax.Array, shift: int = 0) -> jax.Array:
    """-sign(x) e (1 - e) / (1 + e)^3 with e = exp(-|x|), times 2^shift."""
    p, scale, v = _factors(x, shift)
    one_minus = negative(expm1(-jnp.abs(x)))
    y = multiply_rounded(multiply(p, v), multiply(multiply(v, v), one_minus)) * scale
    return _linear_at_zero(x, -(2.0 ** (shift - 3)), jnp.where(x < 0, y, -y))


def log_sigmoid_value(x: jax.Array) -> jax.Array:
    """min(x, 0) - log1p(exp(-|x|)), rounded once."""
    high, low = log1p(*exp(-jnp.abs(x)))
    total, error = two_sum(jnp.minimum(x, 0), -high)
    # From -40 on the logarithm is below the last bit of x, which may be infinite.
    return jnp.where(x < -40, x, total + (error - low))


def sigmoid_third(x: jax.Array) -> jax.Array:
    """s' (1 - 6 s')."""
    slope = _sigmoid_slope(x)
    return slope * (1 - 6 * slope)


def _tanh_value(x: jax.Array) -> jax.Array:
    """m / (2 - m) with m = 1 - exp(-2|x|), which is small beside nothing."""
    _, _, v = _factors(x + x)
    y = multiply_rounded(negative(expm1(-jnp.abs(x + x))), v)
    return _linear_at_zero(x, 1.0, jnp.where(x < 0, -y, y))


def _tanh_slope(x: jax.Array) -> jax.Array:
    return sigmoid_slope(x + x, 2)


def _tanh_curvature(x: jax.Array) -> jax.Array:
    return sigmoid_curvature(x + x, 3)


def _tanh_third(x: jax.Array) -> jax.Array:
    """tanh' (4 - 6 tanh')."""
    slope = _tanh_slope_rule(x)
    return slope * (4 - 6 * slope)


# Each derivative is a function with a rule of its own, and the last of a row is written
# with these, so that no order falls back on differentiating a kernel.
_sigmoid_slope = elementwise(sigmoid_slope, sigmoid_curvature, sigmoid_third)
_sigmoid = elementwise(sigmoid_value, sigmoid_slope, sigmoid_curvature, sigmoid_third)
_tanh_slope_rule = elementwise(_tanh_slope, _tanh_curvature, _tanh_third)
_tanh = elementwise(_tanh_value, _tanh_slope, _tanh_curvature, _tanh_third)

_log_sigmoid = elementwise(
    log_sigmoid_value,
    lambda x: sigmoid_value(-x),
    lambda x: -sigmoid_slope(x),
    lambda x: -sigmoid_curvature(x),
    lambda x: -sigmoid_third(x),
)
