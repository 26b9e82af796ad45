"""Compute wide, round once."""

import jax
import jax.numpy as jnp
import numpy as np


def widen(x: jax.Array) -> jax.Array:
    """``x`` in the dtype of the formulas: float64 if it is that, else float32."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def narrow(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` rounded, once, to the dtype of ``like``, and weakly typed where that is."""
    x = x.astype(like.dtype)
    # An update in place is the public way to keep a weak type over a bit cast.
    return jnp.zeros_like(like).at[...].set(x) if like.weak_type else x


def polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """``coefficients[0] + coefficients[1] x + ...`` by Horner's rule."""
    *lower, next_, highest = coefficients
    y = highest * x + next_
    for c in reversed(lower):
        y = y * x + c
    return y
