"""The value, the Jacobian and the derivative of the gradient, at all points."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._derivatives import SCALES, SECOND, weights
from ._judge import RuleRow, at, compare, same, show
from ._setting import Setting, failed, value_type


def values(s: Setting) -> Iterator[RuleRow]:
    """The value: what it is, what becomes of NaN, and what derivatives return as it."""
    value, expected = s.found.value, s.expected.value
    if fault := value_type(s, s.subject.inputs, s.subject.outputs):
        yield RuleRow("value", got="wrong type", fault=fault)
    if value is None:
        yield from failed(s, "value", "value", "the value")
        return
    coupled = s.cancelling().any(axis=2)
    size = np.nan_to_num(np.abs(expected.center), posinf=0).max(axis=1, keepdims=True)
    extra = np.where(coupled, size * s.ulps + s.conditioning(), 0.0)
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
    ordinary = np.isfinite(s.table).all(axis=1) & ~s.overflowing()
    finite = ordinary[:, None, None]
    if s.found.value is not None:
        finite = finite & np.isfinite(s.found.value)[:, :, None]

    def judged(mode, found):
        return compare(
            mode,
            s.place(f"the derivative in {mode}", 1, (2,)),
            found,
            s.blamed(found),
            s.tolerance,
            extra=extra,
            never_nan=finite,
        )

    if jacobian is None:
        yield from failed(s, "reverse", "reverse mode", "reverse mode")
    else:
        yield judged("reverse mode", jacobian)
        yield _linear(s, "cotangent", jacobian, s.found.pulled)
    pushed = s.found.pushed
    if pushed is None:
        yield from failed(s, "forward", "forward mode", "forward mode")
        return
    yield judged("forward mode", pushed)
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
        labels = s.subject.labels if kind == "cotangent" else s.subject.out_labels
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
        judged = judged & np.isfinite(s.table).all(axis=1) & ~s.overflowing()
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
            yield from failed(s, part, check, f"the second derivative, {way},")
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
    if s.found.again is not None and s.found.jacobian is not None:
        finite = (judged & np.isfinite(s.table).all(axis=1))[:, None, None]
        finite = finite & np.isfinite(s.found.jacobian)
        yield compare(
            "second order, by the cotangent",
            s.place("the derivative of reverse mode by the cotangent", 1, (2,)),
            s.found.again,
            same(np.where(finite, s.found.jacobian, np.nan), s.expected.jacobian),
            s.tolerance,
            extra=s.ulps * s.cancelling(),
            never_nan=finite,
            ending="; the former is that which reverse mode multiplies by",
        )
