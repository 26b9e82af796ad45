"""Slopes from differences in float64, and how far off they may be."""

from collections.abc import Sequence

import numpy as np

from ._points import Interval

# Steps are of two scales, 1 and the point's own size: a quarter of it, and halved this
# many times.
_HALVINGS = 14
_EPS = float(np.finfo(np.float64).eps)


def stencil(
    table: np.ndarray, limits: Sequence[Interval | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Points on both sides of each row, and the distance between the two sides.

    The points are by row, by the element that moves, by step and by side; they are NaN
    where they would leave the limits.
    """
    n = table.shape[1]
    steps = _steps(table)
    shape = (*steps.shape, 2, n)
    nodes = np.broadcast_to(table[:, None, None, None, :], shape).copy()
    for i, limit in enumerate(limits):
        with np.errstate(over="ignore"):
            nodes[:, i, :, 0, i] += steps[:, i]
            nodes[:, i, :, 1, i] -= steps[:, i]
        if limit is not None:
            moved = nodes[:, i, :, :, i]
            inside = (table[:, i] >= limit[0]) & (table[:, i] <= limit[1])
            beyond = (moved < limit[0]) | (moved > limit[1])
            moved[beyond & inside[:, None, None]] = np.nan
    with np.errstate(invalid="ignore"):
        width = nodes[..., 0, :] - nodes[..., 1, :]
    return nodes, np.stack([width[:, i, :, i] for i in range(n)], axis=1)


def _steps(table: np.ndarray) -> np.ndarray:
    """Powers of two: by row, by element, and by scale and halving."""
    halved = 2.0 ** -np.arange(2, 2 + _HALVINGS)
    # What is nearly subnormal may be zero to a function that computes in float32.
    ordinary = np.isfinite(table) & (np.abs(table) > 1e-37)
    own = np.where(ordinary, np.abs(table), 1.0)
    own = np.ldexp(1.0, np.frexp(own)[1] - 1)
    both = np.stack([np.ones_like(own), own], axis=-1)
    return (both[..., None] * halved).reshape(*table.shape, -1)


def slopes(
    at: np.ndarray, nodes: np.ndarray, width: np.ndarray, eps: float = _EPS
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes by row, output and input element, and by how much they may be off.

    ``at`` holds the function at the rows of the table, ``nodes`` at the points of the
    stencil; ``eps`` is the unit of rounding that it computes with.  The slope is NaN
    where nothing is known of it.
    """
    rows, n, steps, _, m = nodes.shape
    shape = (rows, n, 2, steps // 2, m)
    with np.errstate(all="ignore"):
        width = width[..., None]
        central = ((nodes[..., 0, :] - nodes[..., 1, :]) / width).reshape(shape)
        # On both sides of a kink slopes differ, however small the step.
        center = at[:, None, None, :]
        gap = (nodes[..., 0, :] - 2 * center + nodes[..., 1, :]) / (width / 2)
        gap = gap.reshape(shape)
        kink = np.abs(2 * gap[..., 2:, :] - gap[..., 1:-1, :]) / 2
        noise = (4 * eps * np.abs(nodes).max(axis=-2) / width).reshape(shape)
        # Richardson: what is of the second and of the fourth power of a step cancels.
        fourth = (4 * central[..., 1:, :] - central[..., :-1, :]) / 3
        sixth = (16 * fourth[..., 1:, :] - fourth[..., :-1, :]) / 15
        off = np.abs(fourth[..., 1:, :] - fourth[..., :-1, :])
        # Two in a row: one alone may be close by chance.
        off[..., :-1, :] = np.maximum(off[..., :-1, :], off[..., 1:, :])
        off += kink + noise[..., 2:, :]
        known = np.isfinite(sixth) & np.isfinite(off)
        share = off / np.abs(sixth)
        # The surest in relation to itself, or else the least uncertain.
        sure = known & (share < 1e-3)
        rank = np.where(sure, share - 1, np.where(known, off, np.inf))
    # Steps of scale 1 are lost beside a large number.  If all others are longer than a
    # wave of the function, they agree on a slope of about nothing.
    lost = ~known[:, :, 0].any(axis=2)[:, :, None, None, :]
    known &= sure | ~lost | (sixth == 0)
    rank = np.where(known, rank, np.inf)
    best = np.argmin(rank, axis=3, keepdims=True)
    slope, slack, rank = (
        np.take_along_axis(array, best, axis=3)[:, :, :, 0]
        for array in (np.where(known, sixth, np.nan), 2 * off, rank)
    )
    chosen = np.argmin(rank, axis=2, keepdims=True)
    # Two sure ones that differ: of a wave the longer steps see nothing.
    with np.errstate(invalid="ignore"):
        differ = np.abs(slope[:, :, 0] - slope[:, :, 1]) > slack.sum(axis=2)
    differ &= np.isfinite(slack).all(axis=2)
    shorter = np.argmin(np.abs(width[:, :, :: steps // 2, 0]), axis=2)
    chosen[:, :, 0] = np.where(differ, shorter[..., None], chosen[:, :, 0])
    slope, slack = (
        np.take_along_axis(array, chosen, axis=2)[:, :, 0] for array in (slope, slack)
    )
    # Or they are lost in a function that computes in less than float64, or in steps.
    hidden = differ & (slope == 0)
    # Far out steps of scale 1, where they can be told from rounding, must agree.
    far = width[:, :, steps // 2, :] > 2.0**15 * width[:, :, 0, :]
    with np.errstate(invalid="ignore"):
        heard = noise[:, :, 0].min(axis=2) < 1e-3 * np.abs(slope)
    hidden |= far & heard & (rank[:, :, 0] >= 0)
    slope = np.where(hidden, np.nan, slope).transpose(0, 2, 1)
    slack = slack.transpose(0, 2, 1)
    return slope, np.where(np.isnan(slope), np.inf, slack)
