"""What is known of each activation: its definition, its limits, its largest errors."""

from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import numpy as np

from flax_stable.testing import REFERENCES


class Expected(NamedTuple):
    """An activation's definition and what the tests hold it to.

    Attributes:
      exact: the definition in mpmath, from which derivatives are taken as well.
      float32: the largest errors observed, in ULP, of value and two derivatives.
      limits: value and derivatives at -inf and at inf.
      windows: intervals that float32 sweeps visit number by number.
      positive: whether the domain is that of positive numbers.
      residual: what is kept in float32 and float64: the input, the output, a bool for
        each element or nothing.
      kinks: where the definition's pieces meet: there differences of it, which straddle
        the kink, say nothing about the derivative that the convention chooses.
      at_nan: derivatives at NaN, which a bool, or a constant slope, cannot pass on.
      keeps_integers: whether integers stay integers, as in `jax.nn`.
    """

    exact: Callable
    float32: tuple[float, float, float]
    limits: tuple[tuple[float, float], ...]
    windows: tuple[tuple[float, float], ...] = ()
    positive: bool = False
    residual: str = "input"
    kinks: tuple[float, ...] = ()
    at_nan: tuple[float, float] = (np.nan, np.nan)
    keeps_integers: bool = False


def both_signs(*windows: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """The intervals and their mirror images."""
    return windows + tuple((-high, -low) for low, high in windows)


# Where exponentials end, and where they stop to matter beside 1.
TAILS = both_signs((87.32, 87.35), (8.66, 8.67), (17.32, 17.33), (1.72e-4, 1.73e-4))

SIGMOID = {
    "sigmoid": Expected(
        lambda x: 1 / (1 + mp.exp(-x)),
        float32=(1.64, 2.38, 4.41),
        limits=((0, 1), (0, 0), (0, 0)),
        windows=TAILS,
    ),
    "log_sigmoid": Expected(
        lambda x: -mp.log1p(mp.exp(-x)),
        float32=(1.87, 2.45, 2.38),
        limits=((-np.inf, 0), (1, 0), (0, 0)),
        windows=TAILS,
    ),
    "tanh": Expected(
        mp.tanh,
        float32=(1.5, 2.38, 4.41),
        limits=((-1, 1), (0, 0), (0, 0)),
        windows=both_signs(
            (44.35, 44.37), (0.2553, 0.2601), (8.66, 8.67), (45.1, 45.25)
        ),
    ),
    "softplus": Expected(
        lambda x: mp.log1p(mp.exp(x)),
        float32=(1.87, 2.46, 2.38),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=TAILS,
        residual="output",
    ),
    "inverse_softplus": Expected(
        lambda y: y + mp.log(1 - mp.exp(-y)),
        float32=(1.86, 1.78, 4.24),
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


def around(*points: float) -> tuple[tuple[float, float], ...]:
    """Intervals about the points."""
    return tuple((p - 1e-4 * abs(p), p + 1e-4 * abs(p)) for p in points)


def mp_elu(x, alpha=1, scale=1):
    return scale * (x if x > 0 else alpha * mp.expm1(x))


PIECEWISE = {
    "relu": Expected(
        lambda x: max(x, 0),
        float32=(0, 0, 0),
        limits=((0, np.inf), (0, 1), (0, 0)),
        residual="bool",
        kinks=(0,),
        at_nan=(0, 0),
        keeps_integers=True,
    ),
    "relu6": Expected(
        lambda x: min(max(x, 0), 6),
        float32=(0, 0, 0),
        limits=((0, 6), (0, 0), (0, 0)),
        windows=around(6),
        residual="bool",
        kinks=(0, 6),
        at_nan=(0, 0),
    ),
    "leaky_relu": Expected(
        lambda x: x if x >= 0 else mp.mpf(0.01) * x,
        float32=(0.85, 0.25, 0),
        limits=((-np.inf, np.inf), (0.01, 1), (0, 0)),
        residual="bool",
        kinks=(0,),
        at_nan=(0.01, 0),
    ),
    "hard_tanh": Expected(
        lambda x: min(max(x, -1), 1),
        float32=(0, 0, 0),
        limits=((-1, 1), (0, 0), (0, 0)),
        windows=around(-1, 1),
        residual="bool",
        kinks=(-1, 1),
        at_nan=(0, 0),
        keeps_integers=True,
    ),
    "hard_sigmoid": Expected(
        lambda x: min(max(x + 3, 0), 6) / 6,
        float32=(1.35, 0.35, 0),
        limits=((0, 1), (0, 0), (0, 0)),
        windows=around(-3, 3),
        residual="bool",
        kinks=(-3, 3),
        at_nan=(0, 0),
    ),
    "hard_silu": Expected(
        lambda x: x * min(max(x + 3, 0), 6) / 6,
        float32=(1.5, 1.35, 0.35),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=around(-3, -1.5, -1, 3),
        kinks=(-3, 3),
        at_nan=(np.nan, 1 / 3),
    ),
    "relu_squared": Expected(
        lambda x: max(x, 0) ** 2,
        float32=(0.5, 0, 0),
        limits=((0, np.inf), (0, np.inf), (0, 2)),
        kinks=(0,),
        at_nan=(np.nan, 0),
    ),
    "sparse_plus": Expected(
        lambda x: x if x > 1 else max(x + 1, 0) ** 2 / 4,
        float32=(1.92, 0.5, 0),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=around(-1, 1),
        kinks=(-1, 1),
        at_nan=(np.nan, 0.5),
    ),
    "sparse_sigmoid": Expected(
        lambda x: min(max(x + 1, 0), 2) / 2,
        float32=(0.5, 0, 0),
        limits=((0, 1), (0, 0), (0, 0)),
        windows=around(-1, 1),
        kinks=(-1, 1),
        at_nan=(np.nan, 0),
    ),
    "identity": Expected(
        lambda x: x,
        float32=(0, 0, 0),
        limits=((-np.inf, np.inf), (1, 1), (0, 0)),
        residual="nothing",
        at_nan=(1, 0),
        keeps_integers=True,
    ),
}

ELU = {
    "elu": Expected(
        mp_elu,
        float32=(0.82, 2.07, 2.07),
        limits=((-1, np.inf), (0, 1), (0, 0)),
        windows=((-87.35, -87.32), (-64.01, -63.99)),
        kinks=(0,),
    ),
    "selu": Expected(
        lambda x: mp_elu(x, mp.mpf(1.6732632423543772), mp.mpf(1.0507009873554805)),
        float32=(1.89, 2.14, 2.14),
        limits=(
            (-1.0507009873554805 * 1.6732632423543772, np.inf),
            (0, 1.0507009873554805),
            (0, 0),
        ),
        windows=((-87.91, -87.88), (-64.01, -63.99)),
        kinks=(0,),
    ),
    "log1mexp": Expected(
        lambda x: mp.log(1 - mp.exp(-x)),
        float32=(1.69, 2.21, 4.24),
        limits=((np.nan, 0), (np.nan, 0), (np.nan, 0)),
        windows=(
            *around(0.40795, 0.41, 0.46461, 0.69315, 1.0397, 1.06),
            (87.32, 87.35),
            (5.421e-20, 5.422e-20),
        ),
        positive=True,
    ),
}
ELU["celu"] = ELU["elu"]

SILU = {
    "silu": Expected(
        lambda x: x / (1 + mp.exp(-x)),
        float32=(1.8, 3.54, 4.22),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=(
            (-91.9, -91.7),
            (-87.4, -87.3),
            (91.7, 91.9),
            *both_signs((0.3465, 0.3467), (1.0397, 1.0398), (17.31, 17.34)),
            *both_signs((59.9, 60.1), (66.8, 67.0)),
            *around(
                -1.2784645,
                -1.2472,
                -1.3097,
                -2.3993573,
                2.3993573,
                2.1493573,
                2.6493573,
            ),
        ),
    ),
    "mish": Expected(
        lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
        float32=(1.77, 3.46, 4.63),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=(
            (-91.9, -91.7),
            (-87.4, -87.3),
            (46.0, 46.1),
            (1.1754944e-38, 2.4e-38),
            *both_signs((0.3465, 0.3467), (0.776, 0.777), (1.0397, 1.0398)),
            *around(-1.1924312, -1.48, -0.5, -0.66, -2.2563764, -2.0063, -2.5063),
            *around(1.4905712, -1.08, 1.74, 0.35, 20.101),
        ),
    ),
}

PARAMETRIC = {
    "soft_sign": Expected(
        lambda x: x / (1 + abs(x)),
        float32=(1.5, 2.48, 3.41),
        limits=((-1, 1), (0, 0), (0, 0)),
        windows=both_signs((0.999, 1.02), (1e18, 1.001e18), (9.22e18, 9.23e18)),
        kinks=(0,),
    ),
    "squareplus": Expected(
        lambda x: (x + mp.sqrt(x * x + 4)) / 2,
        float32=(1.54, 2.58, 4.06),
        limits=((0, np.inf), (0, 1), (0, 0)),
        # Where x^2 overflows, where 4 no longer counts beside it, where most is lost.
        windows=both_signs(
            (1.844e19, 1.845e19), (8190, 8194), (0.034, 0.0345), (12.5, 12.6)
        ),
    ),
    "log_cosh": Expected(
        lambda x: mp.log(mp.cosh(x)),
        float32=(1.16, 1.5, 2.38),
        limits=((np.inf, np.inf), (-1, 1), (0, 0)),
        windows=both_signs((0.7499, 0.7501), (0.5999, 0.6001), (44.35, 44.37)),
    ),
    "softcap(cap=30.0)": Expected(
        lambda x: 30 * mp.tanh(x / 30),
        float32=(1.36, 2.4, 5.16),
        limits=((-30, 30), (0, 0), (0, 0)),
        windows=both_signs((17.99, 18.01), (959.9, 960.1), (1309, 1311)),
    ),
    "snake": Expected(
        lambda x: x + mp.sin(x) ** 2,
        float32=(1.77, 3.46, 1.02),
        limits=((-np.inf, np.inf), (np.nan, np.nan), (np.nan, np.nan)),
        # Roots of derivatives, a switch, and where a multiple of pi is taken off x.
        windows=(
            *both_signs((0.39999, 0.40001), (0.7853, 0.7855), (1.701e38, 1.702e38)),
            (2.3561, 2.3563),
            (99746, 99748),
        ),
    ),
    "snake(a=0.5)": Expected(
        lambda x: x + 2 * mp.sin(x / 2) ** 2,
        float32=(1.77, 2.48, 0.57),
        limits=((-np.inf, np.inf), (np.nan, np.nan), (np.nan, np.nan)),
        windows=both_signs((1.5707, 1.5709), (4.7123, 4.7125)),
    ),
    "softplus(beta=2.0)": Expected(
        lambda x: mp.log1p(mp.exp(2 * x)) / 2,
        float32=(1.64, 1.62, 2.38),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=both_signs((31.99, 32.01), (43.66, 43.68), (4.33, 4.34)),
    ),
}


def mp_gelu(x):
    w = mp.sqrt(8 / mp.pi) * (x + mp.mpf("0.044715") * x**3)
    return x / (1 + mp.exp(-w))


def mp_normal(x):
    """The normal distribution function."""
    return mp.erfc(-x / mp.sqrt(2)) / 2


NORMAL = {
    "gelu": Expected(
        mp_gelu,
        float32=(1.94, 3.52, 5.16),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=(
            *around(-0.7524614),
            *both_signs((1.41848, 1.41852), (2.1999, 2.2001)),
            (-1.2526, -1.2523),
            (-10.09, -10.07),
            (-5.11, -5.1),
            (8.999, 9.001),
        ),
    ),
    "gelu(approximate=False)": Expected(
        lambda x: x * mp_normal(x),
        float32=(1.65, 1.84, 4.95),
        limits=((0, np.inf), (0, 1), (0, 0)),
        windows=(
            *around(-0.7517915, -0.3517915, -1.1517915),
            *both_signs((1.41420, 1.41423), (13.09, 13.12)),
        ),
    ),
    "erfcx": Expected(
        lambda x: mp.exp(x * x) * mp.erfc(x),
        float32=(1.67, 3.3, 4.5),
        limits=((np.inf, 0), (-np.inf, 0), (np.inf, 0)),
        windows=(*around(0.25, 2.0, 2.1, 8192.0), (-9.39, -9.3), (-0.1, -0.09)),
    ),
    "log_ndtr": Expected(
        lambda x: mp.log(mp_normal(x)) if x < 0 else mp.log1p(-mp_normal(-x)),
        float32=(1.76, 2.66, 3.78),
        limits=((-np.inf, 0), (np.inf, 0), (-1, 0)),
        windows=(*around(-0.42, 0.424, 0.5244), (13.0, 13.01), (-2.61e19, -2.60e19)),
    ),
}

TABLE: dict[str, Expected] = {
    **SIGMOID,
    **PIECEWISE,
    **ELU,
    **SILU,
    **PARAMETRIC,
    **NORMAL,
}


def assert_reference_is_exact(name, order, x):
    # At a kink the difference quotients of mpmath straddle it.
    x = x[np.isfinite(x) & ~np.isin(x, TABLE[name].kinks)]
    found = REFERENCES[name][order](x)
    with mp.workdps(200):
        for value, reference in zip(x, found, strict=True):
            exact = mp.diff(TABLE[name].exact, mp.mpf(float(value)), order)
            if abs(exact) > np.finfo(np.float64).max:
                assert reference == np.sign(exact) * np.inf, value
                continue
            # Differences of a linear piece leave noise of 1e-200 where it is 0.
            error = abs(mp.mpf(float(reference)) - exact)
            assert error <= 1e-13 * abs(exact) + 1e-150, value
