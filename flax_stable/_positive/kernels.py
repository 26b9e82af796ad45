"""Kernels and their raw parameters: trees of them, boxes, initializers."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from .transform import (
    assert_above,
    assert_parameters,
    inverse_positive,
    positive,
)


def to_kernel(raw_kernel: Any, beta: float = 1.0, floor: float = 0.0) -> Any:
    """``positive(raw_kernel)``, through boxes (any pytree) around the array."""
    assert_unquantized(raw_kernel)
    return jax.tree.map(lambda raw: positive(raw, beta=beta, floor=floor), raw_kernel)


def assert_unquantized(parameter: Any) -> None:
    """Asserts that a parameter is one array: a quantized one has its scales beside."""
    arrays = len(jax.tree.leaves(parameter))
    if arrays > 1:
        raise TypeError(
            "A raw parameter must be one array, but a quantizer put "
            f"{type(parameter).__name__}, of {arrays} arrays, in its place. Quantize "
            "the plain layer, such as nn.Dense or nnx.Linear, with the parameters that "
            "flax_stable.constrain reads out of the raw ones."
        )


def to_raw_kernel(kernel: Any, beta: float = 1.0, floor: float = 0.0) -> Any:
    """``inverse_positive(kernel)``, likewise; values that are known are checked.

    Those below twice the floor start there, the least with its own gradient.
    """

    def invert(kernel):
        _assert_positive(kernel)
        if floor:
            kernel = jnp.where(kernel > 0, jnp.maximum(kernel, 2 * floor), kernel)
        return inverse_positive(kernel, beta=beta, floor=floor)

    assert_parameters("A positive layer", beta, floor)
    return jax.tree.map(invert, kernel)


def _assert_positive(kernel):
    assert_floating("kernel_init must return", kernel.dtype)
    if not isinstance(kernel, jax.core.Tracer):
        assert_above(
            0,
            kernel,
            "kernel_init describes the positive kernel and must return",
            "Take an initializer of positive values, such as near_permutation().",
        )


def raw_kernel_init(
    kernel_init: Callable, beta: float = 1.0, floor: float = 0.0
) -> Callable:
    """The initializer of the raw kernel from one that describes the positive kernel."""
    return lambda *args, **kwargs: to_raw_kernel(
        kernel_init(*args, **kwargs), beta, floor
    )


def refuse_to_set(layer: Any, name: str) -> NoReturn:
    """The error of an attribute that is computed from a raw parameter."""
    raise AttributeError(
        f"{name} of {type(layer).__name__} is computed from raw_{name}. Set that, to "
        "flax_stable.inverse_positive of the value."
    )


def assert_floating(who: str, dtype: Any) -> None:
    """Asserts that a kernel is of a real floating dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{who} a positive kernel of real floating dtype, but got dtype "
            f"{jnp.dtype(dtype).name}. Choose param_dtype=float32 or another float."
        )


def positive_kernels(
    params: Mapping[str, Any], *, beta: float = 1.0, floor: float = 0.0
) -> dict[str, Any]:
    """Reads the positive kernels out of Linen parameters.

    Every ``raw_kernel`` in the tree becomes a ``kernel = positive(raw_kernel)``, every
    ``raw_embedding`` and ``raw_scale`` likewise; all else is left as it is.  The result
    is what the same model made of Flax's own layers would take.  Partitioning boxes
    stay around the kernels.  Parameters do not say the directions of a layer's
    inputs: where ``monotone`` is given, all come out as if they increased, and where it
    has zeros, ``kernel`` has the rows of the other inputs alone, in their order, beside
    a ``free_kernel``, which is left as it is.

    Args:
      params: nested dicts of parameters, or all of a model's variables.
      beta: the ``beta`` of the layers.
      floor: the ``floor`` of the layers.

    Returns:
      Nested dicts, with kernels of the shapes and dtypes of the raw kernels.

    Raises:
      TypeError: ``params`` is not a dict.
      ValueError: ``beta`` is not above 0, or ``floor`` below it.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusDense(4)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> kernel = fs.linen.positive_kernels(variables)["params"]["kernel"]
      >>> kernel.shape, bool((kernel > 0).all())
      ((3, 4), True)
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            "positive_kernels expects the nested dicts of Linen parameters, but got "
            f"{type(params).__name__}. An NNX layer has its positive kernel as .kernel."
        )
    kernels = {}
    for name, value in params.items():
        if name in ("raw_kernel", "raw_embedding", "raw_scale"):
            kernels[name.removeprefix("raw_")] = to_kernel(value, beta, floor)
        elif isinstance(value, Mapping):
            kernels[name] = positive_kernels(value, beta=beta, floor=floor)
        else:
            kernels[name] = value
    return kernels
