"""Chains of transforms: what a raw parameter is read as, and the way back."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from .._parametrization import Transform
from .._positive.transform import positive

# The first one sees the raw values; there is none for a plain parameter.
Chain: TypeAlias = tuple[Transform, ...]


def read(chain: Chain, x: jax.Array) -> jax.Array:
    """The weight that a raw parameter is read as."""
    for transform in chain:
        x = transform.forward(x)
    return x


def inverse(
    chain: Chain, weight: jax.Array, direction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The raw parameter of a weight, and how it moves as the weight does."""

    def invert(x):
        for transform in reversed(chain):
            x = transform.inverse(x)
        return x

    # Under differentiation values are not known, and none is refused.
    return jax.jvp(invert, (weight,), (direction,))


def slopes(chain: Chain, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The slope of each weight, and whether weights move by these alone.

    They do not where a transform looks at whole arrays: with a Jacobian that is not
    diagonal, another direction than that of ones has other slopes.
    """
    ramp = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)
    ones = jnp.ones_like(x)
    other = ones + jnp.cos(ramp) / 2
    _, move = jax.linearize(functools.partial(read, chain), x)
    slope, moved = move(ones), move(other)
    close = jnp.abs(moved - other * slope) <= 1e-3 * jnp.abs(moved)
    return slope, jnp.all(close)


def positive_options(chain: Chain) -> dict[str, Any] | None:
    """Beta and floor, if the chain is one `positive_transform`, else None."""
    forward: Any = chain[0].forward if len(chain) == 1 else None
    if isinstance(forward, functools.partial) and forward.func is positive:
        return {"beta": 1.0, "floor": 0.0} | forward.keywords
    return None
