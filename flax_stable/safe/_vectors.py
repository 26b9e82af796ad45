"""`norm` and `normalize`, whose derivatives exist at 0."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._activations._elementwise import as_floating
from .._activations._rows import Axis, narrow_rows, row_axes
from .._custom_vjp import checkpoint, custom_vjp
from .._precision import widen
from .._public import compiled
from ._rules import inverse_power, limit_of, quotient


@compiled("axis", "keepdims")
def norm(
    x: jax.typing.ArrayLike, axis: Axis = None, keepdims: bool = False
) -> jax.Array:
    r"""The Euclidean length, with a derivative at 0.

    .. math::
      \mathrm{norm}(x) = \sqrt{\sum_i x_i^2}

    The largest element is taken out of the squares: they neither overflow nor vanish,
    unless the length itself does.

    Args:
      x: an array of any shape; integers promote to floating point.
      axis: the axis of a vector, a tuple of axes, or ``None`` for all.
      keepdims: whether these axes stay, with size 1.

    Returns:
      An array of the lengths, of the (promoted) dtype of ``x``.

    Derivatives: the first is :math:`x / \mathrm{norm}(x)`, which is 0 at 0.  Higher
    ones are 0 at 0 too; the curvature, one over the length, is held at 2^32 in float32
    and bfloat16, 2^256 in float64 and 2^15 in float16.

    Limits: a vector that holds inf has the length inf.  Its first derivative is that of
    a vector of 1 and -1 where inf and -inf are and 0 elsewhere, the others are 0.

    Residual: the input.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.norm(jnp.array([[3e30, 4e30], [0.0, 0.0]]), axis=-1)
      Array([5.e+30, 0.e+00], dtype=float32)
      >>> jax.grad(fs.safe.norm)(jnp.zeros(2))
      Array([0., 0.], dtype=float32)
    """
    x = as_floating("safe.norm", x)
    axes, limit = row_axes("safe.norm", x, axis), _limit(x)
    y = _rounded(lambda x: _norm(x, axes, limit), x)
    return y if keepdims else jnp.squeeze(y, axes)


@compiled("axis")
def normalize(x: jax.typing.ArrayLike, axis: Axis = -1) -> jax.Array:
    r"""A vector of length 1 in the direction of ``x``, 0 at 0.

    .. math::
      \mathrm{normalize}(x) = x / \mathrm{norm}(x)

    Args:
      x: an array of any shape; integers promote to floating point.
      axis: the axis of a vector, a tuple of axes, or ``None`` for all.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`(1 - u u^T) / \mathrm{norm}(x)` with the result
    :math:`u`, and 0 at 0, as all others.  One over the length is held as in `norm`.

    Limits: of a vector that holds inf only those elements count, all alike; its
    derivatives are 0.

    Residual: the input.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
      >>> jax.jacobian(fs.safe.normalize)(jnp.zeros(2))
      Array([[0., 0.],
             [0., 0.]], dtype=float32)
    """
    x = as_floating("safe.normalize", x)
    axes, limit = row_axes("safe.normalize", x, axis), _limit(x)
    return _rounded(lambda x: _unit(x, axes, limit), x)


def _limit(x: jax.Array) -> float:
    """Of one over a length, which the derivative of order n has to the power n - 1."""
    return limit_of(x.dtype, 1 / 4)


def _rounded(formula: Callable, x: jax.Array) -> jax.Array:
    """The formula in the wide dtype, rounded once; what is kept is what came."""

    def run(x):
        return narrow_rows(formula(widen(x)), x)

    return run(x) if x.dtype == widen(x).dtype else checkpoint(run)(x)


def _scaled(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """``x`` over a power of two, by which its largest element is 1 to 4, and that."""
    info = np.finfo(x.dtype)
    integer = np.int32 if info.bits == 32 else np.int64
    top = lax.stop_gradient(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
    exponent = lax.bitcast_convert_type(np.array(np.inf, x.dtype), integer)
    bits = lax.bitcast_convert_type(top, integer) & exponent
    # XLA multiplies by the reciprocal: that must not be subnormal.
    scale = jnp.clip(
        lax.bitcast_convert_type(bits, x.dtype), info.tiny, 2.0 ** (info.maxexp - 2)
    )
    infinite = jnp.isinf(top)
    ends = jnp.where(jnp.isinf(x), jnp.sign(x), 0)
    scaled = jnp.where(infinite, lax.stop_gradient(ends), x / scale)
    return scaled, jnp.where(infinite, np.inf, scale)


@functools.partial(custom_vjp, nondiff_argnums=(1, 2))
def _norm(x: jax.Array, axes: tuple[int, ...], limit: float) -> jax.Array:
    x, scale = _scaled(x, axes)
    square = jnp.sum(x * x, axes, keepdims=True)
    return scale * inverse_power(-1, 2, limit)(square)


@functools.partial(custom_vjp, nondiff_argnums=(1, 2))
def _unit(x: jax.Array, axes: tuple[int, ...], limit: float) -> jax.Array:
    x, _ = _scaled(x, axes)
    square = jnp.sum(x * x, axes, keepdims=True)
    return x * inverse_power(1, 2, limit)(square)


def _norm_bwd(axes, limit, x, g):
    return (g * _unit(x, axes, limit),)


def _unit_bwd(axes, limit, x, g):
    u = _unit(x, axes, limit)
    length = _norm(x, axes, limit)
    inverse = quotient(1, limit, limit)(jnp.ones_like(length), length)
    return ((g - u * jnp.sum(u * g, axes, keepdims=True)) * inverse,)


_norm.defvjp(lambda x, axes, limit: (_norm(x, axes, limit), x), _norm_bwd)
_unit.defvjp(lambda x, axes, limit: (_unit(x, axes, limit), x), _unit_bwd)
