"""What the library aims at in time and memory, and what was found of it."""

import statistics
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# A ratio of times up to here may be noise.
EVEN = 1.05
# What takes a fraction of the time that jax.nn takes.
FAST = ("softplus", "log_sigmoid", "mish")
MODELS = {"gelu": ("mlp, gelu", "gpt"), "swiglu": ("mlp, swiglu", "llama")}
# The share of jax.nn's temporaries: with the activation alone, and as one block.
SHARES = {"gelu": (0.50, 0.30), "swiglu": (0.65, 0.45)}
# The time to trace and compile twelve layers, over that of jax.nn.
COMPILE = {"bfloat16": 1.2, "float32": 1.6}
OURS = ("ours", "ours, fused")


class Figure(NamedTuple):
    """A number, the function or model that it is of, and the rest of its row."""

    value: float
    subject: str
    where: str


class Aim(NamedTuple):
    """A target and the figures that it is for.

    Attributes:
      what: what is aimed at.
      bound: the largest figure that keeps it.
      found: the figures.
    """

    what: str
    bound: float
    found: list[Figure]

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.found if figure.value > self.bound]


def figure(value: float, row: dict[str, Any], own: str = "ours") -> Figure:
    """What a row says, in words."""
    subject = f"`{row['function' if 'function' in row else 'model']}`"
    keys = ("what", "dtype", "size", "side", "form")
    parts = [row[key] for key in keys if key in row]
    where = [f"{part:,}" if isinstance(part, int) else part for part in parts]
    return Figure(value, subject, ", ".join(where + [own] * (own != "ours")))


def ratios(
    rows: Iterable[dict[str, Any]], peer: str, own: str = "ours", of: str = "median"
) -> Iterator[tuple[float, dict]]:
    """The ratios to a peer, each with its row."""
    for row in rows:
        found = row["ratios"].get(own, {})
        if peer in found:
            yield found[peer][of], row


def time_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    found = list(ratios(rows, "jax.nn"))
    fast, other = (
        [figure(ratio, row) for ratio, row in found if (row["function"] in FAST) == is_]
        for is_ in (True, False)
    )
    names = ", ".join(f"`{name}`" for name in FAST)
    yield Aim(f"time of {names} over that of `jax.nn`", 0.5, fast)
    yield Aim("time of every other function", EVEN, other)
    for of in ("median", "min"):
        figures = mean(figure(r, row) for r, row in ratios(rows, "jax.nn", of=of))
        name = "medians" if of == "median" else "shortest times"
        yield Aim(f"the geometric mean of all, by {name}", 0.75, figures)


def mean(found: Iterable[Figure]) -> list[Figure]:
    """The geometric mean, as the one figure that an aim is for."""
    values = [figure.value for figure in found]
    if not values:
        return []
    where = f"{len(values)} ratios"
    return [Figure(statistics.geometric_mean(values), "all", where)]


def halves_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    for what, name, worst, of_all in (
        ("halves", "forward and backward as two programs", 1.10, 0.60),
        ("value", "value alone", 1.30, 0.85),
    ):
        own = [row for row in rows if row["what"] == what]
        found = [figure(ratio, row) for ratio, row in ratios(own, "jax.nn")]
        yield Aim(f"time of {name} over that of `jax.nn`", worst, found)
        yield Aim(f"the geometric mean of these, {name}", of_all, mean(found))


def dtype_of(row: dict) -> str:
    """Before each row said its dtype, all were float32."""
    return row.get("dtype", "float32")


def compile_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    both = [row for row in rows if row["what"] == "both"]
    for dtype, bound in COMPILE.items():
        own = [row for row in both if dtype_of(row) == dtype]
        found = [figure(ratio, row) for ratio, row in ratios(own, "jax.nn")]
        yield Aim(f"time to trace and compile twelve layers, {dtype}", bound, found)


def network_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    cells = ("lstm, batch 16", "gru, batch 16")
    steps = [row for row in rows if row["what"] == "step"]
    for own, name, bound in (
        ([r for r in steps if r["model"] not in cells], "a step of a network", EVEN),
        ([r for r in steps if r["model"] in cells], "a step of cells, batch 16", 1.10),
        (
            [r for r in rows if r["what"] == "both"],
            "tracing and compiling a network",
            1.10,
        ),
    ):
        found = [figure(ratio, row) for ratio, row in ratios(own, "jax.nn")]
        yield Aim(f"time of {name} over that with `jax.nn`", bound, found)
    found = list(byte_shares([r for r in rows if "bytes" in r], "ours", "jax.nn"))
    yield Aim("temporaries of a network over those with `jax.nn`", 1.0, found)


def estimate(row: dict[str, Any]) -> float:
    """Ours over jax.nn's, with the digits that are shown."""
    return round(row["estimate"]["ours"] / row["estimate"]["jax.nn"], 2)


def estimate_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    for whole, bound in ((False, 1.0), (True, EVEN)):
        name = "value and gradient in one program" if whole else "every other program"
        found = [
            figure(estimate(row), row)
            for row in rows
            if (row["what"] == "value and gradient") == whole
        ]
        yield Aim(f"estimated time of {name} over that of `jax.nn`", bound, found)
    found = [figure(estimate(row), row) for row in rows]
    yield Aim("the geometric mean of all estimates", 0.75, mean(found))


def temporary_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    found = list(byte_shares(rows, "ours", "jax.nn"))
    yield Aim("temporaries of MLPs over those of `jax.nn`", 1.0, found)


def byte_share(row: dict, own: str, peer: str = "jax.nn") -> float:
    """None of none is all of it."""
    found, stock = row["bytes"][own], row["bytes"][peer]
    return found / stock if stock else 1.0 if not found else float("inf")


def byte_shares(rows: Iterable[dict], own: str, peer: str) -> Iterator[Figure]:
    """Temporaries of ours over those of a peer, where ours is there."""
    for row in rows:
        if own in row["bytes"]:
            yield figure(byte_share(row, own, peer), row)


def model_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    for activation, bounds in SHARES.items():
        scanned = [
            row
            for row in rows
            if row["model"] in MODELS[activation] and row["form"] == "scanned"
        ]
        for own, bound in zip(OURS, bounds, strict=True):
            how = "as one block" if own == "ours, fused" else "alone"
            yield Aim(
                f"temporaries over those of `jax.nn`, scanned, {activation} {how}",
                bound,
                list(byte_shares(scanned, own, "jax.nn")),
            )
    over = "over those of `jax.checkpoint(activation)`"
    found = list(byte_shares(rows, "ours", "jax.checkpoint"))
    yield Aim(f"temporaries {over}, activation alone", 1.0, found)
    # Nothing lessens what 0.10's CPU compiler keeps of unrolled layers, not even
    # jax.checkpoint of the block.
    old = version.startswith("0.10.")
    helped = [row for row in rows if row["form"] == "scanned" or not old]
    found = list(byte_shares(helped, "ours, fused", "jax.checkpoint"))
    scanned = ", scanned" if old else ""
    yield Aim(f"temporaries {over}{scanned}, as one block", 1.0, found)
    for peer in ("jax.nn", "jax.checkpoint"):
        found = [
            figure(ratio, row, own)
            for own in OURS
            for ratio, row in ratios(rows, peer, own)
        ]
        yield Aim(f"time of a step over that of `{peer}`", EVEN, found)


def bandwidth_aims(rows: list[dict], version: str) -> Iterator[Aim]:
    found = [figure(1 / row["shares"]["ours"], row) for row in rows if "shares" in row]
    yield Aim("time over that of copying as much, GPU", 1 / 0.9, found)


AIMS = {
    "time": time_aims,
    "halves": halves_aims,
    "compile": compile_aims,
    "networks": network_aims,
    "models": model_aims,
    "bandwidth": bandwidth_aims,
    "estimates": estimate_aims,
    "temporaries": temporary_aims,
}


def aims(record: dict[str, Any]) -> list[Aim]:
    """Those that the record has figures for."""
    version = record["environment"]["jax"]
    found = [
        aim
        for key, of in AIMS.items()
        if record.get(key)
        for aim in of(record[key], version)
    ]
    return [aim for aim in found if aim.found]
