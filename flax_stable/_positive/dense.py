"""The dense layer that positive kernels serve, and what it refuses."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import PrecisionLike
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike


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
    product: Callable,
    **options: Any,
) -> jax.Array:
    """``inputs @ kernel + bias`` over the last axis of ``inputs``."""
    contraction = (((inputs.ndim - 1,), (0,)), ((), ()))
    y = summing(product)(inputs, kernel, contraction, **options)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def summing(product: Callable | None) -> Callable:
    """The product of a dense layer: the user's own, or `dot_general`."""
    return dot_general if product in (None, jax.lax.dot_general) else product


def dot_general(
    inputs: jax.Array,
    kernel: jax.Array,
    contraction: Any,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> jax.Array:
    """`jax.lax.dot_general` of dense layers, which sums features split over a mesh.

    On Explicit axes JAX leaves open where such a sum lives.
    """
    if out_sharding is None:
        out_sharding = _summed(inputs, kernel)
    return jax.lax.dot_general(
        inputs,
        kernel,
        contraction,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


def _summed(inputs: jax.Array, kernel: jax.Array) -> PartitionSpec | None:
    *outer, split = jax.typeof(inputs).sharding.spec
    # Off such a mesh a quantizer's kernel need not be an array.
    if split is None:
        return None
    of_inputs, of_outputs = jax.typeof(kernel).sharding.spec
    return PartitionSpec(*outer, of_outputs) if split == of_inputs else None


def scaled(inputs: jax.Array, scale: jax.Array) -> jax.Array:
    """``inputs`` times the scale of each feature, over the last axis."""
    return inputs * scale.reshape((1,) * (inputs.ndim - 1) + (-1,))
