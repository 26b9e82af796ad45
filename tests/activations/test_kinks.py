"""The derivatives where pieces meet: those of `jax.nn`."""

import jax
import numpy as np
import pytest
from _table import TABLE

import flax_stable as fs

# name: at each kink of the table the first derivative and the second
CONVENTIONS = {
    "relu": [(0, 0)],
    "relu6": [(0, 0), (0, 0)],
    "leaky_relu": [(1, 0)],
    "hard_tanh": [(1, 0), (1, 0)],
    "hard_sigmoid": [(0, 0), (0, 0)],
    "hard_silu": [(0, 0), (1, 0)],
    "relu_squared": [(0, 0)],
    "sparse_plus": [(0, 0), (1, 0)],
    "sparse_sigmoid": [(0.25, 0), (0.25, 0)],
    "elu": [(1, 1)],
    "celu": [(1, 1)],
    "soft_sign": [(1, 0)],
    "selu": [(1.0507009873554805 * 1.6732632423543772,) * 2],
}
# Second derivatives of jax.nn that differ: the mean of those on both sides, and one
# that is not odd.
OF_JAX = {"celu": 0.25, "soft_sign": -2}


def derivatives(f, x):
    slope = jax.grad(f)
    return jax.jit(jax.vmap(lambda x: (slope(x), jax.grad(slope)(x))))(x)


def test_every_kink_has_a_convention():
    kinks = {name: len(entry.kinks) for name, entry in TABLE.items() if entry.kinks}
    assert {name: len(at) for name, at in CONVENTIONS.items()} == kinks


@pytest.mark.parametrize("name", CONVENTIONS)
def test_convention(name):
    """At zeros of either sign."""
    kinks, expected = np.float32(TABLE[name].kinks), np.float32(CONVENTIONS[name])
    x = np.concatenate([kinks, np.where(kinks == 0, np.float32(-0.0), kinks)])
    found = derivatives(getattr(fs, name), x)
    np.testing.assert_array_equal(np.stack(found, 1), np.tile(expected, (2, 1)))
    if model := getattr(jax.nn, name, None):
        first, second = derivatives(model, x)
        np.testing.assert_allclose(found[0], first, rtol=1e-6)
        expected = OF_JAX.get(name, found[1])
        np.testing.assert_allclose(second, expected, rtol=1e-6)
