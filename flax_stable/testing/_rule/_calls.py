"""Checks of single calls: eager, of Python numbers, of integers, what is kept."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from ._checks import Setting, fault_of, like_gradient
from ._derivatives import WrongType, checked, describe, weights
from ._judge import Place, RuleRow, compare, same
from ._subject import Leaves, first_line, is_floating, join, split


def eager(s: Setting) -> tuple[list[RuleRow], int]:
    """Value and gradient without a compiler, and the bytes that stay in between."""
    subject = s.subject
    x = [jnp.asarray(leaf) for leaf in split(s.table[0], subject.inputs)]
    try:
        y, pull = jax.vjp(subject.call, *x)
        g = _cotangent(s)
        gradient = checked("cotangent", pull(g), x)
        called = subject.call(*x)
    except Exception as e:
        return [fault_of("eager", "an eager derivative", e)], 0
    rows = [
        _like_value(s, "eager", "the value of an eager call", called),
        _like_value(s, "eager", "the value in eager reverse mode", y),
        like_gradient(
            s, "eager", "in eager mode", join(gradient, subject.inputs)[None], [0]
        ),
    ]
    kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(pull)}
    return rows, sum(kept.values())


def weak_types(s: Setting) -> Iterator[RuleRow]:
    """Python numbers in place of arrays, where the example has no axes."""
    subject = s.subject
    default = jnp.asarray(0.0).dtype
    if any(leaf.shape or leaf.dtype != default for leaf in subject.inputs):
        return
    x = [float(v) for v in s.table[0]]
    try:
        y, pull = jax.vjp(subject.call, *x)
        checked("value", y, subject.outputs)
        gradient = checked("cotangent", pull(_cotangent(s)), subject.inputs)
    except Exception as e:
        yield fault_of("weak types", "the derivative at Python numbers", e)
        return
    yield _like_value(s, "weak types", "the value at Python numbers", y)
    yield like_gradient(
        s, "weak types", "at Python numbers", join(gradient, subject.inputs)[None], [0]
    )


def integers(s: Setting) -> Iterator[RuleRow]:
    """Cotangents of float0 for what is not floating, eager and compiled."""
    leaves = jax.tree.leaves(s.subject.args)
    if all(map(is_floating, leaves)):
        return

    def derivative(*args: Any) -> tuple[list, list]:
        out, pull = jax.vjp(s.subject.function, *args)
        flat, tree = jax.tree.flatten(out)
        u = iter(_cotangent(s))
        g = [next(u) if is_floating(y) else np.zeros(y.shape, float0) for y in flat]
        given = jax.tree.leaves(pull(jax.tree.unflatten(tree, g)))
        for x, ct in zip(leaves, given, strict=True):
            if is_floating(x):
                continue
            if (ct.dtype, ct.shape) != (float0, x.shape):
                raise WrongType(
                    f"the cotangent of {describe(x)} is {describe(ct)}, expected float0"
                )
        return [ct for ct in given if ct.dtype != float0], []

    check, where = "integer arguments", "beside integer arguments"
    for apply in (derivative, jax.jit(derivative)):
        try:
            gradient, _ = apply(*s.subject.args)
        except Exception as e:
            yield fault_of(check, f"the derivative {where}", e)
            return
        got = join(gradient, s.subject.inputs)[None]
        yield like_gradient(s, check, where, got, [0])


def leaks(s: Setting) -> Iterator[RuleRow]:
    """Tracers that outlive the trace they belong to."""
    if s.found.jacobian is None:
        return

    def derivatives(*x: Any) -> Any:
        y, pull = jax.vjp(s.subject.call, *x)
        g = _cotangent(s)
        pushed: Leaves = []
        if s.found.pushed is not None:
            pushed = jax.jvp(s.subject.call, x, x)[1]
        return y, pull(g), pushed

    try:
        with jax.checking_leaks():
            jax.eval_shape(derivatives, *s.subject.inputs)
    except Exception as e:
        text = first_line(e)
        if "Leaked" not in text:
            yield fault_of("leaks", "the derivative under jax.checking_leaks", e)
            return
        yield RuleRow(
            "leaks",
            got="a tracer",
            fault=f"the rule leaks a tracer, which it keeps beyond its trace: {text}",
        )
        return
    yield RuleRow("leaks")


def residuals(s: Setting, kept: int, limit: int | None) -> RuleRow:
    """The bytes that the backward pass keeps of the example."""
    fault = ""
    if limit is not None and kept > limit:
        fault = (
            f"the backward pass keeps {kept} bytes at the example, expected at most "
            f"{limit}"
        )
    expected = "any" if limit is None else f"at most {limit}"
    return RuleRow("residual bytes", "", expected, str(kept), fault=fault)


def _cotangent(s: Setting) -> Leaves:
    u = weights(len(s.subject.out_labels), 1)
    return [jnp.asarray(leaf) for leaf in split(u, s.subject.outputs)]


def _like_value(s: Setting, check: str, what: str, got: Leaves) -> RuleRow:
    if s.found.value is None:
        return RuleRow(check, note="nothing to compare with")
    known = s.found.value[:1]
    expected = type(s.expected.value)(*(array[:1] for array in s.expected.value))
    place: Callable = Place(s.subject, s.table, what, 1)
    return compare(
        check,
        place,
        join(got, s.subject.outputs)[None],
        same(known, expected),
        s.tolerance,
        extra=s.ulps * np.max(np.abs(np.nan_to_num(known, posinf=0, neginf=0))),
        ending="; the former is that under jax.vmap",
    )
