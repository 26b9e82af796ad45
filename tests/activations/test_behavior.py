"""What the activations do at infinity, in high orders, and with what they are given."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from _table import TABLE

import flax_stable as fs
from flax_stable.testing import REFERENCES
from flax_stable.testing.references import find


def derivative(f, order):
    """The elementwise derivative of an order, compiled as a whole."""
    for _ in range(order):
        f = (lambda g: lambda x: jax.vjp(g, x)[1](jnp.ones_like(x))[0])(f)
    return jax.jit(f)


def derivatives(f, orders):
    """Some derivatives in one program: to compile takes longer than to run."""
    return jax.jit(lambda x: [derivative(f, order)(x) for order in orders])


def test_inverse_softplus_outside_its_domain():
    y = jnp.float32([0.0, -0.0, -1e-30, -1.0, -200.0])
    for order, limit in enumerate((-np.inf, np.inf, -np.inf)):
        found = derivative(fs.inverse_softplus, order)(y)
        np.testing.assert_array_equal(found, [limit, limit, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("name", TABLE)
def test_high_orders(name):
    """They are never NaN, and the third is right where nothing is extreme."""
    x = np.float32(np.linspace(-20, 20, 81))
    extreme = np.float32([0, 1e-38, 1e-30, 1e-4, 0.7, 20, 41, 88, 89, 104, 1e4, 3e38])
    if TABLE[name].positive:
        x, extreme = x[41:], extreme[1:]
    else:
        extreme = np.concatenate([extreme, -extreme])
    x = x[~np.isin(x, TABLE[name].kinks)]
    every = np.concatenate([x, extreme])
    third, fourth = derivatives(find(fs, name), (3, 4))(every)
    for found in third, fourth:
        assert not np.isnan(found).any(), every[np.isnan(found)]
    with mp.workdps(60):
        exact = [float(mp.diff(TABLE[name].exact, mp.mpf(float(v)), 3)) for v in x]
    exact = np.where(np.abs(exact) > np.finfo(x.dtype).max, np.inf, 1) * exact
    np.testing.assert_allclose(third[: x.size], exact, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize(
    "x",
    [2, 2.5, True, np.float64(2), np.int8(2), np.ones((2, 0), np.int32)],
    ids=lambda x: f"{type(x).__name__}",
)
@pytest.mark.parametrize("name", TABLE)
def test_promotes_as_jax_does(name, x):
    model = find(jax.nn, name) if TABLE[name].keeps_integers else jnp.tanh
    found = jax.eval_shape(find(fs, name), x)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.eval_shape(model, x)
    assert (found.shape, found.dtype, found.weak_type) == (
        expected.shape,
        expected.dtype,
        expected.weak_type,
    )
    if isinstance(x, float):
        grads = [jax.eval_shape(jax.grad(f), x) for f in (find(fs, name), jnp.tanh)]
        assert grads[0].weak_type == grads[1].weak_type


@pytest.mark.parametrize("x", [1j, np.ones(2, np.complex64)], ids=["scalar", "array"])
@pytest.mark.parametrize("name", TABLE)
def test_refuses_complex(name, x):
    function = name.partition("(")[0]
    with pytest.raises(
        TypeError, match=f"{function} is defined for real inputs.*complex64"
    ):
        find(fs, name)(x)


@pytest.mark.parametrize("name", TABLE)
def test_a_scalar(name):
    for order, found in enumerate(
        derivatives(find(fs, name), range(3))(np.float32(0.5))
    ):
        assert (found.shape, found.dtype) == ((), np.float32)
        exact = REFERENCES[name][order](np.array(0.5))
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_signs_of_zero():
    assert np.signbit(fs.tanh(-0.0)) and not np.signbit(fs.tanh(0.0))
    assert not np.signbit(jax.grad(fs.softplus)(-200.0))
