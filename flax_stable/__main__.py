"""Commands: `python -m flax_stable verify` measures how accurate functions are."""

import argparse
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

import flax_stable as fs

from ._command import _rules
from ._command._load import UsageError, load, load_module
from ._command._tables import cells, columns, plain_view, rich_view
from .testing import REFERENCES, _verify
from .testing._rule._judge import RuleReport
from .testing._verify import Case, Row
from .testing.references import find

VERIFY = """\
Measure the largest errors of functions and their derivatives.

Errors are in units in the last place (ULP) of the exact result.  16-bit dtypes are
judged over all inputs, float32 and float64 over a million evenly spaced bit patterns.
A function of yours without a reference is given to fs.testing.check_rule, which
compares value and derivatives with differences, in all ways to differentiate it,
for compositions of it and at other shapes.
The status is 1 if an error is above its bound or a rule is wrong, 2 if the question
makes no sense."""


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
        help="float16, bfloat16, float32, float64, with commas between; default: all "
        "but float64, and float32 to check a rule",
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
        "--shapes",
        type=_rules.shapes,
        metavar="SHAPES",
        help="of the arguments of a function of yours without a reference, such as "
        "2x3,3, where () is a number; default: numbers",
    )
    add(
        "--domain",
        type=_rules.interval,
        metavar="LOW,HIGH",
        help="the numbers to check it at, as --domain=-9,9; default: all",
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
                continue
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


def write_json(
    path: Path,
    rows: Sequence[Row],
    reports: Sequence[RuleReport],
    options: argparse.Namespace,
) -> None:
    environment = _verify.environment()
    environment["versions"]["flax_stable"] = fs.__version__
    data = {
        **environment,
        "against": options.against,
        "rows": [_verify.as_json(row) for row in rows],
        "rules": [_rules.as_json(report) for report in reports],
    }
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")


def sweep(options: argparse.Namespace, judged: Sequence[Case]) -> tuple[list, int]:
    """The rows of the functions whose exact values are known, and the status."""
    dtypes, against = options.dtype or _verify.DTYPES[:3], options.against
    if (options.exhaustive or options.stride) and "float32" not in dtypes:
        raise UsageError("--exhaustive and --stride are about float32: see --dtype")
    lacking = {case.name for case in judged if case.peer is None}
    groups = _verify.plan(
        judged,
        dtypes=dtypes,
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
    return rows, status or int(broken > 0)


def check(options: argparse.Namespace, names: Iterable[str]) -> list[RuleReport]:
    """What there is to say of the rules of functions that have no reference."""
    reports = []
    for name in names:
        for dtype in options.dtype or ["float32"]:
            report = _rules.check(name, dtype, options.shapes, options.domain)
            print(f"{report.verdict}\n\n{report}\n", flush=True)
            reports.append(report)
    return reports


def verify(options: argparse.Namespace) -> int:
    judged = cases(options)
    unknown = [] if options.reference else [n for n in options.names if ":" in n]
    if options.json and not options.json.resolve().parent.is_dir():
        raise UsageError(f"there is no directory for {options.json}")
    rows, status = sweep(options, judged) if judged else ([], 0)
    reports = [] if status == 130 else check(options, dict.fromkeys(unknown))
    if options.json:
        write_json(options.json, rows, reports, options)
    return status or int(not all(report.passed for report in reports))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        return verify(options)
    except (UsageError, ValueError) as error:
        line = str(error).splitlines()[0]
        arguments.exit(2, f"{arguments.prog} verify: error: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
