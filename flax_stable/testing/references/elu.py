"""The exponential linear units with their default parameters, and log1mexp."""

import numpy as np

SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def elu_1(x):
    return np.where(x > 0, 1.0, np.exp(np.minimum(x, 0)))


def elu_2(x):
    return np.where(x > 0, 0.0, np.exp(np.minimum(x, 0)))


def selu(x):
    return SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0)))


def selu_1(x):
    return SCALE * np.where(x > 0, 1.0, ALPHA * np.exp(np.minimum(x, 0)))


def selu_2(x):
    return SCALE * ALPHA * elu_2(x)


def log1mexp(x):
    with np.errstate(all="ignore"):
        small = np.log(-np.expm1(-np.abs(x)))
        y = np.where(x < 0.5, small, np.log1p(-np.exp(-np.abs(x))))
        return np.where(x < 0, np.nan, y)


def log1mexp_1(x):
    """exp(-x) / (1 - exp(-x)), which does not overflow."""
    with np.errstate(all="ignore"):
        return np.where(x < 0, np.nan, np.exp(-np.abs(x)) / -np.expm1(-np.abs(x)))


def log1mexp_2(x):
    with np.errstate(all="ignore"):
        return np.where(x < 0, np.nan, -np.exp(-np.abs(x)) / np.expm1(-np.abs(x)) ** 2)


ELU = {
    "elu": (elu, elu_1, elu_2),
    "celu": (elu, elu_1, elu_2),
    "selu": (selu, selu_1, selu_2),
    "log1mexp": (log1mexp, log1mexp_1, log1mexp_2),
}
