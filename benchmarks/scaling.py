"""What a step keeps and moves on each of 1 to 4096 devices, without any device.

    pip install -e ".[tpu]" matplotlib    # Linux; no TPU is needed
    python benchmarks/scaling.py          # compiles, then writes the page: 10 minutes
    python benchmarks/scaling.py --page   # writes the page from what was compiled
    python benchmarks/scaling.py --check  # whether the page is what that gives

XLA compiles the gradients of two models for slices of TPU v5p, which JAX describes as
`jax.experimental.topologies`: whole programs, for every device count, none run.  What
they keep is their own memory analysis, what they move is read off their collectives
(`flax_stable.testing.collectives`).  Numbers go to benchmarks/results/scaling-*.json,
from there to docs/scaling.md and docs/scaling.png.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from models import Model, blocks, dense_layer
from run import write
from scaling_page import draw, page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling-tpu-v5p-jax-0.12.0.1.json"
PAGE = ROOT / "docs" / "scaling.md"
FORMS = ("jax.nn", "ours", "ours, fused")
AXES = ("data", "fsdp", "tensor")
SLICES = {1: "2x2x1", 8: "2x2x2", 64: "4x4x4", 512: "8x8x8", 4096: "16x16x16"}

# No TPU is to be looked for, in the machine or around it.
NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Study(NamedTuple):
    """A model and the meshes that it is compiled for.

    Attributes:
      title: what the page calls it.
      model: its x is what *one* device takes: a step takes that many times the devices.
      dtype: that of parameters and of the stream.
      meshes: the sizes of data, fsdp and tensor.
    """

    title: str
    model: Model
    dtype: str
    meshes: tuple[tuple[int, int, int], ...]


def added(block: Callable, x: jax.Array, kernels: dict) -> jax.Array:
    return x + dense_layer(block, x, kernels)


def gated(width: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {"up": (width, inner), "gate": (width, inner), "down": (inner, width)}


STUDIES = {
    "mlp": Study(
        "MLP: 8 layers of 4096 x 4096, gelu, float32, 8192 rows a device",
        Model(dense_layer, "gelu", 8, (8192, 4096), {"down": (4096, 4096)}),
        "float32",
        tuple((n, 1, 1) for n in SLICES),
    ),
    "llama": Study(
        "Feed-forward of Llama 2 7B: 32 layers of 4096 -> 11008 -> 4096, swiglu, "
        "bfloat16, 8192 tokens a device",
        Model(added, "swiglu", 32, (8192, 4096), gated(4096, 11008)),
        "bfloat16",
        (
            (1, 1, 1),
            (8, 1, 1),
            (1, 8, 1),
            (1, 1, 8),
            (2, 2, 2),
            (1, 16, 4),
            (8, 16, 4),
            (64, 16, 4),
        ),
    ),
}

# Functions of rows, of ours and of `jax.nn`; those that make one number are kept apart
# from the row by a difference.
ROWS = {
    "softmax": (fs.softmax, jax.nn.softmax),
    "log_softmax": (fs.log_softmax, jax.nn.log_softmax),
    "logsumexp": (
        lambda x: fs.logsumexp(x, -1, keepdims=True),
        lambda x: jax.nn.logsumexp(x, -1, keepdims=True),
    ),
    "standardize": (fs.standardize, jax.nn.standardize),
}


def loss_of(model: Model, block: Callable) -> Callable:
    def loss(params, x):
        def layer(x, kernels):
            return model.layer(block, x, kernels), None

        x, _ = jax.lax.scan(layer, x, params)
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    return loss


def arguments(study: Study, mesh: Mesh) -> tuple[dict, jax.ShapeDtypeStruct]:
    """Parameters and input of a step, as shapes: split wide along tensor, else fsdp."""

    def array(shape: Sequence[int], *spec: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(shape, study.dtype, sharding=sharding)

    layers, kernels = study.model.layers, study.model.kernels
    rows, width = study.model.x
    specs = {name: (None, "fsdp", "tensor") for name in kernels}
    specs["down"] = (None, "tensor", "fsdp")
    params = {k: array((layers, *kernels[k]), *specs[k]) for k in kernels}
    return params, array((rows * mesh.size, width), ("data", "fsdp"))


def residuals(loss: Callable, params: dict, x: jax.ShapeDtypeStruct, mesh: Mesh) -> int:
    """Bytes of what a device keeps for the backward pass, parameters aside."""
    leaves = jax.tree.leaves(
        jax.eval_shape(jax.jit(lambda p, x: jax.vjp(loss, p, x)[1]), params, x)
    )
    inner = {shape.shape[1] for name, shape in params.items() if name == "down"}
    total = 0
    for leaf in leaves:
        if leaf.shape[-2:-1] == x.shape[:1]:
            # What the wide layer holds is split along tensor too.
            parts = mesh.shape["data"] * mesh.shape["fsdp"]
            parts *= mesh.shape["tensor"] if leaf.shape[-1] in inner else 1
            total += leaf.size * leaf.dtype.itemsize // parts
    return total


def measure(study: Study, form: str, mesh: Mesh) -> dict[str, Any]:
    """What the compiled gradient keeps and moves on a device of the mesh."""
    loss = loss_of(study.model, blocks(study.model.activation)[form])
    params, x = arguments(study, mesh)
    where = jax.tree.map(lambda p: p.sharding, params)
    step = jax.jit(jax.grad(loss), out_shardings=where).lower(params, x).compile()
    memory = step.memory_analysis()
    return {
        "form": form,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "residuals": residuals(loss, params, x, mesh),
        "moved": moved(step),
    }


def measure_rows(function: Callable, mesh: Mesh) -> dict[str, Any]:
    """What value and gradient move if tensor splits the axis that they reduce."""

    def loss(x):
        return jnp.sum(jnp.square(x - function(x)))

    sharding = NamedSharding(mesh, P(None, "tensor"))
    x = jax.ShapeDtypeStruct((1024, 4096), jnp.float32, sharding=sharding)
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, sharding))
    return moved(step.lower(x).compile())


def moved(step: jax.stages.Compiled) -> dict[str, dict[str, int]]:
    return {k: t._asdict() for k, t in fs.testing.collectives(step).items()}


def tpu_mesh(shape: tuple[int, ...]) -> Mesh:
    """A mesh of TPUs that are described, not there."""
    n = math.prod(shape)
    slice_ = topologies.get_topology_desc(f"v5p:{SLICES[n]}", platform="tpu")
    devices = np.array(slice_.devices[:n]).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def compile_all(record: dict[str, Any]) -> None:
    """Adds what is missing, and keeps it at once: this may be broken off."""
    done = {
        (row["study"], *row["mesh"].values(), row["form"]) for row in record["rows"]
    }
    for name, study in STUDIES.items():
        for shape in study.meshes:
            for form in FORMS:
                if (name, *shape, form) not in done:
                    row = {"study": name, **measure(study, form, tpu_mesh(shape))}
                    print(json.dumps(row), flush=True)
                    record["rows"].append(row)
                    write(RESULTS, record)
    done = {row["function"] for row in record["split rows"]}
    for name, functions in ROWS.items():
        if name not in done:
            ours, peer = (measure_rows(f, tpu_mesh((1, 1, 8))) for f in functions)
            row = {"function": name, "ours": ours, "jax.nn": peer}
            print(json.dumps(row), flush=True)
            record["split rows"].append(row)
            write(RESULTS, record)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="compile nothing")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(argv)
    if not options.page and not options.check:
        jax.config.update("jax_platforms", "cpu")
        os.environ.update(NO_TPU)
        packages = ("jax", "jaxlib", "libtpu", "flax")
        record = {"environment": {p: version(p) for p in packages}}
        record |= {"rows": [], "split rows": []}
        if RESULTS.exists():
            kept = json.loads(RESULTS.read_text())
            if kept["environment"] == record["environment"]:
                record = kept
        compile_all(record)
    record = json.loads(RESULTS.read_text())
    text = page(record, {name: study.title for name, study in STUDIES.items()})
    if options.check:
        stale = not PAGE.exists() or PAGE.read_text() != text
        print(f"{PAGE.name} is {'stale' if stale else 'up to date'}")
        return int(stale)
    PAGE.write_text(text)
    draw(record, PAGE.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
