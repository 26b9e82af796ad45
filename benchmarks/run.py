"""Times flax_stable against jax.nn, side by side in one process.

    python benchmarks/run.py [--only NAME ...] [--rounds N] [--json FILE]

What counts is the ratio: both functions run in turns, after a warm-up, each call waited
for, and the medians are divided.  Below 1 flax_stable is faster.
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

import jax
import jax.numpy as jnp

import flax_stable as fs

PEERS = {
    "sigmoid": (fs.sigmoid, jax.nn.sigmoid),
    "log_sigmoid": (fs.log_sigmoid, jax.nn.log_sigmoid),
    "softplus": (fs.softplus, jax.nn.softplus),
    "tanh": (fs.tanh, jax.nn.tanh),
}


def gradient(f: Callable) -> Callable:
    return jax.grad(lambda x: f(x).sum())


def compiled_gradient(f: Callable) -> Callable:
    return jax.jit(gradient(f))


# name: (what is timed, number of elements, calls per sample)
SETTINGS = {
    "eager call": (lambda f: f, 16, 200),
    "eager grad": (gradient, 16, 20),
    "jit call, 1M": (jax.jit, 2**20, 5),
    "jit grad, 1M": (compiled_gradient, 2**20, 5),
}


def ratio(ours: Callable, peer: Callable, x: jax.Array, rounds: int, calls: int):
    """Median time of ``ours`` over that of ``peer``, and both medians in seconds."""
    samples: dict[Callable, list[float]] = {ours: [], peer: []}
    for i in range(rounds + 1):
        for f in (ours, peer) if i % 2 else (peer, ours):
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(f(x))
            if i > 0:  # the first round compiles
                samples[f].append((time.perf_counter() - start) / calls)
    a, b = (statistics.median(samples[f]) for f in (ours, peer))
    return a / b, a, b


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PEERS, help="functions to time")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the ratios to this file")
    options = parser.parse_args(argv)
    device = jax.devices()[0].device_kind
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax")}
    print(f"jax {versions['jax']} on {device}, {platform.machine()}")
    print(f"{'time / time of jax.nn':24}" + "".join(f"{s:>15}" for s in SETTINGS))
    rows = {}
    for name in options.only or PEERS:
        rows[name] = {}
        for setting, (build, size, calls) in SETTINGS.items():
            x = jnp.linspace(-10.0, 10.0, size)
            ours, peer = map(build, PEERS[name])
            rows[name][setting] = ratio(ours, peer, x, options.rounds, calls)
        print(f"{name:24}" + "".join(f"{r[0]:15.2f}" for r in rows[name].values()))
    if options.json:
        record = {"device": device, "machine": platform.machine(), **versions}
        keys = ("ratio", "seconds", "seconds_jax_nn")
        record["rows"] = {
            name: {s: dict(zip(keys, r, strict=True)) for s, r in row.items()}
            for name, row in rows.items()
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
