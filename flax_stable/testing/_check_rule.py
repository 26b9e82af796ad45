"""Whether a function's derivative rule is right."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax

from ._rule import _calls, _checks
from ._rule._checks import Setting, lacks_forward_mode
from ._rule._derivatives import SECOND, Job, differentiate
from ._rule._expected import expect
from ._rule._judge import RuleReport, RuleRow, Tolerance
from ._rule._places import PLACES
from ._rule._points import choose, intervals
from ._rule._subject import subject

# What may be skipped, by the name in the report.
CHECKS = (
    "eager",
    "scan",
    "remat",
    "one argument",
    "weak types",
    "integer arguments",
    *_checks.NARROW,
    *PLACES,
    "leaks",
)


def check_rule(
    fn: Callable,
    args: Sequence[Any],
    *,
    reference: Callable | None = None,
    exact: Callable | Sequence[Callable] | None = None,
    domain: Any = None,
    points: Sequence[float] = (),
    max_ulp: float = 16,
    atol: float = 0.0,
    forward_mode: bool | None = None,
    second_order: bool = True,
    max_residual_bytes: int | None = None,
    skip: Collection[str] = (),
    seed: int = 0,
) -> RuleReport:
    """Asserts that a function and its derivative rule are right, element by element.

    DOC
    """
    orders = _exact_orders(exact)
    _check_options(skip, max_ulp, atol)
    judged = subject(fn, args)
    if orders and (len(judged.labels), len(judged.out_labels)) != (1, 1):
        raise ValueError(
            f"check_rule takes exact for a function of one number, but {judged.name} "
            f"has {len(judged.labels)} floating elements: give one, or a reference."
        )
    with jax.default_matmul_precision("highest"):
        rows, kept = _rows(
            judged,
            reference,
            orders,
            domain,
            points,
            Tolerance(judged.grain, max_ulp, atol),
            forward_mode,
            second_order,
            max_residual_bytes,
            frozenset(skip),
            seed,
        )
    report = RuleReport(judged.name, tuple(_merged(rows)), kept)
    if not report.passed:
        more = len(report.faults) - 1
        others = f" ({more} more below)" if more else ""
        raise AssertionError(f"{judged.name}: {report.faults[0]}{others}\n\n{report}")
    return report


def _rows(
    judged,
    reference,
    exact,
    domain,
    points,
    tolerance,
    forward_mode,
    second_order,
    max_residual_bytes,
    skip,
    seed,
) -> tuple[list[RuleRow], int]:
    table, common = choose(judged, domain, points, seed)
    limits = intervals(judged, domain)
    expected = expect(judged, table, reference, exact, second_order, limits)
    wanted = ["value", "reverse"]
    if forward_mode is not False:
        wanted.append("forward")
    if second_order:
        wanted += [
            part for part in SECOND if forward_mode is not False or part == "second"
        ]
    if len(judged.inputs) > 1 and "one argument" not in skip:
        wanted.append("alone")
    wanted += [part for part in ("remat", "scan") if part not in skip]
    (found,) = differentiate(
        Job(judged.call, judged.inputs, judged.outputs, table, wanted)
    )
    lacking = found.failures.get("forward")
    setting = Setting(
        judged,
        table,
        common,
        found,
        expected,
        tolerance,
        (not (lacking and lacks_forward_mode(lacking)))
        if forward_mode is None
        else forward_mode,
        reference,
    )
    kept = 0
    rows = [*_checks.values(setting), *_checks.first_order(setting)]
    if second_order:
        rows += _checks.second_order(setting)
    rows += _checks.variants(setting)
    # What is wrong here would be so everywhere: the rest would say it once more.
    if all(row.passed for row in rows):
        if "eager" not in skip:
            more, kept = _calls.eager(setting)
            rows += more
            rows.append(_calls.residuals(setting, kept, max_residual_bytes))
        if "weak types" not in skip:
            rows += _calls.weak_types(setting)
        if "integer arguments" not in skip:
            rows += _calls.integers(setting)
        rows += _checks.narrow(setting, skip)
        rows += _checks.meshes(setting, skip)
        if "leaks" not in skip:
            rows += _calls.leaks(setting)
    return rows, kept


def _merged(rows: Iterable[RuleRow]) -> list[RuleRow]:
    """One row for each check: the first that failed, or that with the largest error."""
    grouped: dict[str, list[RuleRow]] = defaultdict(list)
    for row in rows:
        grouped[row.check].append(row)
    return [
        max(group, key=lambda row: (not row.passed, row.error))._replace(
            judged=sum(row.judged for row in group)
        )
        for group in grouped.values()
    ]


def _exact_orders(exact: Any) -> list[Callable] | None:
    if exact is None:
        return None
    orders = [exact] if callable(exact) else list(exact)
    if not 1 <= len(orders) <= 3 or not all(map(callable, orders)):
        raise ValueError(
            "check_rule expects exact to be a function, or up to three of them: the "
            f"value and its first two derivatives, but got {exact!r}."
        )
    return orders


def _check_options(skip: Any, max_ulp: float, atol: float) -> None:
    if isinstance(skip, str) or (unknown := set(skip) - set(CHECKS)):
        raise ValueError(
            f"check_rule can skip {', '.join(CHECKS)}, but got skip="
            f"{skip if isinstance(skip, str) else sorted(unknown)!r}."
        )
    if max_ulp < 0 or atol < 0:
        raise ValueError(
            "check_rule expects max_ulp and atol to be at least 0, but got "
            f"{max_ulp} and {atol}."
        )
