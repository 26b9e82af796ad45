"""The checks, each of which gives rows of the report."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._derivatives import (
    SCALES,
    SECOND,
    Derivatives,
    Job,
    WrongType,
    describe,
    differentiate,
    weights,
)
from ._expected import Expectations, Expected
from ._judge import Place, RuleRow, Tolerance, at, compare, raised, same, show
from ._places import PLACES, on_meshes
from ._subject import Subject, first_line

NARROW = ("bfloat16", "float16")
# The larger of the value and 1 has this many units in 16 bits to err by.
_NARROW_ULP = 8


class Setting(NamedTuple):
    """What the checks share.

    Attributes:
      subject: the function.
      table: the points, by row.
      common: rows that 16 bits are judged at.
      found: all derivatives there.
      expected: what they ought to be.
      tolerance: and how nearly.
      forward_mode: whether the function has forward mode.
      reference: the plain function beside it, if there is one.
    """

    subject: Subject
    table: np.ndarray
    common: np.ndarray
    found: Derivatives
    expected: Expectations
    tolerance: Tolerance
    forward_mode: bool
    reference: Callable | None

    @property
    def ulps(self) -> float:
        """What is allowed, as a share of a number's size."""
        return self.tolerance.max_ulp * float(jnp.finfo(self.tolerance.dtype).eps)

    @property
    def bounded(self) -> np.ndarray:
        """Where products with other cotangents than one need not overflow, by row."""
        limit = float(jnp.finfo(self.subject.grain).max) / 16
        return ((np.abs(self.table) < limit) | ~np.isfinite(self.table)).all(axis=1)

    def width(self) -> np.ndarray:
        """How far apart Jacobians are for inputs that round to the same numbers."""
        expected = self.expected.jacobian
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(expected.high - expected.low, nan=0.0, posinf=0.0)

    def blamed(self, got: np.ndarray) -> Expected:
        """The Jacobian to expect of ``got``, unknown where it is zero times infinity.

        Where one of several elements is infinite, a cotangent of zero for it is no more
        zero when it is multiplied, and what it is added to is NaN.
        """
        expected = self.expected.jacobian
        infinite = ~np.isfinite(self.table)
        own = infinite[:, None, :] & np.isfinite(expected.center)
        own &= expected.center != 0
        excused = infinite.any(axis=1)[:, None, None] & np.isnan(got) & ~own
        if len(self.subject.labels) == 1:
            return expected
        return expected._replace(center=np.where(excused, np.nan, expected.center))

    def place(self, what: str, outputs: int | None = None, by: tuple = ()) -> Place:
        return Place(self.subject, self.table, what, outputs, by)

    def cancelling(self) -> np.ndarray:
        """The size of what cancels in a Jacobian whose outputs each depend on much.

        Zero where an output depends on one element of each array only: there nothing
        excuses a derivative that is lost.
        """
        center = np.nan_to_num(self.expected.jacobian.center, posinf=0, neginf=0)
        groups = np.repeat(
            np.arange(len(self.subject.inputs)),
            [int(np.prod(leaf.shape)) for leaf in self.subject.inputs],
        )
        depends = (center != 0).any(axis=0)
        coupled = np.array(
            [max(np.bincount(groups[row]), default=0) > 1 for row in depends]
        )
        size = np.abs(center)
        value = np.nan_to_num(np.abs(self.expected.value.center), posinf=0)[..., None]
        by_row = size.max(axis=2, keepdims=True)
        by_column = size.max(axis=1, keepdims=True)
        largest = np.maximum(np.maximum(by_row, by_column), value)
        return np.where(coupled[None, :, None], largest, 0.0)


def values(s: Setting) -> Iterator[RuleRow]:
    """The value: what it is, what becomes of NaN, and what derivatives return as it."""
    value, expected = s.found.value, s.expected.value
    if fault := value_type(s, s.subject.inputs, s.subject.outputs):
        yield RuleRow("value", got="wrong type", fault=fault)
    if value is None:
        yield from _failed(s, "value", "value", "the value")
        return
    coupled = s.cancelling().any(axis=2)
    size = np.nan_to_num(np.abs(expected.center), posinf=0).max(axis=1, keepdims=True)
    extra = np.where(coupled, size, 0.0) * s.ulps
    yield compare(
        "value", s.place("the value", 1), value, expected, s.tolerance, extra=extra
    )
    nan = np.isnan(s.table).any(axis=1)
    if nan.any():
        passed_on = np.isnan(value).any(axis=1)
        # Of several elements it may be that one does not matter.
        due = nan & ((s.table.shape[1] == 1) | np.isnan(expected.center).all(axis=1))
        lost = due & ~passed_on
        if lost.any():
            p = int(np.argmax(lost))
            where = at(s.subject.labels, s.table[p])
            got = show(value[p, 0])
            yield RuleRow(
                "NaN",
                where,
                "nan",
                got,
                judged=int(due.sum()),
                fault=f"the value at {where} hides the NaN: expected nan, got {got}",
            )
        else:
            yield RuleRow("NaN", judged=int(due.sum()))
    if s.found.kept is not None:
        yield compare(
            "value in reverse mode",
            s.place("the value that reverse mode returns", 1),
            s.found.kept,
            same(value, expected),
            s.tolerance,
            extra=extra,
            ending="; the function itself returns the former",
        )


def first_order(s: Setting) -> Iterator[RuleRow]:
    """The Jacobian, element by element, in both modes, and its linearity."""
    jacobian = s.found.jacobian
    extra = s.ulps * s.cancelling()
    finite = np.isfinite(s.table).all(axis=1)[:, None, None]
    if s.found.value is not None:
        finite = finite & np.isfinite(s.found.value)[:, :, None]
    if jacobian is None:
        yield from _failed(s, "reverse", "reverse mode", "reverse mode")
    else:
        yield compare(
            "reverse mode",
            s.place("the derivative in reverse mode", 1, (2,)),
            jacobian,
            s.blamed(jacobian),
            s.tolerance,
            extra=extra,
            never_nan=finite,
        )
        yield _linear(s, "cotangent", jacobian, s.found.pulled)
    pushed = s.found.pushed
    if pushed is None:
        yield from _failed(s, "forward", "forward mode", "forward mode")
        return
    yield compare(
        "forward mode",
        s.place("the derivative in forward mode", 1, (2,)),
        pushed,
        s.blamed(pushed),
        s.tolerance,
        extra=extra,
        never_nan=finite,
    )
    yield _linear(s, "tangent", pushed.transpose(0, 2, 1), s.found.moved)
    if jacobian is not None:
        yield compare(
            "adjoint",
            s.place("the derivative in forward mode", 1, (2,)),
            pushed,
            same(np.where(finite, jacobian, np.nan), s.expected.jacobian),
            s.tolerance,
            extra=extra,
            never_nan=finite & ~np.isnan(jacobian),
            ending=" (the former in reverse mode): the modes are not adjoint",
        )


def _linear(s: Setting, kind: str, jacobian: np.ndarray, got: Any) -> RuleRow:
    """Whether the rule multiplies: J by its first index for several factors."""
    count = jacobian.shape[1]
    scales = SCALES if kind == "cotangent" else (1.0, 0.0)
    factors = np.outer(scales, weights(count, 1 if kind == "cotangent" else 2))
    with np.errstate(all="ignore"):
        sums = np.einsum("pki,sk->psi", jacobian, factors)
        sizes = np.einsum("pki,sk->psi", np.abs(jacobian), np.abs(factors))
    # Zero times infinity is nobody's fault.
    known = np.isfinite(jacobian).all(axis=1) & s.bounded[:, None]
    room = s.ulps * s.cancelling() + s.width()
    if kind == "tangent":
        room = room.transpose(0, 2, 1)
    extra = s.ulps * np.nan_to_num(sizes, posinf=0)
    extra += np.einsum("pki,sk->psi", room, np.abs(factors))

    def place(index: tuple[int, ...]) -> tuple[str, str]:
        factor = factors[index[1]]
        of = show(factor[0]) if count == 1 or not factor.any() else "several sizes"
        by, _ = s.subject.labels, s.subject.out_labels
        labels = by if kind == "cotangent" else s.subject.out_labels
        what = f"the derivative for a {kind} of {of}"
        if len(labels) > 1:
            what += f" in {labels[index[2]]}"
        return what, at(s.subject.labels, s.table[index[0]])

    return compare(
        f"{kind}s",
        place,
        got,
        same(np.where(known[:, None, :], sums, np.nan)),
        s.tolerance,
        extra=extra,
        ending=f"; the rule is not linear in the {kind}",
    )


def second_order(s: Setting) -> Iterator[RuleRow]:
    """Derivatives of the gradient for a fixed cotangent, in each way."""
    judged = s.bounded
    if len(s.subject.labels) > 1:
        judged = judged & np.isfinite(s.table).all(axis=1)
    u = np.abs(weights(len(s.subject.out_labels), 1))
    size = np.abs(np.nan_to_num(s.expected.jacobian.center, posinf=0, neginf=0))
    gradient = np.einsum("pmn,m->pn", np.maximum(size, s.cancelling()), u)
    extra = s.ulps * np.maximum(gradient[:, :, None], gradient[:, None, :])
    finite = np.isfinite(s.table).all(axis=1)[:, None, None]
    finite = finite & judged[:, None, None]
    for lower in (s.found.value, s.found.jacobian):
        if lower is not None:
            axes = tuple(range(1, lower.ndim))
            finite = finite & np.isfinite(lower).all(axis=axes)[:, None, None]
    known = np.where(judged[:, None, None], s.expected.second.center, np.nan)
    expected = s.expected.second._replace(center=known)
    for part, way in SECOND.items():
        check = f"second order, {way}"
        got = s.found.second.get(way)
        if got is None:
            yield from _failed(s, part, check, f"the second derivative, {way},")
            continue
        yield compare(
            check,
            s.place(f"the second derivative, {way},", None, (1, 2)),
            got,
            expected,
            s.tolerance,
            extra=extra,
            never_nan=finite,
        )


def variants(s: Setting) -> Iterator[RuleRow]:
    """The gradient under other transformations, beside that under `jax.vmap`."""
    names = {
        "alone": ("one argument", "with respect to one argument alone"),
        "remat": ("remat", "under jax.checkpoint"),
        "scan": ("scan", "within jax.lax.scan"),
    }
    for part, (check, where) in names.items():
        if part in s.found.variants:
            yield like_gradient(s, check, where, s.found.variants[part])
        else:
            yield from _failed(s, part, check, f"the derivative {where}")


def like_gradient(
    s: Setting, check: str, where: str, got: np.ndarray, rows: Any = slice(None)
) -> RuleRow:
    """Whether a gradient for the fixed cotangent is what `jax.vmap` gives."""
    if s.found.pulled is None:
        return RuleRow(check, note="nothing to compare with")
    u = np.abs(weights(len(s.subject.out_labels), 1))
    jacobian = np.abs(np.nan_to_num(s.found.jacobian, posinf=0, neginf=0))
    size = np.maximum(jacobian, s.cancelling()) * s.ulps + s.width()
    gradient = np.where(s.bounded[:, None], s.found.pulled[:, 0], np.nan)[rows]
    return compare(
        check,
        Place(s.subject, s.table[rows], f"the derivative {where}", None, (1,)),
        got,
        same(gradient),
        s.tolerance,
        extra=np.einsum("pmn,m->pn", size, u)[rows],
        never_nan=~np.isnan(gradient),
        ending="; the former is that under jax.vmap",
    )


def narrow(s: Setting, skip: Collection[str]) -> Iterator[RuleRow]:
    """Value and Jacobian of 16-bit inputs, at moderate points."""
    rows = s.table[s.common]
    jobs: dict[str, Job] = {}
    for name in NARROW:
        dtype = jnp.dtype(name)
        inputs = [jax.ShapeDtypeStruct(x.shape, dtype) for x in s.subject.inputs]
        if name in skip or not len(rows) or np.abs(rows).max() > jnp.finfo(dtype).max:
            continue
        try:
            outputs = jax.eval_shape(s.subject.call, *inputs)
        except Exception as e:
            yield RuleRow(name, note=f"not called: {type(e).__name__}")
            continue
        if fault := value_type(s, inputs, outputs):
            yield RuleRow(name, got="wrong type", fault=f"in {name} {fault}")
            continue
        jobs[name] = Job(s.subject.call, inputs, outputs, rows, ("value", "reverse"))
    for name, found in zip(jobs, differentiate(*jobs.values()), strict=True):
        for part, error in found.failures.items():
            yield fault_of(name, f"{part} in {name}", error)
        grain = Tolerance(jnp.dtype(name), _NARROW_ULP, s.tolerance.atol)
        if found.value is not None:
            place = Place(s.subject, rows, f"the value in {name}", 1)
            yield _narrow(s, name, place, found.value, s.expected.value, grain)
        if found.jacobian is not None:
            place = Place(s.subject, rows, f"the derivative in {name}", 1, (2,))
            yield _narrow(s, name, place, found.jacobian, s.expected.jacobian, grain)


def value_type(s: Setting, inputs: Any, outputs: Any) -> str:
    """What is wrong with the dtype of the value, if the reference can tell."""
    if s.reference is None:
        return ""
    try:
        wanted = jax.eval_shape(s.subject.with_function(s.reference), *inputs)
    except Exception:
        # It need not know dtypes other than float64.
        return ""
    for got, expected in zip(outputs, wanted, strict=True):
        if got.dtype != expected.dtype:
            return f"the value is {describe(got)}, expected {describe(expected)}"
    return ""


def _narrow(s, check, place, got, expected, tolerance) -> RuleRow:
    here = Expected(*(array[s.common] for array in expected))
    value = np.nan_to_num(np.abs(s.expected.value.center[s.common]), posinf=0)
    value = value.reshape(*value.shape, *[1] * (got.ndim - 2)).max(
        axis=1, keepdims=True
    )
    size = np.maximum(np.nan_to_num(np.abs(here.center)), np.maximum(value, 1.0))
    unit = float(jnp.finfo(tolerance.dtype).eps)
    finite = np.isfinite(here.center)
    return compare(
        check,
        place,
        got,
        here,
        tolerance,
        extra=tolerance.max_ulp * unit * size,
        never_nan=finite,
    )


def meshes(s: Setting, skip: Collection[str]) -> Iterator[RuleRow]:
    """The gradient of rows that are split over all devices."""
    wanted = [name for name in PLACES if name not in skip]
    if not wanted or s.found.pulled is None:
        return
    rows, found, failures = on_meshes(s.subject, s.table, wanted)
    for name in wanted:
        where = f"in {name}" if name == "shard_map" else f"on an {name}"
        if name in found:
            yield like_gradient(s, name, where, found[name], rows)
        else:
            yield fault_of(name, f"the derivative {where}", failures[name])


def _failed(s: Setting, part: str, check: str, what: str) -> Iterator[RuleRow]:
    if part not in s.found.failures:
        return
    error = s.found.failures[part]
    through_forward = part in ("forward", "second_rf")
    if not s.forward_mode and (through_forward or lacks_forward_mode(error)):
        yield RuleRow(check, note="no forward mode")
        return
    yield fault_of(check, what, error)


def fault_of(check: str, what: str, error: Exception) -> RuleRow:
    if isinstance(error, WrongType):
        text = first_line(error)
        return RuleRow(check, got="wrong type", fault=f"in {what.rstrip(',')} {text}")
    return raised(check, what.rstrip(","), error)


def lacks_forward_mode(error: Exception) -> bool:
    """Whether this is what JAX says of a `jax.custom_vjp` function."""
    return isinstance(error, TypeError) and "forward-mode" in str(error)
