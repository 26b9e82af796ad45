"""Moments of an activation of normal numbers, from which initializers are derived."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

# A trapezoidal rule, which takes a kink better than that of Gauss and Hermite.
_NODES = np.linspace(-9, 9, 2401)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


class Moments(NamedTuple):
    """Of ``activation(s)``, ``s`` normal of some mean and standard deviation."""

    mean: float
    square: float
    covariance: float  # that of activation(s) and activation(t), s and t correlated


def moments(
    activation: Callable, mean: float, std: float, correlation: float = 0.0
) -> Moments:
    """The moments, by quadrature: to 1e-5, the activation being in float32."""
    y = _values(activation, mean + std * _NODES)
    first = float(y @ _WEIGHTS)
    second = float(y**2 @ _WEIGHTS)
    if not correlation:
        return Moments(first, second, 0.0)
    # What s and t have in common, and apart from that one of them.
    common, own = np.sqrt(correlation), np.sqrt(1 - correlation)
    nodes, weights = _NODES[::12], _WEIGHTS[::12] / _WEIGHTS[::12].sum()
    grid = common * nodes[:, None] + own * _NODES
    given_common = _values(activation, mean + std * grid) @ _WEIGHTS
    return Moments(first, second, float(given_common**2 @ weights) - first**2)


def _values(activation: Callable, x: np.ndarray) -> np.ndarray:
    # Also within jit, where the moments are constants.
    with jax.ensure_compile_time_eval():
        return np.asarray(activation(np.asarray(x, np.float32)), np.float64)
