"""Kernels and their raw parameters: trees of them, boxes, initializers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .transform import assert_above, inverse_positive, positive


def to_kernel(raw_kernel: Any, beta: Any = 1.0, floor: Any = 0.0) -> Any:
    """``positive(raw_kernel)``, through boxes (any pytree) around the array."""
    return jax.tree.map(
        lambda raw: positive(raw, beta=beta, floor=floor),
        raw_kernel,
    )


def to_raw_kernel(kernel: Any, beta: Any = 1.0, floor: Any = 0.0) -> Any:
    """``inverse_positive(kernel)``, likewise; values that are known are checked."""
    return jax.tree.map(lambda k: _invert(k, beta, floor), kernel)


def _invert(kernel, beta, floor):
    assert_floating("kernel_init must return", kernel.dtype)
    if not isinstance(kernel, jax.core.Tracer):
        assert_above(
            floor,
            kernel,
            "kernel_init describes the positive kernel and must return",
            "Take an initializer of positive values, such as near_permutation(), or a "
            "lower floor.",
        )
    return inverse_positive(kernel, beta=beta, floor=floor)


def assert_floating(who: str, dtype: Any) -> None:
    """Asserts that a kernel is of a real floating dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{who} a positive kernel of real floating dtype, but got dtype "
            f"{jnp.dtype(dtype).name}. Choose param_dtype=float32 or another float."
        )


def raw_kernel_init(
    kernel_init: Callable, beta: Any = 1.0, floor: Any = 0.0
) -> Callable:
    """The initializer of the raw kernel from one that describes the positive kernel."""

    def init(*args, **kwargs):
        return to_raw_kernel(kernel_init(*args, **kwargs), beta, floor)

    return init


def positive_kernels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the positive kernels out of Linen parameters.

    Every ``raw_kernel`` in the tree becomes a ``kernel = softplus(raw_kernel)``; all
    else is left as it is.  The result is what the same model made of `flax.linen.Dense`
    would take.  Partitioning boxes stay around the kernels.

    Args:
      params: nested dicts of parameters, or all of a model's variables.

    Returns:
      Nested dicts, with kernels of the shapes and dtypes of the raw kernels.

    Raises:
      TypeError: ``params`` is not a dict.

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
        if name == "raw_kernel":
            kernels["kernel"] = to_kernel(value)
        else:
            nested = isinstance(value, Mapping)
            kernels[name] = positive_kernels(value) if nested else value
    return kernels
