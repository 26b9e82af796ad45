"""The kernels, each against the error that its docstring states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_stable import _precision as p
from flax_stable.testing import ulp_errors


def _exp(x):
    pair, scale = p.exp(x)
    return p.rounded(pair) * scale


def _log1p(u):
    return p.rounded(p.log1p((u, jnp.zeros_like(u)), jnp.ones_like(u)))


KERNELS = {
    "exp": (_exp, np.exp, -87.3, -1e-20, 0.7),
    "expm1": (lambda x: p.rounded(p.expm1(x)), np.expm1, -100, -1e-30, 0.8),
    "log1p": (_log1p, np.log1p, 1e-30, 1, 1.0),
    "reciprocal": (
        lambda x: p.rounded(p.reciprocal(_pair(x))),
        lambda x: 1 / x,
        1e-20,
        1e20,
        0.501,
    ),
    "multiply": (
        lambda x: p.multiply_rounded(p.multiply(_pair(x), _pair(x)), _pair(x)),
        lambda x: x**3,
        1e-10,
        1e12,
        0.501,
    ),
}


def _pair(x):
    """A float as a pair, cut where its lowest 12 bits begin."""
    head = (x.view(jnp.int32) & np.int32(-4096)).view(jnp.float32)
    return head, x - head


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_keeps_its_stated_error(name, jit):
    kernel, exact, low, high, bound = KERNELS[name]
    size = 200_001
    inputs = [np.linspace(low, high, size)]
    ends = np.sign(high if low == -high else low + high), sorted(map(abs, (low, high)))
    inputs.append(ends[0] * np.geomspace(*ends[1], size))
    found = ulp_errors(kernel, exact, "float32", inputs=np.concatenate(inputs), jit=jit)
    assert found.count == 2 * size
    assert found.maximum <= bound, found


def test_log_expm1_next_to_its_root():
    def exact(x):
        d = (x.astype(np.longdouble) - np.log(2)) - np.longdouble(
            2.3190468138462996e-17
        )
        return np.log1p(2 * np.expm1(d))

    window = (0.69, 0.70)
    found = ulp_errors(
        p.log_expm1, exact, "float32", inputs=np.zeros(0), windows=[window]
    )
    assert found.count > 100_000
    assert found.maximum <= 1, found


def test_two_sum_keeps_what_rounding_drops():
    a = np.float32([1, 1e-8, -3.7, 1e10])
    b = np.float32([1e-8, 1, 1e-5, -1])
    s, e = jax.jit(p.two_sum)(a, b)
    exact = a.astype(np.float64) + b.astype(np.float64)
    assert np.all(np.asarray(e) != 0)
    np.testing.assert_array_equal(np.float64(s) + np.float64(e), exact)


@pytest.mark.parametrize("shift", [0, 2, 3])
def test_exp_ends_in_zero_not_in_garbage(shift):
    x = np.float32([-86, -89, -91, -1e30, -np.inf, np.nan])
    pair, scale = jax.jit(p.exp, static_argnums=1)(x, shift)
    found = np.asarray(p.rounded(pair) * scale)
    np.testing.assert_allclose(found[0], np.exp(-86) * 2**shift, rtol=1e-7)
    np.testing.assert_array_equal(found[2:5], 0)
    assert np.isnan(found[5])


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
