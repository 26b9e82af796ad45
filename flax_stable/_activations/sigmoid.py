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
    negative,
    one_plus,
    reciprocal,
    rounded,
    two_sum,
)
from ._elementwise import as_floating, elementwise


@jax.jit
def sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    return _sigmoid(as_floating("sigmoid", x))


@jax.jit
def log_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    return _log_sigmoid(as_floating("log_sigmoid", x))


@jax.jit
def tanh(x: jax.typing.ArrayLike) -> jax.Array:
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
    return jnp.where(x < 0, rounded(multiply(p, v)) * scale, rounded(v))


def sigmoid_slope(x: jax.Array, shift: int = 0) -> jax.Array:
    """e / (1 + e)^2 with e = exp(-|x|), times 2^shift."""
    p, scale, v = _factors(x, shift)
    return rounded(multiply(p, multiply(v, v))) * scale


def sigmoid_curvature(x: jax.Array, shift: int = 0) -> jax.Array:
    """-sign(x) e (1 - e) / (1 + e)^3 with e = exp(-|x|), times 2^shift."""
    p, scale, v = _factors(x, shift)
    one_minus = negative(expm1(-jnp.abs(x)))
    product = multiply(multiply(p, v), multiply(multiply(v, v), one_minus))
    y = rounded(product) * scale
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
    y = rounded(multiply(negative(expm1(-jnp.abs(x + x))), v))
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
