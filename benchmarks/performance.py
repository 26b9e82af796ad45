"""Writes docs/performance.md from what the benchmarks kept."""

import statistics
from collections.abc import Iterable
from typing import Any

from grid import grid
from sections import SECTIONS
from targets import EVEN, aims


def target_table(record: dict[str, Any]) -> str:
    rows = []
    for aim in aims(record):
        worst = max(aim.found)
        held = "yes" if not aim.missed else f"**no**: {len(aim.missed)}"
        rows.append(
            [
                aim.what,
                f"{aim.bound:.3g}",
                f"{worst.value:.2f} ({worst.subject}, {worst.where})",
                f"{held} of {len(aim.found)}" if aim.missed else held,
            ]
        )
    return grid(["", "at most", "largest found", "held"], rows)


def missed_list(record: dict[str, Any]) -> str:
    """Every function or model that misses a target, the worst first."""
    lines = []
    for aim in aims(record):
        missed = sorted(aim.missed, reverse=True)
        subjects = []
        for subject in dict.fromkeys(figure.subject for figure in missed):
            of_all = [figure for figure in aim.found if figure.subject == subject]
            own = [figure for figure in missed if figure.subject == subject]
            subjects.append(
                f"{subject} ({len(own)} of {len(of_all)}: up to {own[0].value:.2f})"
            )
        if missed:
            lines.append(
                f"- {aim.what}, at most {aim.bound:.3g}: {', '.join(subjects)}."
            )
    return "\n".join(lines) or "Nothing."


def noise(record: dict[str, Any]) -> str:
    """How far the quartiles of a ratio lie from its median, in the middle row.

    Nothing where nothing was timed.
    """
    spreads = [
        (found["high"] - found["low"]) / found["median"] / 2
        for key in SECTIONS
        for row in record.get(key, ())
        for peers in row.get("ratios", {}).values()
        for peer, found in peers.items()
        if not peer.startswith("torch")
    ]
    if not spreads:
        return ""
    return f"""
Noise, as half the distance of a ratio's quartiles, in the middle of all ratios:
±{statistics.median(spreads):.0%}.
"""


# Hardware that nothing ran on.
ESTIMATED = {"h200": "H200, estimates", "v5e": "TPU v5e, estimates"}


def section(record: dict[str, Any]) -> str:
    versions = dict(record["environment"])
    device = f"{versions.pop('device')} ({versions.pop('machine')})"
    platform = versions.pop("platform")
    title = ESTIMATED.get(platform, platform.upper())
    parts = [of(record[key]) for key, of in SECTIONS.items() if record.get(key)]
    drawn = f"\n![Estimated times]({platform}.png)\n"
    return f"""## JAX {versions["jax"]}, {title}

Device: {device}. {", ".join(f"{k} {v}" for k, v in versions.items())}.
{drawn if record.get("estimates") else ""}{noise(record)}
### Targets

{target_table(record)}

What misses its target:

{missed_list(record)}

{chr(10).join(parts)}"""


def performance_page(records: Iterable[dict[str, Any]]) -> str:
    return f"""<!-- Written by python benchmarks/report.py: do not edit. -->

# Performance

Time and memory of flax_stable beside its peers, measured in one process, in turns, by
`python benchmarks/run.py`. A ratio is the time of ours over the peer's, taken round by
round: below 1 we are faster. Its median is shown, **bold** where we lose: above
{EVEN} (up to which it may be noise), or above the target. "Value and gradient" computes
both, as a training step does. Models are described in `benchmarks/models.py`. Sections
of hardware that nothing ran on hold estimates, by `python benchmarks/compiled.py`.

![Time of each function over that of jax.nn](time.png)

![Bytes that each function keeps for the backward pass](bytes.png)

![Errors of gradients against the input](errors.png)

{chr(10).join(section(record) for record in records)}"""
