"""The transform between raw and positive parameters, and its inverse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_stable as fs

DTYPES = ["float16", "bfloat16", "float32"]
RAW = np.concatenate([np.linspace(-12, 12, 97), [-80, 80]])
# Numbers, and arrays that broadcast against three rows of raw parameters.
PARAMETERS = [
    (1.0, 0.0),
    (1.0, 1e-2),
    (np.array([[0.5], [1.0], [2.0]]), 0.0),
    (2.0, np.array([[0.0], [0.125], [1.0]])),
]


def exact(raw, beta, floor):
    return np.logaddexp(beta * np.float64(raw), 0) / beta + floor


def in_dtype(x, dtype):
    return x if isinstance(x, int | float) else jnp.asarray(x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_value_inverse_and_gradient(dtype):
    raw = jnp.asarray(np.broadcast_to(RAW, (3, RAW.size)), dtype)
    eps = float(jnp.finfo(dtype).eps)
    tiny = float(jnp.finfo(dtype).tiny)
    for beta, floor in PARAMETERS:
        options = {"beta": in_dtype(beta, dtype), "floor": in_dtype(floor, dtype)}
        beta, floor = (np.float64(options[k]) for k in ("beta", "floor"))

        def of(raw, options=options):
            return fs.positive(raw, **options)

        expected = exact(raw, beta, floor)
        y, slope = jax.jvp(of, (raw,), (jnp.ones_like(raw),))
        assert y.dtype == slope.dtype == dtype
        error = np.abs(np.float64(y) - expected)
        most = 2 if dtype == "float32" else 0.51
        assert (error <= most * eps * expected + tiny).all(), (beta, floor)

        # Where the value is above twice the floor, and where the slope is held.
        soft = expected - floor
        held = -np.expm1(-beta * np.maximum(soft, floor))
        error = np.abs(np.float64(slope) - held)
        assert (error <= 4 * eps * held + tiny).all(), (beta, floor)

        # The inverse, as far as what is above the floor can be told from the floor.
        known = np.float64(y) - floor > 2 * tiny
        value = jnp.where(known, y, y + 1)
        back = fs.inverse_positive(value, **options)
        assert back.dtype == dtype
        again = np.float64(of(back))
        error = np.abs(again - np.float64(value)) / np.float64(value)
        assert (error <= eps * (2 + np.abs(beta * np.float64(back)))).all()


def test_the_usual_parameters_are_softplus_to_the_bit():
    raw = jnp.asarray(RAW, jnp.float32)
    np.testing.assert_array_equal(fs.positive(raw), fs.softplus(raw))
    np.testing.assert_array_equal(fs.positive(raw, beta=2), fs.softplus(raw, 2))
    y = jnp.abs(raw) + 1
    np.testing.assert_array_equal(fs.inverse_positive(y), fs.inverse_softplus(y))


def test_gradients_reach_a_weight_that_has_all_but_vanished():
    """In proportion to the weight; where that underflows, only with a floor."""
    slope = jax.vmap(jax.grad(lambda r, f: fs.positive(r, floor=f)), (0, None))
    raw = jnp.array([-20.0, -60.0, -87.0, -104.0])
    y = np.exp(np.float64(raw[:3]))
    np.testing.assert_allclose(slope(raw, 0.0)[:3], y, rtol=1e-5)
    assert fs.positive(raw[3]) == 0 and slope(raw, 0.0)[3] == 0
    np.testing.assert_allclose(slope(raw, 1e-3), -np.expm1(-1e-3), rtol=1e-6)
    # A wide bend reaches further without a floor.
    wide = jax.grad(lambda r: fs.positive(r, beta=0.125))(-104.0)
    np.testing.assert_allclose(wide, 1 / (1 + np.exp(13.0)), rtol=1e-6)


@pytest.mark.parametrize(("floor", "comes_back"), [(0.0, False), (1e-3, True)])
def test_a_weight_that_underflowed_comes_back_with_a_floor(floor, comes_back):
    """Descent toward a weight of 1, from raw -104."""

    def step(raw, _):
        slope = jax.grad(lambda r: (fs.positive(r, floor=floor) - 1) ** 2)(raw)
        return raw - slope, None

    raw, _ = jax.lax.scan(step, jnp.float32(-104), length=60_000)
    assert (abs(fs.positive(raw, floor=floor) - 1) < 0.01) == comes_back


def test_derivatives_of_every_kind():
    def of(raw, beta, floor):
        return fs.positive(raw, beta=beta, floor=floor)

    # Exact where the value is above twice the floor: against differences in float64.
    primals = 0.7, 1.5, 0.1
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(of, (0, 1, 2)))
        second = jax.jit(jax.jacrev(jax.grad(of, (0, 1, 2)), (0, 1, 2)))(*primals)
        for i in range(3):
            up, down = (np.add(primals, s * 1e-5 * np.eye(3)[i]) for s in (1, -1))
            change = (of(*up) - of(*down)) / 2e-5
            np.testing.assert_allclose(gradient(*primals)[i], change, rtol=1e-8)
            for j, (a, b) in enumerate(
                zip(gradient(*up), gradient(*down), strict=True)
            ):
                error = second[j][i] - (a - b) / 2e-5
                np.testing.assert_allclose(error, 0, atol=1e-9)
    # A held slope is constant.
    assert jax.grad(jax.grad(of))(-9.0, 1.0, 0.1) == 0
    assert jax.grad(of, 2)(-9.0, 1.0, 0.1) == 1


def test_transformations():
    raw = jnp.asarray(RAW, jnp.float32)
    beta = jnp.array([0.5, 2.0])

    def of(raw, beta, floor):
        return fs.positive(raw, beta=beta, floor=floor)

    expected = of(raw, beta[:, None], 0.1)
    mapped = jax.vmap(of, (None, 0, None))(raw, beta, 0.1)
    np.testing.assert_allclose(mapped, expected, rtol=3e-7)
    # Under jit a parameter need not be known.
    jitted = jax.jit(of)(raw, beta[:, None], 0.1)
    np.testing.assert_allclose(jitted, expected, rtol=3e-7)
    assert jnp.isnan(jax.jit(fs.inverse_positive)(-1.0))
    assert jax.jit(fs.inverse_positive)(0.0) == -jnp.inf
    for x, limit in ((jnp.nan, jnp.nan), (jnp.inf, jnp.inf), (-jnp.inf, 0.25)):
        np.testing.assert_array_equal(fs.positive(x, floor=0.25), limit)
    assert fs.positive(jnp.zeros((0, 3)), floor=1.0).shape == (0, 3)
    assert fs.inverse_positive(jnp.zeros((0, 3)), floor=1.0).shape == (0, 3)


BAD = [
    ({"beta": 0}, "expects a finite beta above 0, but got 0. A beta of 1"),
    ({"beta": -1.5}, "expects a finite beta above 0, but got -1.5."),
    ({"beta": np.array([1.0, 0.0])}, "expects a finite beta above 0, but got [1. 0.]"),
    ({"beta": float("nan")}, "expects a finite beta above 0, but got nan"),
    ({"floor": -1e-3}, "expects a finite floor of 0 or more, but got -0.001. Take 0"),
    ({"floor": jnp.inf}, "expects a finite floor of 0 or more, but got inf"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_parameters_that_cannot_be(options, message):
    for f in (fs.positive, fs.inverse_positive):
        with pytest.raises(ValueError, match=re.escape(f"{f.__name__} {message}")):
            f(jnp.ones(2), **options)


@pytest.mark.parametrize(
    ("value", "floor", "message"),
    [
        (0.0, 0.0, "values above 0, but the smallest one is 0.0. Raise the value"),
        ([1.0, -2.0], 0.0, "values above 0, but the smallest one is -2.0."),
        ([0.5, 1.0], 0.5, "values above the floor of 0.5, but the smallest one is 0.5"),
        (float("nan"), 0.0, "values above 0, but the smallest one is nan."),
    ],
)
def test_values_without_a_raw_parameter(value, floor, message):
    with pytest.raises(
        ValueError, match=re.escape(f"inverse_positive takes {message}")
    ):
        fs.inverse_positive(jnp.array(value), floor=floor)


def test_what_softplus_refuses_is_refused():
    with pytest.raises(TypeError, match="positive is defined for real inputs"):
        fs.positive(1j, floor=0.5)
    with pytest.raises(ValueError, match="positive broadcasts its parameters"):
        fs.positive(jnp.ones(3), floor=jnp.ones(2))
