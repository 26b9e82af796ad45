"""What XLA makes of each function for an H200 and a TPU v5e, compiled without either.

    python benchmarks/compiled.py h200 [--only NAME ...] [--json FILE]
    python benchmarks/compiled.py v5e [--only NAME ...] [--json FILE]

JAX compiles ahead of time for hardware that is described and not there.  Nothing runs.
What is read off are kernels, instructions and bytes for an element, and from them an
ESTIMATE of the time: for each kernel the longer of moving its bytes and issuing its
instructions.  It knows no latency, occupancy or launches, so that of a kernel bound by
arithmetic is a lower bound.  The programs are those of the section `halves` of
`benchmarks/run.py`.  Of models the temporaries are kept, which are no estimate.

Each device takes an environment of its own, as JAX loads every plugin it finds:

    pip install -e . --group compiled-h200     # and a ptxas of CUDA 13 on PATH
    pip install -e . --group compiled-v5e

Where there is no ptxas, `pip install --target DIR nvidia-cuda-nvcc` brings one; not
into the environment, where XLA would take it in place of the one that keeps copies.
"""

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

import models
import run
from contenders import TRAINED, functions, inputs
from halves import PROGRAMS, new_residuals, programs
from targets import byte_share, estimate

SHAPE = (16384, 4096)
# Of the MLPs: large enough that a layer's arrays do not all fit on a TPU's chip.
BATCH, WIDTH = 16384, 512
ACTIVATIONS = ("gelu", "silu", "softplus", "tanh", "swiglu")
# Which module reads off what its compiler made, and what the device is called.
DEVICES = {
    "h200": ("compiled_gpu", "NVIDIA H200, described to the compiler"),
    "v5e": ("compiled_tpu", "TPU v5e, described to the compiler"),
}


def measure(device: Any, options: argparse.Namespace) -> Iterator[dict]:
    """What the compiler made of ours and of jax.nn's, program by program."""
    for name, function in functions().items():
        if name not in TRAINED or name not in (options.only or [name]):
            continue
        for dtype in options.dtypes:
            small = inputs(function, (8, 128), dtype)
            types = [jax.ShapeDtypeStruct(SHAPE, dtype)] * function.arity
            contenders = {"ours": function.ours, "jax.nn": function.peers["jax.nn"]}
            made = {
                peer: programs(f, types, new_residuals(f, small), jax.eval_shape)
                for peer, f in contenders.items()
            }
            for what in PROGRAMS:
                found = {peer: device.read_off(*made[peer][what]) for peer in made}
                row: dict[str, Any] = {"function": name, "what": what, "dtype": dtype}
                for key in found["ours"]:
                    row[key] = {peer: counts[key] for peer, counts in found.items()}
                yield row


def temporaries(device: Any, options: argparse.Namespace) -> Iterator[dict]:
    """Bytes of temporaries in the gradient of MLPs of eight layers."""
    for activation in ACTIVATIONS:
        if activation not in (options.only or [activation]):
            continue
        model = models.mlp(activation, BATCH, WIDTH)
        for dtype in options.dtypes:
            layers = models.parameter_types(model, dtype)
            x = jax.ShapeDtypeStruct(model.x, dtype)
            for form in ("scanned", "unrolled"):
                scanned = form == "scanned"
                params = jax.eval_shape(models.stacked, layers) if scanned else layers
                found = {}
                for variant in ("jax.nn", "ours"):
                    block = models.blocks(activation)[variant]
                    step = models.gradient(model, block, scanned)
                    found[variant] = models.temporaries(device.compile(step, params, x))
                yield {
                    "model": f"mlp, {activation}",
                    "dtype": dtype,
                    "form": form,
                    "bytes": found,
                }


def show(row: dict) -> str:
    head = f"{row['function']:24} {row['what']:19} {row['dtype']:9}"
    counts = "  ".join(
        f"{key} {found['jax.nn']:g} -> {found['ours']:g}"
        for key, found in row.items()
        if isinstance(found, dict)
    )
    return f"{head} {counts}  ours / jax.nn: {estimate(row):.2f}"


def show_temporaries(row: dict) -> str:
    shares = "  ".join(f"{own} {byte_share(row, own):.2f}" for own in row["bytes"])
    return f"{row['model']:24} {row['form']:19} {row['dtype']:9} {shares}"


SECTIONS: dict[str, tuple[Callable, Callable]] = {
    "estimates": (measure, show),
    "temporaries": (temporaries, show_temporaries),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("device", choices=DEVICES)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=TRAINED)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="to read and write")
    options = parser.parse_args(argv)
    module, name = DEVICES[options.device]
    jax.config.update("jax_platforms", "cpu")  # before a plugin looks for its device
    device = importlib.import_module(module).device()
    if device is None:
        return 0
    environment = {**run.environment(), "device": name, "platform": options.device}
    record: dict[str, Any] = {"environment": environment}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
        record = kept if kept["environment"] == environment else record
    for section in options.sections:
        of, shown = SECTIONS[section]
        record[section] = []
        for row in of(device, options):
            print(shown(row), flush=True)
            record[section].append(row)
        if options.json:
            run.write(options.json, record)
    if found := [estimate(row) for row in record.get("estimates", ())]:
        mean, even = statistics.geometric_mean(found), sum(r <= 1 for r in found)
        print(f"estimate over jax.nn's: mean {mean:.2f}; {even} of {len(found)} even")
    return 0


if __name__ == "__main__":
    sys.exit(main())
