"""From JAX to the host and back: the call, its checks, where results live."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Host(NamedTuple):
    """What runs outside JAX, and how vmap calls it."""

    name: str
    fn: Callable
    vjp: Callable | None
    jvp: Callable | None
    vmap_method: str

    def no_derivative(self, of: str = "") -> str:
        return (
            f"The host function {self.name} has no derivative{of}. Give host_function "
            "one by derivative, adjoint, vjp or jvp, or use jax.lax.stop_gradient."
        )

    def no_second(self) -> str:
        return (
            f"The host function {self.name} has no second derivative: its vjp and jvp "
            "run outside JAX. Give the adjoint of a linear function, the derivative of "
            "an elementwise one, or write a flax_stable.custom_vjp that calls other "
            "host functions."
        )


def call(
    evaluate: Callable, types: list, vmap_method: str, operands: list
) -> list[jax.Array]:
    """What ``evaluate`` returns, outside JAX, for arrays: a list of the given types.

    It takes the shape of the axes that vmap put before those of the operands, and the
    operands as NumPy arrays.
    """
    ranks = [x.ndim for x in operands[:1]]

    def on_host(*arrays):
        host_arrays = [np.asarray(x) for x in arrays]
        batch: tuple = ()
        if ranks:
            batch = host_arrays[0].shape[: host_arrays[0].ndim - ranks[0]]
        return evaluate(batch, *host_arrays)

    found = jax.pure_callback(on_host, types, *operands, vmap_method=vmap_method)
    # Without the barrier what comes back lives on one device of a mesh, and is refused
    # beside arrays that live on all.
    return varying_alike(lax.optimization_barrier(found), operands)


def run(what: str, f: Any, *args: Any) -> Any:
    """``f`` of the arguments; what it raises says where."""
    try:
        return f(*args)
    except Exception as e:
        # XLA passes on the text, and neither type nor notes.
        raise RuntimeError(f"{what} raised {type(e).__name__}: {e}") from e


def checked(what: str, y: Any, expected: Any, batch: tuple, because: str) -> np.ndarray:
    """``y`` as an array, if it has the shape and dtype that are expected."""
    # Numbers of Python have no dtype of their own.
    y = np.asarray(y, expected.dtype if type(y) in (bool, int, float) else None)
    shape = (*batch, *expected.shape)
    if y.shape == shape and y.dtype == expected.dtype:
        return y
    if y.shape == shape:
        way_out = "Cast it with astype."
    elif batch:
        way_out = (
            f"By vmap_method='vectorized' the axes {batch} before its own are those of "
            "jax.vmap; 'sequential' calls the function for one element at a time."
        )
    else:
        way_out = "Reshape it."
    raise ValueError(
        f"{what} must return {_show(shape, expected.dtype)}, {because}, but it "
        f"returned {_show(y.shape, y.dtype)}. {way_out}"
    )


def check_structure(what: str, found: Any, expected: Any, because: str) -> None:
    if found != expected:
        raise TypeError(
            f"{what} must return the structure {expected}, {because}, but it returned "
            f"{found}."
        )


def _show(shape: tuple, dtype: Any) -> str:
    return f"{np.dtype(dtype).name}[{','.join(map(str, shape))}]"


def struct(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, np.inexact)


def of_floats(tree: Any, like: Any) -> list:
    """The leaves of a tree that are floating in a tree of the same structure."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return [x for x, y in pairs if is_float(y)]


def fixed(tree: Any, message: str) -> Any:
    """The tree, which is not to be differentiated: that raises an error."""

    @jax.custom_jvp
    def same(x):
        return x

    @same.defjvp
    def jvp(primals, tangents):
        raise TypeError(message)

    return jax.tree.map(same, tree)


def laid_out(y: jax.Array, like: jax.Array) -> jax.Array:
    """``y`` with the sharding of an array of its shape, where types tell it."""
    sharding = jax.typeof(like).sharding
    return (
        y if jax.typeof(y).sharding == sharding else jax.sharding.reshard(y, sharding)
    )


def varying_alike(tree: Any, operands: list | None = None) -> Any:
    """A tree whose arrays all vary over the axes of a `jax.shard_map` that one does.

    Where that is done to arguments, JAX sums the cotangents over these axes.
    """
    operands = jax.tree.leaves(tree) if operands is None else operands
    axes = frozenset[str]().union(*map(_axes, operands))

    def vary(x):
        missing = tuple(sorted(axes - _axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def _axes(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
