"""Gated units: one argument fixed, the other over all inputs of a dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors

SIGMOID = REFERENCES["sigmoid"]
FIXED = (1.0, -3.75, 0.01171875, 30976.0)
DTYPES = ("float16", "bfloat16", "float32")
# The largest errors observed in float32, by order of the derivative.
OBSERVED = (2.71, 4.03, 4.28)


def glu(signal, gate):
    return fs.glu(jnp.stack([signal, gate]), 0)[0]


def assert_accurate(fn, reference, dtype, order, mode="vjp"):
    stride = 10_007 if dtype == "float32" else None
    found = ulp_errors(fn, reference, dtype, order=order, mode=mode, stride=stride)
    assert found.maximum <= (OBSERVED[order] + 0.5 if stride else 0.51), found


@pytest.mark.parametrize("signal", FIXED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_of_every_gate(dtype, signal):
    for order, mode in [(0, "vjp"), (1, "vjp"), (1, "jvp"), (2, "vjp"), (2, "jvp")]:
        assert_accurate(
            lambda gate: glu(jnp.full_like(gate, signal), gate),
            lambda gate, exact=SIGMOID[order]: signal * exact(gate),
            dtype,
            order,
            mode,
        )


@pytest.mark.parametrize("gate", FIXED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_of_every_signal(dtype, gate):
    slope = SIGMOID[0](np.float64(gate))

    def fn(signal):
        return glu(signal, jnp.full_like(signal, gate))

    # The derivative does not depend on the signal: it is the same where that is NaN.
    exact = lambda x: x * slope, lambda x: np.full_like(x, slope)
    for order in range(2):
        assert_accurate(fn, exact[order], dtype, order)


@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_has_its_mixed_derivative(dtype):
    def slope_of_signal(gate):
        signal = jnp.ones_like(gate)
        return jax.vjp(lambda s: glu(s, gate), signal)[1](signal)[0]

    for mode in ("vjp", "jvp"):
        assert_accurate(slope_of_signal, SIGMOID[1], dtype, 1, mode)


def test_glu_keeps_its_input_alone():
    x = jnp.ones((4, 6), jnp.bfloat16)
    residuals = jax.tree.leaves(jax.vjp(fs.glu, x)[1])
    assert sum(r.nbytes for r in residuals) == x.nbytes


@pytest.mark.parametrize("axis", [0, -1])
def test_glu_is_that_of_jax(axis):
    x = jax.random.normal(jax.random.key(0), (4, 6))
    found, expected = (
        jax.jacrev(lambda x, f=f: f(x, axis))(x) for f in (fs.glu, jax.nn.glu)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_glu_on_a_mesh_adds_no_collective(axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    x = jax.random.normal(jax.random.key(0), (8, 6))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    gradient = jax.jit(jax.grad(lambda x: fs.glu(x).sum()))
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(gradient(sharded), gradient(x), rtol=1e-6)
        text = gradient.lower(sharded).compile().as_text()
    assert not [
        word for word in ("all-reduce", "all-gather", "all-to-all") if word in text
    ]
