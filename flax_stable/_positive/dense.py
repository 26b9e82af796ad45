"""The dense layer that positive kernels serve, and what it refuses."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def assert_inputs(
    layer: str, inputs: jax.Array, raw_kernel: jax.Array | None, way_out: str
) -> None:
    """Asserts that the kernel is one matrix of floats and that ``inputs`` fit it.

    Without a kernel, as at initialization, inputs of any width fit.
    """
    width = None
    if raw_kernel is not None:
        chex.assert_rank(
            raw_kernel,
            2,
            custom_message=f"{layer} expects a raw_kernel of shape (inputs, outputs), "
            f"but holds one of shape {raw_kernel.shape}. Call a stack of layers by "
            "vmap or scan.",
            exception_type=ValueError,
        )
        chex.assert_type(
            raw_kernel,
            float,
            custom_message=f"{layer} expects a raw_kernel of real floating dtype, but "
            f"holds one of dtype {raw_kernel.dtype}. Cast the parameters.",
            exception_type=TypeError,
        )
        width = raw_kernel.shape[0]
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
