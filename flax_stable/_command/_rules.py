"""Functions of the user whose derivative rule is to be checked."""

import argparse
import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..testing._check_rule import Options, examine
from ..testing._rule._judge import RuleReport
from ._load import UsageError, load

Shape = tuple[int, ...]


def shapes(text: str) -> list[Shape]:
    """An argument type: ``2x3,3``, with ``()`` for a number."""
    return [
        () if part.strip() == "()" else tuple(map(int, part.split("x")))
        for part in text.split(",")
    ]


def interval(text: str) -> tuple[float, float]:
    """An argument type: ``low,high``."""
    low, high = map(float, text.split(","))
    if not low < high:
        raise argparse.ArgumentTypeError(f"{text!r} is no LOW,HIGH with LOW < HIGH")
    return low, high


def check(
    name: str,
    dtype: str,
    given: Sequence[Shape] | None,
    domain: tuple[float, float] | None,
) -> RuleReport:
    """What `check_rule` finds of a function in a dtype, at arrays of these shapes."""
    function = load(name)
    if not callable(function):
        raise UsageError(f"{name} is no function, but {function!r}")
    wide = dtype == "float64"
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        args = _example(given or _numbers(name, function), dtype, domain)
        try:
            report = examine(function, args, Options(domain=domain))
        except TypeError as error:
            raise UsageError(str(error)) from error
    return report._replace(name=f"{name} in {dtype}")


def as_json(report: RuleReport) -> dict[str, Any]:
    """A report as plain data; numbers that JSON lacks are strings."""

    def plain(value: Any) -> Any:
        lacking = isinstance(value, float) and not math.isfinite(value)
        return str(value) if lacking else value

    return {
        "function": report.name,
        "passed": report.passed,
        "residual_bytes": report.residual_bytes,
        "rows": [
            {
                **{key: plain(value) for key, value in row._asdict().items()},
                "passed": row.passed,
            }
            for row in report.rows
        ],
    }


def _numbers(name: str, function: Callable) -> list[Shape]:
    """A number for each argument without a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(
            f"{name} does not say what it takes: give --shapes, such as 2x3,3"
        ) from None
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return [
        ()
        for parameter in parameters
        if parameter.kind in positional and parameter.default is parameter.empty
    ]


def _example(
    given: Sequence[Shape], dtype: str, domain: tuple[float, float] | None
) -> tuple:
    random = np.random.default_rng(0)
    low, high = np.clip(domain or (-1.0, 1.0), -1e3, 1e3)
    return tuple(random.uniform(low, high, shape).astype(dtype) for shape in given)
