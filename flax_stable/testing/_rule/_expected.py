"""What value and derivatives ought to be, and how well that is known."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._derivatives import differentiate, weights
from ._subject import Subject, first_line

# Central differences take steps of two scales, 1 and the point's own size, halved this
# many times, from a quarter on.
_HALVINGS = 14
# Results may be right for inputs this many units of rounding away.
_NEARBY = 4


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
) -> Expectations:
    """What is expected at each row of the table."""
    samples = _nearby(subject, table)
    if reference is not None:
        known = _from_reference(subject, samples, reference, second_order)
    elif exact is not None and len(exact) == 3:
        known = [_unknown(table, subject, order) for order in range(3)]
    else:
        known = _from_differences(subject, table, samples, second_order)
    if exact is not None:
        u = float(weights(1, 1)[0])
        for order, function in enumerate(exact):
            shape = (len(table),) + (1,) * (order + 1)
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
    signs = np.random.default_rng(3).choice([-1.0, 1.0], table.shape)
    found = [table]
    for sign in (signs, -signs):
        moved = table * (1 + sign * _NEARBY * float(info.eps))
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


def _wide(types: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(leaf.shape, np.dtype("float64")) for leaf in types]


def _wide_outputs(subject: Subject, call: Callable) -> list[jax.ShapeDtypeStruct]:
    return jax.eval_shape(call, *_wide(subject.inputs))


def _from_reference(
    subject: Subject, samples: np.ndarray, reference: Callable, second_order: bool
) -> list[Expected]:
    flat = samples.reshape(-1, samples.shape[-1])
    with in_float64():
        call = subject.with_function(reference)
        try:
            outputs = _wide_outputs(subject, call)
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
        orders = ["value", "reverse", *(["second"] if second_order else [])]
        found = differentiate(call, _wide(subject.inputs), outputs, flat, orders)
    if found.failures:
        part, error = next(iter(found.failures.items()))
        raise ValueError(
            f"check_rule cannot differentiate the reference ({part}): "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    arrays = [found.value, found.jacobian, found.second.get("reverse over reverse")]
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
        expected.append(_between(by_sample, np.zeros(by_sample.shape[1:])))
    return expected


def _from_differences(
    subject: Subject, table: np.ndarray, samples: np.ndarray, second_order: bool
) -> list[Expected]:
    """The function itself in float64, and differences of it and of its gradient."""
    count, n = table.shape
    m = len(subject.out_labels)
    steps = _steps(table)  # count, n, steps
    nodes = np.repeat(table[:, None, None, None, :], n, axis=1)
    nodes = np.repeat(np.repeat(nodes, steps.shape[-1], axis=2), 2, axis=3)
    for i in range(n):
        nodes[:, i, :, 0, i] += steps[:, i]
        nodes[:, i, :, 1, i] -= steps[:, i]
    flat = np.concatenate([samples.reshape(-1, n), nodes.reshape(-1, n)])
    with in_float64():
        outputs = _wide_outputs(subject, subject.call)
        found = differentiate(
            subject.call,
            _wide(subject.inputs),
            outputs,
            flat,
            ["value", "reverse"],
        )
    if found.value is None:
        error = found.failures["value"]
        raise ValueError(
            f"check_rule cannot evaluate {subject.name} in float64: "
            f"{type(error).__name__}: {first_line(error)}. Give a reference."
        ) from error
    split_at = samples.shape[0] * count

    def by_sample(array: np.ndarray) -> np.ndarray:
        return array[:split_at].reshape(*samples.shape[:2], *array.shape[1:])

    def by_node(array: np.ndarray) -> np.ndarray:
        shape = (count, n, steps.shape[-1], 2, array.shape[-1])
        return array[split_at:].reshape(shape)

    values = by_sample(found.value)
    value = _between(values, np.zeros(values.shape[1:]))
    jacobian = _unknown(table, subject, 1)
    second = _unknown(table, subject, 2)
    with np.errstate(invalid="ignore"):
        spacing = nodes[..., 0, :] - nodes[..., 1, :]
    actual = np.stack([spacing[:, i, :, i] for i in range(n)], axis=1)
    slope, slack = _richardson(values[0], by_node(found.value), actual)
    spread = np.zeros((1, count, m, n))
    if found.jacobian is not None:
        own = by_sample(found.jacobian)
        spread = _spread(own)
    jacobian = _between(slope.transpose(0, 2, 1) + spread, slack.transpose(0, 2, 1))
    if second_order and found.jacobian is not None:
        gradients = np.einsum("pmn,m->pn", found.jacobian, weights(m, 1))
        curve, slack = _richardson(by_sample(gradients)[0], by_node(gradients), actual)
        second = _between(curve[None], slack)
    return [value, jacobian, second]


def _spread(samples: np.ndarray) -> np.ndarray:
    """How far each sample is from the first, zero where that is no number."""
    with np.errstate(invalid="ignore"):
        apart = samples - samples[:1]
    return np.where(np.isnan(apart), 0.0, apart)


def _steps(table: np.ndarray) -> np.ndarray:
    """Powers of two: by point, element, and scale and halving."""
    halved = 2.0 ** -np.arange(2, 2 + _HALVINGS)
    own = np.where(np.isfinite(table) & (table != 0), np.abs(table), 1.0)
    own = np.exp2(np.floor(np.log2(own)))
    both = np.stack([np.ones_like(own), own], axis=-1)
    return (both[..., None] * halved).reshape(*table.shape, -1)


def _richardson(
    at: np.ndarray, nodes: np.ndarray, spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes by point, input and output element, and by how much they may be off.

    ``at`` holds the function at the points, ``nodes`` by point, input, step and side,
    ``spacing`` the distance of both sides.
    """
    count, n, steps, _, m = nodes.shape
    shape = (count, n, 2, steps // 2, m)
    with np.errstate(all="ignore"):
        width = spacing[..., None]
        central = ((nodes[..., 0, :] - nodes[..., 1, :]) / width).reshape(shape)
        center = at[:, None, None, :]
        # On both sides of a kink slopes differ, however small the step.
        gap = (nodes[..., 0, :] - 2 * center + nodes[..., 1, :]) / (width / 2)
        gap = gap.reshape(shape)
        size = np.abs(nodes).max(axis=-2) / width
        noise = (4 * np.finfo(np.float64).eps * size).reshape(shape)
        fourth = (4 * central[..., 1:, :] - central[..., :-1, :]) / 3
        sixth = (16 * fourth[..., 1:, :] - fourth[..., :-1, :]) / 15
        kink = np.abs(2 * gap[..., 2:, :] - gap[..., 1:-1, :]) / 2
        off = np.abs(fourth[..., 1:, :] - fourth[..., :-1, :])
        # Two in a row: one alone may be close by chance.
        off[..., :-1, :] = np.maximum(off[..., :-1, :], off[..., 1:, :])
        off += kink + noise[..., 2:, :]
    off = np.where(np.isfinite(sixth) & np.isfinite(off), off, np.inf)
    flat = (count, n, -1, m)
    sixth, off = sixth.reshape(flat), off.reshape(flat)
    best = np.argmin(off, axis=2, keepdims=True)
    slope = np.take_along_axis(sixth, best, axis=2)[:, :, 0]
    slack = 2 * np.take_along_axis(off, best, axis=2)[:, :, 0]
    # Steps that are all longer than a wave agree on a slope of about nothing.
    unresolved = ~np.isfinite(off[:, :, : off.shape[2] // 2]).any(axis=2)
    unresolved &= (slope != 0) & (slack > 1e-3 * np.abs(slope))
    slack = np.where(unresolved, np.inf, slack)
    return np.where(np.isfinite(slack), slope, np.nan), slack


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
