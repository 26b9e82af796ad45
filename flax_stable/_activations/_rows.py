"""What reductions have in common: axes and masks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import narrow, widen

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
