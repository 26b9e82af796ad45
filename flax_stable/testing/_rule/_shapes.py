"""The gradient at arguments of other shapes than the example's."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import jax
import numpy as np

from ._derivatives import Job, differentiate, weights
from ._differences import slopes, stencil
from ._expected import Expected, in_float64, unit, widened
from ._judge import Place, RuleRow, compare
from ._points import choose, intervals
from ._setting import Setting
from ._subject import Subject, is_floating, subject

Shapes = list[tuple[int, ...]]
_POINTS = 4
# Pairs of axes are tried one by one where there are no more.
_AXES = 6


def other_shapes(s: Setting, domain: Any) -> Iterator[RuleRow]:
    """Whether the rule is right where axes are longer, or of length 1.

    A rule that raises an error there may be meant for the example's shapes; one that
    gives wrong numbers is wrong.
    """
    check = "other shapes"
    subjects = [_resized(s.subject, shapes) for shapes in _candidates(s.subject)]
    if not subjects:
        yield RuleRow(check, note="takes no others")
        return
    tables, around = [], []
    for judged in subjects:
        table, common = choose(judged, domain, (), seed=1)
        tables.append(table[common][:_POINTS])
        around.append(stencil(tables[-1], intervals(judged, domain)))
    found = differentiate(
        *(
            Job(judged.call, judged.inputs, judged.outputs, table, ["gradient"])
            for judged, table in zip(subjects, tables, strict=True)
        )
    )
    with in_float64():
        jobs = []
        for judged, table, (nodes, _) in zip(subjects, tables, around, strict=True):
            inputs = widened(judged.inputs)
            outputs = jax.eval_shape(judged.call, *inputs)
            rows = np.concatenate([table, nodes.reshape(-1, table.shape[1])])
            jobs.append(Job(judged.call, inputs, outputs, rows, ["value"]))
        values = differentiate(*jobs)
        eps = unit(s.subject.call, widened(s.subject.inputs))
    for judged, table, (nodes, width), job, got in zip(
        subjects, tables, around, values, found, strict=True
    ):
        if "gradient" not in got.variants or job.value is None:
            error = next(iter((got.failures | job.failures).values()))
            yield RuleRow(check, note=f"not taken: {type(error).__name__}")
            continue
        u = weights(len(judged.out_labels), 1)
        y = job.value @ u
        at, nodes = y[: len(table), None], y[len(table) :].reshape(nodes.shape[:-1])
        slope, slack = slopes(at, nodes[..., None], width, eps)
        slope, slack = slope[:, 0], slack[:, 0]
        size = np.abs(job.value[: len(table)]) @ np.abs(u)
        size = np.maximum(size, np.abs(np.nan_to_num(slope)).max(axis=1))
        shapes = ", ".join(str(x.shape) for x in judged.inputs)
        yield compare(
            check,
            Place(
                judged,
                table,
                f"the derivative for {'shapes' if ', (' in shapes else 'shape'} "
                f"{shapes}",
                None,
                (1,),
            ).describe,
            got.variants["gradient"],
            Expected(slope, slope, slope, slack),
            s.tolerance,
            extra=s.ulps * size[:, None],
            ending="; the rule is right for the example's shapes only",
        )


def _candidates(judged: Subject) -> list[Shapes]:
    """Shapes of all leaves that the function takes as well.

    Axes that are as long as others may have to be so: as few as can be change at once,
    each time to a length of its own.  Integers stay as they are: they may be indices.
    """
    leaves = jax.tree.leaves(judged.args)
    moving = [i for i, x in enumerate(leaves) if is_floating(x) or x.dtype == bool]
    shapes = [np.shape(x) for x in leaves]

    def changed(axes: Sequence[tuple[int, int]], length: int, shapes: Shapes) -> Shapes:
        new = [list(shape) for shape in shapes]
        for i, axis in axes:
            new[i][axis] = length
        return [tuple(shape) for shape in new]

    if not any(shapes):
        rows: Shapes = [(3,) if i in moving else () for i in range(len(leaves))]
        return [rows] if _taken(judged, rows) else []
    axes = [(i, a) for i in moving for a, n in enumerate(shapes[i]) if n > 1]
    longer, fixed = shapes, axes
    groups: list[tuple] = [(axis,) for axis in axes]
    if len(axes) <= _AXES:
        groups += combinations(axes, 2)
    lengths = sorted({shapes[i][a] for i, a in axes})
    groups += [tuple(x for x in axes if shapes[x[0]][x[1]] == n) for n in lengths]
    for group in groups:
        if not set(group) <= set(fixed) or len({shapes[i][a] for i, a in group}) > 1:
            continue
        taken = {n for shape in longer for n in shape}
        length = next(
            n for n in range(shapes[group[0][0]][group[0][1]] + 1, 99) if n not in taken
        )
        if _taken(judged, trial := changed(group, length, longer)):
            longer, fixed = trial, [axis for axis in fixed if axis not in group]
    found = [longer] if longer != shapes else []
    if all(i in moving for i in range(len(leaves))):
        single = changed(axes, 1, shapes)
        found += [single] if single != shapes and _taken(judged, single) else []
    return found


def _arguments(judged: Subject, shapes: Shapes) -> tuple:
    leaves, tree = jax.tree.flatten(judged.args)
    return jax.tree.unflatten(tree, map(np.resize, leaves, shapes))


def _taken(judged: Subject, shapes: Shapes) -> bool:
    try:
        jax.eval_shape(judged.function, *_arguments(judged, shapes))
    except Exception:
        return False
    return True


def _resized(judged: Subject, shapes: Shapes) -> Subject:
    return subject(judged.function, _arguments(judged, shapes), limit=None)
