"""`soft_sign`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._public import compiled
from ._elementwise import as_floating, elementwise


@compiled()
def soft_sign(x: jax.typing.ArrayLike) -> jax.Array:
    r"""A ratio in place of tanh, as `jax.nn.soft_sign`.

    .. math::
      \mathrm{soft\_sign}(x) = \frac{x}{1 + |x|}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`1 / (1 + |x|)^2`, the second
    :math:`-2\,\mathrm{sign}(x) / (1 + |x|)^3` and 0 at 0, where its one-sided limits
    are 2 and -2.

    Limits: -1 and 1 in value, 0 in every derivative.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.6, 2.5 and 3.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.soft_sign(jnp.array([-1.0, 0.0, 3.0]))
      Array([-0.5 ,  0.  ,  0.75], dtype=float32)
      >>> float(fs.soft_sign(jnp.inf))  # jax.nn has NaN
      1.0

    References:
      Turian, Bergstra and Bengio, `Quadratic Features and Deep Architectures for
      Chunking <https://aclanthology.org/N09-2062/>`_, 2009.
    """
    return _soft_sign(as_floating("soft_sign", x))


def _magnitude(x: jax.Array) -> jax.Array:
    """``|x|`` with the derivative 0 at 0, as it is chosen there; that of abs is 1."""
    return jnp.maximum(x, -x)


def _soft_sign_value(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -1e30, 1e30)
    return x / (1 + _magnitude(x))


def _power(x: jax.Array, n: int) -> jax.Array:
    """(1 + |x|)^n; where it overflows its reciprocal is no normal number.

    The last factor makes up for the rounding of all.
    """
    a = jnp.minimum(_magnitude(x), np.finfo(x.dtype).max)
    large, small = jnp.maximum(a, 1), jnp.minimum(a, 1)
    t = large + small
    return math.prod([t] * (n - 1), start=t + n * (small - (t - large)))


_reciprocal: Callable = elementwise(
    lambda x: 1 / (1 + _magnitude(x)), lambda x: -jnp.sign(x) * _soft_sign_slope(x)
)
_curvature: Callable = elementwise(
    lambda x: -2 * jnp.sign(x) / _power(x, 3),
    lambda x: -3 * jnp.sign(x) * _curvature(x) * _reciprocal(x),
)
_soft_sign_slope: Callable = elementwise(lambda x: 1 / _power(x, 2), _curvature)
_soft_sign = elementwise(_soft_sign_value, _soft_sign_slope, "soft_sign")
