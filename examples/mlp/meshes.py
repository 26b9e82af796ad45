"""Meshes, what is laid out on them, and the table that compares them."""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from mlp.data import PIXELS
from mlp.model import HIDDEN, specs_of

AXES = ("data", "fsdp", "model")
BATCH_SPEC = P(("data", "fsdp"))
LIMITS = {"float32": 1e-5, "bfloat16": 2**-5}  # of gradients on one mesh and another


def make_mesh(shape, axis_type):
    """A mesh to which all processes give as many devices, or of one local device."""
    sizes = [shape.get(axis, 1) for axis in AXES]
    share = math.prod(sizes) // jax.process_count()
    devices = [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process)[:share]
    ] or jax.local_devices()[:1]
    return jax.make_mesh(sizes, AXES, (axis_type,) * len(AXES), devices=devices)


def place(tree, specs, mesh):
    """Puts parameters on a mesh; each process has them all, and hands in its parts."""

    def put(x, spec):
        # Training donates what it is given, which must not be the caller's own array.
        host, sharding = np.asarray(x), NamedSharding(mesh, spec)
        return jax.make_array_from_callback(
            host.shape, sharding, lambda index: np.array(host[index])
        )

    return jax.tree.map(put, tree, specs)


def feed(data, rows, mesh):
    """A batch on a mesh, of which each process reads its own part."""
    sharding = NamedSharding(mesh, BATCH_SPEC)
    parts: Any = sharding.addressable_devices_indices_map(rows.shape).values()
    bounds = [part.indices(len(rows)) for (part,) in parts]
    mine = rows[min(b[0] for b in bounds) : max(b[1] for b in bounds)]
    return tuple(
        jax.make_array_from_process_local_data(
            sharding, part[mine], (len(rows), *part.shape[1:])
        )
        for part in data
    )


def fetch(tree):
    """Arrays, whole, in the memory of every process."""

    def whole(x):
        if getattr(x, "is_fully_addressable", True):
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(whole, tree)


def misfit(shape, options):
    """Why a mesh of this shape cannot train this model, or None if it can."""
    data, fsdp, model = (shape.get(axis, 1) for axis in AXES)
    size, processes = data * fsdp * model, jax.process_count()
    if size > len(jax.devices()):
        return f"needs {size} devices, but there are {available()}"
    if size % processes:
        return f"gives {size} devices to {processes} processes, which is not even"
    if options.batch_size % (data * fsdp):
        return (
            f"splits the batch in {data * fsdp}, which does not divide "
            f"{options.batch_size}"
        )
    if PIXELS % fsdp or HIDDEN % (fsdp * model):
        return f"splits layers of {PIXELS} and {HIDDEN} features into unequal parts"
    if options.reproducible and options.groups % size:
        return f"has {size} devices, which do not divide --groups {options.groups}"
    return None


def available():
    devices, processes = jax.devices(), jax.process_count()
    text = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
    return text + f" of {processes} processes" * (processes > 1)


def compare_meshes(loss, params, batch, options):
    """The gradient of one batch on every kind of mesh that fits the devices."""
    n = len(jax.devices())
    shapes = {
        "one device": {},
        "data parallel": {"data": n},
        "tensor parallel": {"model": n},
        "fully sharded": {"fsdp": n},
        "data x tensor": {"data": n // 2, "model": 2},
    }
    if options.mesh not in shapes.values():
        shapes["as trained"] = options.mesh
    placements = []
    for name, shape in shapes.items():
        fits = min(shape.values(), default=2) > 1 and not misfit(shape, options)
        # Each process computes the reference on a device of its own.
        if fits or not shape:
            mesh = make_mesh(shape, options.axis_type)
            placements.append(
                fs.testing.Placement(name, mesh, specs_of(params), BATCH_SPEC)
            )
    limit = 0.0 if options.reproducible else LIMITS[options.dtype]
    # Only the order of sums is to differ, not the bits an accelerator rounds off.
    with jax.default_matmul_precision("highest"):
        return fs.testing.assert_same_gradients(
            loss, params, batch, placements, max_relative=limit
        )
