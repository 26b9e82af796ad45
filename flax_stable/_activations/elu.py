"""The exponential linear units: `elu`, `celu`, `selu`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import expm1, polynomial, times_exp, two_div
from .._public import compiled, number
from . import _half
from ._elementwise import as_floating, by_residual, elementwise
from ._parametric import parametric, with_parameters


@compiled("residual")
def elu(
    x: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike = 1.0,
    *,
    residual: str = "input",
) -> jax.Array:
    r"""The exponential linear unit, as `jax.nn.elu`.

    .. math::
      \mathrm{elu}(x) = x \text{ for } x > 0, \quad
      \alpha (e^x - 1) \text{ for } x \le 0

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      alpha: the depth :math:`\alpha` of the negative part.  A number, or an array that
        broadcasts against ``x``, with which it promotes as in `jax.nn`; bfloat16 and
        float16 inputs use it in float32.  It is differentiable: its cotangent is summed
        over the axes that it lacks.
      residual: what the backward pass keeps of the two, ``"input"`` or ``"output"``.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: up to and at 0 the first and second are :math:`\alpha e^x`, which does
    not vanish where the value rounds to :math:`-\alpha`; above they are 1 and 0.  With
    respect to :math:`\alpha`: :math:`e^x - 1` up to 0, 0 above.

    Limits: with a finite :math:`\alpha`, :math:`-\alpha` and inf in value, 0 and 1 in
    the first derivative, 0 in the second.  NaN gives NaN.

    Residual: the input (and the parameter as it came).  ``residual="output"`` keeps the
    output instead, which the next layer often keeps anyway, and pays in accuracy: up to
    0 the first derivative is then :math:`y + \alpha`, with an error below 2.4 ULP in
    float32 and 2 in 16 bits down to ``x = -2``, which grows as :math:`e^{-x}` from
    there; from -17 (in float16 -8.4, in bfloat16 -6.3) it is 0.  Higher derivatives
    are those of that, and :math:`\alpha`'s is :math:`y / \alpha`.  The sign of ``y``
    must tell that of ``x``: :math:`\alpha` must be positive.

    Accuracy: in float32 errors observed stay below 0.9, 2.1 and 2.1 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    This is for the default parameter; another one adds a rounding of its product.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast, or ``residual`` is neither of the two.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.elu(jnp.array([-1.0, 0.0, 2.0]))
      Array([-0.63212055,  0.        ,  2.        ], dtype=float32)
      >>> bool(jax.grad(fs.elu)(-21.0) > 0)  # 1 + elu(-21) would be zero
      True
      >>> jax.grad(lambda alpha: fs.elu(-jnp.ones(3), alpha).sum())(1.0)
      Array(-1.8963616, dtype=float32, weak_type=True)

    References:
      Clevert, Unterthiner and Hochreiter, `Fast and Accurate Deep Network Learning by
      Exponential Linear Units <https://arxiv.org/abs/1511.07289>`_, 2015.
    """
    return by_residual("elu", _ELU_RULES, residual)(
        *with_parameters("elu", x, alpha=alpha)
    )


@number("alpha", bool, "other than 0, by which it divides")
@compiled()
def celu(x: jax.typing.ArrayLike, alpha: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""The continuously differentiable exponential linear unit, as `jax.nn.celu`.

    .. math::
      \mathrm{celu}(x) = x \text{ for } x > 0, \quad
      \alpha (e^{x / \alpha} - 1) \text{ for } x \le 0

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      alpha: the depth and width :math:`\alpha` of the negative part.  A number, or an
        array that broadcasts against ``x``, with which it promotes as in `jax.nn`;
        bfloat16 and float16 inputs use it in float32.  It is differentiable: its
        cotangent is summed over the axes that it lacks.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: up to and at 0 the first is :math:`e^{x / \alpha}`, the second the same
    over :math:`\alpha` (where `jax.nn` has a quarter of it at 0); above they are 1 and
    0.  With respect to :math:`\alpha`: :math:`e^t - 1 - t e^t`, :math:`t = x / \alpha`,
    up to 0 and 0 above.

    Limits: with a positive finite :math:`\alpha`, :math:`-\alpha` and inf in value, 0
    and 1 in the first derivative, 0 in the second.  NaN gives NaN.

    Residual: the input (and the parameter as it came).

    Accuracy: in float32 errors observed stay below 0.9, 1.1 and 1.1 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    This is for the default parameter; for others from 1e-30 to 1e30, errors observed
    stay below 2 ULP in value, 4 in the first derivative and 8 in that by the parameter.
    In an array a parameter of 0 gives NaN at 0.  Results below the smallest normal
    number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast, or ``alpha`` is the number 0.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.celu(jnp.array([-1.0, 0.0, 2.0]))
      Array([-0.63212055,  0.        ,  2.        ], dtype=float32)
      >>> float(fs.celu(-1.0, 1e30))  # almost linear, where x / alpha is tiny
      -1.0

    References:
      Barron, `Continuously Differentiable Exponential Linear Units
      <https://arxiv.org/abs/1704.07483>`_, 2017.
    """
    return _celu(*with_parameters("celu", x, alpha=alpha))


@compiled()
def selu(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The scaled exponential linear unit, as `jax.nn.selu`.

    .. math::
      \mathrm{selu}(x) = \lambda x \text{ for } x > 0, \quad
      \lambda \alpha (e^x - 1) \text{ for } x \le 0

    with :math:`\lambda = 1.0507009873554805` and :math:`\alpha = 1.6732632423543772`,
    whose product is rounded once.

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: up to and at 0 the first and second are :math:`\lambda \alpha e^x`,
    above they are :math:`\lambda` and 0.

    Limits: :math:`-\lambda \alpha` and inf in value, 0 and :math:`\lambda` in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.9, 2.2 and 2.2 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.selu(jnp.array([-1.0, 0.0, 2.0]))
      Array([-1.1113307,  0.       ,  2.101402 ], dtype=float32)

    References:
      Klambauer et al., `Self-Normalizing Neural Networks
      <https://arxiv.org/abs/1706.02515>`_, 2017.
    """
    return _selu(as_floating("selu", x))


_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772


def _elu_value(x: jax.Array, alpha: jax.typing.ArrayLike) -> jax.Array:
    return jnp.where(x > 0, x, alpha * expm1(jnp.where(x > 0, 0, x)))


# Slopes are written with exp alone, whose own derivatives are good.
_elu_in_alpha = elementwise(
    lambda x: expm1(jnp.where(x > 0, 0, x)),
    lambda x: jnp.where(x > 0, 0, times_exp(1, x)),
)
_half_exp: Callable = parametric(
    _half.exp_below,
    lambda x, alpha: _half_exp(x, alpha),
    lambda x, alpha: _half.exp_below(x),
)
_ELU_RULES: dict[str, Callable] = {
    "input": parametric(
        _elu_value,
        lambda x, alpha: jnp.where(x > 0, 1, times_exp(alpha, x)),
        lambda x, alpha: _elu_in_alpha(x),
        name="elu",
        half_value=_half.elu,
        half_slope=lambda x, alpha: jnp.where(x > 0, 1, _half_exp(x, alpha)),
    ),
    "output": parametric(
        _elu_value,
        lambda y, alpha: jnp.where(y > 0, 1, y + alpha),
        lambda y, alpha: jnp.where(y > 0, 0, y / alpha),
        name="elu",
        residual="output",
        half_value=_half.elu,
    ),
}
_selu: Callable = elementwise(
    lambda x: jnp.where(
        x > 0, _SCALE * x, (_SCALE * _ALPHA) * expm1(jnp.where(x > 0, 0, x))
    ),
    lambda x: jnp.where(x > 0, _SCALE, times_exp(_SCALE * _ALPHA, x)),
    "selu",
    half_value=lambda x: _SCALE * _half.elu(x, _ALPHA),
    half_slope=lambda x: jnp.where(x > 0, _SCALE, _half_exp(x, _SCALE * _ALPHA)),
)


def _celu_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """alpha expm1(t), t = x / alpha, for x < 0; x (1 + t / 2) where t is tiny."""
    x_below = jnp.where(x > 0, 0, x)
    t = x_below / alpha
    tiny = jnp.abs(t) < 0.25 * math.sqrt(np.finfo(x.dtype).eps)
    # Lifted, the second term does not underflow where it is rounded on its own.
    lift = jnp.where(jnp.abs(x) < 2.0**-60, 2.0**60, 1.0).astype(x.dtype)
    lifted = x_below * lift
    y = jnp.where(tiny, (lifted + 0.5 * t * lifted) / lift, alpha * expm1(t))
    return jnp.where(x > 0, x, y)


def _celu_slope_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    t, rest = two_div(jnp.where(x > 0, 0, x), alpha)
    return jnp.exp(t) * (1 + rest)


# exp(x / alpha) for x <= 0, else 0, as a function of both.
_celu_exp: Callable = parametric(
    lambda x, alpha: jnp.where(x > 0, 0, _celu_slope_value(x, alpha)),
    lambda x, alpha: _celu_exp(x, alpha) / alpha,
    lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
)


def _exponent(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """x / alpha, held where its exponential is 0, so that their product is no NaN."""
    return jnp.clip(x / alpha, -1e3, 1e3)


def _celu_in_alpha_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """expm1(t) - t exp(t), by the series where that cancels."""
    t = jnp.where(x > 0, 0, jnp.maximum(x / alpha, -1e3))
    terms = 12 if x.dtype == np.float32 else 21
    series = [-(k - 1) / math.factorial(k) for k in range(2, terms)]
    near = t * t * polynomial(tuple(series), t)
    return jnp.where(jnp.abs(t) < 1, near, expm1(t) - t * jnp.exp(t))


_celu_in_alpha: Callable = parametric(
    _celu_in_alpha_value,
    lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
    lambda x, alpha: _celu_exp(x, alpha) * _exponent(x, alpha) ** 2 / alpha,
)
_celu: Callable = parametric(
    _celu_value,
    parametric(
        _celu_slope_value,
        lambda x, alpha: _celu_exp(x, alpha) / alpha,
        lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
    ),
    _celu_in_alpha,
    name="celu",
)
