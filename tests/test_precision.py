"""The kernels, each against the error that its docstring states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_stable import _precision as p
from flax_stable.testing import ulp_errors

pytestmark = pytest.mark.optimized

# kernel, reference, ends of its range, largest error in float32
KERNELS = {
    "expm1, negative": (p.expm1, np.expm1, -100, -1e-30, 0.81),
    "expm1, positive": (p.expm1, np.expm1, 1e-30, 87, 1.4),
    "exp": (p.exp, np.exp, -87.3, -1e-30, 0.97),
    "log1p, negative": (p.log1p, np.log1p, -2 / 3, -1e-30, 0.91),
    "log1p, positive": (p.log1p, np.log1p, 1e-30, 1, 0.91),
    "log1p_short": (p.log1p_short, np.log1p, 1e-30, 1, 1.5),
}


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_keeps_its_stated_error(name, jit, dtype):
    kernel, exact, low, high, bound = KERNELS[name]
    size = 200_001
    sign, ends = np.sign(low), sorted(map(abs, (low, high)))
    inputs = np.concatenate(
        [np.linspace(low, high, size), sign * np.geomspace(*ends, size)]
    )
    with jax.enable_x64(dtype == "float64"):
        found = ulp_errors(
            kernel,
            lambda x: exact(x.astype(np.longdouble)),
            dtype,
            inputs=inputs,
            jit=jit,
        )
    assert found.count == 2 * size
    assert found.maximum <= (bound if dtype == "float32" else 2), found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_expm1_of_what_is_out_of_range(dtype):
    with jax.enable_x64(True):
        x = jnp.array([-np.inf, -1e5, -0.0, 0.0, 1e5, np.inf, np.nan], dtype)
        found = np.asarray(jax.jit(p.expm1)(x), np.float64)
    np.testing.assert_array_equal(found[:4], [-1, -1, 0, 0])
    assert (found[4:6] > 0.1 * float(np.finfo(dtype).max)).all()
    assert np.isnan(found[6])


def test_expm1_takes_a_low_part():
    x = np.float32(np.linspace(-0.4, 0.4, 10_001))
    low = np.float32(1e-9)
    scale, high, tail = jax.jit(p.exp_scaled)(x, low)
    found = scale * (high + tail) + (scale - 1)
    exact = np.expm1(x.astype(np.longdouble) - low)
    np.testing.assert_allclose(np.float64(found), np.float64(exact), rtol=2e-7)


def test_binary_scaling_is_exact():
    u = np.float32(np.linspace(-2 / 3, 1, 100_001))
    k, f = map(np.float64, jax.jit(p.log1p_reduced)(u))
    np.testing.assert_array_equal(2**k * (1 + f), 1 + np.float64(u))
    assert f.min() >= -1 / 3 - 1e-6 and f.max() <= 0.5


def test_polynomial_is_horners_rule():
    x = np.float32([0, 1, 2])
    np.testing.assert_array_equal(p.polynomial((1.0, 2.0, 3.0), x), [1, 6, 17])


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("float8_e4m3fn", "float32"),
        ("float8_e5m2", "float32"),
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_formulas_compute_in_a_wide_dtype(dtype, wide):
    with jax.enable_x64(True):
        x = jnp.ones(3, dtype)
        assert p.widen(x).dtype == wide
        assert p.narrow(p.widen(x), x).dtype == dtype
