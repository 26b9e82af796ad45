"""`softplus`, its inverse and `log_sigmoid`."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._custom_vjp import custom_vjp
from .._precision import (
    coefficients,
    exp,
    exp_scaled,
    expm1,
    log1p_half,
    log1p_reduced,
    log1p_short,
    log_product,
    narrow,
    split_exp,
    two_prod,
    widen,
)
from .._public import compiled, explained, number
from . import _half
from ._elementwise import as_floating, elementwise, named
from ._few_bit import few_bit
from ._logistic import entropy, log1p_exp, logistic, logistic_slope
from ._parametric import parametric, with_parameters
from .sigmoid import sigmoid_slope, tanh


@number("beta", bool, "other than 0, by which it divides")
@explained("bits")
def softplus(
    x: jax.typing.ArrayLike,
    beta: jax.typing.ArrayLike = 1.0,
    *,
    bits: int | None = None,
) -> jax.Array:
    r"""The smooth positive part, as `jax.nn.softplus`, and with PyTorch's ``beta``.

    .. math::
      \mathrm{softplus}(x, \beta) = \frac{\log(1 + e^{\beta x})}{\beta}
      = \max(x, 0) + \frac{\log(1 + e^{-|\beta x|})}{\beta}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      beta: the steepness :math:`\beta` of the bend.  A number, or an array that
        broadcasts against ``x``, with which it promotes as a factor would; bfloat16 and
        float16 inputs use it in float32.  It is differentiable: its cotangent is summed
        over the axes that it lacks.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass instead, and approximates the derivative.  It takes the Python number 1 for
        ``beta``.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: the first is :math:`\mathrm{sigmoid}(\beta x)`, the second
    :math:`\beta\, \mathrm{sigmoid}'(\beta x)`, each by the formula of
    `flax_stable.sigmoid`.  With respect to :math:`\beta`,
    minus the entropy of a coin of that probability over :math:`\beta^2`.

    Limits: with a positive :math:`\beta`, 0 and inf in value, 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the output, which the next layer keeps anyway; in 16 bits and less, where
    it is too coarse for the derivative, and before JAX 0.12, the input.  With a
    ``beta`` other than the Python number 1, the input (and ``beta`` as it came).  With
    ``bits`` it is a code of so many bits for each element, packed along the last axis;
    the first derivative, in forward mode too, is then a step function: of those of
    2^bits steps the closest one for a standard normal input, off by 21, 11, 5.7 and
    2.9% of the norm with 1 to 4 bits.  The second is 0.  See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 1.9, 2.5 and 2.4 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.505 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  This is for the default parameter; for others from 1e-30 to 1e30, errors
    observed stay below 2, 4 and 6 ULP, and 8 in the derivative by the parameter.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast, ``beta`` is the number 0, or ``bits`` is
        none of these or comes with another ``beta``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.softplus(jnp.array([-1.0, 0.0, 100.0]))
      Array([  0.3132617,   0.6931472, 100.       ], dtype=float32)
      >>> jax.grad(fs.softplus)(100.0)
      Array(1., dtype=float32, weak_type=True)
      >>> float(fs.softplus(0.0, beta=2.0))
      0.3465735912322998

    References:
      Dugas et al., `Incorporating Second-Order Functional Knowledge for Better Option
      Pricing <https://papers.nips.cc/paper/1920>`_, 2000.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    # The usual parameter costs nothing, if it is known before JAX sees it.
    if type(beta) in (int, float) and beta == 1:
        return compiled_softplus(x, bits)
    if bits is not None:
        raise ValueError(
            f"softplus keeps bits={bits} only with the number 1 for beta, but got beta="
            f"{beta}. Write softplus(beta * x, bits={bits}) / beta."
        )
    return compiled_with_beta(x, beta)


# Errors name the function and the argument of whom they serve.


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def compiled_softplus(x, bits=None, called="softplus", argument="x"):
    return _softplus_rule(bits)(as_floating(called, x, argument))


@functools.partial(jax.jit, static_argnums=(2, 3))
def compiled_with_beta(x, beta, called="softplus", argument="x"):
    return _softplus_with_beta(*with_parameters(called, x, argument, beta=beta))


def _softplus_value(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, 0, x) + log1p_short(exp(-jnp.abs(x)))


def _slope_at(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)), where the sign of x takes no choice."""
    bound = math.floor(np.log(np.finfo(x.dtype).max)) - 0.3
    power, z = split_exp(-jnp.clip(x, -bound, bound))
    return 1 / ((1 + power) + power * z)


def _half_value(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, 0, x) + log1p_half(jnp.exp(-jnp.abs(x)))


_softplus_slope = elementwise(_slope_at, sigmoid_slope)
_half_slope = elementwise(_half.sigmoid, sigmoid_slope)


# Softplus determines its slope, 1 - exp(-y), so the rule keeps the output, which the
# next layer keeps anyway.  Two things take more care.  In 16 bits y is too coarse for a
# slope good to the last bit: the input is kept.  And the next derivative, exp(-y) times
# the slope, cannot be had from a rounded y at all, which is off by half a unit of y in
# the exponent: what is kept has the bits of y, but it stands for the slope and moves as
# the slope does, at a rate that is taken from x.
_stand_in = elementwise(_softplus_value, sigmoid_slope)

# Older releases forget, where a scan is differentiated twice, that a function has a
# derivative of its own, and differentiate its formula: there the input is kept.
_KEEPS_OUTPUT = jax.__version_info__ >= (0, 12)


@custom_vjp
def _slope_of(y: jax.Array) -> jax.Array:
    power, z = split_exp(-jnp.minimum(y, 50))
    return (1 - power) - power * z


_slope_of.defvjp(lambda y: (_slope_of(y), None), lambda _, g: (g,))


@custom_vjp
def _softplus(x: jax.Array) -> jax.Array:
    wide = widen(x)
    value = _softplus_value if wide.dtype == x.dtype else _half_value
    return narrow(value(wide), x)


def _softplus_fwd(x):
    keeps_output = _KEEPS_OUTPUT and x.dtype == widen(x).dtype
    return _softplus(x), (_stand_in(x), None) if keeps_output else (None, x)


def _softplus_bwd(kept, g):
    y, x = named(kept, "softplus")
    wide_g = widen(g)
    if y is not None:
        slope = _slope_of(y)
    elif wide_g.dtype == g.dtype:
        slope = _softplus_slope(x)
    else:
        slope = _half_slope(widen(x))
    return (narrow(wide_g * slope, g),)


_softplus.defvjp(_softplus_fwd, _softplus_bwd)
_softplus_rule = few_bit(_softplus, "softplus")


def _clipped(x: jax.Array, beta: jax.Array) -> jax.Array:
    """x where beta x is below 1000, beyond which all derivatives are constant."""
    bound = jnp.minimum(1e3 / jnp.abs(beta), np.finfo(x.dtype).max)
    return jnp.clip(x, -bound, bound)


def _beta_value(x: jax.Array, beta: jax.Array) -> jax.Array:
    y, rest = two_prod(_clipped(x, beta), beta)
    return jnp.where(y < 0, 0, x) + log1p_exp(beta, y, rest)


def _beta_slope(x: jax.Array, beta: jax.Array) -> jax.Array:
    return logistic(*two_prod(_clipped(x, beta), beta))


def _beta_curvature(x: jax.Array, beta: jax.Array) -> jax.Array:
    return logistic_slope(beta, *two_prod(_clipped(x, beta), beta))


def _in_beta_value(x: jax.Array, beta: jax.Array) -> jax.Array:
    """-(log(1 + exp(y)) - y sigmoid(y)) / beta^2, y = beta x: it is even."""
    return -entropy(beta, *two_prod(_clipped(x, beta), beta)) / beta


def _mixed(x: jax.Array, beta: jax.Array) -> jax.Array:
    return (_clipped(x, beta) / beta) * _curvature_with_beta(x, beta)


def _beta_third(x: jax.Array, beta: jax.Array) -> jax.Array:
    return -beta * _curvature_with_beta(x, beta) * tanh(0.5 * beta * _clipped(x, beta))


_curvature_with_beta: Callable = parametric(
    _beta_curvature,
    _beta_third,
    lambda x, beta: (
        (_curvature_with_beta(x, beta) + _clipped(x, beta) * _beta_third(x, beta))
        / beta
    ),
)
_in_beta: Callable = parametric(
    _in_beta_value,
    _mixed,
    lambda x, beta: (
        (_clipped(x, beta) * _mixed(x, beta) - 2 * _in_beta(x, beta)) / beta
    ),
)
_softplus_with_beta = parametric(
    _beta_value,
    parametric(_beta_slope, _curvature_with_beta, _mixed),
    _in_beta,
    name="softplus",
)


@compiled()
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

    Accuracy: in float32 errors observed stay below 1.9, 2.5 and 2.4 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.505 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

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


_log_sigmoid = elementwise(
    lambda x: -_softplus_value(-x),
    lambda x: _softplus_slope(-x),
    "log_sigmoid",
    half_value=lambda x: -_half_value(-x),
    half_slope=lambda x: _half_slope(-x),
)


@compiled()
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

    Accuracy: in float32 errors observed stay below 1.9, 1.8 and 4.3 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.501 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

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
    return _inverse_softplus(as_floating("inverse_softplus", y, argument="y"))


def _inverse_value(y: jax.Array) -> jax.Array:
    """log(exp(y) - 1) in four ways, as y grows.

    The logarithm itself; half of twice its argument, whose last bits survive; log1p of
    2 (exp(y - ln 2) - 1) about the root ln 2; and y + log1p(-exp(-y)).
    """
    root, root_rest = coefficients.LN2_NEAREST
    middle, near, above = y > 0.313, y > 0.43, y > 1.09
    scale, hi, lo = exp_scaled(
        jnp.where(near, jnp.minimum(y, 2) - root, y),
        jnp.where(near, np.array(root_rest, y.dtype), 0),
    )
    m = scale * (hi + lo) + (scale - 1)
    k, f = log1p_reduced(jnp.where(above, -jnp.exp(-y), 2 * m))
    k = jnp.where(near, k, -1)
    f = jnp.where(near, f, (2 * scale * hi + (2 * scale - 3)) + 2 * scale * lo)
    x = jnp.where(above, y, 0) + log_product(k, jnp.clip(f, -0.5, 0.5))
    return jnp.where(middle, x, jnp.log(m))


def _inverse_slope(y: jax.Array) -> jax.Array:
    """1 / (1 - exp(-y))."""
    return jnp.where(y < 0, np.nan, 1 / jnp.abs(expm1(-y)))


def _inverse_curvature(y: jax.Array) -> jax.Array:
    """-exp(-y) / (1 - exp(-y))^2, the square of a number that cannot underflow."""
    scale = jnp.where(y < 1, np.array(2.0**60, y.dtype), 1)
    m = scale * expm1(-y)
    return jnp.where(y < 0, np.nan, -(scale * scale) * (jnp.exp(-y) / (m * m)))


_curvature: Callable = elementwise(
    _inverse_curvature, lambda y: _curvature(y) * (1 - 2 * _slope(y))
)
_slope: Callable = elementwise(_inverse_slope, _curvature)
_inverse_softplus = elementwise(_inverse_value, _slope, "inverse_softplus")
