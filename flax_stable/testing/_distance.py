"""The distance of a result to the exact one, in units in the last place."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

_EXPONENT = np.uint64(0x7FF << 52)


def errors(
    reference: Callable,
    dtype: np.dtype,
    x: np.ndarray,
    g: np.ndarray | None,
    exact: np.ndarray,
    computed: np.ndarray,
) -> np.ndarray:
    """How far ``computed`` is from ``exact * g``, where ``exact`` is of ``x``.

    No ``g`` means ones.  The reference is asked again at zero where a subnormal ``x``
    may have been read as that.
    """
    smallest = float(jnp.finfo(dtype).smallest_normal)
    with np.errstate(all="ignore"):
        if g is None and exact.dtype == np.float64 and dtype.itemsize < 8:
            found = _common(dtype, computed, exact)
        else:
            found = _distance(dtype, computed, exact, g)
        magnitude = np.abs(x)
        if not magnitude.min() >= smallest:  # or NaN
            subnormal = (magnitude < smallest) & (x != 0) & (found > 0)
            at_zero = reference(np.copysign(0.0, x[subnormal].astype(np.float64)))
            read_as_zero = _distance(
                dtype, computed[subnormal], at_zero, None if g is None else g[subnormal]
            )
            found[subnormal] = np.minimum(found[subnormal], read_as_zero)
    return found


def _common(dtype: np.dtype, computed: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """`_distance` without a factor, in fewer passes over the memory.

    Where something is lost, infinite or NaN, the distance is a quarter of a power of
    two or more: only such results are looked at closely.
    """
    info = jnp.finfo(dtype)
    exponent = exact.view(np.uint64) & _EXPONENT
    faint = exponent.min() < _field(info.minexp)
    np.clip(exponent, _field(info.minexp), _field(info.maxexp - 1), out=exponent)
    # The reciprocal of a unit in the last place.
    np.subtract(_field(info.nmant) + _field(0), exponent, out=exponent)
    y = computed.astype(np.float64)
    found = np.subtract(y, exact)
    np.abs(found, out=found)
    np.multiply(found, exponent.view(np.float64), out=found)
    if faint:
        smallest = float(info.smallest_normal)
        found[(np.abs(exact) < smallest) & (np.abs(y) <= smallest)] = 0
    far = 2.0 ** (info.nmant - 2)
    if not found.max() < far:
        found[np.isnan(exact) & np.isnan(y)] = 0
        rest = ~(found < far)
        found[rest] = _distance(dtype, computed[rest], exact[rest], None)
    return found


def _field(exponent: int) -> np.uint64:
    """The bits of a float64 that is a power of two."""
    return np.uint64((exponent + 1023) << 52)


def _distance(
    dtype: np.dtype, computed: np.ndarray, exact: np.ndarray, g: np.ndarray | None
) -> np.ndarray:
    """The errors of ``computed`` as ``exact * g``."""
    info = jnp.finfo(dtype)
    smallest, largest = float(info.smallest_normal), float(info.max)
    faint, huge = np.abs(exact) < smallest, np.abs(exact) > largest
    allowed: float | np.ndarray = smallest
    if g is not None:
        factor = g.astype(np.float64)
        allowed = np.where(faint, smallest * np.maximum(np.abs(factor), 1), smallest)
        exact = exact.astype(np.longdouble) * factor
    y = computed.astype(exact.dtype)
    magnitude = np.abs(exact)
    _, exponent = np.frexp(np.clip(magnitude, smallest, largest))
    errors = np.abs(y - exact) / np.ldexp(
        exact.dtype.type(1), exponent - 1 - info.nmant
    )
    faint |= magnitude < smallest
    huge |= magnitude > largest
    right = (
        (faint & (np.abs(y) <= allowed))
        | (huge & (y == np.copysign(np.inf, exact)))
        | (np.isnan(exact) & np.isnan(y))
        | (y == exact)
    )
    lost = ~faint & (y == 0) | ~np.isfinite(y) | ~np.isfinite(exact)
    return np.where(right, 0.0, np.where(lost, np.inf, errors)).astype(np.float64)
