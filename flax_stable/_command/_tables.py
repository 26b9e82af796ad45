"""Rows as tables, for terminals and for pipes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..testing._verify import Row

COLUMNS = (
    ("function", 16),
    ("dtype", 8),
    ("order", 5),
    ("mode", 4),
    ("largest error", 13),
    ("at", 24),
    ("above 1 ULP", 11),
    ("inputs", 10),
    ("seconds", 7),
    ("verdict", 10),
)
RIGHT = {"order", "largest error", "at", "above 1 ULP", "inputs", "seconds"}
# What a narrow terminal goes without, in this order.
OPTIONAL = ("inputs", "seconds", "above 1 ULP")
DIGITS = {"float16": 5, "bfloat16": 5, "float32": 9, "float64": 17}

# Name, width and whether it is flush right, of each column.
Layout = list[tuple[str, int, bool]]
# What shows the progress, and what shows a row.
View = tuple[Callable[[float, str], None], Callable[[list[str], bool], None]]


def cells(row: Row, against: str | None, lacking: set[str]) -> list[str]:
    """A row as the table shows it."""
    errors = row.errors
    share = errors.share_above_one
    shown = [
        row.function,
        row.dtype,
        str(row.order),
        row.mode,
        f"{errors.maximum:.4g}",
        f"{errors.worst_input:.{DIGITS[row.dtype]}g}",
        f"{share:.2%}" if share == 0 or share >= 1e-4 else "<0.01%",
        str(errors.count),
        f"{row.seconds:.1f}",
        "ok" if row.passed else f"above {row.bound:g}",
    ]
    if against:
        lacks = "none" if row.function in lacking else "fails"
        shown.insert(5, lacks if row.peer is None else f"{row.peer.maximum:.4g}")
    return shown


def columns(against: str | None) -> Layout:
    found = [(name, width, name in RIGHT) for name, width in COLUMNS]
    if against:
        found.insert(5, (against, max(9, len(against)), True))
    return found


@contextlib.contextmanager
def plain_view(layout: Layout) -> Iterator[View]:
    """One line after another, as they come."""

    def line(texts: Iterable[str]) -> None:
        fitted = (
            text.rjust(width) if right else text.ljust(width)
            for text, (_, width, right) in zip(texts, layout, strict=True)
        )
        print("  ".join(fitted).rstrip(), flush=True)

    line(name for name, _, _ in layout)
    yield lambda share, name: None, lambda texts, passed: line(texts)


@contextlib.contextmanager
def rich_view(layout: Layout) -> Iterator[View]:
    """A progress bar, then a table."""
    console = Console()
    lines: list[tuple[list[str], bool]] = []
    try:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield (
                lambda share, name: bar.update(task, completed=share, description=name),
                lambda texts, passed: lines.append((texts, passed)),
            )
    finally:
        omitted: list[str] = []
        table = rich_table(layout, lines, omitted)
        unbounded = console.options.update_width(1000)
        for name in OPTIONAL:
            if console.measure(table, options=unbounded).maximum <= console.width:
                break
            omitted.append(name)
            table = rich_table(layout, lines, omitted)
        console.print(table)


def rich_table(
    layout: Layout, lines: Sequence[tuple[list[str], bool]], omitted: Sequence[str]
) -> Table:
    """The rows without some columns, which the caption names."""
    caption = f"no room for: {', '.join(omitted)}" if omitted else None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    shown = [i for i, (name, _, _) in enumerate(layout) if name not in omitted]
    for name, _, right in (layout[i] for i in shown):
        side: Literal["left", "right"] = "right" if right else "left"
        table.add_column(name.replace(" ", "\n"), justify=side, no_wrap=True)
    for texts, passed in lines:
        table.add_row(*(texts[i] for i in shown), style=None if passed else "red")
    return table
