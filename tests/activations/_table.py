"""What is known of each activation: its definition, its limits, its largest errors."""

from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import numpy as np


class Expected(NamedTuple):
    """An activation's definition and what the tests hold it to.

    Attributes:
      exact: the definition in mpmath, from which derivatives are taken as well.
      float32: the largest errors observed, in ULP, of value and two derivatives.
      limits: value and derivatives at -inf and at inf.
      windows: intervals that float32 sweeps visit number by number.
      positive: whether the domain is that of positive numbers.
      residual: whether the input or the output is kept in float32 and float64.
    """

    exact: Callable
    float32: tuple[float, float, float]
    limits: tuple[tuple[float, float], ...]
    windows: tuple[tuple[float, float], ...] = ()
    positive: bool = False
    residual: str = "input"


def both_signs(*windows: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """The intervals and their mirror images."""
    return windows + tuple((-high, -low) for low, high in windows)


# Where exponentials end, and where they stop to matter beside 1.
TAILS = both_signs((87.32, 87.35), (8.66, 8.67), (17.32, 17.33), (1.72e-4, 1.73e-4))

SIGMOID = {
    "sigmoid": Expected(
        lambda x: 1 / (1 + mp.exp(-x)),
        float32=(1.65, 3.4, 4.4),
        limits=((0, 1), (0, 0), (0, 0)),
        windows=TAILS,
    ),
    "log_sigmoid": Expected(
        lambda x: -mp.log1p(mp.exp(-x)),
        float32=(1.65, 1.65, 3.4),
        limits=((-np.inf, 0), (1, 0), (0, 0)),
        windows=TAILS,
    ),
    "tanh": Expected(
        mp.tanh,
        float32=(1.5, 3.4, 4.1),
        limits=((-1, 1), (0, 0), (0, 0)),
        windows=both_signs((44.35, 44.37), (0.5999, 0.6001), (8.66, 8.67)),
    ),
    "softplus": Expected(
        lambda x: mp.log1p(mp.exp(x)),
        float32=(1.65, 2.4, 3.4),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=TAILS,
        residual="output",
    ),
    "inverse_softplus": Expected(
        lambda y: y + mp.log(1 - mp.exp(-y)),
        float32=(1.75, 1.75, 4.1),
        limits=((np.nan, np.inf), (np.nan, 1), (np.nan, 0)),
        windows=(
            (0.69312, 0.69318),
            (0.34655, 0.34660),
            (0.4299, 0.4301),
            (1.0899, 1.0901),
            (5.421e-20, 5.422e-20),
        ),
        positive=True,
    ),
}

TABLE: dict[str, Expected] = {**SIGMOID}
