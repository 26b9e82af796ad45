"""The one rule of every elementwise activation: a value and its slope."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from .._custom_vjp import custom_vjp, in_pallas_kernel
from .._precision import narrow, widen
from .._public import described


def elementwise(
    value: Callable,
    slope: Callable,
    name: str | None = None,
    *,
    residual: str = "input",
    half_value: Callable | None = None,
    half_slope: Callable | None = None,
) -> Callable:
    """The function ``value`` with the derivative ``slope``, a function of what is kept.

    Both are functions of one float32 or float64 array.  What is returned takes any
    floating dtype, computes wide and rounds once.  Higher orders differentiate
    ``slope``: it is made of functions that have rules themselves.  ``name`` is what
    checkpoint policies call the residual, the input or the output.  Where
    ``half_value`` or ``half_slope`` are given, inputs of 16 bits or less take those for
    the value or the slope: cheaper and good to 2^-18.
    """

    @custom_vjp
    def f(x):
        wide = widen(x)
        formula = value if wide.dtype == x.dtype else half_value or value
        return narrow(formula(wide), x)

    def fwd(x):
        y = f(x)
        return y, y if residual == "output" else x

    def bwd(kept, g):
        wide = widen(named(kept, name))
        formula = slope if wide.dtype == kept.dtype else half_slope or slope
        return (narrow(widen(g) * formula(wide), kept),)

    f.defvjp(fwd, bwd)
    return f


def named(kept: Any, name: str | None) -> Any:
    """The residuals of a rule, under the name that checkpoint policies call them by.

    It belongs into the backward rule, which a policy sees as well.  Named in the
    forward rule they would be other arrays than the same numbers that other functions
    keep, and a scan would store them twice.
    """
    unnamed = name is None or in_pallas_kernel()  # it lowers no names
    return kept if unnamed else checkpoint_name(kept, name)


def by_residual(name: str, rules: dict[str, Callable], residual: str) -> Callable:
    """The rule that keeps what the argument ``residual`` of a function asks for."""
    if residual not in rules:
        raise ValueError(
            f"{name} keeps its 'input' or its 'output' for the backward pass, but got "
            f"residual={residual!r}. The input is accurate, the output lean."
        )
    return rules[residual]


def assert_bool(name: str, argument: str, value: Any) -> None:
    """Asserts a boolean: any text would count as true."""
    if not isinstance(value, bool | np.bool | int):
        raise TypeError(
            f"{name} expects {argument} to be True or False, but got {value!r}."
        )


def as_real(name: str, x: jax.typing.ArrayLike, argument: str = "x") -> jax.Array:
    """``x`` as an array of real numbers; what holds no such is refused."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as e:
        raise TypeError(
            f"{name} expects {argument} to be an array or a number, but got "
            f"{described(x)}."
        ) from e
    if jnp.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(
            f"{name} is defined for real inputs, but {argument} has dtype {x.dtype}. "
            f"Take {argument}.real, or apply the function to the real and imaginary "
            "parts apart."
        )
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} expects {argument} to hold real numbers, but got a random key, "
            f"{x.dtype}{list(x.shape)}. Draw numbers with it: jax.random.normal(key, "
            "shape)."
        )
    return x


def as_floating(name: str, x: jax.typing.ArrayLike, argument: str = "x") -> jax.Array:
    """``x`` as a floating array, promoted as `jax.nn` promotes."""
    # As an array an integer would be a constant that no Pallas kernel takes.
    x = as_real(name, float(x) if type(x) is int else x, argument)
    if jnp.issubdtype(x.dtype, np.floating):
        return x
    floating = jnp.full(x.shape, 0.0)
    return narrow(x, floating if x.weak_type else floating.astype(floating.dtype))
