"""The one rule of every elementwise activation: a value and its slope."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen


def elementwise(
    value: Callable, slope: Callable, coarse: Callable | None = None
) -> Callable:
    """The function ``value`` with the derivative ``slope``; keeps its input.

    Both are functions of one float32 or float64 array.  What is returned takes any
    floating dtype, computes wide and rounds once.  Higher orders differentiate
    ``slope``: it is made of functions that have rules themselves.  Where ``coarse`` is
    given, inputs of 16 bits or less take that for the value: cheaper and good to 2^-18.
    """

    @custom_vjp
    def f(x):
        wide = widen(x)
        fine = coarse is None or wide.dtype == x.dtype
        return narrow((value if fine else coarse)(wide), x)

    def fwd(x):
        return f(x), x

    def bwd(x, g):
        return (narrow(widen(g) * slope(widen(x)), x),)

    f.defvjp(fwd, bwd)
    return f


def as_floating(name: str, x: jax.typing.ArrayLike, argument: str = "x") -> jax.Array:
    """``x`` as a floating array, promoted as `jax.nn` promotes; complex is refused."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, np.floating):
        return x
    if jnp.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(
            f"{name} is defined for real inputs, but {argument} has dtype {x.dtype}. "
            f"Take {argument}.real, or apply the function to the real and imaginary "
            "parts apart."
        )
    floating = jnp.full(x.shape, 0.0)
    return narrow(x, floating if x.weak_type else floating.astype(floating.dtype))
