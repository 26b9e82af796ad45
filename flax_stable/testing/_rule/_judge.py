"""Rows of the report: whether results are what is expected, and what is wrong."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from .._table import aligned
from ._expected import Expected
from ._subject import Subject, first_line


class RuleRow(NamedTuple):
    """One check; see `RuleReport`."""

    check: str
    at: str = ""
    expected: float | str = ""
    got: float | str = ""
    error: float = 0.0
    judged: int = 0
    fault: str = ""
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault


class RuleReport(NamedTuple):
    """What `check_rule` saw; prints as a table.

    Attributes:
      name: the function's name.
      residual_bytes: what the backward pass keeps of the example.
      rows: one for each check.  A row has the name of its ``check``, the worst input
        ``at``, what was ``expected`` there and ``got``, the largest ``error`` in units
        in the last place, the number of results ``judged``, whether it ``passed``, the
        ``fault`` in words and a ``note``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> report = fs.testing.check_rule(jnp.square, (1.0,), domain=(-9, 9))
      >>> {row.check: row.passed for row in report.rows}["reverse mode"]
      True
      >>> report.residual_bytes  # of a number in float32
      4
    """

    name: str
    rows: tuple[RuleRow, ...]
    residual_bytes: int = 0

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(row.passed for row in self.rows)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong, in words; the first is most to the point."""
        return tuple(row.fault for row in self.rows if row.fault)

    @property
    def verdict(self) -> str:
        """What is wrong first of all, in one line, or that nothing is."""
        if self.passed:
            return f"{self.name}: nothing wrong in {len(self.rows)} checks"
        more = len(self.faults) - 1
        others = f" ({more} more below)" if more else ""
        return f"{self.name}: {self.faults[0]}{others}"

    def __str__(self) -> str:
        header = (
            "check",
            "worst input",
            "expected",
            "got",
            "ULP",
            "judged",
            "passed",
        )
        rows = [
            (
                row.check,
                row.at,
                show(row.expected),
                show(row.got),
                f"{row.error:.3g}" if row.judged else "",
                str(row.judged or ""),
                "no" if row.fault else f"yes{row.note and f' ({row.note})'}",
            )
            for row in self.rows
        ]
        return aligned(header, rows, right=(4, 5))


class Tolerance(NamedTuple):
    """How far results may lie from what is expected.

    Attributes:
      dtype: whose units in the last place are counted.
      max_ulp: how many of them.
      atol: what is allowed on top.
    """

    dtype: np.dtype
    max_ulp: float
    atol: float

    @property
    def floor(self) -> float:
        """What may be lost to numbers that have no normal representation."""
        info = jnp.finfo(self.dtype)
        half = self.dtype == np.float16
        # Where a factor is flushed to zero the other one may be some hundred.
        return 128 * float(info.smallest_subnormal if half else info.smallest_normal)

    def units(self, x: np.ndarray) -> np.ndarray:
        """The unit in the last place of each number."""
        info = jnp.finfo(self.dtype)
        tiny, largest = float(info.smallest_normal), float(info.max)
        magnitude = np.clip(np.nan_to_num(np.abs(x), nan=0.0), tiny, largest)
        return np.ldexp(1.0, np.frexp(magnitude)[1] - 1 - info.nmant)


# What the result at an index is, and at which input.
Description = Callable[[tuple[int, ...]], tuple[str, str]]


class Place(NamedTuple):
    """The names of what the indices of an array of results mean."""

    subject: Subject
    table: np.ndarray
    what: str
    outputs: int | None = None
    by: tuple[int, ...] = ()

    def describe(self, index: tuple[int, ...]) -> tuple[str, str]:
        """What the result at an index is, and at which input."""
        labels, row = self.subject.labels, self.table[index[0]]
        what = self.what
        if self.outputs is not None and len(self.subject.out_labels) > 1:
            what += f" of {self.subject.out_labels[index[self.outputs]]}"
        if self.by and len(labels) > 1:
            what += f" by {' and '.join(labels[index[axis]] for axis in self.by)}"
        return what, at(labels, row, [index[axis] for axis in self.by])


def at(labels: Sequence[str], row: np.ndarray, first: Sequence[int] = ()) -> str:
    """A point in words, of which the most telling elements are shown."""
    with np.errstate(divide="ignore"):
        extreme = np.nan_to_num(np.abs(np.log(np.abs(row))), nan=np.inf)
    order = list(dict.fromkeys([*first, *np.argsort(-extreme, kind="stable")]))
    shown = sorted(order[:4]) if len(row) > 4 else range(len(row))
    text = ", ".join(f"{labels[i]} = {show(row[i])}" for i in shown)
    return text + (", ..." if len(row) > 4 else "")


def show(x: float | str) -> str:
    return x if isinstance(x, str) else f"{float(x):.9g}"


def compare(
    check: str,
    place: Description,
    got: np.ndarray,
    expected: Expected,
    tolerance: Tolerance,
    *,
    extra: np.ndarray | float = 0.0,
    never_nan: np.ndarray | bool = False,
    ending: str = "",
) -> RuleRow:
    """A row about numbers.

    ``extra`` is allowed on top of what the tolerance says, ``never_nan`` tells where
    NaN is wrong whether or not it is known what is right.
    """
    if got.shape != expected.center.shape:
        # Of a rule that transformations take apart, such as one with custom_vmap.
        fault = f"{place((0,) * got.ndim)[0]} has no element for each input and output"
        return RuleRow(check, got="wrong type", fault=fault)
    info = jnp.finfo(tolerance.dtype)
    unit = tolerance.units(expected.center)
    known = ~np.isnan(expected.center)
    with np.errstate(all="ignore"):
        outside = np.maximum(expected.low - got, got - expected.high)
        allowed = expected.slack + extra + tolerance.floor + tolerance.atol
        excess = np.where(outside > allowed, outside / unit, 0.0)
        room = tolerance.max_ulp * unit
        largest = float(info.max)
        right = (
            (outside <= room + allowed)
            | (np.isposinf(got) & (expected.high + room + allowed >= largest))
            | (np.isneginf(got) & (expected.low - room - allowed <= -largest))
        )
    excess[np.isinf(got) & right] = 0.0
    excess[np.isnan(got)] = np.inf
    wrong = (known & ~right) | (np.isnan(got) & never_nan)
    excess = np.where(known | wrong, excess, 0.0)
    judged = int(np.count_nonzero(known | wrong))
    if not judged:
        return RuleRow(check, note="nothing known to compare with")
    # Of results that are wrong in all their digits the largest one.
    size = np.nan_to_num(np.abs(expected.center), nan=0.0, posinf=0.0)
    lost = 2.0**info.nmant
    rank = np.where(excess < lost, excess / lost, 1 + size / (1 + size))
    rank = np.where(wrong, 3 + rank, rank) if wrong.any() else excess
    worst = np.unravel_index(np.argmax(rank), got.shape)
    index = tuple(int(i) for i in worst)
    what, where = place(index)
    e, g = float(expected.center[index]), float(got[index])
    fault = ""
    if wrong.any():
        words = _words(e, g, got[wrong & known], expected.center[wrong & known])
        fault = f"{what} {words} at {where}: expected {_or_number(e)}, got {show(g)}"
        fault += ending
    return RuleRow(check, where, e, g, float(excess[index]), judged, fault)


def _words(e: float, g: float, got: np.ndarray, expected: np.ndarray) -> str:
    """What is wrong with one result, or with all of those that are wrong."""
    if np.isnan(g):
        return "is NaN"
    with np.errstate(all="ignore"):
        ratio = got / expected
    if np.isfinite(ratio).all() and len(ratio) > 1:
        factor = float(np.median(ratio))
        if factor and np.allclose(ratio, factor, rtol=1e-2) and abs(factor - 1) > 5e-3:
            if abs(factor + 1) < 1e-2:
                return "has the wrong sign"
            return f"is {factor:.3g} times what it should be"
    if g == 0:
        return "vanishes"
    if np.isinf(g):
        return "is infinite"
    if e == 0:
        return "should be zero"
    return "is wrong"


def _or_number(e: float) -> str:
    return "a number" if np.isnan(e) else show(e)


def same(values: np.ndarray, like: Expected | None = None) -> Expected:
    """To expect just these values, as well as they are known."""
    if like is None:
        return Expected(values, values, values, np.zeros(values.shape))
    with np.errstate(invalid="ignore"):
        width = np.nan_to_num(like.high - like.low, nan=0.0)
    with np.errstate(invalid="ignore"):
        return Expected(values, values - width, values + width, np.zeros(values.shape))


def raised(check: str, what: str, error: Exception) -> RuleRow:
    """A row about something that could not be computed."""
    kind = type(error).__name__
    return RuleRow(check, got=kind, fault=f"{what} raises {kind}: {first_line(error)}")
