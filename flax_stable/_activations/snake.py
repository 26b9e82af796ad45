"""`snake`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import coefficients, polynomial, two_prod
from .._public import compiled, number
from ._parametric import parametric, with_parameters


@number("a", bool, "other than 0 (where it would be the identity)")
@compiled()
def snake(x: jax.typing.ArrayLike, a: jax.typing.ArrayLike = 1.0) -> jax.Array:
    r"""A line with a wave, for what is periodic.

    .. math::
      \mathrm{snake}(x, a) = x + \frac{\sin^2(a x)}{a}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      a: the frequency :math:`a`.  A number, or an array
        that broadcasts against ``x``, with which it promotes as a factor would;
        bfloat16 and float16 inputs use it in float32.  It is differentiable: its
        cotangent is summed over the axes that it lacks.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: the first is :math:`1 + \sin(2 a x)`, the second :math:`2 a \cos(2 a
    x)`, both good to the last bits next to their infinitely many roots, however large
    ``x`` is.  That with respect to :math:`a` is :math:`(u \sin(2 u) - \sin^2(u)) /
    a^2`, :math:`u = a x`.

    Limits: -inf and inf in value; derivatives have none and are NaN.  NaN gives NaN.

    Residual: the input (and the parameter as it came).

    Accuracy: in float32 errors observed stay below 1.8, 3.5 and 1.1 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    This is for the default parameter; for others from 1e-30 to 1e30 errors observed
    stay below 2, 4 and 6 ULP away from the roots, which a rounding of the frequency
    moves.  In an array a parameter of 0 gives NaN, and so do derivatives where
    :math:`a x` overflows.  Results below the smallest normal number may be flushed to
    zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast, or ``a`` is the number 0.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.snake(jnp.array([-1.0, 0.0, 2.0]))
      Array([-0.29192656,  0.        ,  2.8268218 ], dtype=float32)
      >>> bool(jax.grad(fs.snake)(-0.7853) > 0)  # 1 + sin(-1.5706) would be zero
      True

    References:
      Ziyin, Hartwig and Ueda, `Neural Networks Fail to Learn Periodic Functions and How
      to Fix It <https://arxiv.org/abs/2006.08195>`_, 2020.
    """
    return _snake(*with_parameters("snake", x, a=a))


def _sine_and_cosine(x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Those of 2 a x, of which the rounding error matters next to their roots."""
    turns, excess = coefficients.SNAKE_TURNS[x.dtype]
    y, rest = two_prod(x, a)
    wraps = jnp.where(
        jnp.abs(y) >= 2.0 ** (np.finfo(x.dtype).maxexp - 1), jnp.sign(y), 0
    )
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
    hi = 0.5 / a
    rounded, rest = two_prod(hi, a)
    lo = ((0.5 - rounded) - rest) / a
    far = (x + hi) + (lo - hi * _sine_and_cosine(x, a)[1])
    y = jnp.abs(y)
    return jnp.where(
        y < 0.4, x + near, jnp.where(y < 64 / np.finfo(x.dtype).eps, far, x)
    )


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
_snake = parametric(_snake_value, _slope, _in_a, name="snake")
