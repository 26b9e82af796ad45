"""`softplus` and its inverse."""

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    exp,
    expm1,
    log_expm1,
    multiply,
    multiply_rounded,
    negative,
    reciprocal,
    rounded,
)
from ._elementwise import as_floating, elementwise
from .sigmoid import (
    log_sigmoid_value,
    sigmoid_curvature,
    sigmoid_slope,
    sigmoid_third,
    sigmoid_value,
)


@jax.jit
def softplus(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The smooth positive part, as `jax.nn.softplus`.

    .. math::
      \mathrm{softplus}(x) = \log(1 + e^x) = \max(x, 0) + \log(1 + e^{-|x|})

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`\mathrm{sigmoid}(x)`, the second
    :math:`\mathrm{sigmoid}'(x)`, each by the formula of `flax_stable.sigmoid`.

    Limits: 0 and inf in value, 0 and 1 in the first derivative, 0 in the second.
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
      >>> fs.softplus(jnp.array([-1.0, 0.0, 100.0]))
      Array([  0.3132617,   0.6931472, 100.       ], dtype=float32)
      >>> jax.grad(fs.softplus)(100.0)
      Array(1., dtype=float32, weak_type=True)

    References:
      Dugas et al., `Incorporating Second-Order Functional Knowledge for Better Option
      Pricing <https://papers.nips.cc/paper/1920>`_, 2000.
    """
    return _softplus(as_floating("softplus", x))


@jax.jit
def inverse_softplus(y: jax.typing.ArrayLike) -> jax.Array:
    r"""The inverse of `flax_stable.softplus`: ``x`` such that ``softplus(x) = y``.

    .. math::
      \mathrm{softplus}^{-1}(y) = \log(e^y - 1) = y + \log(1 - e^{-y})

    The domain is ``y > 0``: 0 gives -inf and a negative number NaN.  Around its root at
    :math:`\log 2` the result keeps all its bits.

    Args:
      y: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``y`` and of its (promoted) dtype.

    Derivatives: the first is :math:`1 / (1 - e^{-y})`, the second
    :math:`-e^{-y} / (1 - e^{-y})^2`.  At 0 they are inf and -inf, below it NaN.

    Limits: at inf, inf in value, 1 in the first derivative, 0 in the second.
    NaN gives NaN.

    Residual: the input.

    Accuracy: in float32, the largest error observed was 0.95, 0.81 and 1.20
    ULP in value, first and second derivative, eager and compiled, in reverse and
    forward mode.  In float16 and bfloat16 it was 0.501 ULP over all inputs.  Results
    below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``y`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.inverse_softplus(jnp.array([0.5, 1.0, 100.0]))
      Array([ -0.43275213,   0.54132485, 100.        ], dtype=float32)
      >>> fs.inverse_softplus(0.0)
      Array(-inf, dtype=float32, weak_type=True)

    References:
      Maechler, `Accurately Computing log(1 - exp(-|a|))
      <https://cran.r-project.org/package=Rmpfr/vignettes/log1mexp-note.pdf>`_, 2012.
    """
    return _inverse_softplus(as_floating("inverse_softplus", y))


def slope_from_output(y: jax.Array) -> jax.Array:
    """softplus'(x) = 1 - exp(-y), from y = softplus(x)."""
    return _linear_below(y, rounded(negative(expm1(-y))))


def curvature_from_output(y: jax.Array) -> jax.Array:
    """softplus''(x) = exp(-y) (1 - exp(-y)), from y = softplus(x)."""
    p, scale = exp(-y)
    product = multiply_rounded(p, negative(expm1(-y))) * scale
    return _linear_below(y, product)


def _linear_below(y: jax.Array, result: jax.Array) -> jax.Array:
    return jnp.where(y < 0.25 * np.finfo(y.dtype).eps, y, result)


def _inverse_value(y: jax.Array) -> jax.Array:
    # From 40 on exp(-y) is below the last bit of y, which may be infinite.
    x = jnp.where(y > 40, y, log_expm1(jnp.minimum(y, 40)))
    # log_expm1 knows positive numbers only.
    return jnp.where(y > 0, x, jnp.where(y == 0, -np.inf, np.nan))


def _inverse_slope(y: jax.Array) -> jax.Array:
    """1 / (1 - exp(-y))."""
    slope = rounded(reciprocal(negative(expm1(-y))))
    slope = jnp.where(y < 0.25 * np.finfo(y.dtype).eps, 1 / jnp.abs(y), slope)
    return jnp.where(y < 0, np.nan, slope)


def _inverse_curvature(y: jax.Array) -> jax.Array:
    """-exp(-y) / (1 - exp(-y))^2."""
    p, scale = exp(-y)
    slope = reciprocal(negative(expm1(-y)))
    curvature = -multiply_rounded(p, multiply(slope, slope)) * scale
    # There 1 / y^2 overflows.
    tiny = 1 / np.sqrt(np.finfo(y.dtype).max.astype(np.float64))
    curvature = jnp.where(y <= tiny, -np.inf, curvature)
    return jnp.where(y < 0, np.nan, curvature)


def _inverse_third(y: jax.Array) -> jax.Array:
    return _inverse_curvature_rule(y) * (1 - 2 * _inverse_slope_rule(y))


_softplus = elementwise(
    lambda x: -log_sigmoid_value(-x),
    sigmoid_value,
    sigmoid_slope,
    sigmoid_curvature,
    sigmoid_third,
)
_inverse_curvature_rule = elementwise(_inverse_curvature, _inverse_third)
_inverse_slope_rule = elementwise(_inverse_slope, _inverse_curvature, _inverse_third)
_inverse_softplus = elementwise(
    _inverse_value, _inverse_slope, _inverse_curvature, _inverse_third
)
