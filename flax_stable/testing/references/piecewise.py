"""Piecewise polynomials; at a kink derivatives are those of `jax.nn`."""

import numpy as np


def relu(x):
    return np.maximum(x, 0)


def relu_1(x):
    return np.where(x > 0, 1.0, 0.0)


def zero(x):
    return np.zeros_like(x)


def relu6(x):
    return np.clip(x, 0, 6)


def relu6_1(x):
    return np.where((x > 0) & (x < 6), 1.0, 0.0)


def leaky_relu(x):
    return np.where(x >= 0, x, 0.01 * x)


def leaky_relu_1(x):
    return np.where(x >= 0, 1.0, 0.01)


def hard_tanh(x):
    return np.clip(x, -1, 1)


def hard_tanh_1(x):
    return np.where(np.abs(x) <= 1, 1.0, 0.0)


def hard_sigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


def hard_sigmoid_1(x):
    one = x.dtype.type(1)
    return np.where(np.abs(x) < 3, one / 6, 0 * one)


def hard_silu(x):
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.abs(x) < 3, x * (x + 3) / 6, np.maximum(x, 0))


def hard_silu_1(x):
    return np.where(x >= 3, 1.0, np.where(x <= -3, 0.0, (x + 1.5) / 3))


def hard_silu_2(x):
    one = x.dtype.type(1)
    return np.where(np.abs(x) >= 3, 0 * one, one / 3)


def relu_squared(x):
    with np.errstate(over="ignore"):
        return np.maximum(x, 0) ** 2


def relu_squared_1(x):
    return 2 * np.maximum(x, 0)


def relu_squared_2(x):
    return np.where(x > 0, 2.0, 0.0)


def sparse_plus(x):
    with np.errstate(over="ignore"):
        return np.where(x >= 1, x, np.where(x <= -1, 0.0, (x + 1) ** 2 / 4))


def sparse_sigmoid(x):
    return np.clip(x + 1, 0, 2) / 2


def sparse_plus_2(x):
    return np.where(np.abs(x) >= 1, 0.0, 0.5)


def sparse_sigmoid_1(x):
    a = np.abs(x)
    return np.where(a < 1, 0.5, np.where(a == 1, 0.25, np.where(a > 1, 0.0, x)))


def identity(x):
    return x


def identity_1(x):
    return np.ones_like(x)


PIECEWISE = {
    "relu": (relu, relu_1, zero),
    "relu6": (relu6, relu6_1, zero),
    "leaky_relu": (leaky_relu, leaky_relu_1, zero),
    "hard_tanh": (hard_tanh, hard_tanh_1, zero),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_1, zero),
    "hard_silu": (hard_silu, hard_silu_1, hard_silu_2),
    "relu_squared": (relu_squared, relu_squared_1, relu_squared_2),
    "sparse_plus": (sparse_plus, sparse_sigmoid, sparse_plus_2),
    "sparse_sigmoid": (sparse_sigmoid, sparse_sigmoid_1, zero),
    "identity": (identity, identity_1, zero),
}
