"""Where a rule is looked at: tails, kinks, zeros, infinities, and at random."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._subject import Subject, split

Interval = tuple[float, float]

# Where pieces of usual functions meet, and where exponentials stop to matter or end.
_NOTABLE = (
    *(1 / 3, 0.5, math.log(2), 1, 2, 3, 4, 6),
    *(5, 8.5, 9.1, 10, 12, 16.7, 17.4, 21, 30, 40, 60, 87, 88.8, 103, 150, 300, 745),
    *(1e3, 1e4, 1e6, 1e10),
)
# Beside these the numbers next to them are of interest.
_KINKS = (0.5, 1, 2, 3, 6)
_ROWS = 1024
_COMMON = 12
# Zeros, infinities, NaN, and the least and the largest number.
_FIRST = 9


def choose(
    subject: Subject, domain: Any, points: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of values for all floating elements, each one a number of its dtype.

    The first row is the example.  Also the places of rows that are moderate and, as
    near as can be, numbers of every dtype: 16 bits are judged there too.
    """
    random = np.random.default_rng(seed)
    limits = intervals(subject, domain)
    size = len(limits)
    example = np.concatenate(
        [np.ravel(x).astype(np.float64) for x in _floating(subject.args)]
    )
    values = [_values(interval, subject.grain, random) for interval in limits]

    def moderate(scale: float) -> np.ndarray:
        return np.array([_draw(interval, random, scale) for interval in limits])

    rows = [example]
    with np.errstate(over="ignore"):
        for _ in range(_COMMON):
            rows.append(moderate(1.5).astype(jnp.bfloat16).astype(np.float64))
    for value in points:
        rows.append(np.full(size, float(value)))
    if size == 1:
        rows += [np.array([value]) for value in values[0]]
    else:
        for value in (0.0, 1.0, -2.0):
            rows.append(np.full(size, value))
        rows += [moderate(scale) for scale in (0.1, 1, 1, 1, 4, 4)]
        for i, value in _pairs(values, random):
            rows.append(moderate(1))
            rows[-1][i] = value
    table = np.stack(rows)
    fits = np.ones(len(table), bool)
    for i, interval in enumerate(limits):
        if interval is not None:
            fits &= (table[:, i] >= interval[0]) & (table[:, i] <= interval[1])
    fits[0] = True
    fits[1 + _COMMON : 1 + _COMMON + len(points)] = True
    places = np.cumsum(fits) - 1
    common = places[: _COMMON + 1][fits[: _COMMON + 1]][1:]
    return _rounded(subject, table[fits]), common


def _pairs(
    values: list[np.ndarray], random: np.random.Generator
) -> list[tuple[int, float]]:
    """Which element is to take which value.

    One element at a time: of several extreme ones the sum may be anything.
    """
    size = len(values)
    budget = max(_ROWS // size, 24)
    found = []
    for k in range(max(map(len, values))):
        # Those that stand first matter most: every element takes them.
        everywhere = k < _FIRST and _FIRST * size <= budget // 2
        for i in range(size) if everywhere else [k % size]:
            found.append((i, float(values[i][k % len(values[i])])))
    if len(found) > budget:
        first, rest = found[:_FIRST], found[_FIRST:]
        chosen = random.permutation(len(rest))[: budget - _FIRST]
        found = first + [rest[k] for k in sorted(chosen)]
    return found


def intervals(subject: Subject, domain: Any) -> list[Interval | None]:
    """The interval of each floating element, None where there is no limit."""
    counts = [
        sum(math.prod(x.shape) for x in _floating((arg,))) for arg in subject.args
    ]
    if domain is None or _is_interval(domain):
        each = [domain] * len(counts)
    elif isinstance(domain, tuple | list) and len(domain) == len(counts):
        each = list(domain)
    else:
        each = [object()]
    if not all(interval is None or _is_interval(interval) for interval in each):
        raise ValueError(
            "check_rule expects domain to be a pair (low, high) with low < high, or a "
            f"sequence of {len(counts)} of them or None, one for each argument, but "
            f"got {domain!r}."
        )
    return [
        interval for interval, n in zip(each, counts, strict=True) for _ in range(n)
    ]


def _is_interval(x: Any) -> bool:
    return (
        isinstance(x, tuple | list)
        and len(x) == 2
        and all(isinstance(v, int | float | np.number) for v in x)
        and x[0] < x[1]
    )


def _floating(args: tuple) -> list[np.ndarray]:
    return [x for x in jax.tree.leaves(args) if jnp.issubdtype(x.dtype, np.floating)]


def _draw(interval: Interval | None, random: np.random.Generator, scale: float):
    """A moderate number of an interval."""
    value = scale * random.standard_normal()
    if interval is None or interval[0] < value < interval[1]:
        return value
    low, high = interval
    inside = random.uniform(0.05, 0.95)
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * inside
    return low + abs(value) + 0.01 if math.isfinite(low) else high - abs(value) - 0.01


def _values(
    interval: Interval | None, dtype: np.dtype, random: np.random.Generator
) -> np.ndarray:
    """Numbers of a dtype that deserve a look."""
    info = jnp.finfo(dtype)
    tiny, eps, largest = (float(v) for v in (info.smallest_normal, info.eps, info.max))
    positive = np.array(
        [
            *_NOTABLE,
            *(k * (1 + sign * eps) for k in _KINKS for sign in (-1, 1)),
            *(tiny / 4, tiny, 1.5 * tiny, math.sqrt(tiny), eps, eps / 4),
            *(2.0**-k for k in (2, 4, 7, 10, 13, 18)),
            *(2.0**k for k in (4, 7, 15, 31)),
            *(math.sqrt(largest) / 2, math.sqrt(largest) * 2, largest / 2, largest),
            *np.exp2(random.uniform(math.log2(eps), -math.log2(eps), 12)),
        ]
    )
    grid = np.linspace(-12, 12, 41) + random.uniform(-0.1, 0.1, 41)
    normal = random.standard_normal(24)
    found = np.concatenate(
        [
            [
                0.0,
                -0.0,
                np.inf,
                -np.inf,
                np.nan,
                tiny / 4,
                -tiny / 4,
                largest,
                -largest,
            ],
            *(positive, -positive, grid, normal),
        ]
    )
    if interval is not None:
        low, high = interval
        found = found[(found >= low) & (found <= high)]
        near = np.exp2(-np.arange(1.0, 24.0, 2))
        width = high - low if math.isfinite(high - low) else 1.0
        inside = [found]
        if math.isfinite(low):
            inside += [low + width * near, np.array([low])]
        if math.isfinite(high):
            inside += [high - width * near, np.array([high])]
        found = np.concatenate(inside)
    with np.errstate(over="ignore"):
        rounded = found.astype(dtype).astype(np.float64)
    # What was finite shall not be rounded to infinity; a subnormal may be lost to zero.
    rounded = rounded[np.isfinite(found) == np.isfinite(rounded)]
    pairs = dict.fromkeys((v, math.copysign(1, v)) for v in rounded)
    return np.array([v for v, _ in pairs])


def _rounded(subject: Subject, table: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        leaves = split(table, subject.inputs)
    flat = [leaf.reshape(len(table), -1).astype(np.float64) for leaf in leaves]
    return np.concatenate(flat, axis=1)
