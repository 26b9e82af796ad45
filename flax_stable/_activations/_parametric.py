"""Elementwise functions with parameters that broadcast against the input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen
from ._elementwise import as_floating, named


def parametric(
    value: Callable,
    *slopes: Callable,
    name: str | None = None,
    residual: str = "input",
    half_value: Callable | None = None,
    half_slope: Callable | None = None,
) -> Callable:
    """The function ``value`` of input and parameters, with a slope for each of them.

    All are functions of the same arrays, in float32 or float64.  What is returned takes
    what `with_parameters` returns and keeps it, no array twice.  Higher orders
    differentiate the slopes: they are made of functions that have rules themselves.
    ``name``, ``residual``, ``half_value`` and ``half_slope``, that by the input, are as
    for `elementwise`: slopes may take the output in place of the input.
    """

    @custom_vjp
    def f(x, *parameters):
        wide = widen(x)
        formula = value if wide.dtype == x.dtype else half_value or value
        return narrow(formula(wide, *parameters), x)

    def fwd(*args):
        y = f(*args)
        return y, (y, *args[1:]) if residual == "output" else args

    def bwd(args, g):
        wide = widen(named(args[0], name)), *args[1:]
        by_x, *others = slopes
        if wide[0].dtype != args[0].dtype:
            by_x = half_slope or by_x
        return pull_back(g, args, [slope(*wide) for slope in (by_x, *others)])

    f.defvjp(fwd, bwd)
    return f


def pull_back(g: jax.Array, args: tuple, slopes: list) -> tuple:
    """The cotangents of ``args``, each the product of ``g`` and a slope.

    They are the transpose of the sum of slope times tangent, in which the broadcasts
    become sums: over every axis, mapped or sharded, that a parameter lacks.
    """

    # XLA on CPU computes one number at a time in the loop of a sum: keep slopes out.
    slopes = [slopes[0], *map(lax.optimization_barrier, slopes[1:])]

    def push_forward(*tangents):
        terms = [s * widen(t) for s, t in zip(slopes, tangents, strict=True)]
        return sum(terms[1:], terms[0]).astype(g.dtype)

    cotangents = jax.linear_transpose(push_forward, *args)(g)
    return tuple(narrow(ct, arg) for ct, arg in zip(cotangents, args, strict=True))


def with_parameters(
    name: str,
    x: jax.typing.ArrayLike,
    argument: str = "x",
    /,
    **parameters: jax.typing.ArrayLike,
) -> list[jax.Array]:
    """``x`` promoted with and broadcast to the parameters, and these in wide dtype."""
    arrays = [as_floating(name, x, argument)]
    arrays += [as_floating(name, p, argument=key) for key, p in parameters.items()]
    dtype = jnp.result_type(*arrays)
    x = arrays[0]
    if x.dtype != dtype or not all(a.weak_type for a in arrays):
        x = x.astype(dtype)
    try:
        shape = jnp.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError as e:
        names = argument, *parameters
        shapes = [f"{k} {a.shape}" for k, a in zip(names, arrays, strict=True)]
        raise ValueError(
            f"{name} broadcasts its parameters against {argument} as NumPy does, but "
            f"got shapes {', '.join(shapes)}. Reshape the parameter so that its axes "
            f"line up with the last ones of {argument}."
        ) from e
    wide = widen(x).dtype
    return [jnp.broadcast_to(x, shape), *(a.astype(wide) for a in arrays[1:])]
