"""Functions with parameters, here the default or fixed, and what is close to them."""

import numpy as np

from .sigmoid import (
    LN2,
    LN2_REST,
    sigmoid,
    sigmoid_1,
    softplus,
    tanh,
    tanh_1,
    tanh_2,
)


def soft_sign(x):
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))


def soft_sign_1(x):
    return (1 / (1 + np.abs(x))) ** 2


def soft_sign_2(x):
    return -2 * np.sign(x) * (1 / (1 + np.abs(x))) ** 3


def squareplus(x):
    """exp(asinh(x / 2)), for the parameter 4."""
    p = np.abs(x) / 2 + np.hypot(x / 2, 1)
    return np.where(x < 0, 1 / p, p)


def squareplus_1(x):
    w = 1 / (1 + squareplus(np.abs(x)) ** 2)
    return np.where(x < 0, w, 1 - w)


def squareplus_2(x):
    return 2 * (1 / np.hypot(x, 2)) ** 3


def log_cosh(x):
    a = np.abs(x)
    near = np.log1p(2 * np.sinh(np.minimum(a, 1) / 2) ** 2)
    far = (a - LN2) + (np.log1p(np.exp(-2 * a)) - LN2_REST)
    return np.where(a < 0.75, near, far)


def softcap(x):
    return 30 * np.tanh(x / 30)


def softcap_1(x):
    return tanh_1(x / 30)


def softcap_2(x):
    return tanh_2(x / 30) / 30


def snake(x, a=1):
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(x), x, x + np.sin(a * x) ** 2 / a)


def snake_1(x, a=1):
    """1 + s, which is c^2 / (1 - s) where it cancels."""
    with np.errstate(invalid="ignore"):
        s, c = np.sin(2 * a * x), np.cos(2 * a * x)
        return np.where(s < 0, c * c / (1 - s), 1 + s)


def snake_2(x, a=1):
    with np.errstate(invalid="ignore"):
        return 2 * a * np.cos(2 * a * x)


PARAMETRIC = {
    "soft_sign": (soft_sign, soft_sign_1, soft_sign_2),
    "squareplus": (squareplus, squareplus_1, squareplus_2),
    "log_cosh": (log_cosh, tanh, tanh_1),
    "softcap(cap=30.0)": (softcap, softcap_1, softcap_2),
    "snake": (snake, snake_1, snake_2),
    "snake(a=0.5)": tuple(lambda x, f=f: f(x, 0.5) for f in (snake, snake_1, snake_2)),
    "softplus(beta=2.0)": (
        lambda x: softplus(2 * x) / 2,
        lambda x: sigmoid(2 * x),
        lambda x: 2 * sigmoid_1(2 * x),
    ),
}
