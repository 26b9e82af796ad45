"""silu and mish: around the roots of derivatives, what the distance to them leaves."""

import numpy as np

# Roots in two parts: silu', silu'' for x > 0, mish' and the two of mish''.
SILU_1 = (-1.2784645427610737, -1.0946994183093437e-16)
SILU_2 = (2.3993572805154675, 1.8464872855353363e-16)
MISH_1 = (-1.1924312145154952, -4.8484829848031044e-17)
MISH_2 = (
    (-2.256376396360793, -1.0703174875019247e-16),
    (1.4905711794854284, 7.126036715834263e-17),
)


def _bounded(x):
    """Where exponentials have ended, and infinity times 0 has no part in the result."""
    return np.clip(x, -1e4, 1e4)


def _past(x, root):
    return (x - root[0]) - root[1]


def silu(x):
    a = np.abs(_bounded(x))
    return np.where(x < 0, -a * np.exp(-a), x) / (1 + np.exp(-a))


def silu_1(x):
    """sigmoid times 1 + x sigmoid(-x), or d + (exp(d) - 1) exp(root) for the sum."""
    x = _bounded(x)
    e = np.exp(-np.abs(x))
    d = _past(np.clip(x, -2, -1), SILU_1)
    root = d + np.expm1(d) * (-1 - SILU_1[0])
    below = np.where((x > -2) & (x < -1), root, 1 + x + e)
    return np.where(x < 0, e * below, 1 + e + x * e) / (1 + e) ** 2


def silu_2(x):
    """2 - a tanh(a / 2) times sigmoid'; the first by addition theorems at its root."""
    a = np.abs(_bounded(x))
    e = np.exp(-a)
    d = _past(np.clip(a, 1.5, 3.5), SILU_2)
    t = -np.expm1(-a) / (1 + e)
    width = np.sinh(d / 2) / (np.cosh((SILU_2[0] + d) / 2) * np.cosh(SILU_2[0] / 2))
    bracket = np.where((a > 1.5) & (a < 3.5), -d * t - SILU_2[0] * width, 2 - a * t)
    return e * bracket / (1 + e) ** 2


def _powers(x, *factors):
    """The sum of (p + q x) u^k over k for pairs (p, q), where u is exp(x)."""
    return sum((p + q * x) * np.exp(k * x) for k, (p, q) in enumerate(factors))


def _powers_past(x, root, *factors):
    """The same for the d past a root: what of each term is not there at d = 0."""
    d = _past(np.clip(x, root[0] - 0.7, root[0] + 0.7), root)
    total = 0 * d
    for k, (p, q) in enumerate(factors):
        at_root = np.exp(k * root[0])
        m = np.expm1(k * d)
        total = total + at_root * ((p + q * root[0]) * m + q * d * (1 + m))
    return total


def _divisor(x):
    """exp(2x) + 2 exp(x) + 2, divided by exp(2x) for positive x."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, 2 + 2 * e + e * e, 1 + 2 * e + 2 * e * e)


def mish(x):
    e = np.exp(-np.abs(_bounded(x)))
    part = np.where(x < 0, e * (e + 2), 1 + 2 * e) / _divisor(x)
    return np.where(x < 0, _bounded(x), x) * part


_FIRST = ((4, 4), (6, 4), (4, 0), (1, 0))
_SECOND = ((4, 2), (8, 2), (6, -3), (2, -2))


def mish_1(x):
    x = _bounded(x)
    e = np.exp(-np.abs(x))
    near = np.abs(x - MISH_1[0]) < 0.7
    below = _powers(np.minimum(x, 0), *_FIRST)
    below = e * np.where(near, _powers_past(x, MISH_1, *_FIRST), below)
    above = 1 + 4 * e + (6 + 4 * x) * e**2 + (4 + 4 * x) * e**3
    return np.where(x < 0, below, above) / _divisor(x) ** 2


def mish_2(x):
    x = _bounded(x)
    e = np.exp(-np.abs(x))
    low, high = (np.abs(x - root[0]) < 0.7 for root in MISH_2)
    below = _powers(np.minimum(x, 0), *_SECOND)
    below = np.where(low, _powers_past(x, MISH_2[0], *_SECOND), below)
    above = 2 - 2 * x + (6 - 3 * x) * e + (8 + 2 * x) * e**2 + (4 + 2 * x) * e**3
    past = _powers_past(x, MISH_2[1], *_SECOND)
    above = e * np.where(high, past * e**3, above)
    return 4 * e * np.where(x < 0, below, above) / _divisor(x) ** 3


SILU = {
    "silu": (silu, silu_1, silu_2),
    "mish": (mish, mish_1, mish_2),
}
