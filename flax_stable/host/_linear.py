"""The derivative of a host function: a linear map that JAX cannot look into."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._custom_vjp import opaque
from ._callback import (
    Host,
    call,
    check_structure,
    checked,
    is_float,
    laid_out,
    of_floats,
    run,
    struct,
)


def differential(
    host: Host, point: tuple[tuple, Any], vectors: list, transposed: bool = False
) -> list:
    """The Jacobian or its transpose times vectors, lists of the floating leaves.

    The point is where it is taken: the arguments and the output.
    """
    flat, tree = jax.tree.flatten(point)
    n = len(flat)
    args_types, out_types = jax.tree.map(struct, point)

    def jvp(batch, args, out, tangents):
        what = f"jvp of host function {host.name}"
        tangents = _with_none(tangents, args_types)
        found = run(what, host.jvp, args, out, tangents)
        return moves(what, found, out_types, batch, "as the output is")

    def vjp(batch, args, out, g):
        what = f"vjp of host function {host.name}"
        found = run(what, host.vjp, args, out, _with_none(g, out_types))
        if not isinstance(found, (tuple, list)) or len(found) != len(args):
            length = f" of length {len(found)}" if isinstance(found, tuple) else ""
            raise TypeError(
                f"{what} must return a tuple of {len(args)} cotangents, one for each "
                f"argument, but it returned a {type(found).__name__}{length}."
            )
        leaves = []
        for i, (ct, types) in enumerate(zip(found, args_types, strict=True)):
            leaves += moves(what, ct, types, batch, f"as argument {i} is")
        return leaves

    given: Any
    given, rule, other = (host.vjp, vjp, jvp) if transposed else (host.jvp, jvp, vjp)
    types = args_types if transposed else out_types
    results = of_floats(types, types)

    def evaluate(batch, *arrays):
        args, out = jax.tree.unflatten(tree, arrays[:n])
        vectors = list(arrays[n:])
        if given is not None:
            return rule(batch, args, out, vectors)
        by_other = functools.partial(other, batch, args, out)
        return _transposed(by_other, host.name, results, batch, vectors)

    found = call(evaluate, results, host.vmap_method, [*flat, *vectors])
    if not transposed:
        return found
    args = of_floats(point[0], point[0])
    return [laid_out(*pair) for pair in zip(found, args, strict=True)]


def operator(
    host: Host, value: Callable, adjoint: Callable, args: tuple, like: Any
) -> Any:
    """``value(*args)``, whose transpose calls ``adjoint``; ``like`` has its types."""
    x, tree = jax.tree.flatten(args)
    like, result_tree = jax.tree.flatten(like)
    if not all(map(is_float, [*x, *like])):
        raise TypeError(
            f"host_function got an adjoint of {host.name}, which makes it linear, but "
            f"it takes {_dtypes(x)} and returns {_dtypes(like)}. Fix arguments of "
            "other dtypes by functools.partial, or give a vjp."
        )
    types = tuple(jax.tree.map(struct, args))

    def pull_back(g):
        def evaluate(batch, *arrays):
            # The transpose is the adjoint without its conjugate.
            g = jax.tree.unflatten(result_tree, map(np.conj, arrays))
            what = f"adjoint of host function {host.name}"
            found = run(what, adjoint, g)
            found = (found,) if len(types) == 1 else found
            leaves = moves(what, found, types, batch, "as the arguments are")
            return [np.conj(leaf) for leaf in leaves]

        found = call(evaluate, [*map(struct, x)], host.vmap_method, g)
        return [laid_out(*pair) for pair in zip(found, x, strict=True)]

    def push_forward(x):
        return jax.tree.leaves(value(*jax.tree.unflatten(tree, x)))

    zeros = [jnp.zeros(y.shape, y.dtype) for y in like]
    return jax.tree.unflatten(result_tree, opaque(push_forward, pull_back, x, zeros))


def _dtypes(arrays: list) -> str:
    return ", ".join(sorted({str(x.dtype) for x in arrays})) or "nothing"


def _with_none(floats: list, types: Any) -> Any:
    """A tree of the floating leaves, with None in place of the others."""
    leaves = iter(floats)
    return jax.tree.map(lambda t: next(leaves) if is_float(t) else None, types)


def moves(what: str, found: Any, types: Any, batch: tuple, because: str) -> list:
    """The floating leaves of a tangent or cotangent, checked; None stands for zeros."""
    if found is None:
        found = jax.tree.map(lambda _: None, types)
    leaves, tree = jax.tree.flatten(found, is_leaf=lambda x: x is None)
    check_structure(what, tree, jax.tree.structure(types), because)
    return [
        np.zeros((*batch, *t.shape), t.dtype)
        if y is None
        else checked(what, y, t, batch, because)
        for y, t in zip(leaves, jax.tree.leaves(types), strict=True)
        if is_float(t)
    ]


def _transposed(
    linear: Callable, name: str, types: list, batch: tuple, vectors: list
) -> list:
    """The transpose of ``linear``, which takes ``types``, times vectors of its results.

    It evaluates ``linear`` at every unit vector, and at one more to see that it is.
    """
    weights = np.random.default_rng(0)
    found = [np.zeros((*batch, *t.shape), t.dtype) for t in types]
    probe = [np.zeros_like(x) for x in found]
    total: Any = 0
    scale: Any = 0
    for k, t in enumerate(types):
        for index in np.ndindex(t.shape):
            unit = [np.zeros_like(x) for x in found]
            unit[k][(..., *index)] = 1
            image = [_wide(y) for y in linear(unit)]
            found[k][(..., *index)] = sum(
                np.sum(_wide(v) * y, tuple(range(len(batch), y.ndim)))
                for v, y in zip(vectors, image, strict=True)
            )
            weight = weights.uniform(-1, 1) * 1000
            probe[k][(..., *index)] = weight
            flat = np.concatenate([y.ravel() for y in image])
            total, scale = total + weight * flat, scale + abs(weight * flat)
    if found and any(x.size for x in found):
        sums = np.concatenate([_wide(y).ravel() for y in linear(probe)])
        tolerance = max(float(jnp.finfo(t.dtype).eps) for t in types) ** 0.5
        if np.any(abs(sums - total) > tolerance * scale):
            raise TypeError(
                f"vjp or jvp of host function {name} is not linear in what it "
                "multiplies, so the other mode cannot be had from it. Give both, or "
                "forward_mode=False with a vjp that is meant to be so."
            )
    return found


def _wide(x: np.ndarray) -> np.ndarray:
    return x if np.iscomplexobj(x) else x.astype(np.float64)
