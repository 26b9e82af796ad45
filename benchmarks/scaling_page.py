"""docs/scaling.md and its picture, from what scaling.py compiled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grid import grid
from plots import OURS, PEER, STYLE, THIRD, finish

COLORS = {"jax.nn": PEER, "ours": THIRD, "ours, fused": OURS}
KINDS = {
    "all-reduce": "#56B4E9",
    "all-gather": "#E69F00",
    "reduce-scatter": "#CC79A7",
    "collective-permute": "#999999",
    "all-to-all": "#F0E442",
}


def gigabytes(n: float) -> str:
    return f"{n / 1e9:.3g}"


def axes(row: dict[str, Any]) -> str:
    found = [f"{axis} {n}" for axis, n in row["mesh"].items() if n > 1]
    return " x ".join(found) or "one device"


def total(moved: dict[str, dict[str, int]]) -> int:
    return sum(traffic["bytes"] for traffic in moved.values())


def kinds(moved: dict[str, dict[str, int]]) -> str:
    return ", ".join(
        f"{t['times']:,} {kind} ({gigabytes(t['bytes'])})"
        for kind, t in sorted(moved.items())
    )


def ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By devices, mesh and form."""
    forms = list(COLORS)
    return sorted(
        rows,
        key=lambda r: (
            r["devices"],
            [-n for n in r["mesh"].values()],
            forms.index(r["form"]),
        ),
    )


def compared(rows: Sequence[dict[str, Any]]) -> str:
    """How ours do beside `jax.nn`, over all meshes."""
    peers = {axes(row): row for row in rows if row["form"] == "jax.nn"}

    def span(form: str, what: str) -> str:
        ratios = [
            row[what] / peers[axes(row)][what] for row in rows if row["form"] == form
        ]
        low, high = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
        return low if low == high else f"{low} to {high}"

    changes = [
        (total(row["moved"]) / total(peer["moved"]) - 1, axes(row), row["form"])
        for row in rows
        if total((peer := peers[axes(row)])["moved"])
    ]
    most = max(changes, key=lambda change: abs(change[0]))
    same = "On every mesh each form moves the same bytes as that of `jax.nn`."
    if most[0]:
        same = (
            "What is moved differs from that of `jax.nn` by "
            f"{100 * most[0]:+.2g}% at most (`{most[2]}` on {most[1]})."
        )
    kept, taken = (
        f"{span('ours', what)}, fused {span('ours, fused', what)}"
        for what in ("residuals", "temporaries")
    )
    return f"""Of what `jax.nn` keeps for the backward pass, ours keep {kept}.
Of its temporaries, ours take {taken}.
{same}"""


def section(title: str, rows: Sequence[dict[str, Any]]) -> str:
    head = ["devices", "mesh", "form", "kept", "temporaries", "moved", "by"]
    table = [
        [
            f"{row['devices']:,}",
            axes(row),
            f"`{row['form']}`" if row["form"] == "jax.nn" else row["form"],
            gigabytes(row["residuals"]),
            gigabytes(row["temporaries"]),
            gigabytes(total(row["moved"])),
            kinds(row["moved"]),
        ]
        for row in ordered(rows)
    ]
    return f"""## {title}

{compared(rows)}

{grid(head, table)}
"""


def limits(rows: Sequence[dict[str, Any]]) -> str:
    head = ["function", "`jax.nn`", "ours"]

    def bytes_of(moved: dict[str, dict[str, int]]) -> str:
        return ", ".join(
            f"{t['times']} {kind}, {t['bytes']:,} bytes" for kind, t in moved.items()
        )

    table = [
        [f"`{row['function']}`", bytes_of(row["jax.nn"]), bytes_of(row["ours"])]
        for row in rows
    ]
    return f"""## Where ours move more

A row that is whole on a device needs nothing from another one. One that the mesh splits
is summed between devices, and there ours take more sums, of one number a row, to be
exact: `softmax` and its kin sum whole numbers and the rest apart, `standardize` takes
its mean in two steps, and again in the backward pass. Value and gradient of 1024 rows
of 4096, split over 8 devices:

{grid(head, table)}
"""


def page(record: dict[str, Any], titles: dict[str, str]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in record["environment"].items())
    sections = [
        section(title, [row for row in record["rows"] if row["study"] == name])
        for name, title in titles.items()
    ]
    return f"""<!-- Written by python benchmarks/scaling.py: do not edit. -->

# Scaling

What a step keeps and moves on each device, from one to 4096, with the activations of
`jax.nn`, with ours (`fs.gelu`, `fs.swiglu`), and with ours and the product after them
as one (`fs.activation_dense`, `fs.gated_dense`: the second half of `MLP` and
`GatedMLP`). Every device brings the same number of rows: the more there are, the larger
the batch.

![Kept and moved on each device](scaling.png)

**What was compiled, and what was not.** Every row is a whole program that XLA compiled
for a slice of TPU v5p of that size; none ran, none is extrapolated from another. JAX
describes such slices without the hardware (`jax.experimental.topologies`). A
`jax.sharding.AbstractMesh` would not do: it is enough to trace and lower, but
collectives come only when XLA partitions the program, for devices. Left out: optimizer,
attention and norms; and times, which nobody measured. XLA's cost analysis counts the
body of a loop once, so no operations are given. Versions: {versions}.

**A step** is the gradient of a loss by all parameters; layers are one `jax.lax.scan`.
The batch is split over data and fsdp, kernels over fsdp and tensor.

**Kept**: the arrays between forward and backward pass, parameters aside, by their
shapes. **Temporaries**: what the compiled program allocates beside parameters, batch
and gradient: what is kept, and room to work. **Moved**: what a device sends, if
collectives run in rings; loops are counted turn by turn. A `collective-permute` is a
part of a gather or a scatter that XLA cut up to hide it behind a product. All in units
of 10⁹ bytes.

`jax.checkpoint` around the activation of `jax.nn` and the product keeps what ours,
fused, keep: [performance.md](performance.md) compares them.

{chr(10).join([*sections, limits(record["split rows"])])}"""


def draw(record: dict[str, Any], path: Path) -> None:
    """Above what is kept, below what is moved, by mesh; one column for each model."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    names = list(dict.fromkeys(row["study"] for row in record["rows"]))
    titles = {"mlp": "MLP, 8 layers, gelu", "llama": "Llama 2 7B feed-forward, swiglu"}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            2,
            len(names),
            figsize=(11, 7),
            squeeze=False,
            sharex="col",
            width_ratios=[2, 3],
        )
        for name, (above, below) in zip(names, panels.T, strict=True):
            rows = ordered([row for row in record["rows"] if row["study"] == name])
            for i, (form, color) in enumerate(COLORS.items()):
                own = [row for row in rows if row["form"] == form]
                place = np.arange(len(own)) + 0.26 * (i - 1)
                kept = [row["temporaries"] / 1e9 for row in own]
                above.bar(place, kept, 0.26, color=color, label=form)
                bottom = np.zeros(len(own))
                for kind, shade in KINDS.items():
                    sent = [r["moved"].get(kind, {"bytes": 0})["bytes"] for r in own]
                    height = np.array(sent) / 1e9
                    label = kind if i == 0 and height.any() else None
                    below.bar(
                        place,
                        height,
                        0.24,
                        bottom,
                        color=shade,
                        label=label,
                    )
                    bottom += height
            above.set_title(titles[name])
            above.set_ylabel("temporaries (10⁹ bytes)")
            below.set_ylabel("sent (10⁹ bytes)")
            counts = {axes(row): row["devices"] for row in rows}
            labels = [
                "1" if n == 1 else f"{n}:\n" + mesh.replace(" x ", "\n")
                for mesh, n in counts.items()
            ]
            below.set_xticks(range(len(labels)), labels, fontsize=7.5)
            below.set_xlabel("devices, and their mesh")
            below.set_ylim(0, 1.3 * below.get_ylim()[1])
            below.legend(loc="upper left", title="by form as above")
            for panel in (above, below):
                panel.grid(axis="x", visible=False)
        footer = f"compiled for TPU v5p by JAX {record['environment']['jax']}"
        title = "What a step keeps and moves on each device, whatever their number"
        finish(figure, panels[0, 0], title, footer, path)
    plt.close("all")
