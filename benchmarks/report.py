"""Writes docs/accuracy.md, docs/performance.md and the README's table from results.

    python benchmarks/report.py [--check]

Reads the files in benchmarks/results/ that these wrote (VERSION is that of JAX):

    python -m flax_stable verify --dtype float32 --exhaustive \
        --json benchmarks/results/exhaustive-cpu-jax-VERSION.json
    python -m flax_stable verify --dtype float16,bfloat16,float32,float64 --mode both \
        --stride 1009 --against jax.nn \
        --json benchmarks/results/sampled-cpu-jax-VERSION.json
    python benchmarks/run.py --json benchmarks/results/cpu-jax-VERSION.json

and, where there is a GPU, the last one with gpu in the place of cpu.  The figures in
docs/ are drawn by its last section, not here: run it on the newest JAX last.

With --check nothing is written: the status is 1 where a file is not what they make.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grid import grid
from performance import performance_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VERSIONS = ("0.12.0.1", "0.10.2")
DTYPES = ("float32", "bfloat16", "float16", "float64")
ORDERS = ("value", "first derivative", "second derivative")
# The functions of the README's table, and what stands around it there.
SHOWN = ("softplus", "gelu", "silu", "mish", "tanh", "elu", "squareplus", "log1mexp")
BEGIN, END = "<!-- begin: python benchmarks/report.py -->", "<!-- end -->"


class Measured(NamedTuple):
    """The largest error found, where, and over how many inputs."""

    maximum: float
    worst_input: float
    count: int


class Found(NamedTuple):
    """What is known of a function in one dtype and order."""

    ours: Measured
    peer: Measured | None
    bound: float


# (function, dtype, order)
Key = tuple[str, str, int]


def collect(files: Iterable[dict[str, Any]]) -> dict[Key, Found]:
    """Of several rows for one key, the one over the most inputs, of these the worst."""
    rows = defaultdict(list)
    for file in files:
        for row in file["rows"]:
            rows[row["function"], row["dtype"], row["order"]].append(row)

    def worst(found: Sequence[dict]) -> Measured | None:
        measured = [
            Measured(float(f["maximum"]), float(f["worst_input"]), f["count"])
            for f in found
        ]
        return max(measured, key=lambda m: (m.count, m.maximum), default=None)

    table = {}
    for key, found in rows.items():
        ours = worst(found)
        assert ours is not None
        peer = worst([row["peer"] for row in found if row["peer"]])
        table[key] = Found(ours, peer, found[0]["bound"])
    return table


def number(error: float) -> str:
    """Three digits, the last one rounded to the nearest; infinity as its sign."""
    return "∞" if error == float("inf") else f"{error:.3g}" if error < 1e4 else "> 10⁴"


def inputs(counts: Iterable[int]) -> str:
    """How many inputs were judged."""
    names = (f"all {n:,}" if n in (2**16, 2**32) else f"{n:,}" for n in sorted(counts))
    return " or ".join(names) or "none"


def dtype_section(dtype: str, table: dict[Key, Found]) -> str:
    """One row for each function: the peer's error, ours, and where ours is reached."""
    of_dtype = {key: found for key, found in table.items() if key[1] == dtype}
    ours = {found.ours.count for found in of_dtype.values()}
    peers = {found.peer.count for found in of_dtype.values() if found.peer}
    bounds = {key[2]: found.bound for key, found in of_dtype.items()}
    rows = []
    for name in dict.fromkeys(key[0] for key in of_dtype):
        row = [f"`{name}`"]
        for order in bounds:
            found = of_dtype[name, dtype, order]
            error = number(found.ours.maximum)
            error += "*" if found.ours.count < max(ours) else ""
            row += [
                number(found.peer.maximum) if found.peer else "",
                error if found.ours.maximum <= found.bound else f"**{error}**",
                f"{found.ours.worst_input:.9g}",
            ]
        rows.append(row)
    head = ["function"]
    for order in bounds:
        head += [f"{ORDERS[order]}: `jax.nn`", "ours", "at"]
    lost = [
        f"`{name}` ({ORDERS[order]}: {number(found.peer.maximum)} against "
        f"{number(found.ours.maximum)})"
        for (name, _, order), found in of_dtype.items()
        if found.peer and found.peer.maximum < found.ours.maximum - 0.005
    ]
    shared = sum(found.peer is not None for found in of_dtype.values())
    return f"""### {dtype}

Ours over {inputs(ours)} inputs{" (*: the fewer)" if len(ours) > 1 else ""}, those of
`jax.nn` over {inputs(peers)}.
Bounds: {", ".join(f"{bound:g}" for bound in bounds.values())}.

{grid(head, rows)}

Of {shared} rows that `jax.nn` has too, it is the more accurate in {len(lost)}\
{": " + ", ".join(lost) if lost else ""}.
"""


def section(version: str, files: Sequence[dict[str, Any]]) -> str:
    table = collect(files)
    versions, device = files[0]["versions"], files[0]["device"]
    dtypes = [dtype for dtype in DTYPES if dtype in {key[1] for key in table}]
    parts = [dtype_section(dtype, table) for dtype in dtypes]
    return f"""## JAX {version}

Device: {device["kind"]} ({device["machine"]}). Python {versions["python"]}, \
jaxlib {versions["jaxlib"]}, Flax {versions["flax"]}, NumPy {versions["numpy"]}.

{chr(10).join(parts)}"""


def accuracy_page(results: dict[str, list[dict[str, Any]]]) -> str:
    sections = [section(version, files) for version, files in results.items()]
    return f"""<!-- Written by python benchmarks/report.py: do not edit. -->

# Accuracy

The largest errors observed, in units in the last place (ULP) of the exact result, of
every elementwise function and its derivatives, compiled; beside them the errors of the
functions of the same names in `jax.nn`. 0.5 is what correct rounding gives. ∞: a zero,
infinity or NaN where the exact result is an ordinary number. "At" is where our error is
reached; an error above the bound is **bold**. A name such as
`gelu(approximate=False)` fixes parameters. How errors are defined:
`help(flax_stable.testing.ulp_errors)`. Where ours and those of `jax.nn` were measured
over different inputs, ours over more, the comparison favors `jax.nn`.

{chr(10).join(sections)}"""


def readme_table(table: dict[Key, Found], costs: dict[str, Any]) -> str:
    """Errors, bytes kept and times of a few functions, the peer's first."""

    def change(name: str, dtype: str, order: int) -> str:
        found = table[name, dtype, order]
        assert found.peer is not None
        return f"{number(found.peer.maximum)} → {number(found.ours.maximum)}"

    rows = []
    kept_bytes = {
        row["function"]: row["bytes"]
        for row in costs["bytes"]
        if row["dtype"] == "float32"
    }
    largest = max(row["size"] for row in costs["time"])
    ratios = {
        (row["function"], row["what"]): row["ratios"]["ours"].get("jax.nn")
        for row in costs["time"]
        if (row["dtype"], row["size"]) == ("float32", largest)
    }
    for name in SHOWN:
        kept = kept_bytes[name]
        times = (
            ratios[name, what]["median"] for what in ("value", "value and gradient")
        )
        rows.append(
            [
                f"`{name}`",
                change(name, "bfloat16", 1),
                change(name, "bfloat16", 2),
                change(name, "float32", 1),
                f"{kept['jax.nn']:.3g} → {kept['ours']:.3g}",
                *(f"{time:.2f}" for time in times),
            ]
        )
    head = ["", "gradient, bfloat16", "second derivative, bfloat16"]
    head += ["gradient, float32", "bytes kept", f"time, {largest:,} elements: value"]
    head += ["value and gradient"]
    return grid(head, rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(argv)

    def read(kind: str, version: str) -> list[dict[str, Any]]:
        path = RESULTS / f"{kind}cpu-jax-{version}.json"
        return [json.loads(path.read_text())] if path.exists() else []

    results = {v: read("exhaustive-", v) + read("sampled-", v) for v in VERSIONS}
    newest = VERSIONS[0]
    costs = {v: read("", v) for v in VERSIONS}
    table = readme_table(collect(results[newest]), *costs[newest])
    on_gpu = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("gpu-*.json"))]
    measured = [record for found in costs.values() for record in found]
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    pages = {
        ROOT / "docs" / "accuracy.md": accuracy_page(results),
        ROOT / "docs" / "performance.md": performance_page([*measured, *on_gpu]),
        readme: f"{before}{BEGIN}\n{table}\n{END}{after}",
    }
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text() != text]
    for path in stale:
        if not options.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages[path])
        print(f"{path.relative_to(ROOT)} {'is stale' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
