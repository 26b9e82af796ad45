"""What value and derivatives ought to be, and how well that is known."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._derivatives import Job, differentiate, weights
from ._differences import slopes, stencil
from ._points import Interval
from ._subject import Subject, first_line

# Results may be right for inputs this many units of rounding away.
NEARBY = 4
# How far of that the samples are, in no simple ratio, which a wave could fit.
_SHARES = (1, 0.6180, 0.3367, 0.9137, 0.5413, 0.2729)
# From here on the rule must not oscillate for differences to be believed.
_LARGE = 2.0**20


class Expected(NamedTuple):
    """Between which numbers results may lie; ``center`` is NaN where it is not known.

    Attributes:
      center: what is expected, to be shown.
      low: the least that is right for inputs that round to the given ones.
      high: and the largest.
      slack: by how much all of these may be off.
    """

    center: np.ndarray
    low: np.ndarray
    high: np.ndarray
    slack: np.ndarray


class Expectations(NamedTuple):
    """Those of the value, the Jacobian and the derivative of the gradient."""

    value: Expected
    jacobian: Expected
    second: Expected


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Computes in float64, whatever the caller's settings, which stay as they are."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def expect(
    subject: Subject,
    table: np.ndarray,
    reference: Callable | None,
    exact: Sequence[Callable] | None,
    second_order: bool,
    limits: Sequence[Interval | None],
) -> Expectations:
    """What is expected at each row of the table."""
    samples = _nearby(subject, table)
    if reference is not None:
        known = _from_reference(subject, samples, reference, second_order)
    elif exact is not None and len(exact) == 3:
        known = [_unknown(table, subject, order) for order in range(3)]
    else:
        known = _from_differences(subject, samples, limits, second_order)
    if exact is not None:
        u = float(weights(1, 1)[0])
        for order, function in enumerate(exact):
            shape = (len(table),) + (1,) * (2 if order else 1)
            found = _exactly(subject, samples[0], function, order).reshape(shape)
            at_zero = _exactly(
                subject, np.copysign(0.0, samples[0]), function, order
            ).reshape(shape)
            factor = u if order == 2 else 1.0
            tiny = float(jnp.finfo(subject.grain).smallest_normal)
            subnormal = (np.abs(table) < tiny).reshape(shape)
            both = np.stack([found, np.where(subnormal, at_zero, found)]) * factor
            known[order] = _between(both, np.zeros(shape))
    return Expectations(*known)


def _nearby(subject: Subject, table: np.ndarray) -> np.ndarray:
    """The table, and others that hold numbers which round to its own."""
    info = jnp.finfo(subject.grain)
    tiny = float(info.smallest_normal)
    random = np.random.default_rng(3)
    # Of several elements each moves in a direction of its own.
    signs = random.choice([-1.0, 1.0], (3, *table.shape))
    found = [table]
    for sign, share in zip((*signs, *-signs), _SHARES, strict=True):
        with np.errstate(over="ignore"):
            moved = table * (1 + share * sign * NEARBY * float(info.eps))
        # A subnormal number may be read as zero, and zero has two sides.
        found.append(np.where(np.abs(table) < tiny, tiny * sign, moved))
    found.append(np.where(np.abs(table) < tiny, np.copysign(0.0, table), table))
    return np.stack(found)


def _between(samples: np.ndarray, slack: np.ndarray) -> Expected:
    """All that lies between the samples, of which the first is at the point itself."""
    center = samples[0]
    filled = np.where(np.isnan(samples), center, samples)
    return Expected(center, filled.min(axis=0), filled.max(axis=0), slack)


def _unknown(table: np.ndarray, subject: Subject, order: int) -> Expected:
    n, m = len(subject.labels), len(subject.out_labels)
    shape = (len(table), *((m,), (m, n), (n, n))[order])
    return _between(np.full((1, *shape), np.nan), np.zeros(shape))


def widened(types: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, np.dtype("float64")) for leaf in types]


def _from_reference(
    subject: Subject, samples: np.ndarray, reference: Callable, second_order: bool
) -> list[Expected]:
    flat = samples.reshape(-1, samples.shape[-1])
    with in_float64():
        call = subject.with_function(reference)
        try:
            outputs = jax.eval_shape(call, *widened(subject.inputs))
        except Exception as e:
            raise ValueError(
                "check_rule cannot trace the reference in float64 at the args given: "
                f"{type(e).__name__}: {first_line(e)}"
            ) from e
        shapes = [leaf.shape for leaf in outputs]
        wanted = [leaf.shape for leaf in subject.outputs]
        if shapes != wanted:
            raise ValueError(
                f"check_rule expects the reference to return what {subject.name} does, "
                f"floating arrays of the shapes {wanted}, but got {shapes}."
            )
        orders = ["value", "reverse", *(["curvature"] if second_order else [])]
        job = Job(call, widened(subject.inputs), outputs, flat, orders)
        (found,) = differentiate(job)
    if found.failures:
        part, error = next(iter(found.failures.items()))
        raise ValueError(
            f"check_rule cannot differentiate the reference ({part}): "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    arrays = [found.value, found.jacobian, found.variants.get("curvature")]
    expected = []
    for order, array in enumerate(arrays):
        if array is None:
            expected.append(_unknown(samples[0], subject, order))
            continue
        by_sample = array.reshape(*samples.shape[:2], *array.shape[1:])
        # A formula that overflows at a finite point says nothing there.
        lost = np.isinf(by_sample).all(axis=0)
        lost[~np.isfinite(samples[0]).all(axis=-1)] = False
        by_sample[0][lost] = np.nan
        expected.append(_between(by_sample, _rounding(order, by_sample, arrays[0])))
    return expected


def _rounding(order: int, samples: np.ndarray, value: np.ndarray | None) -> np.ndarray:
    """What autodiff may lose in float64 where it adds to the value or beside it."""
    largest = np.nan_to_num(np.abs(samples[0]), posinf=0.0)
    if order and value is not None:
        values = np.nan_to_num(np.abs(value[: len(largest)]), posinf=0.0).max(axis=1)
        largest = np.maximum(largest, values.reshape(-1, *[1] * (largest.ndim - 1)))
    return 16 * float(np.finfo(np.float64).eps) * largest


def _from_differences(
    subject: Subject,
    samples: np.ndarray,
    limits: Sequence[Interval | None],
    second_order: bool,
) -> list[Expected]:
    """The function itself in float64, and differences of it and of its gradient."""
    table = samples[0]
    n = table.shape[1]
    nodes, width = stencil(table, limits)
    near = samples.reshape(-1, n)
    wanted = ["value", "reverse", *(["curvature"] if second_order else [])]
    with in_float64():
        wide = widened(subject.inputs)
        outputs = jax.eval_shape(subject.call, *wide)
        eps = unit(subject.call, wide)
        here, around = differentiate(
            Job(subject.call, wide, outputs, near, wanted),
            Job(
                subject.call,
                wide,
                outputs,
                nodes.reshape(-1, n),
                ["value", *(["gradient"] if second_order else [])],
            ),
        )
    if here.value is None or around.value is None:
        error = here.failures["value"]
        raise ValueError(
            f"check_rule cannot evaluate {subject.name} in float64: "
            f"{type(error).__name__}: {first_line(error)}. Give a reference."
        ) from error

    def by_sample(array: np.ndarray) -> np.ndarray:
        return array.reshape(*samples.shape[:2], *array.shape[1:])

    def differences(at: np.ndarray, around: np.ndarray, own: np.ndarray | None):
        """The slope, and how much the rule says that it changes nearby."""
        around = around.reshape(*nodes.shape[:-1], around.shape[-1])
        slope, slack = slopes(by_sample(at)[0], around, width, eps)
        spread = np.zeros((1, *slope.shape)) if own is None else by_sample(own)
        found = _between(slope + _spread(spread), slack)
        # Waves that a unit of rounding spans tell nothing.
        with np.errstate(invalid="ignore"):
            waves = found.high - found.low > 0.1 * np.abs(slope)
        waves &= (np.abs(table) > _LARGE)[:, None, :]
        # Nor are steps seen where float64 knows nothing but whole numbers.
        waves |= (spread == 0).all(axis=0) & (np.abs(table) > 2.0**52)[:, None, :]
        return found._replace(center=np.where(waves, np.nan, found.center))

    values = by_sample(here.value)
    value = _between(values, np.zeros(values.shape[1:]))
    jacobian = differences(here.value, around.value, here.jacobian)
    gradients = around.variants.get("gradient")
    if here.pulled is None or gradients is None:
        return [value, jacobian, _unknown(table, subject, 2)]
    curvature = here.variants.get("curvature")
    return [value, jacobian, differences(here.pulled[:, 0], gradients, curvature)]


def unit(call: Callable, inputs: Sequence[Any]) -> float:
    """The unit of rounding of a function of float64, which may cast to less inside."""
    text = str(jax.make_jaxpr(call)(*inputs))
    dtypes = set(re.findall(r"new_dtype=(b?float(?:16|32))\b", text)) | {"float64"}
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def _spread(samples: np.ndarray) -> np.ndarray:
    """How far each sample is from the first, zero where that is no number."""
    with np.errstate(invalid="ignore"):
        apart = samples - samples[:1]
    return np.where(np.isnan(apart), 0.0, apart)


def _exactly(
    subject: Subject, x: np.ndarray, function: Callable, order: int
) -> np.ndarray:
    """A NumPy function, or one of mpmath, of a column of numbers."""
    x = x[:, 0]
    with np.errstate(all="ignore"):
        try:
            found = np.asarray(function(x))
        except (TypeError, ValueError, AttributeError):
            found = np.asarray([_one(function, v) for v in x])
    if found.shape != x.shape or not np.issubdtype(found.dtype, np.floating):
        raise ValueError(
            f"check_rule expects exact[{order}] to map a float64 array of shape "
            f"{x.shape} to another, or an mpmath number to one, but it gave "
            f"{found.dtype}{found.shape}."
        )
    return found.astype(np.float64)


def _one(function: Callable, x: float) -> float:
    """An mpmath function of one number, NaN where it has no value."""
    import mpmath

    try:
        with mpmath.workprec(200):
            return float(function(mpmath.mpf(x)))
    except (ArithmeticError, ValueError, TypeError):
        return np.nan
