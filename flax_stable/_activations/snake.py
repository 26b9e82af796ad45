"""`snake`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import polynomial, product, quotient
from ._parametric import parametric, with_parameters


@jax.jit
def snake(x: jax.typing.ArrayLike, a: jax.typing.ArrayLike = 1.0) -> jax.Array:
    return _snake(*with_parameters("snake", x, a=a))


# A number between half of the largest and the largest, and what it differs by from a
# multiple of pi: twice the largest numbers themselves would overflow.
_TURNS = {
    np.dtype(np.float32): (12438944 * 2.0**104, -4.624949951738396e-08),
    np.dtype(np.float64): (6221301883130153 * 2.0**971, -2.586287505210448e-17),
}


def _sine_and_cosine(x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Those of 2 a x, of which the rounding error matters next to their roots."""
    turns, excess = _TURNS[x.dtype]
    y, rest = product(x, a)
    wraps = jnp.where(jnp.abs(y) >= 2.0 ** (np.finfo(x.dtype).maxexp - 1), jnp.sign(y), 0)
    y, rest = 2 * (y - wraps * turns), 2 * (rest + wraps * excess)
    s, c = jnp.sin(y), jnp.cos(y)
    return s + rest * c, c - rest * s


def _squared_sine(y: jax.Array) -> jax.Array:
    """(sin(y) / y)^2 for |y| < 0.5, by its series."""
    n = 6 if y.dtype == np.float32 else 11
    series = [2 * (-4) ** k / math.factorial(2 * k + 2) for k in range(n)]
    return polynomial(tuple(series), y * y)


def _snake_value(x: jax.Array, a: jax.Array) -> jax.Array:
    """x + (1 - cos(2 a x)) / (2 a), in which the first two terms cancel exactly.

    Where an ULP of x is far beyond 1 / a only x is left (and at inf the cosine is NaN).
    """
    y = a * x
    near = x * (y * _squared_sine(y))
    high, low = quotient(jnp.full_like(x, 0.5), a)
    far = (x + high) + (low - high * _sine_and_cosine(x, a)[1])
    y = jnp.abs(y)
    return jnp.where(y < 0.4, x + near, jnp.where(y < 64 / np.finfo(x.dtype).eps, far, x))


def _slope_value(x: jax.Array, a: jax.Array) -> jax.Array:
    """1 + s; where it cancels, the same as (c^2 + (1 + s)^2) / 2."""
    s, c = _sine_and_cosine(x, a)
    sum_ = 1 + s
    return jnp.where(sum_ < 0.25, 0.5 * (c * c + sum_ * sum_), sum_)


def _in_a_value(x: jax.Array, a: jax.Array) -> jax.Array:
    """(u sin(2 u) - sin(u)^2) / a^2, u = a x; sin(u)^2 = (1 - cos(2 u)) / 2."""
    y = a * x
    s, c = _sine_and_cosine(x, a)
    near = x * (y * _squared_sine(y))
    return (x * s - jnp.where(jnp.abs(y) < 0.4, near, (0.5 - 0.5 * c) / a)) / a


_sine: Callable = parametric(
    lambda x, a: _sine_and_cosine(x, a)[0],
    lambda x, a: _curvature(x, a),
    lambda x, a: (x / a) * _curvature(x, a),
)
_curvature: Callable = parametric(
    lambda x, a: 2 * a * _sine_and_cosine(x, a)[1],
    lambda x, a: -4 * a * a * _sine(x, a),
    lambda x, a: _curvature(x, a) / a - 4 * a * x * _sine(x, a),
)
_slope = parametric(_slope_value, _curvature, lambda x, a: (x / a) * _curvature(x, a))
_in_a: Callable = parametric(
    _in_a_value,
    lambda x, a: (x / a) * _curvature(x, a),
    lambda x, a: ((x / a) * x * _curvature(x, a) - 2 * _in_a(x, a)) / a,
)
_snake = parametric(_snake_value, _slope, _in_a)
