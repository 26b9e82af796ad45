"""Checks of single calls: eager, of Python numbers, of integers, what is kept."""

import gc
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0

from ._checks import like_gradient
from ._derivatives import WrongType, checked, describe, weights
from ._judge import Place, RuleRow, compare, same
from ._setting import Setting, fault_of
from ._subject import Leaves, Subject, is_floating, join, split


def eager(s: Setting) -> tuple[list[RuleRow], int]:
    """Value and gradient without a compiler, and the bytes that stay in between."""
    subject = s.subject
    x = [jnp.asarray(leaf) for leaf in split(s.table[0], subject.inputs)]
    try:
        y, pull = jax.vjp(subject.call, *x)
        gradient = checked("cotangent", pull(_cotangent(subject)), x)
        called = subject.call(*x)
    except Exception as e:
        return [fault_of("eager", "an eager derivative", e)], 0
    rows = [
        _like_value(s, "eager", "the value of an eager call", called),
        _like_value(s, "eager", "the value in eager reverse mode", y),
        like_gradient(
            s,
            "eager",
            "the derivative in eager mode",
            join(gradient, subject.inputs)[None],
            [0],
        ),
    ]
    kept = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(pull)}
    return rows, sum(kept.values())


def weak_types(s: Setting) -> Iterator[RuleRow]:
    """The types of results for Python numbers, where the example has no axes."""
    subject = s.subject
    default = jnp.asarray(0.0).dtype
    if any(leaf.shape or leaf.dtype != default for leaf in subject.inputs):
        return

    def derivative(*x: Any) -> Leaves:
        y, pull = jax.vjp(subject.call, *x)
        checked("value", y, subject.outputs)
        return checked("cotangent", pull(_cotangent(subject)), subject.inputs)

    check = "weak types"
    try:
        jax.eval_shape(derivative, *(float(v) for v in s.table[0]))
    except Exception as e:
        yield fault_of(check, "the derivative at Python numbers", e)
    else:
        yield RuleRow(check)


def integers(s: Setting) -> Iterator[RuleRow]:
    """Cotangents of float0 for what is not floating, eager and compiled."""
    leaves = jax.tree.leaves(s.subject.args)
    if all(map(is_floating, leaves)):
        return

    def derivative(*args: Any) -> tuple[list, list]:
        out, pull = jax.vjp(s.subject.function, *args)
        flat, tree = jax.tree.flatten(out)
        u = iter(_cotangent(s.subject))
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
        yield like_gradient(s, check, f"the derivative {where}", got, [0])


def leaks(subject: Subject) -> list[RuleRow]:
    """Tracers that outlive the trace they belong to.

    To be looked for before anything else: what was traced once JAX remembers, and does
    not trace again.
    """

    def derivative(*x: Any) -> Leaves:
        return list(jax.vjp(subject.call, *x)[1](_cotangent(subject)))

    # Of all objects the collector then sees only new ones, as `jax.checking_leaks` does
    # not, which takes seconds.
    freeze = not gc.get_freeze_count()
    old: set[int] = set()
    if freeze:
        gc.freeze()
    else:
        old = {id(x) for x in _tracers()}
    try:
        try:
            jax.eval_shape(derivative, *subject.inputs)
        except Exception:
            # It is said elsewhere what this is.
            return [RuleRow("leaks", note="not traced")]
        gc.collect()
        found = [x for x in _tracers() if id(x) not in old]
    finally:
        if freeze:
            gc.unfreeze()
    if not found:
        return [RuleRow("leaks")]
    fault = f"the rule keeps a tracer beyond its trace: {found[0]}"
    return [RuleRow("leaks", got="a tracer", fault=fault)]


def _tracers() -> list[jax.core.Tracer]:
    return [x for x in gc.get_objects() if issubclass(type(x), jax.core.Tracer)]


def residuals(kept: int, limit: int | None) -> RuleRow:
    """The bytes that the backward pass keeps of the example."""
    fault = ""
    if limit is not None and kept > limit:
        fault = (
            f"the backward pass keeps {kept} bytes at the example, expected at most "
            f"{limit}"
        )
    expected = "any" if limit is None else f"at most {limit}"
    return RuleRow("residual bytes", "", expected, str(kept), fault=fault)


def _cotangent(subject: Subject) -> Leaves:
    u = weights(len(subject.out_labels), 1)
    return [jnp.asarray(leaf) for leaf in split(u, subject.outputs)]


def _like_value(s: Setting, check: str, what: str, got: Leaves) -> RuleRow:
    if s.found.value is None:
        return RuleRow(check, note="nothing to compare with")
    known = s.found.value[:1]
    expected = type(s.expected.value)(*(array[:1] for array in s.expected.value))
    place = Place(s.subject, s.table, what, 1).describe
    return compare(
        check,
        place,
        join(got, s.subject.outputs)[None],
        same(known, expected),
        s.tolerance,
        extra=s.ulps * np.max(np.abs(np.nan_to_num(known, posinf=0, neginf=0))),
        ending="; the former is that under jax.vmap",
    )
