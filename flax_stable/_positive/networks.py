"""What monotone and input-convex networks are made of, besides their layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .dense import assert_sizes, is_whole
from .initializers import icnn_initializers


def mixed(x: jax.Array, activation: Callable[..., jax.Array]) -> jax.Array:
    """Increasing activations of three shapes, for a third of the last axis each.

    The convex ``activation``; the concave one that is its mirror image; and a bounded
    one made of both, which meet at 0.
    """
    third = -(-x.shape[-1] // 3)
    convex, concave, bounded = jnp.split(x, [third, 2 * third], axis=-1)
    middle = activation(jnp.ones((), x.dtype))
    below = activation(jnp.minimum(bounded, 0) + 1) - middle
    above = middle - activation(1 - jnp.maximum(bounded, 0))
    return jnp.concatenate(
        [activation(convex), -activation(-concave), below + above], axis=-1
    )


def icnn_layer_initializers(
    activation: Callable, fan_in: int | None, last: bool
) -> tuple[Any, Callable, Callable]:
    """For a layer's kernel, its bias, and the kernel of its skip connection.

    The first layer has no ``fan_in`` and no kernel: all its variance comes by the skip
    connection.  The last one has a mean of 0.
    """
    mean, skip = 2.0, 0.75
    if fan_in is None:
        return None, jax.nn.initializers.constant(mean), _signed(1.0)
    kernel_init, bias_init = icnn_initializers(fan_in, activation, mean=mean, skip=skip)
    if last:
        return kernel_init, functools.partial(_shifted, bias_init, -mean), _signed(skip)
    return kernel_init, bias_init, _signed(skip)


def _shifted(init, by, *args):
    return init(*args) + by


def _signed(variance: float) -> Callable:
    return jax.nn.initializers.variance_scaling(variance, "fan_in", "normal")


def assert_widths(network: str, hidden: Any, **sizes: Any) -> None:
    """Asserts that there is a hidden layer, and that widths are whole and above 0."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise TypeError(
            f"{network} expects the widths of one hidden layer or more, but got "
            f"{hidden!r}. Write a tuple of whole numbers, such as (32, 32)."
        )
    if not hidden or not all(is_whole(n) and n > 0 for n in hidden):
        raise ValueError(
            f"{network} expects the widths of one hidden layer or more, but got "
            f"{tuple(hidden)}. For none take a dense layer."
        )
    assert_sizes(network, **sizes)
