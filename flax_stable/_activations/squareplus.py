"""`squareplus`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import head
from ._parametric import parametric, with_parameters


@jax.jit
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

    Accuracy: in float32 errors observed stay below 1.3, 2.8 and 3.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    This is for the default parameter; for others from 1e-30 to 1e30 errors observed
    stay below 2, 4 and 6 ULP, and 8 in the derivative by the parameter.  Results below
    the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast.

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


def _parts(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """Where x^2 overflows or vanishes, a power of two by which |x| is scaled; its
    reciprocal; q = x^2 + b; r, its root; what q - r^2 is, exactly."""
    up = 2.0**70 if x.dtype == np.float32 else 2.0**560
    far, near = (62, 40) if x.dtype == np.float32 else (500, 80)
    a = jnp.abs(x)
    large, small = a > 2.0**far, (a < 2.0**-near) & (b < 2.0 ** (-2 * near - 10))
    scale = jnp.where(large, 1 / up, jnp.where(small, up, 1)).astype(x.dtype)
    back = jnp.where(large, up, jnp.where(small, 1 / up, 1)).astype(x.dtype)
    square, b = (scale * a) ** 2, scale * b * scale
    q = square + b
    r = jnp.maximum(jnp.sqrt(q), 2.0**-100)
    upper = head(r)
    lower = r - upper
    lost = jnp.minimum(square, b) - (q - jnp.maximum(square, b))
    lost += ((q - upper * upper) - 2 * (upper * lower)) - lower * lower
    return scale, back, q, r, lost


def _negative_part(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """y = (b / 4) / p, p = (|x| + r) / 2, and r; by how much y is too large, and y / r,
    relative to them."""
    scale, back, _, r, lost = _parts(x, b)
    a = scale * jnp.abs(x)
    p = a + r
    inverse = 1 / (2 * r * p)
    excess = (2 * r * (a - (p - r)) + lost) * inverse
    excess_of_ratio = excess + 2 * lost * (p * inverse) ** 2
    y = 0.25 * (b / (0.5 * p * back))
    finite = a < np.inf
    return (
        y,
        r * back,
        jnp.where(finite, excess, 0),
        jnp.where(finite, excess_of_ratio, 0),
    )


def _squareplus_value(x: jax.Array, b: jax.Array) -> jax.Array:
    y, _, excess, _ = _negative_part(x, b)
    return (y - y * excess) + jnp.maximum(x, 0)


def _squareplus_slope(x: jax.Array, b: jax.Array) -> jax.Array:
    y, r, _, excess = _negative_part(x, b)
    w = (y - y * excess) / r
    return jnp.where(x > 0, 1 - w, w)


def _curvature_value(x: jax.Array, b: jax.Array) -> jax.Array:
    """b / (2 r^3), in an order in which nothing vanishes that lasts."""
    scale, _, q, r, _ = _parts(x, b)
    # XLA makes b / q / r one division, by a product that may overflow.
    return 0.5 * (scale * (scale * (scale * b / q) / r))


def _reciprocal_value(x: jax.Array, b: jax.Array) -> jax.Array:
    scale, _, _, r, _ = _parts(x, b)
    return scale / r


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
)
