"""Layouts of parameters and batches on a mesh, and whether they fit."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._placement import is_spec, names_of


class Placement(NamedTuple):
    """A way to lay a training step out over devices, for `assert_same_gradients`.

    Attributes:
      name: what the report calls it.
      mesh: the mesh; it is the current one (`jax.set_mesh`) while the loss is traced.
      params: a `jax.sharding.PartitionSpec`, or a prefix pytree of them, that says how
        the parameters lie on the mesh.
      batch: the same for the batch.

    Example:
      >>> import jax, flax_stable as fs
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1])
      >>> placement = fs.testing.Placement(
      ...   "data x tensor", mesh, params={"kernel": P(None, "model")}, batch=P("data"))
      >>> placement.name, placement.batch
      ('data x tensor', P('data',))
    """

    name: str
    mesh: Mesh
    params: Any = PartitionSpec()
    batch: Any = PartitionSpec()


def shardings(mesh: Mesh, specs: Any) -> Any:
    """The specs of a prefix pytree, each on the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


def assert_fits(placements: Sequence[Placement], params: Any, batch: Any) -> None:
    """Asserts that the specs of all placements can be, before anything is compiled."""
    failures = []
    for name, mesh, of_params, of_batch in placements:
        axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        for failure in (
            *_misfits("params", of_params, params, mesh),
            *_misfits("batch", of_batch, batch, mesh),
        ):
            failures.append(f"under {name!r}, whose mesh has {axes}, {failure}")
    if failures:
        raise ValueError("\n".join(failures))


def _misfits(kind: str, specs: Any, tree: Any, mesh: Mesh) -> Iterator[str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    given = jax.tree_util.tree_flatten_with_path(specs, is_leaf=is_spec)[0]
    try:
        # Broadcasting is where JAX compares the two.
        found = jax.tree.map(
            lambda spec, below: [spec] * len(jax.tree.leaves(below)),
            specs,
            tree,
            is_leaf=is_spec,
        )
    except (ValueError, TypeError) as e:
        yield f"the specs of {kind} are no prefix of its pytree: " + (
            _apart([path for path, _ in given], [path for path, _ in leaves]) or str(e)
        )
        return
    flat = jax.tree.leaves(found, is_leaf=is_spec)
    for (path, leaf), spec in zip(leaves, flat, strict=True):
        problem = _problem(np.shape(leaf), spec, mesh)
        if problem:
            where = f"{kind} {_name(path)}".rstrip()
            yield f"{where} of shape {np.shape(leaf)} has the spec {spec}, {problem}"


def _problem(shape: tuple[int, ...], spec: Any, mesh: Mesh) -> str | None:
    """Why an array of this shape cannot lie on a mesh in this way."""
    if not is_spec(spec):
        return "which is no PartitionSpec. Take PartitionSpec() for a whole array."
    axes = [axis for entry in spec for axis in names_of(entry)]
    unknown = [axis for axis in axes if axis not in mesh.shape]
    if unknown:
        return (
            f"but the mesh has no axis {', '.join(map(repr, unknown))}. Name its own "
            "axes, or give the mesh this one, of size 1 if it is to split nothing."
        )
    twice = sorted({axis for axis in axes if axes.count(axis) > 1})
    if twice:
        return (
            f"which names {', '.join(map(repr, twice))} twice. An axis of the mesh "
            "splits one dimension of an array at most."
        )
    if len(spec) > len(shape):
        return (
            f"which has {len(spec)} entries. A spec has at most one for each dimension."
        )
    for i, entry in enumerate(spec):
        parts = math.prod(mesh.shape[axis] for axis in names_of(entry))
        if shape[i] % parts:
            return (
                f"but {shape[i]}, its size along dimension {i}, does not divide into "
                f"{parts} equal parts. Take sizes that do, a smaller mesh, or None "
                "there, which leaves the dimension whole."
            )
    return None


def _apart(given: list[tuple], leaves: list[tuple]) -> str:
    """Where the paths of specs and those of leaves part."""

    def serves(path: tuple, leaf: tuple) -> bool:
        return leaf[: len(path)] == path

    extra = [path for path in given if not any(serves(path, leaf) for leaf in leaves)]
    bare = [leaf for leaf in leaves if not any(serves(path, leaf) for path in given)]
    parts = []
    if extra:
        parts.append(f"they have {', '.join(map(_name, extra))}, which it has not")
    if bare:
        parts.append(f"it has {', '.join(map(_name, bare))}, which no spec is for")
    if not parts:
        return ""
    return "; ".join(parts) + ". One PartitionSpec serves all that is below it."


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
