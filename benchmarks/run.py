"""Measures flax_stable against its peers, side by side in one process.

    python benchmarks/run.py [SECTION ...] [--only NAME ...] [--peers NAME ...]
                             [--json FILE] ...

bytes:      what the backward pass keeps.
eager:      the time of a call that is not compiled as a whole.
time:       the time of compiled functions, alone and with their gradient.
halves:     the time of forward and backward as two programs, beside one program.
compile:    the time to trace and to compile a model of twelve layers.
networks:   memory, step, tracing and compiling of small networks as people write them.
models:     memory and step time of MLPs and transformers.
bandwidth:  the share of a GPU's copy bandwidth that functions reach.
plots:      draws docs/*.png from what FILE holds, and measures errors for one of them.

Peers: jax.nn; jax.checkpoint of the same; tfp, TensorFlow Probability on JAX; torch
and torch.compile; on a GPU also liger and tokamax.  All but the first two are optional:
what is not installed is skipped with a word.  `pip install --group bench` brings most.

All contenders run in turns after a warm-up, each call waited for; ratios are taken
round by round, and their median is printed, with the quartiles.  Sections that are not
run stay in FILE as they are, where it is of the same machine and versions.

Errors are measured by `python -m flax_stable verify --against jax.nn`.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import bandwidth
import compilation
import halves
import models
import networks
import plots
import single
from contenders import functions

PEERS = ("jax.nn", "jax.checkpoint", "tfp", "torch", "torch.compile")
GPU_PEERS = ("liger", "tokamax")

# name: (what is measured, a row at a time; how a row is printed)
SECTIONS: dict[str, tuple[Callable[..., Iterator[dict]], Callable[[dict], str]]] = {
    "bytes": (single.kept_bytes, single.show_bytes),
    "eager": (single.eager, single.show_eager),
    "time": (single.times, single.show_time),
    "halves": (halves.measure, halves.show),
    "compile": (compilation.measure, compilation.show),
    "models": (models.measure, models.show),
    "networks": (networks.measure, networks.show),
    "bandwidth": (bandwidth.measure, bandwidth.show),
}


def processor() -> str:
    """What computes: the name of the GPU or the CPU, and how many."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    count = len(os.sched_getaffinity(0))
    cores = f"{count} core{'s' * (count > 1)}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return f"{platform.processor()}, {cores}"
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {cores}"


def environment() -> dict[str, str]:
    """The machine and the versions of what runs on it."""
    found = {
        "device": processor(),
        "platform": jax.default_backend(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "flax", "torch", "tfp-nightly", "tokamax"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def geometric_means(rows: list[dict]) -> Iterator[str]:
    """Of the medians of ratios, over the rows that a peer is in."""
    ratios = [row["ratios"]["ours"] for row in rows if "ours" in row.get("ratios", {})]
    for peer in dict.fromkeys(peer for found in ratios for peer in found):
        medians = [found[peer]["median"] for found in ratios if peer in found]
        mean = statistics.geometric_mean(medians)
        yield f"geometric mean of {len(medians)} ratios to {peer}: {mean:.3f}"


def write(path: Path, record: dict[str, Any]) -> None:
    """One row a line: files stay small, and changes legible."""
    parts = []
    for key, value in record.items():
        text = json.dumps(value, indent=1)
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row) for row in value)
            text = f"[\n{rows}\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = functools.partial(parser.add_argument, nargs="+", metavar="NAME")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="default: all")
    several("--only", help="functions to measure")
    several("--models", help="models to measure")
    several("--peers", choices=[*PEERS, *GPU_PEERS], default=[*PEERS, *GPU_PEERS])
    several("--dtypes", default=["float32", "bfloat16"])
    several("--sizes", type=int, default=[2**18, 2**24], help="elements, for time")
    several("--sides", type=int, default=[512, 2048], help="of squares, for halves")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, 2 or more")
    parser.add_argument("--scale", type=int, default=8, help="of models")
    parser.add_argument("--side", type=int, default=8192, help="for bandwidth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to read and write")
    parser.add_argument("--figures", type=Path, default=plots.FOLDER, metavar="FOLDER")
    options = parser.parse_args(argv)
    known = {"sections": [*SECTIONS, "plots"], "only": list(functions())}
    known["models"] = [*{**models.models(options.scale), **networks.NETWORKS}]
    for option, names in known.items():
        if unknown := set(getattr(options, option) or []) - set(names):
            parser.error(f"{option} are {', '.join(names)}, but got {unknown}")
    if options.rounds < 2:
        parser.error(f"--rounds must be 2 or more, but got {options.rounds}")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    record: dict[str, Any] = {"environment": environment()}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
        if kept.get("environment") == record["environment"]:
            record = kept
        else:
            print(f"{options.json} is of another machine or version: starting anew")
    print(", ".join(f"{k} {v}" for k, v in record["environment"].items()))
    for section in options.sections or [*SECTIONS, "plots"]:
        print(f"\n{section}", flush=True)
        if section == "plots":
            plots.draw(record, options.figures)
            continue
        measure, show = SECTIONS[section]
        rows = []
        for row in measure(options):
            print(show(row), flush=True)
            rows.append(row)
        print(*geometric_means(rows), sep="\n")
        record[section] = rows
        if options.json:
            write(options.json, record)
    return 0


if __name__ == "__main__":
    # What is compiled must be compiled here.
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
