"""Whether functions keep their bounds: the rows of a table, computed in parallel."""

import contextlib
import math
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._ulp import UlpErrors, default_stride, derivative, merge, patterns, sweep

DTYPES = ("float16", "bfloat16", "float32", "float64")
ORDERS = (0, 1, 2)
MODES = ("vjp", "jvp")

# The largest error of value, first and second derivative in ULP.
BOUNDS = {
    "float16": (0.51, 0.51, 0.51),
    "bfloat16": (0.51, 0.51, 0.51),
    "float32": (2.0, 4.0, 6.0),
    "float64": (4.0, 8.0, 16.0),
}

# The inputs of one task, of which threads do many.
_TASK = 1 << 22


class Case(NamedTuple):
    """A function to judge.

    Attributes:
      name: what the table calls it.
      function: an elementwise function of one array.
      references: the exact value and derivatives, as many orders as are known.
      peer: another function, judged beside it and held to nothing.
    """

    name: str
    function: Callable
    references: Sequence[Callable]
    peer: Callable | None = None


class Row(NamedTuple):
    """What was found of a function in one dtype, order and mode.

    Attributes:
      function: its name.
      dtype: the dtype's name.
      order: the order of the derivative.
      mode: ``"vjp"``, ``"jvp"``, or ``"-"`` for a value.
      bound: the largest error that it may have.
      errors: those that it has.
      peer: those of the peer, None where there is none or where it cannot be computed.
      seconds: the time that it took, summed over threads.
    """

    function: str
    dtype: str
    order: int
    mode: str
    bound: float
    errors: UlpErrors
    peer: UlpErrors | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.errors.maximum <= self.bound


class Group(NamedTuple):
    """The computations that share a reference: all modes, and those of the peer."""

    case: Case
    dtype: np.dtype
    order: int
    modes: Sequence[str]
    computations: Sequence[Callable]
    stride: int
    tasks: Sequence[tuple[int, int]]


def plan(
    cases: Sequence[Case],
    *,
    dtypes: Sequence[str] = DTYPES[:3],
    orders: Sequence[int] = ORDERS,
    modes: Sequence[str] = MODES[:1],
    stride: int | None = None,
) -> list[Group]:
    """What `verify` is to judge: every function in every dtype, order and mode.

    Args:
      cases: the functions.
      dtypes: names of dtypes.  Those of 16 bits are judged over all inputs, the others
        over a million evenly spaced bit patterns.
      orders: orders of derivatives; a case has rows for those with a reference.
      modes: how derivatives are taken.
      stride: the step from one bit pattern of float32 to the next; 1 for all of them.

    Raises:
      ValueError: a function or a reference that cannot be judged.
    """
    return [
        _group(case, np.dtype(dtype), order, modes if order else ["-"], stride)
        for case in cases
        for dtype in dtypes
        for order in orders
        if order < len(case.references)
    ]


def verify(
    groups: Sequence[Group],
    *,
    jobs: int = 1,
    progress: Callable[[float, str], None] = lambda share, name: None,
) -> Iterator[Row]:
    """The rows of a plan, each as soon as it and all before it are known.

    Args:
      groups: the plan.
      jobs: the number of threads.
      progress: called with the share that is done and the function just judged.
    """
    todo = ((group, task) for group in groups for task in group.tasks)
    total, done = sum(len(group.tasks) for group in groups), 0
    pool = ThreadPoolExecutor(jobs)
    running: deque[Future] = deque()
    try:
        for group in groups:
            parts, seconds = [], 0.0
            for _ in group.tasks:
                # A few tasks wait, so that no thread does: all would not fit in memory.
                while len(running) < 2 * jobs and (next_task := next(todo, None)):
                    running.append(pool.submit(_run, *next_task))
                found, spent = running.popleft().result()
                parts.append(found)
                seconds += spent
                done += 1
                progress(done / total, group.case.name)
            errors = [merge(column) for column in zip(*parts, strict=True)]
            count = len(group.modes)
            for i, mode in enumerate(group.modes):
                yield Row(
                    group.case.name,
                    group.dtype.name,
                    group.order,
                    mode,
                    BOUNDS[group.dtype.name][group.order],
                    errors[i],
                    errors[count + i] if len(errors) > count else None,
                    seconds / count,
                )
    finally:
        pool.shutdown(cancel_futures=True)


def _run(group: Group, task: tuple[int, int]) -> tuple[list[UlpErrors], float]:
    start = time.perf_counter()
    reference = group.case.references[group.order]
    if group.dtype == np.float64:
        narrow = reference

        def reference(x):
            return narrow(x.astype(np.longdouble))

    with _precision(group.dtype):
        chunks = patterns(group.dtype, group.stride, *task)
        found = sweep(group.computations, reference, chunks)
    return found, time.perf_counter() - start


def _precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """What lets a thread compute in a dtype: the setting is its own."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def _group(
    case: Case, dtype: np.dtype, order: int, modes: Sequence[str], stride: int | None
) -> Group:
    def computations(function: Callable) -> list[Callable]:
        found: list[Callable] = []
        for mode in modes:
            apply = derivative(function, order, mode)
            x = jax.ShapeDtypeStruct((8,), dtype)
            with _precision(dtype):
                y = jax.eval_shape(apply, x, x)
            got = f"{getattr(y, 'dtype', type(y).__name__)}{getattr(y, 'shape', '')}"
            if got != f"{dtype}(8,)":
                raise ValueError(f"expected {dtype}(8,) for {dtype}(8,), but got {got}")
            found.append(jax.jit(apply))
        return found

    _check_reference(case, dtype, order)
    try:
        applied = computations(case.function)
    except Exception as error:
        raise ValueError(
            f"{case.name} is no elementwise function that can be judged in {dtype}, "
            f"order {order}: {_first_line(error)}"
        ) from error
    if case.peer is not None:
        # What the peer cannot do is no failure of ours.
        with contextlib.suppress(Exception):
            applied += computations(case.peer)
    step = stride if stride and dtype == np.float32 else default_stride(dtype)
    end, span = 1 << 8 * dtype.itemsize, step * _TASK
    tasks = [(first, min(first + span, end)) for first in range(0, end, span)]
    return Group(case, dtype, order, modes, applied, step, tasks)


def _check_reference(case: Case, dtype: np.dtype, order: int) -> None:
    wide: Any = np.longdouble if dtype == np.float64 else np.float64
    if np.finfo(wide).nmant <= jnp.finfo(dtype).nmant:
        raise ValueError(
            f"{dtype} needs references in a wider dtype, which NumPy has not here: "
            "leave it out, or use another machine"
        )
    try:
        with np.errstate(all="ignore"):
            y = np.asarray(case.references[order](np.linspace(0.5, 1, 8, dtype=wide)))
    except Exception as error:
        raise ValueError(
            f"the reference of {case.name}, order {order}, failed on a NumPy array: "
            f"{_first_line(error)}"
        ) from error
    if y.shape != (8,) or y.dtype not in (np.float64, np.longdouble):
        raise ValueError(
            f"the reference of {case.name}, order {order}, must map float64(8,) to "
            f"itself, but gave {y.dtype}{y.shape}"
        )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def environment() -> dict[str, Any]:
    """The device and the versions that rows hold for."""
    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "numpy")
    versions = {"python": platform.python_version()}
    for name in names:
        versions[name] = version(name)
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "machine": platform.machine(),
        },
        "versions": versions,
    }


def as_json(row: Row) -> dict[str, Any]:
    """A row as plain data; numbers that JSON lacks are strings."""

    def plain(found: UlpErrors) -> dict[str, Any]:
        return {
            key: value if math.isfinite(value) else str(value)
            for key, value in found._asdict().items()
        }

    return {
        **{name: getattr(row, name) for name in Row._fields[:5]},
        **plain(row.errors),
        "seconds": round(row.seconds, 3),
        "passed": row.passed,
        "peer": None if row.peer is None else plain(row.peer),
    }
