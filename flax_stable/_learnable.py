"""Numbers of activations that may be learned: what modules of both APIs share."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def start(
    module: str,
    name: str,
    number: Any,
    learnable: bool,
    param_shape: Sequence[int],
    param_dtype: jax.typing.DTypeLike,
) -> jax.typing.ArrayLike:
    """The number itself, or what the parameter in its place starts as."""
    if not isinstance(number, numbers.Real):
        raise TypeError(
            f"{module} takes a real number as {name}, but got {number!r}. For one per "
            "feature set learnable and param_shape; for an array that is not learned "
            "call the function."
        )
    if not math.isfinite(number):
        raise ValueError(
            f"{module} takes a finite number as {name}, but got {number!r}."
        )
    if not learnable:
        if tuple(param_shape):
            raise ValueError(
                f"{module} has the param_shape {tuple(param_shape)}, but its {name} is "
                "not learnable. Set learnable=True, or leave the shape out."
            )
        return float(number)
    if not jnp.issubdtype(param_dtype, np.floating):
        raise TypeError(
            f"{module} learns {name} in a real floating dtype, but param_dtype is "
            f"{jnp.dtype(param_dtype).name}."
        )
    return jnp.full(tuple(param_shape), float(number), param_dtype)


def cast(parameter: jax.Array, x: jax.typing.ArrayLike) -> jax.Array:
    """The parameter in the dtype of floating inputs, which outputs then keep."""
    dtype = jnp.result_type(x)
    return parameter.astype(dtype) if jnp.issubdtype(dtype, np.floating) else parameter
