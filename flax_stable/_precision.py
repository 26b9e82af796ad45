"""Compute wide, round once; float32 kernels with a known error."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """``x`` in the dtype that formulas compute in: float64 for float64, else float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def narrow(x: jax.Array, like: jax.Array) -> jax.Array:
    """``x`` rounded, once, to the dtype of ``like``."""
    return x.astype(like.dtype)
