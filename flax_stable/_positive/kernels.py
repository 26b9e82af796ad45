"""Kernels and their raw parameters: trees of them, boxes, initializers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .transform import (
    assert_above,
    assert_parameters,
    inverse_positive,
    positive,
)


def to_kernel(
    raw_kernel: Any,
    beta: float = 1.0,
    floor: float = 0.0,
    directions: np.ndarray | None = None,
) -> Any:
    """``positive(raw_kernel)``, through boxes (any pytree) around the array.

    With ``directions``, that times 1 or -1 for each row, or the raw row itself for 0.
    """

    def transform(raw):
        kernel = positive(raw, beta=beta, floor=floor)
        if directions is None:
            return kernel
        signs = jnp.asarray(directions.reshape(-1, 1), raw.dtype)
        return jnp.where(signs == 0, raw, signs * kernel)

    return jax.tree.map(transform, raw_kernel)


def to_raw_kernel(
    kernel: Any,
    beta: float = 1.0,
    floor: float = 0.0,
    directions: np.ndarray | None = None,
    key: jax.Array | None = None,
) -> Any:
    """``inverse_positive(kernel)``, likewise; values that are known are checked.

    Those below twice the floor start there, the least with its own gradient.  With
    ``directions``, rows of the direction 0 keep their size and get random signs.
    """

    def invert(kernel):
        _assert_positive(kernel)
        if floor:
            kernel = jnp.where(kernel > 0, jnp.maximum(kernel, 2 * floor), kernel)
        raw = inverse_positive(kernel, beta=beta, floor=floor)
        if directions is None or key is None:
            return raw
        signs = jax.random.rademacher(key, kernel.shape, kernel.dtype)
        return jnp.where(directions.reshape(-1, 1) == 0, signs * kernel, raw)

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
    kernel_init: Callable,
    beta: float = 1.0,
    floor: float = 0.0,
    directions: np.ndarray | None = None,
) -> Callable:
    """The initializer of the raw kernel from one that describes the positive kernel."""

    def init(key, *args, **kwargs):
        kernel = kernel_init(key, *args, **kwargs)
        # The initializer has used the key itself.
        signs_key = None if directions is None else jax.random.fold_in(key, 1)
        return to_raw_kernel(kernel, beta, floor, directions, signs_key)

    return init


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
    if not np.isin(directions, (-1, 0, 1)).all():
        raise ValueError(
            f"{layer} expects in monotone 1, 0 or -1 for each input, but got "
            f"{directions.tolist()}. An input is increasing (1), decreasing (-1) or "
            "free (0); how steeply is for the kernel to say."
        )
    return directions


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
    stay around the kernels.  Parameters do not say which inputs of a layer are
    ``monotone`` and which are free: of a layer where that is given, all come out as if
    they increased.

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
