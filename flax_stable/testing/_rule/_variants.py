"""The gradient in other dtypes, under other transformations and on meshes."""

from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ._checks import like_gradient
from ._derivatives import Job, differentiate
from ._expected import Expected
from ._judge import Place, RuleRow, Tolerance, compare
from ._places import PLACES, on_meshes
from ._setting import Setting, failed, fault_of, value_type

NARROW = ("bfloat16", "float16")
# The larger of the value and 1 has this many units in 16 bits to err by.
_NARROW_ULP = 8


def variants(s: Setting) -> Iterator[RuleRow]:
    """The gradient under other transformations, beside that under `jax.vmap`."""
    names = {
        "alone": ("one argument", "with respect to one argument alone"),
        "one_output": ("one output", "of one output alone"),
        "remat": ("remat", "under jax.checkpoint"),
        "scan": ("scan", "within jax.lax.scan"),
        "second_scan": ("scan", "within jax.lax.scan"),
    }
    for part, (check, where) in names.items():
        what = f"the derivative {where}"
        if part not in s.found.variants:
            yield from failed(s, part, check, what)
            continue
        yield like_gradient(s, check, what, s.found.variants[part])


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
            what = "the value" if part == "value" else "reverse mode"
            yield fault_of(name, f"{what} in {name}", error)
        grain = Tolerance(jnp.dtype(name), _NARROW_ULP, s.tolerance.atol)
        if found.value is not None:
            place = Place(s.subject, rows, f"the value in {name}", 1).describe
            yield _narrow(s, name, place, found.value, s.expected.value, grain)
        if found.jacobian is not None:
            what = f"the derivative in {name}"
            place = Place(s.subject, rows, what, 1, (2,)).describe
            yield _narrow(s, name, place, found.jacobian, s.expected.jacobian, grain)


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
            what = f"the derivative {where}"
            yield like_gradient(s, name, what, found[name], rows)
        else:
            yield fault_of(name, f"the derivative {where}", failures[name])
