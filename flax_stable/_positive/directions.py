"""Dense layers with a direction for each input, and free inputs among them."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np


def as_directions(
    layer: str, monotone: Sequence[int] | None, width: int
) -> np.ndarray | None:
    """The argument ``monotone`` of a layer of that many inputs, as an array."""
    if monotone is None:
        return None
    directions = np.asarray(monotone)
    if directions.shape != (width,):
        raise ValueError(
            f"{layer} expects in monotone one number for each of its {width} inputs, "
            f"but got {directions.size} of shape {directions.shape}. Name a direction "
            "for each: 1 for increasing, -1 for decreasing, 0 for free."
        )
    if not all(direction in (-1, 0, 1) for direction in directions.tolist()):
        raise ValueError(
            f"{layer} expects in monotone 1, 0 or -1 for each input, but got "
            f"{directions.tolist()}. An input is increasing (1), decreasing (-1) or "
            "free (0); how steeply is for the kernel to say."
        )
    if not directions.any():
        raise ValueError(
            f"{layer} expects in monotone 1 or -1 for one input or more, but got "
            f"{directions.tolist()}. If all are free, take Dense or Linear of Flax."
        )
    return directions


def has_free(directions: np.ndarray | None) -> TypeGuard[np.ndarray]:
    """Whether there are free inputs, with a kernel of their own."""
    return directions is not None and not directions.all()


def directed_rows(kernel: Any, directions: np.ndarray | None) -> Any:
    """The rows of all inputs but the free ones, through boxes around the array."""
    if not has_free(directions):
        return kernel
    return jax.tree.map(lambda kernel: kernel[directions != 0], kernel)


def free_rows(kernel: Any, directions: np.ndarray, key: jax.Array) -> Any:
    """The rows of the free inputs with random signs, likewise.

    The key may be the one that initialized the kernel.
    """

    def choose(kernel):
        rows = kernel[directions == 0]
        signs = jax.random.fold_in(key, 1)
        return jax.random.rademacher(signs, rows.shape, rows.dtype) * rows

    return jax.tree.map(choose, kernel)


def assembled(
    kernel: jax.Array, free_kernel: jax.Array | None, directions: np.ndarray | None
) -> jax.Array:
    """The kernel of all inputs from that of the directed ones, which is positive."""
    if directions is None:
        return kernel
    signs = directions[directions != 0].reshape(-1, 1)
    kernel = jnp.asarray(signs, kernel.dtype) * kernel
    if free_kernel is None:
        return kernel
    rows = jnp.concatenate([kernel, free_kernel], axis=-2)
    inputs = np.argsort(directions == 0, kind="stable")  # of these rows
    # Every row is taken once, so the gradient needs no sums.
    return jnp.take(rows, np.argsort(inputs), axis=-2, unique_indices=True, mode="clip")
