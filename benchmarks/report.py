"""Writes docs/accuracy.md, docs/performance.md and the README's table from results.

    python benchmarks/report.py [--check]

Reads the files in benchmarks/results/ that these wrote (VERSION is that of JAX):

    python -m flax_stable verify --dtype float32 --exhaustive \
        --json benchmarks/results/exhaustive-cpu-jax-VERSION.json
    python -m flax_stable verify --dtype float16,bfloat16,float32,float64 --mode both \
        --stride 1009 --against jax.nn \
        --json benchmarks/results/sampled-cpu-jax-VERSION.json
    python benchmarks/run.py --json benchmarks/results/cpu-jax-VERSION.json

and, where there is a GPU, the last one with gpu in the place of cpu; for hardware that
need not be there, in environments that the script describes:

    python benchmarks/compiled.py h200 --json \
        benchmarks/results/compiled-h200-jax-VERSION.json      (and v5e)

The figures in docs/ are drawn by the last section of benchmarks/run.py, not here: run
it on the newest JAX last.

With --check nothing is written: the status is 1 where a file is not what they make.
"""

import argparse
import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grid import grid
from performance import performance_page
from targets import byte_share

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VERSIONS = ("0.12.0.1", "0.10.2")
DTYPES = ("float32", "bfloat16", "float16", "float64")
ORDERS = ("value", "first derivative", "second derivative")
# The functions of the README's table, and what stands around it there.
SHOWN = ("gelu", "silu", "swiglu", "softmax", "softplus", "mish", "tanh", "elu")
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


class Column(NamedTuple):
    """A column of a README's table.

    Attributes:
      head: what stands above.
      legend: a sentence that says what it shows.
      cells: what is known, by the name of a function or model.
    """

    head: str
    legend: str
    cells: dict[str, str]


def table_of(columns: Sequence[Column], names: Iterable[str]) -> str:
    """The legends and the table, without columns and lines that would be empty."""
    columns = [c for c in columns if any(name in c.cells for name in names)]
    lines = [
        [f"`{name}`", *(column.cells.get(name, "") for column in columns)]
        for name in names
        if any(name in column.cells for column in columns)
    ]
    if not lines:
        return ""
    legends = (column.legend for column in columns if column.legend)
    legend = textwrap.fill(" ".join(legends), 88)
    head = ["", *(column.head for column in columns)]
    return f"{legend}\n\n{grid(head, lines)}"


def estimated(record: dict[str, Any]) -> dict[str, str]:
    """Forward and backward, ours over jax.nn's, in bfloat16."""
    halves: dict[str, list[dict]] = defaultdict(list)
    for row in record.get("estimates", ()):
        if row["dtype"] == "bfloat16" and row["what"] in ("forward", "backward"):
            halves[row["function"]].append(row["estimate"])
    return {
        name: f"{sum(h['ours'] for h in both) / sum(h['jax.nn'] for h in both):.2f}"
        for name, both in halves.items()
    }


def timed(rows: Sequence[dict], what: str, size: str) -> dict[str, str]:
    """Medians of the ratio to jax.nn in bfloat16, at the largest size measured."""
    largest = max((row[size] for row in rows), default=0)
    return {
        row["function"]: f"{row['ratios']['ours']['jax.nn']['median']:.2f}"
        for row in rows
        if (row["what"], row["dtype"], row[size]) == (what, "bfloat16", largest)
        and "jax.nn" in row["ratios"]["ours"]
    }


def function_columns(
    errors: dict[Key, Found], costs: dict[str, Any], compiled: dict[str, dict]
) -> Iterable[Column]:
    """What a user gains where functions are trained: in bfloat16, time first."""
    for device, name in (("h200", "H200"), ("v5e", "TPU v5e")):
        yield Column(
            f"{name}, estimate",
            f"{name}, estimate: the time of forward and backward as two programs, "
            "over that of `jax.nn`, from what the compiler makes of them; nothing ran.",
            estimated(compiled.get(device, {})),
        )
    kept = {
        row["function"]: row["bytes"]
        for row in costs.get("bytes", ())
        if row["dtype"] == "bfloat16" and "jax.nn" in row["bytes"]
    }
    yield Column(
        "bytes kept",
        "Bytes kept: for each element, from the forward pass for the backward pass.",
        {
            k: f"{found['jax.nn']:.3g} → {found['ours']:.3g}"
            for k, found in kept.items()
        },
    )
    yield Column(
        "CPU, two programs",
        "CPU, two programs: the measured time of forward and backward as two programs, "
        "over that of `jax.nn`.",
        timed(costs.get("halves", ()), "halves", "side"),
    )
    yield Column(
        "CPU, one program",
        "CPU, one program: the measured time of value and gradient, compiled as one, "
        "over that of `jax.nn`.",
        timed(costs.get("time", ()), "value and gradient", "size"),
    )
    yield Column(
        "error of the gradient",
        "Error: the largest in units in the last place, over all inputs (∞: a zero, "
        "infinity or NaN where the answer is an ordinary number).",
        {
            name: f"{number(found.peer.maximum)} → {number(found.ours.maximum)}"
            for (name, dtype, order), found in errors.items()
            if (dtype, order) == ("bfloat16", 1) and found.peer
        },
    )


def model_columns(costs: dict[str, Any]) -> tuple[list[Column], list[str]]:
    """Memory and time of a step of models, and their names."""
    memory: dict[str, str] = {}
    step: dict[str, str] = {}
    rows = [
        row
        for row in (*costs.get("networks", ()), *costs.get("models", ()))
        if row["dtype"] == "bfloat16" and row.get("form", "scanned") == "scanned"
    ]
    for row in rows:
        for own, found in row["ratios"].items() if "bytes" in row else ():
            scanned = ", scanned" if "form" in row else ""
            block = ", one block" if own == "ours, fused" else ""
            name = f"{row['model']}{scanned}{block}"
            memory[name] = f"{byte_share(row, own):.2f}"
            step[name] = f"{found['jax.nn']['median']:.2f}"
    legend = (
        "Of models in bfloat16, on a CPU: the temporaries of the compiled gradient and "
        "the time of a step, over the same model with `jax.nn`."
    )
    if costs.get("models"):
        legend += " One block: activation and the dense layer after it as one function."
    return [Column("temporaries", legend, memory), Column("step", "", step)], [*memory]


def readme_tables(
    errors: dict[Key, Found], costs: dict[str, Any], compiled: dict[str, dict]
) -> str:
    """Functions, then models: whatever the results have of them.

    Args:
      errors: see `collect`.
      costs: what `benchmarks/run.py` kept.
      compiled: what `benchmarks/compiled.py` kept, by device.
    """
    version = costs.get("environment", {}).get("jax", VERSIONS[0])
    intro = f"`jax.nn` → flax_stable, in bfloat16, with JAX {version}, compiled."
    functions = table_of([*function_columns(errors, costs, compiled)], SHOWN)
    models = table_of(*model_columns(costs))
    return "\n\n".join(part for part in (intro, functions, models) if part)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(argv)

    def read(kind: str, version: str) -> list[dict[str, Any]]:
        path = RESULTS / f"{kind}cpu-jax-{version}.json"
        return [json.loads(path.read_text())] if path.exists() else []

    results = {
        v: found
        for v in VERSIONS
        if (found := read("exhaustive-", v) + read("sampled-", v))
    }
    newest = VERSIONS[0]
    costs = {v: read("", v) for v in VERSIONS}
    others = {
        path.stem: json.loads(path.read_text())
        for kind in ("gpu", "compiled")
        for path in sorted(RESULTS.glob(f"{kind}-*.json"))
    }
    compiled = {
        record["environment"]["platform"]: record
        for name, record in others.items()
        if name.startswith("compiled-") and name.endswith(f"-jax-{newest}")
    }
    table = readme_tables(
        collect(results.get(newest, [])), *(costs[newest] or [{}]), compiled
    )
    measured = [record for found in costs.values() for record in found]
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    pages = {
        ROOT / "docs" / "accuracy.md": accuracy_page(results),
        ROOT / "docs" / "performance.md": performance_page(
            [*measured, *others.values()]
        ),
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
