"""A function as a rule sees it: from floating elements to floating elements."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The Jacobian is compared element by element at every point.
_LIMIT = 64

# One array for each floating leaf.
Leaves = list[Any]


class Subject(NamedTuple):
    """What is judged.

    Attributes:
      name: what messages call it.
      call: the function of its floating leaves, as a list; what it returns are those
        of the output.  All else is held at the example.
      function: the function itself.
      args: the example.
      inputs: shapes and dtypes of the floating leaves that go in.
      outputs: and of those that come out.
      labels: the name of each element that goes in, such as ``"x"`` or ``"x[0, 2]"``.
      out_labels: and of each one that comes out.
    """

    name: str
    call: Callable[..., Leaves]
    function: Callable
    args: tuple
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    labels: tuple[str, ...]
    out_labels: tuple[str, ...]

    def with_function(self, fn: Callable) -> Callable[..., Leaves]:
        """Another function of the same arguments, called as ``call`` is."""
        leaves, tree = jax.tree.flatten(self.args)
        floating = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]
        return _floating_call(fn, tree, leaves, floating)

    @property
    def grain(self) -> np.dtype:
        """The coarsest floating dtype of all, in whose units errors are counted."""
        dtypes = [np.dtype(leaf.dtype) for leaf in (*self.inputs, *self.outputs)]
        return max(dtypes, key=lambda dtype: float(jnp.finfo(dtype).eps))


def subject(fn: Callable, args: Sequence[Any], limit: int | None = _LIMIT) -> Subject:
    """The function at an example of its arguments, of so many elements at most."""
    if not callable(fn):
        raise TypeError(f"check_rule expects a function to judge, but got {fn!r}.")
    if not isinstance(args, tuple | list):
        raise TypeError(
            "check_rule expects args to be a tuple of example arguments, but got a "
            f"{type(args).__name__}: write (x,) for one argument."
        )
    args = tuple(args)
    name = _name(fn)
    paths, tree = jax.tree_util.tree_flatten_with_path(args)
    leaves, names = [], []
    for path, leaf in paths:
        names.append(_label(fn, path))
        leaves.append(_as_array(names[-1], leaf))
    floating = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]
    call = _floating_call(fn, tree, leaves, floating)
    inputs = tuple(
        jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in floating
    )
    _check_size("args", inputs, name, limit)
    try:
        out = jax.eval_shape(fn, *jax.tree.unflatten(tree, leaves))
    except Exception as e:
        raise ValueError(
            f"check_rule cannot trace {name} at the args given: "
            f"{type(e).__name__}: {first_line(e)}"
        ) from e
    out_paths = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]
        if is_floating(leaf)
    ]
    outputs = tuple(jax.ShapeDtypeStruct(y.shape, y.dtype) for _, y in out_paths)
    _check_size("output", outputs, name, limit)
    return Subject(
        name,
        call,
        fn,
        jax.tree.unflatten(tree, leaves),
        inputs,
        outputs,
        _elements([names[i] for i in floating], inputs),
        _elements(
            ["output" + jax.tree_util.keystr(path) for path, _ in out_paths], outputs
        ),
    )


def is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, np.floating)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def count(types: Sequence[Any]) -> int:
    """The number of elements."""
    return sum(math.prod(leaf.shape) for leaf in types)


def split(row: np.ndarray, types: Sequence[Any]) -> list[np.ndarray]:
    """The leaves whose elements lie along the last axis."""
    sizes = [math.prod(leaf.shape) for leaf in types]
    parts = np.split(row, np.cumsum(sizes)[:-1], axis=-1)
    with np.errstate(over="ignore"):
        return [
            part.reshape((*row.shape[:-1], *leaf.shape)).astype(leaf.dtype)
            for part, leaf in zip(parts, types, strict=True)
        ]


def join(leaves: Sequence[Any], types: Sequence[Any]) -> np.ndarray:
    """The elements of leaves along one last axis, in float64."""
    flat = []
    for leaf, like in zip(leaves, types, strict=True):
        lead = leaf.ndim - len(like.shape)
        array = np.asarray(leaf)
        flat.append(array.reshape(*array.shape[:lead], -1).astype(np.float64))
    return np.concatenate(flat, axis=-1)


def _floating_call(fn: Callable, tree: Any, leaves: list, floating: list[int]):
    def call(*moving: Any) -> Leaves:
        full = list(leaves)
        for i, x in zip(floating, moving, strict=True):
            full[i] = x
        out = fn(*jax.tree.unflatten(tree, full))
        return [y for y in map(jnp.asarray, jax.tree.leaves(out)) if is_floating(y)]

    return call


def _as_array(name: str, leaf: Any) -> Any:
    try:
        # On the host: what is held at the example shall fit any mesh.
        array = np.asarray(leaf)
        if array.dtype.kind not in "OUS":
            array = array.astype(jnp.asarray(leaf).dtype)
    except Exception as e:
        raise TypeError(f"check_rule cannot read {name}: {first_line(e)}") from e
    if array.dtype.kind in "OUS":
        raise TypeError(
            f"check_rule expects arrays and numbers in args, but {name} is {leaf!r}: "
            "close over what is neither, as in functools.partial."
        )
    if jnp.issubdtype(array.dtype, np.complexfloating):
        raise TypeError(
            f"check_rule judges real functions, but {name} is complex: let the "
            "function take the real and the imaginary part."
        )
    return array


def _check_size(what: str, types: Sequence[Any], name: str, limit: int | None) -> None:
    size = count(types)
    if not size:
        raise ValueError(
            f"check_rule found no floating elements in the {what} of {name}: there is "
            "nothing to differentiate."
        )
    if limit is not None and size > limit:
        raise ValueError(
            f"check_rule compares each element of the Jacobian, but the {what} of "
            f"{name} has {size} floating elements: give smaller arrays, of at most "
            f"{limit} in all. Other shapes are tried as well."
        )


def _name(fn: Callable) -> str:
    while hasattr(fn, "func"):
        fn = fn.func
    return getattr(fn, "__name__", None) or repr(fn)


def _label(fn: Callable, path: tuple) -> str:
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    i = path[0].idx
    positional = i < len(parameters) and parameters[i].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    base = parameters[i].name if positional else f"args[{i}]"
    return base + jax.tree_util.keystr(path[1:])


def _elements(names: list[str], types: Sequence[Any]) -> tuple[str, ...]:
    return tuple(
        name + (f"[{', '.join(map(str, index))}]" if index else "")
        for name, leaf in zip(names, types, strict=True)
        for index in np.ndindex(*leaf.shape)
    )
