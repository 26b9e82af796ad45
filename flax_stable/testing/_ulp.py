"""How far a function and its derivatives are from the truth, in units of last place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._distance import errors

# What is computed at once, and what is judged at once: the latter fits in a cache.
_CHUNK = 1 << 18
_BLOCK = 1 << 14
_DEFAULT_COUNT = 1 << 20


class UlpErrors(NamedTuple):
    """What `ulp_errors` found.

    Attributes:
      maximum: the largest error, in units in the last place of the exact result; inf
        where a normal result came back as zero, infinity or NaN.
      worst_input: the input at which it was reached.
      share_above_one: the share of inputs whose error is above 1.
      count: how many inputs were judged.
    """

    maximum: float
    worst_input: float
    share_above_one: float
    count: int  # type: ignore[assignment]


def ulp_errors(
    fn: Callable[[jax.Array], jax.Array],
    reference: Callable[[np.ndarray], np.ndarray],
    dtype: jax.typing.DTypeLike,
    *,
    order: int = 0,
    mode: str = "vjp",
    inputs: np.ndarray | None = None,
    stride: int | None = None,
    windows: Sequence[tuple[float, float]] = (),
    seed: int | None = None,
    jit: bool = True,
) -> UlpErrors:
    """Measures an elementwise function, or a derivative of it, against a reference.

    The error at ``x`` is ``|computed - exact| / ulp(exact)``: the distance to
    ``reference(x)`` in units in the last place that ``exact`` has in ``dtype``.  An
    exact result below the smallest normal number may come back as anything within plus
    or minus that number, and one above the largest finite number as infinity.  A normal
    result that comes back as zero, infinity or NaN is an infinite error, and so is
    anything but NaN where the reference is NaN, or but the right infinity where it is
    infinite.  An input that is subnormal may be read as zero.

    Args:
      fn: an elementwise function of one array.
      reference: a NumPy function of a float64 array: the exact derivative of the given
        order, in float64 or longdouble.
      dtype: the floating dtype of the inputs and, by the same name, of the results.
      order: 0 for the value, 1 and 2 (or more) for a derivative.
      mode: ``"vjp"`` or ``"jvp"``: how derivatives are taken.
      inputs: the inputs to judge; rounded to ``dtype``.  By default, every bit pattern
        of a dtype of 16 bits or less, NaNs and infinities included, and an even sample
        of a million patterns of a wider one.
      stride: the step from one bit pattern to the next, instead of the default sample;
        1 takes every pattern, 2**32 in float32, in pieces that fit in memory.
      windows: intervals ``(low, high)`` of which every number is judged as well.
      seed: by default the cotangent or tangent is one everywhere.  A seed gives random
        ones, and the product with them is judged.  A derivative below the smallest
        normal number may be off by that number times the cotangent, and one above the
        largest finite number may be infinite whatever the cotangent.
      jit: whether the computation is compiled as a whole.

    Returns:
      A `UlpErrors`: the largest error, where it is, the share above one and the count.

    Raises:
      ValueError: for an unknown mode, a negative order, ``inputs`` together with a
        stride, no inputs at all, or float64 while ``jax_enable_x64`` is off.

    Example:
      >>> import jax, numpy as np, flax_stable as fs
      >>> exact = lambda x: 1 / (1 + np.exp(-x))
      >>> inputs = np.linspace(-4, 4, 1001)
      >>> found = fs.testing.ulp_errors(jax.nn.sigmoid, exact, "float32", inputs=inputs)
      >>> found.count, found.maximum < 4
      (1001, True)
    """
    dtype = np.dtype(dtype)
    if mode not in ("vjp", "jvp"):
        raise ValueError(f"ulp_errors expects mode 'vjp' or 'jvp', but got {mode!r}.")
    if order < 0:
        raise ValueError(f"ulp_errors expects an order of 0 or more, but got {order}.")
    if inputs is not None and stride is not None:
        raise ValueError(
            "ulp_errors takes inputs or a stride over all bit patterns, but got both."
        )
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"ulp_errors got dtype {dtype} while jax_enable_x64 is off: call it within "
            "`with jax.enable_x64(True):`."
        )
    apply = derivative(fn, order, mode)
    if jit:
        apply = jax.jit(apply)
    chunks = _chunks(dtype, inputs, stride, windows)
    (found,) = sweep([apply], reference, chunks, seed=seed if order else None)
    if not found.count:
        raise ValueError("ulp_errors expects inputs to judge, but got none.")
    return found


def sweep(
    computations: Sequence[Callable],
    reference: Callable[[np.ndarray], np.ndarray],
    chunks: Iterable[np.ndarray],
    *,
    seed: int | None = None,
) -> list[UlpErrors]:
    """Judges several computations of (input, cotangent) against one reference."""
    random = None if seed is None else np.random.default_rng(seed)
    found: list[list[UlpErrors]] = [[] for _ in computations]
    ones: Any = np.ones(0)
    for chunk in _merged(chunks):
        # A power of two that never shrinks, to compile for few sizes.
        size = max(1 << max(chunk.size - 1, 0).bit_length(), ones.size)
        if ones.size < size:
            ones = jnp.ones(size, chunk.dtype)
        g = None
        if random is not None:
            g = random.standard_normal(chunk.shape).astype(chunk.dtype)
        x = jnp.asarray(_resized(chunk, size))
        cotangent = ones if g is None else jnp.asarray(_resized(g, size))
        results = [np.asarray(apply(x, cotangent)) for apply in computations]
        for start in range(0, chunk.size, _BLOCK):
            block = slice(start, min(start + _BLOCK, chunk.size))
            factor = None if g is None else g[block]
            judged = _judged(
                reference, chunk[block], factor, [r[block] for r in results]
            )
            for parts, part in zip(found, judged, strict=True):
                parts.append(part)
        found = [[merge(parts)] for parts in found]
    return [merge(parts) for parts in found]


def _judged(
    reference: Callable,
    x: np.ndarray,
    g: np.ndarray | None,
    results: Sequence[np.ndarray],
) -> Iterator[UlpErrors]:
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    for computed in results:
        distance = errors(reference, x.dtype, x, g, exact, computed)
        i = int(np.argmax(distance))
        largest = float(distance[i])
        above = int(np.count_nonzero(distance > 1)) if largest > 1 else 0
        yield UlpErrors(largest, x[i].item(), above / x.size, x.size)


def merge(parts: Sequence[UlpErrors]) -> UlpErrors:
    """The errors over all inputs of the parts together."""
    if not parts:
        return UlpErrors(0.0, np.nan, 0.0, 0)
    worst = max(parts, key=lambda part: part.maximum)
    above = sum(round(part.share_above_one * part.count) for part in parts)
    count = sum(part.count for part in parts)
    return UlpErrors(worst.maximum, worst.worst_input, above / max(count, 1), count)


def derivative(fn: Callable, order: int, mode: str) -> Callable:
    """The function of (x, g) that applies the derivative of an order to g."""
    if order == 0:
        return lambda x, g: fn(x)
    lower = derivative(fn, order - 1, mode)

    def apply(x, g):
        def below(x):
            return lower(x, jnp.ones_like(x))

        if mode == "jvp":
            return jax.jvp(below, (x,), (g,))[1]
        return jax.vjp(below, x)[1](g)[0]

    return apply


def patterns(
    dtype: np.dtype, stride: int | None = None, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """The numbers of every stride-th bit pattern from start to stop."""
    stride = stride or default_stride(dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    stop = 1 << 8 * dtype.itemsize if stop is None else stop
    span = stride * _CHUNK
    for first in range(start, stop, span):
        size = -(-(min(first + span, stop) - first) // stride)
        # Nothing here wraps around, but 2**16 itself is no uint16.
        found = np.arange(size, dtype=max(unsigned, np.dtype(np.uint32)))
        found *= found.dtype.type(stride)
        found += found.dtype.type(first)
        yield found.astype(unsigned, copy=False).view(dtype)


def default_stride(dtype: np.dtype) -> int:
    """Odd, so that the low bits of the sample vary too; 1 in 16 bits or less."""
    return max((1 << 8 * dtype.itemsize) // _DEFAULT_COUNT - 1, 1)


def _chunks(
    dtype: np.dtype,
    inputs: np.ndarray | None,
    stride: int | None,
    windows: Sequence[tuple[float, float]],
) -> Iterator[np.ndarray]:
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"u{dtype.itemsize}")
    if inputs is None:
        yield from patterns(dtype, stride)
    else:
        inputs = np.ravel(np.asarray(inputs)).astype(dtype)
        for start in range(0, inputs.size, _CHUNK):
            yield inputs[start : start + _CHUNK]
    for low, high in windows:
        first, last = (_rank(np.array(v).astype(dtype), unsigned) for v in (low, high))
        for start in range(first, last + 1, _CHUNK):
            ranks = range(start, min(start + _CHUNK, last + 1))
            yield _unrank(ranks, bits, unsigned).view(dtype)


def _merged(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same numbers in pieces of at least ``_CHUNK``, to compile for few sizes."""
    waiting: list[np.ndarray] = []
    for chunk in chunks:
        if not waiting and chunk.size >= _CHUNK:
            yield chunk
            continue
        waiting.append(chunk)
        if sum(c.size for c in waiting) >= _CHUNK:
            yield np.concatenate(waiting)
            waiting = []
    if waiting and (rest := np.concatenate(waiting)).size:
        yield rest


def _rank(x: np.ndarray, unsigned: np.dtype) -> int:
    """The place of a number among all numbers of its dtype, 0 for zero."""
    pattern = int(x.view(unsigned))
    sign = 1 << (8 * unsigned.itemsize - 1)
    return pattern if pattern < sign else sign - pattern


def _unrank(ranks: range, bits: int, unsigned: np.dtype) -> np.ndarray:
    r = np.arange(ranks.start, ranks.stop, dtype=np.int64)
    return np.where(r < 0, (1 << (bits - 1)) - r, r).astype(unsigned)


def _resized(x: np.ndarray, size: int) -> np.ndarray:
    return x if x.size == size else np.resize(x, size)
