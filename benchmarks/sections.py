"""What docs/performance.md shows of each section that benchmarks/run.py measured."""

from collections.abc import Iterable, Sequence
from typing import Any

from grid import grid
from targets import COMPILE, EVEN, FAST, OURS, byte_share, dtype_of, estimate, ratios


def ratio(x: float | None, bound: float = EVEN) -> str:
    """Two decimals; bold where the bound is passed."""
    return "" if x is None else f"**{x:.2f}**" if x > bound else f"{x:.2f}"


def pivot(
    rows: Iterable[dict], down: Sequence[str], across: Sequence[str]
) -> tuple[dict[tuple, dict[tuple, dict]], list[tuple]]:
    """Rows by what they share along the table's lines and along its columns."""
    table: dict[tuple, dict[tuple, dict]] = {}
    columns: dict[tuple, None] = {}
    for row in rows:
        column = tuple(row[key] for key in across)
        columns[column] = None
        table.setdefault(tuple(row[key] for key in down), {})[column] = row
    return table, list(columns)


def median(row: dict | None, peer: str, own: str = "ours") -> float | None:
    found = row["ratios"].get(own, {}).get(peer) if row else None
    return found["median"] if found else None


def heading(column: Iterable[Any]) -> str:
    return ", ".join(f"{x:,}" if isinstance(x, int) else str(x) for x in column)


def time_section(rows: list[dict]) -> str:
    lines = []
    of_jax = [row for _, row in ratios(rows, "jax.nn")]
    table, columns = pivot(of_jax, ["function"], ["what", "dtype", "size"])
    columns.sort(key=lambda column: (column[1] != "float32", column[2], column[0]))
    for (name,), found in table.items():
        bound = 0.5 if name in FAST else EVEN
        cells = (ratio(median(found.get(c), "jax.nn"), bound) for c in columns)
        lines.append([f"`{name}`", *cells])
    return f"""### Time over that of `jax.nn`

{grid(["", *map(heading, columns)], lines)}

(`log_ndtr`: over that of `jax.scipy.special`; `softcap`: of the plain formula.)

### Time over that of other peers, {max(row["size"] for row in rows):,} elements

{peer_table(rows)}
"""


def peer_table(rows: list[dict]) -> str:
    size = max(row["size"] for row in rows)
    rows = [row for row in rows if row["size"] == size]
    seen = (peer for row in rows for peer in row["ratios"]["ours"])
    peers = [peer for peer in dict.fromkeys(seen) if peer != "jax.nn"]
    table, columns = pivot(rows, ["function", "dtype"], ["what"])
    used = [
        (peer, *column)
        for peer in sorted(peers)
        for column in columns
        if any(median(found.get(column), peer) for found in table.values())
    ]
    lines = []
    for (name, dtype), found in table.items():
        cells = [ratio(median(found.get((what,)), peer)) for peer, what in used]
        if any(cells):
            lines.append([f"`{name}`", dtype, *cells])
    return grid(["", "dtype", *map(heading, used)], lines)


def eager_section(rows: list[dict]) -> str:
    table, columns = pivot(rows, ["function"], ["what"])
    lines = []
    for (name,), found in table.items():
        cells = []
        for column in columns:
            seconds = found[column]["seconds"]
            known = [seconds.get(k) for k in ("jax.nn", "ours")]
            cells += ["" if s is None else f"{s * 1e6:.0f}" for s in known]
        lines.append([f"`{name}`", *cells])
    head = [f"{what}: {who}" for (what,) in columns for who in ("`jax.nn`", "ours")]
    return f"""### Microseconds of an eager call

{grid(["", *head], lines)}
"""


def bytes_section(rows: list[dict]) -> str:
    rows = [row for row in rows if row["dtype"] == "float32"]
    peers = list(dict.fromkeys(peer for row in rows for peer in row["bytes"]))
    lines = []
    for row in rows:
        ours = row["bytes"]["ours"]
        lost = any(kept < ours for kept in row["bytes"].values())
        cells = [
            f"{row['bytes'][peer]:.3g}" if peer in row["bytes"] else ""
            for peer in peers
        ]
        cells[0] = f"**{cells[0]}**" if lost else cells[0]
        lines.append([f"`{row['function']}`", *cells])
    return f"""### Bytes kept for the backward pass, for a float32 element

Bold where a peer keeps less.

{grid(["", *peers], lines)}
"""


def halves_section(rows: list[dict]) -> str:
    table, columns = pivot(rows, ["function", "dtype"], ["what", "side"])
    columns.sort(key=lambda column: column[1])
    lines = [
        [f"`{name}`", dtype, *(ratio(median(found.get(c), "jax.nn")) for c in columns)]
        for (name, dtype), found in table.items()
    ]
    head = [f"{what}, {side}²" for what, side in columns]
    return f"""### Forward and backward as two programs, over the time of `jax.nn`

As a step of scanned, checkpointed or pipelined layers runs them: forward with residuals
written, backward from them, and both added ("halves"); beside them the value alone, and
value and gradient in one program.

{grid(["", "dtype", *head], lines)}
"""


def compile_section(rows: list[dict]) -> str:
    rows = [{**row, "dtype": dtype_of(row)} for row in rows]
    table, columns = pivot(rows, ["function", "dtype"], ["what"])
    lines = []
    for (name, dtype), found in table.items():
        cells = [ratio(median(found.get(c), "jax.nn"), COMPILE[dtype]) for c in columns]
        took = found["both",]["seconds"]["jax.nn"]
        lines.append([f"`{name}`", dtype, *cells, f"{took * 1e3:.0f}"])
    head = ["", "dtype", *map(heading, columns), "both, `jax.nn`, ms"]
    return f"""### Time to trace and compile twelve layers, over that of `jax.nn`

{grid(head, lines)}
"""


def share(row: dict, own: str) -> str:
    """Of the bytes with jax.nn, where there are such."""
    return ratio(byte_share(row, own) if own in row["bytes"] else None, 1.005)


def networks_section(rows: list[dict]) -> str:
    table, columns = pivot(rows, ["model", "dtype"], ["what"])
    lines = []
    for (name, dtype), found in table.items():
        cells = [ratio(median(found.get(c), "jax.nn")) for c in columns]
        lines.append([name, dtype, share(found["step",], "ours"), *cells])
    head = ["", "dtype", "temporaries", *map(heading, columns)]
    return f"""### Small networks with our functions in them, over those with `jax.nn`

Described in `benchmarks/networks.py`. Temporaries of the compiled gradient, and the
times to trace it, to compile it, to do both, and of a step.

{grid(head, lines)}
"""


# What kernels issue, and how it is counted.
UNITS = {
    "instructions": "instructions for an element",
    "bundles": "bundles for 1,024 elements",
}


def estimates_section(rows: list[dict]) -> str:
    table, columns = pivot(rows, ["function", "dtype"], ["what"])
    (unit,) = UNITS.keys() & rows[0].keys()
    lines = []
    for (name, dtype), found in table.items():
        cells = [ratio(estimate(found[c])) if c in found else "" for c in columns]
        alone = found["value",]
        counts = [
            f"{alone[key]['jax.nn']:g} → {alone[key]['ours']:g}"
            for key in ("kernels", unit, "bytes")
        ]
        lines.append([f"`{name}`", dtype, *cells, *counts])
    head = [*map(heading, columns), "value: kernels", UNITS[unit], "bytes"]
    return f"""### Estimated time over that of `jax.nn`

Nothing ran: an estimate from what the compiler made, for each kernel the longer of
moving its bytes and issuing its instructions (`benchmarks/compiled.py`). Beside it, of
the value alone, `jax.nn` → ours: kernels, what they issue, and bytes for an element.

{grid(["", "dtype", *head], lines)}
"""


def temporaries_section(rows: list[dict]) -> str:
    lines = [
        [
            *(row[key] for key in ("model", "dtype", "form")),
            f"{row['bytes']['jax.nn'] / 2**20:,.0f}",
            share(row, "ours"),
        ]
        for row in rows
    ]
    head = ["model", "dtype", "layers", "`jax.nn`, MiB", "ours"]
    return f"""### Memory of MLPs: temporaries of the compiled gradient

MiB with `jax.nn`, and the share of it that remains.

{grid(head, lines)}
"""


def models_section(rows: list[dict]) -> str:
    peers = ["jax.checkpoint", "jax.checkpoint, block", *OURS]
    memory, time = [], []
    for row in rows:
        head = [row["model"], row["dtype"], row["form"]]
        stock = row["bytes"]["jax.nn"]
        shares = [
            f"{row['bytes'][peer] / stock:.2f}" if peer in row["bytes"] else ""
            for peer in peers
        ]
        bare = f"{row['bare'] / stock:.2f}" if "bare" in row else ""
        memory.append([*head, f"{stock / 2**20:,.0f}", *shares, bare])
        cells = [
            ratio(median(row, peer, own))
            for own in OURS
            for peer in row["bytes"]
            if peer not in OURS
        ]
        time.append([*head, f"{row['seconds']['jax.nn'] * 1e3:,.0f}", *cells])
    others = [peer for peer in rows[0]["bytes"] if peer not in OURS]
    head = ["model", "dtype", "layers"]
    over = [f"{own} / {peer}" for own in OURS for peer in others]
    return f"""### Memory of models: temporaries of the compiled gradient

MiB with `jax.nn`, and the shares of it that remain: with the activation in
`jax.checkpoint`, with it and the dense layer behind it in `jax.checkpoint`, with our
activation, and with our activation and dense layer in one.  The last column is that of
the model without an activation (for swiglu with a product of value and gate): what no
activation's rule can save, attention above all.

{grid([*head, "`jax.nn`, MiB", *peers, "none"], memory)}

### Time of a step of models

{grid([*head, "`jax.nn`, ms", *over], time)}
"""


def bandwidth_section(rows: list[dict]) -> str:
    shared = [row for row in rows if "shares" in row]
    layers = [row for row in rows if "shares" not in row]
    peers = list(dict.fromkeys(peer for row in shared for peer in row["shares"]))
    lines = []
    for row in shared:
        shares = [row["shares"].get(peer) for peer in peers]
        cells = ["" if share is None else f"{share:.0%}" for share in shares]
        lines.append([f"`{row['function']}`", row["what"], row["dtype"], *cells])
    return f"""### Share of the bandwidth of a copy

{grid(["", "", "dtype", *peers], lines)}

{layer_table(layers)}"""


def layer_table(rows: list[dict]) -> str:
    """Where tokamax was there: two products and swiglu between them."""
    if not rows:
        return ""
    peers = list(rows[0]["ratios"]["ours"])
    lines = [
        [row["what"], row["dtype"], *(ratio(median(row, peer)) for peer in peers)]
        for row in rows
    ]
    return f"""### Time of a gated layer over that of peers

{grid(["", "dtype", *peers], lines)}
"""


SECTIONS = {
    "estimates": estimates_section,
    "temporaries": temporaries_section,
    "halves": halves_section,
    "time": time_section,
    "networks": networks_section,
    "models": models_section,
    "compile": compile_section,
    "bytes": bytes_section,
    "eager": eager_section,
    "bandwidth": bandwidth_section,
}
