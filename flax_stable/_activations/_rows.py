"""What reductions have in common: axes, masks, sums of exponentials."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._precision import log1p, narrow, widen

Axis = int | Sequence[int] | None


def row_axes(x: jax.Array, axis: Axis) -> tuple[int, ...]:
    """The axes that make up a row, as positions from the left."""
    if axis is None:
        return tuple(range(x.ndim))
    return np.lib.array_utils.normalize_axis_tuple(axis, x.ndim, "axis")


def row_mask(where: jax.typing.ArrayLike | None, x: jax.Array) -> jax.Array | None:
    """``where`` in the shape of ``x``."""
    return None if where is None else jnp.broadcast_to(where, x.shape)


def only(
    mask: jax.Array | None, x: jax.Array, other: jax.typing.ArrayLike
) -> jax.Array:
    """``x`` where the mask admits it: a choice, which lets no NaN into a gradient."""
    return x if mask is None else jnp.where(mask, x, other)


def narrow_rows(y: jax.Array, like: jax.Array) -> jax.Array:
    """`narrow` for a result that need not have the shape of ``like``."""
    return narrow(y, jnp.full(y.shape, 0.0) if like.weak_type else like)


def is_wide(x: jax.Array) -> bool:
    """Whether ``x`` has the dtype of the formulas already."""
    return x.dtype == widen(x).dtype


def exp_sum_parts(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Of each row the maximum, and the sum of exponentials after its subtraction.

    The sum is a whole number and a rest below 1, so that what is tiny beside a 1 is not
    lost.  Wide and without derivatives: who takes them knows how they move with ``x``.
    """
    wide = lax.stop_gradient(widen(x))
    info = jnp.finfo(wide.dtype)
    # The lowest finite number can be subtracted where everything is -inf.
    top = jnp.max(wide, axes, keepdims=True, initial=info.min)
    e = jnp.exp(wide - top)
    if not is_wide(x):
        total = jnp.sum(e, axes, keepdims=True)
        return top, total, jnp.zeros_like(total)
    # XLA rounds after every addition.  The leading bits go into a sum of their own, as
    # many as leave it exact even if every element is 1.
    count = math.prod(x.shape[i] for i in axes)
    bits = max(info.nmant + 1 - count.bit_length(), 0)
    leading = jnp.floor(e * 2.0**bits) * 2.0**-bits
    high = jnp.sum(leading, axes, keepdims=True)
    low = jnp.sum(e - leading, axes, keepdims=True)
    ones = jnp.floor(high)
    rest = (high - ones) + low
    carry = jnp.floor(rest)
    return top, ones + carry, rest - carry


def log_sum(ones: jax.Array, rest: jax.Array) -> jax.Array:
    """log(ones + rest), which may be tiny; 0 for an empty sum."""
    ones = jnp.maximum(ones, 1)
    return jnp.log(ones) + log1p(rest / ones)
