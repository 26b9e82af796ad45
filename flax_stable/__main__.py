"""Commands: `python -m flax_stable verify` measures how accurate functions are."""

import argparse
import contextlib
import difflib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import flax_stable as fs

from .testing import REFERENCES, _verify
from .testing._verify import Case, Row
from .testing.references import find

VERIFY = """\
Measure the largest errors of functions and their derivatives.

Errors are in units in the last place (ULP) of the exact result.  16-bit dtypes are
judged over all inputs, float32 and float64 over a million evenly spaced bit patterns.
The status is 1 if an error is above its bound, 2 if the question makes no sense."""

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


class UsageError(Exception):
    """A question that makes no sense."""


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def choices(allowed: Sequence, kind: type = str) -> Callable[[str], list]:
    """An argument type: some of the allowed values, with commas between them."""

    def parse(text: str) -> list:
        words = [word.strip() for word in text.split(",")]
        if unknown := [word for word in words if word not in map(str, allowed)]:
            known = ", ".join(map(str, allowed))
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} is none of {known} (commas go between several)"
            )
        return [value for value in allowed if str(value) in words]

    parse.__name__ = kind.__name__
    return parse


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer")
    return int(text)


def parser() -> Parser:
    top = Parser(prog="python -m flax_stable", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="verify")
    verify = commands.add_parser(
        "verify",
        help="measure the largest errors of functions",
        description=VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = verify.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="a function of flax_stable, or package.module:name; default: all of ours",
    )
    add(
        "--dtype",
        type=choices(_verify.DTYPES),
        default=_verify.DTYPES[:3],
        help="float16, bfloat16, float32, float64, with commas between; default: all "
        "but float64",
    )
    add(
        "--order",
        type=choices(_verify.ORDERS),
        help="0 (the value), 1, 2, with commas between; default: all with a reference",
    )
    add(
        "--mode",
        choices=["vjp", "jvp", "both"],
        default="vjp",
        help="how derivatives are taken; default: vjp",
    )
    sample = verify.add_mutually_exclusive_group()
    sample.add_argument(
        "--exhaustive", action="store_true", help="all 2**32 inputs of float32"
    )
    sample.add_argument(
        "--stride", type=positive, metavar="N", help="every Nth input of float32"
    )
    add(
        "--reference",
        metavar="MODULE:NAME",
        help="for a function of yours: a NumPy function of float64, the exact value, "
        "or a tuple of them, the value and its derivatives",
    )
    add(
        "--against",
        metavar="MODULE",
        help="judge that module's functions of the same names too, such as jax.nn's",
    )
    add("--json", type=Path, metavar="FILE", help="where to write the rows as well")
    add(
        "--jobs",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads; default: one for each core",
    )
    return top


def load(path: str) -> Any:
    """What ``package.module:name`` names."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise UsageError(f"{path!r} is no package.module:name")
    try:
        found: Any = load_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"{path!r} does not exist: {error}") from None
    return found


def load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UsageError(f"cannot import {name!r}: {reason}") from None


def cases(options: argparse.Namespace) -> list[Case]:
    """The functions that the command line names."""
    peers = load_module(options.against) if options.against else None
    names = list(dict.fromkeys(options.names or REFERENCES))
    if options.reference and (len(names) != 1 or ":" not in names[0]):
        raise UsageError("--reference goes with one function, as package.module:name")
    found = []
    for name in names:
        if ":" in name:
            if not options.reference:
                raise UsageError(f"{name} needs --reference package.module:name")
            found.append(foreign_case(name, options.reference, peers))
            continue
        variants = [call for call in REFERENCES if call.partition("(")[0] == name]
        calls = [name] if name in REFERENCES else variants
        if not calls:
            close = difflib.get_close_matches(name, REFERENCES, 1)
            raise UsageError(
                f"no function {name!r} here"
                + (f" (is it {close[0]!r}?)" if close else "")
                + f": give one of {', '.join(REFERENCES)}, or package.module:name"
            )
        found += [
            Case(call, find(fs, call), REFERENCES[call], find(peers, call))
            for call in calls
        ]
    for case in found:
        if options.order and max(options.order) >= len(case.references):
            raise UsageError(
                f"{case.name} has no reference for order {max(options.order)}: "
                f"{len(case.references)} given, for orders from 0"
            )
    return found


def foreign_case(name: str, reference: str, peers: Any) -> Case:
    """A function that is not ours, with what is given as its exact values."""
    function, references = load(name), load(reference)
    if callable(references):
        references = (references,)
    if not callable(function):
        raise UsageError(f"{name} is no function, but {function!r}")
    if (
        not isinstance(references, tuple | list)
        or not references
        or not all(map(callable, references))
    ):
        raise UsageError(
            f"{reference} must be a NumPy function or a sequence of them, "
            f"but is {references!r}"
        )
    return Case(name, function, references, find(peers, name.rpartition(":")[2]))


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


def write_json(path: Path, rows: Sequence[Row], options: argparse.Namespace) -> None:
    environment = _verify.environment()
    environment["versions"]["flax_stable"] = fs.__version__
    data = {
        **environment,
        "against": options.against,
        "rows": [_verify.as_json(row) for row in rows],
    }
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")


def verify(options: argparse.Namespace) -> int:
    judged = cases(options)
    if (options.exhaustive or options.stride) and "float32" not in options.dtype:
        raise UsageError("--exhaustive and --stride are about float32: see --dtype")
    if options.json and not options.json.resolve().parent.is_dir():
        raise UsageError(f"there is no directory for {options.json}")
    against = options.against
    lacking = {case.name for case in judged if case.peer is None}
    groups = _verify.plan(
        judged,
        dtypes=options.dtype,
        orders=options.order or _verify.ORDERS,
        modes=_verify.MODES if options.mode == "both" else [options.mode],
        stride=1 if options.exhaustive else options.stride,
    )
    view = rich_view if sys.stdout.isatty() else plain_view
    start, rows, status = time.perf_counter(), [], 0
    try:
        with view(columns(against)) as (progress, add):
            for row in _verify.verify(groups, jobs=options.jobs, progress=progress):
                rows.append(row)
                add(cells(row, against, lacking), row.passed)
    except KeyboardInterrupt:
        status = 130
    if options.json:
        write_json(options.json, rows, options)
    broken = sum(not row.passed for row in rows)
    print(
        f"{len(rows)} rows, {broken} above the bound, in "
        f"{time.perf_counter() - start:.0f} s on {jax.devices()[0].device_kind} "
        f"with JAX {jax.__version__}"
    )
    if against and lacking:
        print(f"{against} has no {', '.join(sorted(lacking))}")
    if status:
        print("interrupted: not all rows are here")
    return status or int(broken > 0)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        return verify(options)
    except (UsageError, ValueError) as error:
        arguments.exit(2, f"{arguments.prog} verify: error: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
