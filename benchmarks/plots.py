"""The figures of docs/performance.md: errors, bytes kept, times and estimates."""

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flax_stable as fs
from contenders import optional
from targets import estimate

RESULTS = Path(__file__).parent / "results"
FOLDER = Path(__file__).parents[1] / "docs"
# Colors that the color-blind tell apart too (Okabe and Ito).
OURS, PEER, THIRD = "#0072B2", "#D55E00", "#009E73"
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 120,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}

# What the figure of errors shows, over which inputs, and in how many intervals.
SHOWN = ("softplus", "gelu", "silu", "mish")
LOW, HIGH, INTERVALS, SAMPLES = -30.0, 15.0, 180, 64
TOP = 1e5  # errors above are drawn here


def interval_errors(f: Any, reference: Any, dtype: str) -> np.ndarray:
    """The largest error of the gradient in each interval of inputs."""
    edges = np.linspace(LOW, HIGH, INTERVALS + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        inputs = np.unique(np.linspace(low, high, SAMPLES).astype(dtype))
        errors = fs.testing.ulp_errors(
            f, reference, dtype, order=1, inputs=inputs, jit=False
        )
        found.append(errors.maximum)
    return np.array(found)


def draw_errors(plt: Any, footer: str, path: Path) -> None:
    dtypes = ("bfloat16", "float32")
    figure, axes = plt.subplots(
        2, len(SHOWN), figsize=(10, 5), sharex=True, sharey=True, squeeze=False
    )
    centers = LOW + (np.arange(INTERVALS) + 0.5) * (HIGH - LOW) / INTERVALS
    for (dtype, name), ax in zip(
        itertools.product(dtypes, SHOWN), axes.flat, strict=True
    ):
        reference = fs.testing.REFERENCES[name][1]
        for label, module, color in (
            ("jax.nn", jax.nn, PEER),
            ("flax_stable", fs, OURS),
        ):
            errors = interval_errors(getattr(module, name), reference, dtype)
            drawn = np.clip(errors, 0.1, TOP)
            ax.plot(centers, drawn, color=color, linewidth=1.4, label=label)
            beyond = errors > TOP
            ax.plot(
                centers[beyond],
                drawn[beyond],
                linestyle="none",
                marker="^",
                markersize=4,
                color=color,
            )
        ax.set(yscale="log", ylim=(0.1, TOP * 2), xlim=(LOW, HIGH))
        ax.set_title(f"{name}', {dtype}")
    for ax in axes[-1]:
        ax.set_xlabel("x")
    for ax in axes[:, 0]:
        ax.set_ylabel("largest error (ULP)")
    finish(
        figure,
        axes[0, 0],
        f"Error of the gradient against the input; ▲: above {TOP:,.0f}, or a zero, "
        "infinity or NaN where the answer is an ordinary number",
        footer,
        path,
    )


def finish(figure: Any, ax: Any, title: str, footer: str, path: Path) -> None:
    """The title, one legend for all axes, what was measured on what, and the file."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=len(labels))
    figure.text(0.01, 0.012, footer, fontsize=8, color="#555555", va="bottom")
    figure.tight_layout(rect=(0, 0.045, 1, 0.99))
    figure.savefig(path)
    print(f"{path} written")


def draw_bytes(plt: Any, rows: Iterable[dict], footer: str, path: Path) -> None:
    rows = [r for r in rows if r["dtype"] == "float32" and "jax.nn" in r["bytes"]]
    rows.sort(key=lambda row: (row["bytes"]["jax.nn"], row["bytes"]["ours"]))
    figure, ax = plt.subplots(figsize=(7, 0.2 * len(rows) + 1.2))
    y = np.arange(len(rows))
    ours, peer = ([row["bytes"][k] for row in rows] for k in ("ours", "jax.nn"))
    ax.barh(y + 0.2, peer, height=0.4, color=PEER, label="jax.nn")
    ax.barh(y - 0.2, ours, height=0.4, color=OURS, label="flax_stable")
    torch = [
        (i, row["bytes"]["torch"])
        for i, row in enumerate(rows)
        if "torch" in row["bytes"]
    ]
    if torch:
        ax.plot(
            [kept for _, kept in torch],
            [i for i, _ in torch],
            linestyle="none",
            marker="D",
            markersize=4,
            color=THIRD,
            label="PyTorch",
        )
    ax.set_yticks(y, [row["function"] for row in rows])
    ax.set_xticks(np.arange(0, max(peer) + 1, 4))
    ax.set(ylim=(-0.7, len(rows) - 0.3), xlabel="bytes for each float32 element")
    ax.grid(axis="y", visible=False)
    finish(figure, ax, "Kept for the backward pass", footer, path)


def powers_of_two(values: Iterable[float]) -> tuple[list[float], list[str]]:
    """Ticks around the values, and how they are written."""
    logs = [math.log2(x) for x in values]
    exponents = range(math.floor(min(logs)), math.ceil(max(logs)) + 1)
    labels = [f"1/{2**-k}" if k < 0 else f"{2**k}" for k in exponents]
    return [2.0**k for k in exponents], labels


def draw_times(plt: Any, rows: Iterable[dict], footer: str, path: Path) -> None:
    rows = [row for row in rows if "jax.nn" in row["ratios"]["ours"]]
    size = max(row["size"] for row in rows)
    rows = [row for row in rows if row["size"] == size]
    ratios = {
        (row["function"], row["what"], row["dtype"]): row["ratios"]["ours"]["jax.nn"]
        for row in rows
    }
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))

    def mean(name: str) -> float:
        own = [math.log(r["median"]) for key, r in ratios.items() if key[0] == name]
        return sum(own) / len(own)

    names = sorted({name for name, _, _ in ratios}, key=mean, reverse=True)
    figure, axes = plt.subplots(
        1,
        len(dtypes),
        figsize=(9, 0.2 * len(names) + 1.4),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for dtype, ax in zip(dtypes, axes.flat, strict=True):
        for what, color, marker, shift in (
            ("value", THIRD, "o", 0.15),
            ("value and gradient", OURS, "s", -0.15),
        ):
            found = {
                i: ratios[name, what, dtype]
                for i, name in enumerate(names)
                if (name, what, dtype) in ratios
            }
            low, median, high = (
                np.array([ratio[key] for ratio in found.values()])
                for key in ("low", "median", "high")
            )
            ax.errorbar(
                median,
                np.array(list(found)) + shift,
                xerr=[median - low, high - median],
                linestyle="none",
                marker=marker,
                markersize=4,
                color=color,
                elinewidth=1,
                label=what,
            )
        ax.axvline(1, color="#333333", linewidth=1)
        ax.set(xscale="log", xlabel="time of flax_stable / time of jax.nn", title=dtype)
        ax.set_xticks(*powers_of_two([r["median"] for r in ratios.values()]))
        ax.set_xticks([], minor=True)
        ax.set(ylim=(-0.7, len(names) - 0.3))
    axes[0, 0].set_yticks(np.arange(len(names)), names)
    title = f"Time for {size:,} elements: left of 1, flax_stable is the faster"
    finish(figure, axes[0, 0], title, footer, path)


def draw_estimates(plt: Any, rows: list[dict], footer: str, path: Path) -> None:
    """Estimated times over jax.nn's, of each program; the panels are dtypes."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    names = list(dict.fromkeys(row["function"] for row in rows))[::-1]
    figure, axes = plt.subplots(
        1,
        len(dtypes),
        figsize=(9, 0.3 * len(names) + 1.4),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    shown = {"forward": OURS, "backward": PEER, "value": THIRD}
    for dtype, ax in zip(dtypes, axes.flat, strict=True):
        for i, (what, color) in enumerate(shown.items()):
            own = [r for r in rows if (r["dtype"], r["what"]) == (dtype, what)]
            y = [names.index(row["function"]) + 0.2 * (1 - i) for row in own]
            x = [estimate(row) for row in own]
            ax.plot(x, y, linestyle="none", marker="o", color=color, label=what)
        ax.axvline(1, color="#333333", linewidth=1)
        ax.set(xscale="log", xlabel="estimate of flax_stable / of jax.nn", title=dtype)
        ax.set_xticks(*powers_of_two([estimate(row) for row in rows]))
        ax.set_xticks([], minor=True)
        ax.set(ylim=(-0.7, len(names) - 0.3))
    axes[0, 0].set_yticks(np.arange(len(names)), names)
    title = "Estimated time, nothing ran: left of 1, flax_stable is the faster"
    finish(figure, axes[0, 0], title, footer, path)


def compiled_records(version: str) -> Iterable[dict]:
    """What benchmarks/compiled.py kept for a version of JAX."""
    for path in sorted(RESULTS.glob(f"compiled-*-jax-{version}.json")):
        yield json.loads(path.read_text())


def draw(record: dict[str, Any], folder: Path) -> None:
    """Whatever the record has the rows for, and the errors, which are measured here."""
    plt = optional("matplotlib.pyplot")
    if plt is None:
        return
    plt.switch_backend("agg")
    versions = record["environment"]
    footer = f"JAX {versions['jax']}, {versions['device']}"
    with plt.rc_context(STYLE):
        draw_errors(plt, footer, folder / "errors.png")
        if "bytes" in record:
            draw_bytes(plt, record["bytes"], footer, folder / "bytes.png")
        if "time" in record:
            draw_times(plt, record["time"], footer, folder / "time.png")
        for other in compiled_records(versions["jax"]):
            found = other["environment"]
            footer = f"JAX {found['jax']}, {found['device']}"
            path = folder / f"{found['platform']}.png"
            draw_estimates(plt, other["estimates"], footer, path)
    plt.close("all")
