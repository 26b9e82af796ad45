"""`mish`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    LIFT,
    coefficients,
    exp_abs_scaled,
    exp_polynomial,
    polynomial,
    split_exp,
)
from .._public import compiled
from . import _half
from ._elementwise import as_floating, elementwise
from ._few_bit import few_bit


@compiled("bits")
def mish(x: jax.typing.ArrayLike, *, bits: int | None = None) -> jax.Array:
    r"""A self-regularized activation, as `jax.nn.mish`.

    .. math::
      \mathrm{mish}(x) = x \tanh(\log(1 + e^x))

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass, and approximates the derivative; ``None`` keeps the input.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: both are quotients of sums of :math:`(p + q x) e^{kx}`.  They keep
    their bits around their roots, -1.192 of the first, -2.256 and 1.491 of the second,
    and far out, where :math:`1 - \tanh^2` is zero.

    Limits: 0 (where that of `jax.nn` is NaN) and inf in value, 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input.  With ``bits`` it is a code of so many bits for each element,
    packed along the last axis; the first derivative, in forward mode too, is then a
    step function: of those of 2^bits steps the closest one for a standard normal input,
    off by 27, 13, 6.1 and 3.1% of the norm with 1 to 4 bits.  The second is 0.
    See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 1.8, 3.5 and 4.7 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.501 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``bits`` is none of these.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.mish(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.30340144,  0.        ,  0.86509836], dtype=float32)
      >>> bool(fs.mish(-90.0) < 0)  # exp(-90) alone would be zero
      True

    References:
      Misra, `Mish: A Self Regularized Non-Monotonic Activation Function
      <https://arxiv.org/abs/1908.08681>`_, 2019.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    return _mish_rule(bits)(as_floating("mish", x))


def _mish_value(x: jax.Array) -> jax.Array:
    """h + h g, where h is exact and g small: of g's own errors little is left.

    With e = exp(x) = s (1 + z), tanh(softplus(x)) is e - e^2 (1 + e) / d for negative
    x, d = 2 + 2 e + e^2, so that h is x s; from a little below 0 it is
    (1 + (d - 4) / d) / 2, and h is x / 2.
    """
    power, z, y, e = _terms(x)
    below = x < -0.66
    top = jnp.where(below, -(e * (1 + e)) * (1 + z), e * e + (2 * e - 2))
    g = jnp.where(below, z, 0) + top / (e * e + (2 + 2 * e))
    h = jnp.where(below, power, 1) * y
    scale = jnp.where(below, 1 / LIFT, 0.5).astype(x.dtype)
    return jnp.where(x > y, x, scale * (h + h * g))


def _terms(x: jax.Array) -> tuple[jax.Array, ...]:
    """p, z, y, e: e = exp(y) = p (1 + z) / LIFT, and p is a power of two.

    y is x, held where more of it changes nothing: p is 0, or 1 is nothing beside e^2.
    """
    info = np.finfo(x.dtype)
    most = (info.nmant + 8) / 2 * math.log(2)
    y = jnp.clip(x, -(info.maxexp + 31) * math.log(2), most)
    power, z = split_exp(y, LIFT)
    e = power / LIFT * (1 + z)
    return power, z, y, e


# Sums that vanish at roots; polynomials in x cover two of these in float32.
_SLOPE_SUM = (4, 4), (6, 4), (4, 0), (1, 0)
_BELOW_SUM = (2, 1), (4, 1), (3, -1.5), (1, -1)
_ABOVE_SUM = (1, 1), (3, 1.5), (4, -1), (2, -1)
_SLOPE_ROOT = {coefficients.F64: coefficients.MISH_SLOPE_SUM_ROOT}
_ABOVE_ROOT = {coefficients.F64: coefficients.MISH_ABOVE_SUM_ROOT}


def _mish_slope(x: jax.Array) -> jax.Array:
    """e (4 + 4 x + e (6 + 4 x) + ...) / (n + 2)^2, e = exp(x), n = 2 e + e^2.

    From a little below 0 it is 1 / 2 and (n^2 / 2 - 2 + 4 x (n - e)) / (n + 2)^2.
    """
    power, z, y, e = _terms(x)
    n = e * (2 + e)
    below = x < (-1.48 if x.dtype == np.float32 else -0.5)
    b = power * exp_polynomial(y, e, _SLOPE_SUM, _SLOPE_ROOT)
    right = (0.5 * n - 1) * (2 + n) + 4 * y * (n - e)
    top = jnp.where(below, (b + b * z) / LIFT, right)
    slope = jnp.where(below, 0, 0.5).astype(x.dtype) + top / (4 + n * (4 + n))
    if x.dtype == np.float32:
        at, value = coefficients.MISH_SLOPE_ROOT
        near = polynomial((value, *coefficients.MISH_SLOPE), x - at)
        slope = jnp.where(below | (x > -0.5), slope, near)
    return slope


def _mish_curvature(x: jax.Array) -> jax.Array:
    """e (2 + y + ...) / (2 d^3), d = 1 + e + e^2 / 2, for negative x.

    Here y = -|x| and e = exp(y).  For positive x it is 8 e^2 (1 + y + ...) / d^3,
    d = 1 + 2 e + 2 e^2.
    """
    y, power, z = exp_abs_scaled(x)
    e = power / LIFT * (1 + z)
    below = x < 0
    left = exp_polynomial(y, e, _BELOW_SUM, coefficients.MISH_BELOW_SUM_ROOT)
    right = 8 * e * exp_polynomial(y, e, _ABOVE_SUM, _ABOVE_ROOT)
    b = power * jnp.where(below, left, right)
    p = jnp.where(below, e * (1 + 0.5 * e), 2 * e * (1 + e))
    curvature = (b + b * z) / (1 + p * (3 + p * (3 + p))) / LIFT
    if x.dtype == np.float32:
        x = jnp.clip(x, -2, 2)
        left = polynomial(coefficients.MISH_CURVATURE_LEFT, x + 0.375)
        at, value = coefficients.MISH_CURVATURE_ROOT
        right = polynomial((value, *coefficients.MISH_CURVATURE), x - at)
        near = jnp.where(x < 0.35, left, right)
        curvature = jnp.where((x > -1.08) & (x < 1.74), near, curvature)
    return curvature


def _third(x: jax.Array) -> jax.Array:
    """r (3 (s + b - 2 s^2) + x (s + 3 b - 6 s^2 - 6 s b + 6 s^3)).

    With u = exp(x), r is 2 / (2 + 2 u + u^2), which is 1 - tanh(softplus(x)), b is
    u^2 r and s is (u + u^2) r.
    """
    x = jnp.clip(x, -1e3, 1e3)
    e = jnp.exp(jnp.where(x < 0, x, -x))
    first = 2 / jnp.where(x < 0, 2 + 2 * e + e * e, 1 + 2 * e + 2 * e * e)
    second = e * first
    third = e * second
    r, b = jnp.where(x < 0, first, third), jnp.where(x < 0, third, first)
    s = second + b
    rate = s * (1 - 6 * s - 6 * b + 6 * s * s) + 3 * b
    return r * (3 * (s + b - 2 * s * s) + x * rate)


_curvature: Callable = elementwise(_mish_curvature, _third)
_mish: Callable = elementwise(
    _mish_value,
    elementwise(_mish_slope, _curvature),
    "mish",
    half_value=_half.mish,
    half_slope=elementwise(_half.mish_slope, _curvature),
)
_mish_rule = few_bit(_mish, "mish")
