"""`squareplus`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._public import compiled, number
from ._parametric import parametric, with_parameters


@number("b", lambda b: b >= 0, "0 (as in relu) or more")
@compiled()
def squareplus(x: jax.typing.ArrayLike, b: jax.typing.ArrayLike = 4) -> jax.Array:
    r"""A smooth positive part without exponentials, as `jax.nn.squareplus`.

    .. math::
      \mathrm{squareplus}(x) = \frac{x + \sqrt{x^2 + b}}{2}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      b: the smoothness :math:`b`; 0 makes it `relu`.  A number, or an array
        that broadcasts against ``x``, with which it promotes as a factor would;
        bfloat16 and float16 inputs use it in float32.  It is differentiable: its
        cotangent is summed over the axes that it lacks.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: with :math:`r = \sqrt{x^2 + b}`, the first is :math:`(1 + x / r) / 2`,
    the second :math:`b / (2 r^3)`, that with respect to :math:`b` is :math:`1 / (4
    r)`.  Nothing cancels for negative ``x``, and nothing overflows.

    Limits: with a finite :math:`b`, 0 and inf in value, 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input (and the parameter as it came).

    Accuracy: in float32 errors observed stay below 1.6, 2.8 and 4.1 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    This is for the default parameter; for others from 1e-30 to 1e30 errors observed
    stay below 2, 4 and 6 ULP, and 8 in the derivative by the parameter.  Results below
    the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast, or ``b`` is a number below 0.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.squareplus(jnp.array([-3.0, 0.0, 1.5]))
      Array([0.30277565, 1.        , 2.        ], dtype=float32)
      >>> bool(fs.squareplus(-1e4) > 0)  # x + sqrt(x**2 + 4) would be zero
      True

    References:
      Barron, `Squareplus: A Softplus-Like Algebraic Rectifier
      <https://arxiv.org/abs/2112.11687>`_, 2021.
    """
    return _squareplus(*with_parameters("squareplus", x, b=b))


def _positive(b: jax.Array) -> jax.Array:
    """``b``, or next to nothing in place of 0: no root of it is divided by at 0."""
    return jnp.where(b == 0, 2.0 ** (-3 * np.finfo(b.dtype).maxexp // 4), b)


def _halves(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """|x| / 2, held below where its square overflows; r / 2 there; b / 4."""
    k = 0.25 * _positive(b)
    a = jnp.minimum(0.5 * jnp.abs(x), 2.0 ** (np.finfo(x.dtype).maxexp // 2 - 1))
    return a, jnp.sqrt(a * a + k), k


def _half_value(x: jax.Array, b: jax.Array) -> jax.Array:
    """y + max(x, 0), y = (b / 4) / p, p = (|x| + r) / 2: good to 2^-21."""
    a, r, _ = _halves(x, b)
    return 0.25 * b / jnp.maximum(a + r, jnp.abs(x)) + jnp.where(x < 0, 0, x)


def _squareplus_value(x: jax.Array, b: jax.Array) -> jax.Array:
    """The same, with most of Newton's step from y for y (|x| + y) = b / 4.

    Whatever p is off by, y and p - |x| are off by in opposite directions.  Of their
    difference the step takes y / (y + p), which 0.65 y / p comes close enough to.
    """
    a, r, k = _halves(x, b)
    p = a + r
    y = 0.25 * b / jnp.maximum(p, jnp.abs(x))
    return (y + y * (y * (0.65 / k)) * ((p - 2 * a) - y)) + jnp.where(x < 0, 0, x)


def _scaled(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """1 / s, u = |x| / s, c = b / s^2 and u^2 + c, where s is a power of two near the
    root of b: where the square overflows, what is divided by it has vanished."""
    root = jnp.sqrt(_positive(b))
    info = np.finfo(x.dtype)
    bits = lax.bitcast_convert_type(root, np.int32 if info.bits == 32 else np.int64)
    power = lax.bitcast_convert_type(bits & -(1 << info.nmant), x.dtype)
    inverse = 1 / power
    u = inverse * jnp.abs(x)
    return inverse, u, inverse * b * inverse, u * u + inverse * _positive(b) * inverse


def _squareplus_slope(x: jax.Array, b: jax.Array) -> jax.Array:
    _, u, c, q = _scaled(x, b)
    w = 0.5 * c / (q + u * jnp.sqrt(q))
    return jnp.where(x < 0, w, 1 - w)


def _curvature_value(x: jax.Array, b: jax.Array) -> jax.Array:
    """b / (2 r^3), in an order in which nothing vanishes that lasts."""
    inverse, _, c, q = _scaled(x, b)
    # XLA makes c / q / r one division, by a product that may overflow.
    return inverse * (0.5 * c / q) / jnp.sqrt(q)


def _reciprocal_value(x: jax.Array, b: jax.Array) -> jax.Array:
    _, r, _ = _halves(x, b)
    return 0.5 / jnp.maximum(r, 0.5 * jnp.abs(x))


_reciprocal: Callable = parametric(
    _reciprocal_value,
    lambda x, b: -x * _reciprocal(x, b) ** 3,
    lambda x, b: -0.5 * _reciprocal(x, b) ** 3,
)


def _curvature_in_b(x: jax.Array, b: jax.Array) -> jax.Array:
    q = _reciprocal(x, b)
    return 0.25 * q * q * q * (2 - 3 * (b * q * q))


_curvature: Callable = parametric(
    _curvature_value,
    lambda x, b: -3 * (x * _reciprocal(x, b)) * _reciprocal(x, b) * _curvature(x, b),
    _curvature_in_b,
)
_squareplus = parametric(
    _squareplus_value,
    parametric(
        _squareplus_slope, _curvature, lambda x, b: -0.25 * x * _reciprocal(x, b) ** 3
    ),
    lambda x, b: 0.25 * _reciprocal(x, b),
    name="squareplus",
    half_value=_half_value,
)
