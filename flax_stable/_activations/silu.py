"""`silu`, which is also called `swish`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    LIFT,
    Exp,
    coefficients,
    exp_abs_scaled,
    exp_polynomial,
    exp_reduced_short,
    far_exponent,
    lift_scaled,
    polynomial,
    power_of_two,
)
from .._public import compiled
from . import _half
from ._elementwise import as_floating, elementwise
from ._few_bit import few_bit
from .sigmoid import sigmoid_slope, tanh


@compiled("bits")
def silu(x: jax.typing.ArrayLike, *, bits: int | None = None) -> jax.Array:
    r"""The sigmoid-weighted linear unit, as `jax.nn.silu` (or `swish`).

    .. math::
      \mathrm{silu}(x) = x\, \mathrm{sigmoid}(x) = \frac{x}{1 + e^{-x}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass, and approximates the derivative; ``None`` keeps the input.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-|x|}`, the first is
    :math:`e (1 - |x| + e) / (1 + e)^2` for negative ``x`` and 1 minus that for
    positive, the second :math:`e (2 - |x| + (2 + |x|) e) / (1 + e)^3`.  Both keep their
    bits around their roots, -1.278 of the first and :math:`\pm 2.399` of the second.

    Limits: 0 (where that of `jax.nn` is NaN) and inf in value, 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input.  With ``bits`` it is a code of so many bits for each element,
    packed along the last axis; the first derivative, in forward mode too, is then a
    step function: of those of 2^bits steps the closest one for a standard normal input,
    off by 29, 14, 7.1 and 3.5% of the norm with 1 to 4 bits.  The second is 0.
    See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 1.8, 3.6 and 4.3 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.501 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``bits`` is none of these.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.silu(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.26894143,  0.        ,  0.7310586 ], dtype=float32)
      >>> bool(fs.silu(-90.0) < 0)  # exp(-90) alone would be zero
      True

    References:
      Elfwing et al., `Sigmoid-Weighted Linear Units for Neural Network Function
      Approximation in Reinforcement Learning
      <https://arxiv.org/abs/1702.03118>`_, 2017.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    return _silu_rule(bits)(as_floating("silu", x))


@compiled("bits")
def swish(x: jax.typing.ArrayLike, *, bits: int | None = None) -> jax.Array:
    """Another name of `flax_stable.silu`.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.swish(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.26894143,  0.        ,  0.7310586 ], dtype=float32)
    """
    return _silu_rule(bits, "swish")(as_floating("swish", x))


def one_plus(n: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``1 + 2^n (1 + z)`` over a power of two, and one over that."""
    held = jnp.minimum(n, far_exponent(n))
    return _one_plus(power_of_two(held), z), power_of_two(held - n)


def one_plus_half_scaled(n: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``1 + 2^n (1 + z)`` times the square of a scale, and the scale."""
    half = jnp.maximum(jnp.round(0.5 * n - far_exponent(n) / 2), 0)
    return _one_plus(power_of_two(n - 2 * half), z), power_of_two(-half)


def _one_plus(power: jax.Array, z: jax.Array) -> jax.Array:
    total = 1 + power
    lost = 1 - (total - power)
    return total + (power * z + lost)


def over_one_plus(x: jax.Array, n: jax.Array, z: jax.Array) -> jax.Array:
    """``x / (1 + 2^n (1 + z))``."""
    y, unlift = one_plus(n, z)
    return x / y * unlift


def _silu_value(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-x)), held where it is 0 and where the sum is 1."""
    held = jnp.maximum(x, -math.log(2) * (np.finfo(x.dtype).maxexp + 80))
    return over_one_plus(held, *exp_reduced_short(-jnp.minimum(held, 60)))


def slope_of_exp(x: jax.Array, e: Exp) -> jax.Array:
    """e (1 + y + e) / (1 + e)^2 for negative x, or one minus that for positive.

    Given is e = exp(y) for y = -|x|.
    """
    s, below = e.power * e.unlift, x < 0
    y = e.power * jnp.where(_is_near(e.y), _series(e.y), ((1 + s) + e.y) + s * e.z)
    y = (y + y * e.z) * e.unlift
    # A quotient that is used twice would end the loop.
    y = jnp.where(below, y, -y)
    return jnp.where(below, 0, 1) + y / (1 + e.whole * (2 + e.whole))


def _is_near(y: jax.Array) -> jax.Array:
    """Whether 1 + y + exp(y) cancels."""
    return jnp.abs(y - coefficients.SILU_SLOPE_ROOT[y.dtype][0]) < 2.0**-5


def _series(y: jax.Array) -> jax.Array:
    """1 + y + exp(y) where it cancels, in powers of the exact distance to a number."""
    at, value = coefficients.SILU_SLOPE_ROOT[y.dtype]
    e = math.exp(at)
    terms = [
        e / math.factorial(k) for k in range(2, 5 if y.dtype == np.float32 else 10)
    ]
    return polynomial((value, 1 + e, *terms), y - at)


def _silu_slope(x: jax.Array) -> jax.Array:
    y = -jnp.minimum(jnp.abs(x), math.log(2) * (np.finfo(x.dtype).maxexp + 31))
    return slope_of_exp(x, lift_scaled(y, *exp_reduced_short(y)))


def _silu_curvature(x: jax.Array) -> jax.Array:
    """e ((2 + y) + (2 - y) e) / (1 + e)^3 at y = -|x|."""
    y, power, z = exp_abs_scaled(x)
    e = power / LIFT * (1 + z)
    b = power * exp_polynomial(
        y, e, ((2, 1), (2, -1)), coefficients.SILU_CURVATURE_ROOT
    )
    return (b + b * z) / (1 + e * (3 + e * (3 + e))) / LIFT


def _third(x: jax.Array) -> jax.Array:
    """-sigmoid' (3 t - x t^2 + 2 x sigmoid'), t = tanh(x / 2)."""
    x = jnp.clip(x, -1e3, 1e3)
    slope, t = sigmoid_slope(x), tanh(0.5 * x)
    return -slope * (3 * t - x * t * t + 2 * x * slope)


_curvature: Callable = elementwise(_silu_curvature, _third)
_half_slope = elementwise(_half.silu_slope, _curvature)
half_silu = elementwise(_half.silu, _half_slope)
_silu: Callable = elementwise(
    _silu_value,
    elementwise(_silu_slope, _curvature),
    "silu",
    half_value=_half.silu,
    half_slope=_half_slope,
)
_silu_rule = few_bit(_silu, "silu")
