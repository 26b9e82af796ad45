"""Compute wide, round once."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


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


def falling_zero(x: jax.Array) -> jax.Array:
    """Nothing, with the derivative -1 (0 at infinity): to give a formula a derivative.

    A rule alone would not do: JAX 0.10 forgets rules inside of a scan that is
    differentiated twice.  Subtracted, it leaves even -0 as it is.
    """
    return jnp.where(jnp.isfinite(x), lax.stop_gradient(x) - x, 0)
