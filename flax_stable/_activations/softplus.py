"""`softplus` and its inverse."""

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    exp,
    expm1,
    log_expm1,
    multiply,
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
    return _softplus(as_floating("softplus", x))


@jax.jit
def inverse_softplus(y: jax.typing.ArrayLike) -> jax.Array:
    return _inverse_softplus(as_floating("inverse_softplus", y))


def slope_from_output(y: jax.Array) -> jax.Array:
    """softplus'(x) = 1 - exp(-y), from y = softplus(x)."""
    return _linear_below(y, rounded(negative(expm1(-y))))


def curvature_from_output(y: jax.Array) -> jax.Array:
    """softplus''(x) = exp(-y) (1 - exp(-y)), from y = softplus(x)."""
    p, scale = exp(-y)
    product = rounded(multiply(p, negative(expm1(-y)))) * scale
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
    curvature = -rounded(multiply(p, multiply(slope, slope))) * scale
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
