"""The logistic family."""

import numpy as np

LN2 = np.log(2.0)
LN2_REST = 2.3190468138462996e-17


def _e(x):
    """exp(-|x|), the only exponential that cannot overflow."""
    return np.exp(-np.abs(x))


def sigmoid(x):
    e = _e(x)
    return np.where(x < 0, e, 1.0) / (1 + e)


def sigmoid_1(x):
    e = _e(x)
    return e / ((1 + e) * (1 + e))


def sigmoid_2(x):
    e, odd = _e(x), np.copysign(np.expm1(-np.abs(x)), -x)
    return e * odd / ((1 + e) * (1 + e) * (1 + e))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(_e(x))


def log_sigmoid(x):
    return -softplus(-x)


def log_sigmoid_1(x):
    return sigmoid(-x)


def log_sigmoid_2(x):
    return -sigmoid_1(x)


def tanh(x):
    return np.tanh(x)


def tanh_1(x):
    return 4 * sigmoid_1(2 * x)


def tanh_2(x):
    return 8 * sigmoid_2(2 * x)


def inverse_softplus(y):
    with np.errstate(all="ignore"):
        # y - ln 2 is exact near the root, where 2 expm1 of it is what remains.
        near = np.log1p(2 * np.expm1((y - LN2) - LN2_REST))
        small = np.log(np.expm1(np.minimum(y, 1.0)))
        large = y + np.log1p(-np.exp(-np.abs(y)))
        x = np.where(y < 0.4, small, np.where(y < 1.0, near, large))
        return np.where(y < 0, np.nan, x)


def inverse_softplus_1(y):
    with np.errstate(all="ignore"):
        return np.where(y < 0, np.nan, -1 / np.expm1(-np.abs(y)))


def inverse_softplus_2(y):
    with np.errstate(all="ignore"):
        slope = inverse_softplus_1(y)
        return -np.exp(-np.abs(y)) * slope * slope


SIGMOID = {
    "sigmoid": (sigmoid, sigmoid_1, sigmoid_2),
    "log_sigmoid": (log_sigmoid, log_sigmoid_1, log_sigmoid_2),
    "tanh": (tanh, tanh_1, tanh_2),
    "softplus": (softplus, sigmoid, sigmoid_1),
    "inverse_softplus": (inverse_softplus, inverse_softplus_1, inverse_softplus_2),
}
