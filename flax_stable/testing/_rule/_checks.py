"""The value, the Jacobian and the derivative of the gradient, at all points."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._derivatives import SCALES, SECOND, weights
from ._judge import Place, RuleRow, at, compare, same, show
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
    for mode, kept in (("reverse", s.found.kept), ("forward", s.found.carried)):
        if kept is not None:
            yield compare(
                f"value in {mode} mode",
                s.place(f"the value that {mode} mode returns", 1),
                kept,
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

    def judged(mode, found, along, where=""):
        return compare(
            mode,
            s.place(f"the derivative in {mode}{where}", 1, (2,)),
            found,
            s.blamed(found, along),
            s.tolerance,
            extra=extra,
            never_nan=finite,
        )

    if jacobian is None:
        yield from failed(s, "reverse", "reverse mode", "reverse mode")
    else:
        where = " under jax.vmap of the cotangent" if _right_for_one(s) else ""
        yield judged("reverse mode", jacobian, 1, where)
        yield _linear(s, "cotangent", jacobian, s.found.pulled)
        yield _passes_nan_on(s, jacobian, s.found.pulled)
    pushed = s.found.pushed
    if pushed is None:
        yield from failed(s, "forward", "forward mode", "forward mode")
        return
    yield judged("forward mode", pushed, 2)
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


def _right_for_one(s: Setting) -> bool:
    """Whether only the Jacobian is wrong, whose cotangents are many at once."""
    single = s.found.variants.get("remat")
    if single is None or s.found.jacobian is None:
        return False
    u = weights(len(s.subject.out_labels), 1)
    expected = np.einsum("pmn,m->pn", s.expected.jacobian.center[s.common], u)
    many = np.einsum("pmn,m->pn", s.found.jacobian[s.common], u)

    def wrong(got: np.ndarray) -> np.ndarray:
        return np.abs(got - expected) > 1e-2 * (1 + np.abs(expected))

    return bool(wrong(many).any()) and not wrong(single[s.common]).any()


def _linear(s: Setting, kind: str, jacobian: np.ndarray, got: Any) -> RuleRow:
    """Whether the rule multiplies: J by its first index for several factors."""
    count = jacobian.shape[1]
    scales = np.array(SCALES if kind == "cotangent" else (1.0, 0.0))
    factors = np.outer(scales, weights(count, 1 if kind == "cotangent" else 2))
    with np.errstate(all="ignore"):
        sums = np.einsum("pki,sk->psi", jacobian, factors)
        sizes = np.einsum("pki,sk->psi", np.abs(jacobian), np.abs(factors))
    # Zero times infinity is nobody's fault.
    known = np.isfinite(jacobian).all(axis=1)[:, None, :] & s.bounded(scales)[..., None]
    room = s.ulps * s.cancelling() + s.width()
    if kind == "tangent":
        room = room.transpose(0, 2, 1)
    extra = s.ulps * np.nan_to_num(sizes, posinf=0)
    # What is flushed to zero before it is multiplied is lost.
    room = room + s.tolerance.floor + s.tolerance.atol
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
        same(np.where(known, sums, np.nan)),
        s.tolerance,
        extra=extra,
        ending=f"; the rule is not linear in the {kind}",
    )


def _passes_nan_on(s: Setting, jacobian: np.ndarray, pulled: Any) -> RuleRow:
    """Whether a cotangent of NaN gives NaN wherever anything depends on it."""
    got = pulled[:, -1]
    due = np.isfinite(jacobian).all(axis=1) & s.bounded()[:, None]
    due &= (jacobian != 0).any(axis=1)
    hidden = due & ~np.isnan(got)
    fault = ""
    if hidden.any():
        p, i = (int(k) for k in np.argwhere(hidden)[0])
        what = f" in {s.subject.labels[i]}" if len(s.subject.labels) > 1 else ""
        where = at(s.subject.labels, s.table[p], [i])
        fault = (
            f"the derivative for a cotangent of nan{what} hides the NaN at {where}: "
            f"expected nan, got {show(got[p, i])}"
        )
    return RuleRow("cotangents", judged=int(due.sum()), fault=fault)


def second_order(s: Setting) -> Iterator[RuleRow]:
    """The value and the gradient of each mode, differentiated in each mode."""
    judged = s.bounded()
    if s.several:
        judged = judged & np.isfinite(s.table).all(axis=1) & ~s.overflowing()
    u = np.abs(weights(len(s.subject.out_labels), 1))
    size = np.abs(np.nan_to_num(s.expected.jacobian.center, posinf=0, neginf=0))
    gradient = np.einsum("pmn,m->pn", np.maximum(size, s.cancelling()), u)
    extra = s.ulps * np.maximum(gradient[:, :, None], gradient[:, None, :])
    finite = np.isfinite(s.table).all(axis=1) & judged
    for lower in (s.found.value, s.found.jacobian):
        if lower is not None:
            finite = finite & np.isfinite(lower).all(axis=tuple(range(1, lower.ndim)))
    known = np.where(judged[:, None, None], s.expected.second.center, np.nan)
    expected = s.expected.second._replace(center=known)
    value = np.abs(np.nan_to_num(s.expected.value.center, posinf=0, neginf=0)) @ u
    for part, way in SECOND.items():
        got = s.found.second.get(part)
        check = f"second order, {way}"
        if got is None:
            yield from failed(s, part, check, f"the second derivative, {way},")
            continue
        mode = "forward" if way.endswith("forward") else "reverse"
        # Where the curvature is infinite, zero times that is added to the slope.
        ordinary = finite & np.isfinite(got.curvature).all(axis=(1, 2))
        yield like_gradient(
            s,
            check,
            f"the derivative of the value that {mode} mode returns, {way},",
            got.of_value,
            known=ordinary,
            extra=s.ulps * value[:, None],
            ending="; the function itself has the former",
        )
        if got.by_factor is not None:
            yield like_gradient(
                s,
                check,
                f"the derivative of {mode} mode by the cotangent, {way},",
                got.by_factor,
                known=ordinary,
                ending=f"; the former is that by which {mode} mode multiplies",
            )
        yield compare(
            check,
            s.place(f"the second derivative, {way},", None, (1, 2)),
            got.curvature,
            expected,
            s.tolerance,
            extra=extra,
            never_nan=finite[:, None, None],
        )
    yield from _moved_in_scan(s)


def _moved_in_scan(s: Setting) -> Iterator[RuleRow]:
    """How value and gradient move within a scan, at moderate points.

    JAX may forget a rule there, which costs digits; it must not cost the answer.
    """
    got = s.found.variants.get("moved_in_scan")
    if got is None or s.found.pulled is None:
        return
    rows = s.common
    v = weights(len(s.subject.labels), 2)
    second, low, high, slack = (array[rows] for array in s.expected.second)
    room = (high - low + slack) @ np.abs(v)
    room += np.einsum(
        "pmn,m->pn", s.width()[rows], np.abs(weights(s.width().shape[1], 1))
    )
    size = np.abs(s.found.pulled[rows, 0]) + np.abs(second) @ np.abs(v)
    yield compare(
        "scan",
        Place(
            s.subject,
            s.table[rows],
            "the second derivative of a composition within jax.lax.scan",
            None,
            (1,),
        ).describe,
        got[rows],
        same(s.found.pulled[rows, 0] + second @ v),
        s.tolerance,
        extra=8 * s.ulps * (1 + size.max(axis=1, keepdims=True)) + room,
    )


def like_gradient(
    s: Setting,
    check: str,
    what: str,
    got: np.ndarray,
    rows: Any = slice(None),
    *,
    known: np.ndarray | bool = True,
    extra: np.ndarray | float = 0.0,
    ending: str = "; the former is that under jax.vmap",
) -> RuleRow:
    """Whether a gradient for the fixed cotangent is what `jax.vmap` gives."""
    if s.found.pulled is None or s.found.jacobian is None:
        return RuleRow(check, note="nothing to compare with")
    u = np.abs(weights(len(s.subject.out_labels), 1))
    jacobian = np.abs(np.nan_to_num(s.found.jacobian, posinf=0, neginf=0))
    size = np.maximum(jacobian, s.cancelling()) * s.ulps + s.width()
    judged = (s.bounded() & known)[:, None]
    gradient = np.where(judged, s.found.pulled[:, 0], np.nan)[rows]
    return compare(
        check,
        Place(s.subject, s.table[rows], what, None, (1,)).describe,
        got,
        same(gradient),
        s.tolerance,
        extra=(np.einsum("pmn,m->pn", size, u) + extra)[rows],
        never_nan=~np.isnan(gradient),
        ending=ending,
    )
