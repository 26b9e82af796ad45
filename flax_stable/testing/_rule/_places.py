"""The gradient of a rule on meshes."""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ._derivatives import compiled, weights
from ._subject import Leaves, Subject, join, split

PLACES = ("Auto mesh", "shard_map", "Explicit mesh")


def on_meshes(
    subject: Subject, table: np.ndarray, wanted: Collection[str]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Exception]]:
    """The gradients of some rows of a table, split over all devices.

    Returns the places of the rows, the gradients that could be had and what those
    raised that could not.
    """
    devices = jax.devices()
    count = len(devices) * -(-8 // len(devices))
    rows = np.resize(np.arange(len(table)), count)
    u = np.tile(weights(len(subject.out_labels), 1), (count, 1))
    arrays = split(table[rows], subject.inputs), split(u, subject.outputs)
    failures: dict[str, Exception] = {}

    def gradients(x: Leaves, g: Leaves) -> Leaves:
        return jax.vmap(lambda x, g: list(jax.vjp(subject.call, *x)[1](g)))(x, g)

    def attempt(axis_type: AxisType, names: list[str]) -> dict[str, Any]:
        mesh = jax.make_mesh((len(devices),), ("rows",), (axis_type,))
        spec = PartitionSpec("rows")
        ways = {
            "Auto mesh": gradients,
            "Explicit mesh": gradients,
            "shard_map": jax.shard_map(
                gradients, mesh=mesh, in_specs=spec, out_specs=spec
            ),
        }

        def program(x: Leaves, g: Leaves) -> dict[str, Leaves]:
            found = {}
            for name in names:
                try:
                    found[name] = ways[name](x, g)
                except Exception as e:
                    failures[name] = e
            return found

        with jax.set_mesh(mesh):
            placed = jax.device_put(arrays, NamedSharding(mesh, spec))
            try:
                return compiled(program)(*placed)
            except Exception as e:
                failures.update(dict.fromkeys(names, e))
                return {}

    found: dict[str, Any] = {}
    for axis_type, names in (
        (AxisType.Auto, PLACES[:2]),
        (AxisType.Explicit, PLACES[2:]),
    ):
        if asked := [name for name in names if name in wanted]:
            found |= attempt(axis_type, asked)
    gathered = {
        name: join([np.asarray(leaf) for leaf in leaves], subject.inputs)
        for name, leaves in found.items()
    }
    return rows, gathered, failures
