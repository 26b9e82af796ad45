"""Measures flax_stable against jax.nn, side by side in one process.

    python benchmarks/run.py [bytes] [time] [--only NAME ...] [--json FILE]

bytes:  what the backward pass keeps for one float32 element.
time:   the time of flax_stable over that of jax.nn, below 1 where it is faster.  Both
        run in turns after a warm-up, each call waited for, and medians are divided.

Errors are measured by `python -m flax_stable verify --against jax.nn`.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import flax_stable as fs

# Functions that jax.nn has under the same name, and forms that an argument chooses.
PEERS: dict[str, tuple[Callable, Callable]] = {
    name: (getattr(fs, name), getattr(jax.nn, name))
    for name in fs.testing.REFERENCES
    if hasattr(jax.nn, name)
}
PEERS["gelu(approximate=False)"] = (
    lambda x: fs.gelu(x, approximate=False),
    lambda x: jax.nn.gelu(x, approximate=False),
)


def kept_bytes(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Bytes that the backward pass of ours and of the peer keeps for an element."""
    x = jnp.ones(1024)
    sizes = [
        sum(residual.nbytes for residual in jax.tree.leaves(jax.vjp(f, x)[1])) / x.size
        for f in PEERS[name]
    ]
    return {"float32": sizes}


def gradient(f: Callable) -> Callable:
    return jax.grad(lambda x: f(x).sum())


def compiled_gradient(f: Callable) -> Callable:
    return jax.jit(gradient(f))


# name: (what is timed, number of elements, calls per sample)
SETTINGS: dict[str, tuple[Callable, int, int]] = {
    "eager call": (lambda f: f, 16, 200),
    "eager grad": (gradient, 16, 20),
    "jit call, 1M": (jax.jit, 2**20, 5),
    "jit grad, 1M": (compiled_gradient, 2**20, 5),
}


def times(name: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Median seconds of ours and of the peer, in each setting."""
    rows = {}
    for setting, (build, size, calls) in SETTINGS.items():
        x = jnp.linspace(-10.0, 10.0, size)
        contenders = [build(f) for f in PEERS[name]]
        samples: list[list[float]] = [[], []]
        for i in range(options.rounds + 1):
            for k in (i % 2, 1 - i % 2):
                start = time.perf_counter()
                for _ in range(calls):
                    jax.block_until_ready(contenders[k](x))
                if i > 0:  # the first round compiles
                    samples[k].append((time.perf_counter() - start) / calls)
        rows[setting] = [statistics.median(s) for s in samples]
    return rows


def both(ours: float, peer: float) -> str:
    return f"{peer:.3g} -> {ours:.3g}"


def ratio(ours: float, peer: float) -> str:
    return f"{ours / peer:.2f}"


# name: (heading, what is measured, how ours and the peer's are shown)
SECTIONS: dict[str, tuple[str, Callable, Callable[[float, float], str]]] = {
    "bytes": ("bytes kept, jax.nn -> ours", kept_bytes, both),
    "time": ("time of ours / time of jax.nn", times, ratio),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="default: all")
    parser.add_argument("--only", nargs="+", choices=PEERS, help="functions to measure")
    parser.add_argument("--rounds", type=int, default=30, help="of timing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="to write")
    options = parser.parse_args(argv)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"expected sections {', '.join(SECTIONS)}, but got {unknown}")

    record: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax")},
    }
    print(", ".join(f"{k} {v}" for k, v in record.items()))
    for section in options.sections or SECTIONS:
        heading, measure, show = SECTIONS[section]
        rows = {name: measure(name, options) for name in options.only or PEERS}
        columns = list(next(iter(rows.values())))
        print(f"\n{heading}\n{'':24}" + "".join(f"{c:>19}" for c in columns))
        for name, row in rows.items():
            cells = (show(*row[c]) for c in columns)
            print(f"{name:24}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
        record[section] = {
            name: {c: {"ours": a, "jax.nn": b} for c, (a, b) in row.items()}
            for name, row in rows.items()
        }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
