"""The dense layer that positive kernels serve, and what it refuses."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec


def assert_sizes(layer: str, **sizes: Any) -> None:
    """Asserts that sizes, numbers or tuples of them, are whole and above 0."""
    for name, size in sizes.items():
        numbers = size if isinstance(size, tuple | list) else (size,)
        whole = all(map(is_whole, numbers))
        if not whole or min(numbers, default=1) < 1:
            raise (ValueError if whole else TypeError)(
                f"{layer} expects in {name} whole numbers above 0, but got {size!r}. "
                "Give the length of each axis as an int of 1 or more."
            )


def is_whole(number: Any) -> bool:
    """Whether it is an integer, and no boolean."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def assert_functions(layer: str, **functions: Any) -> None:
    """Asserts that fields hold functions."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(
                f"{layer} expects a function in {name}, but got {function!r}. For the "
                "default leave it out; an initializer of one number is "
                "jax.nn.initializers.constant."
            )


def assert_inputs(
    layer: str, inputs: jax.Array, kernels: Mapping[str, jax.Array], way_out: str
) -> None:
    """Asserts that kernels are matrices of floats and ``inputs`` fit all their rows.

    Without a kernel, as at initialization, inputs of any width fit.
    """
    for name, kernel in kernels.items():
        chex.assert_rank(
            kernel,
            2,
            custom_message=f"{layer} expects a {name} of shape (inputs, outputs), "
            f"but holds one of shape {kernel.shape}. Call a stack of layers by "
            "vmap or scan.",
            exception_type=ValueError,
        )
        chex.assert_type(
            kernel,
            float,
            custom_message=f"{layer} expects a {name} of real floating dtype, but "
            f"holds one of dtype {kernel.dtype}. Cast the parameters.",
            exception_type=TypeError,
        )
    width = sum(k.shape[0] for k in kernels.values()) if kernels else None
    chex.assert_shape(
        inputs,
        (..., width),
        custom_message=f"{layer} expects inputs of shape (..., {width or 'features'}), "
        f"but got shape {jnp.shape(inputs)}. {way_out}",
        exception_type=ValueError,
    )


def dense(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    dot_general: Callable,
    **options: Any,
) -> jax.Array:
    """``inputs @ kernel + bias`` over the last axis of ``inputs``."""
    contraction = (((inputs.ndim - 1,), (0,)), ((), ()))
    options = summed(dot_general, inputs, kernel) | options
    y = dot_general(inputs, kernel, contraction, **options)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def summed(
    dot_general: Callable, inputs: jax.Array, kernel: jax.Array
) -> dict[str, PartitionSpec]:
    """Options of a product that sums features split over Explicit axes of the mesh.

    JAX leaves open where such a sum lives.  A product of the user's own may know.
    """
    if dot_general is not jax.lax.dot_general:
        return {}
    *outer, split = jax.typeof(inputs).sharding.spec
    of_inputs, of_outputs = jax.typeof(kernel).sharding.spec
    if split is None or split != of_inputs:
        return {}
    return {"out_sharding": PartitionSpec(*outer, of_outputs)}


def scaled(inputs: jax.Array, scale: jax.Array) -> jax.Array:
    """``inputs`` times the scale of each feature, over the last axis."""
    return inputs * scale.reshape((1,) * (inputs.ndim - 1) + (-1,))
