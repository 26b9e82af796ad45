"""The activations: values and derivatives of every dtype against exact references."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors

NAMES = tuple(REFERENCES)
CASES = [(name, order) for name in NAMES for order in range(3)]
MODES = [(order, mode) for order in (1, 2) for mode in ("vjp", "jvp")]

# The largest errors observed in float32, in ULP: value, first, second derivative.
FLOAT32 = {
    "sigmoid": (1.65, 3.4, 4.4),
    "log_sigmoid": (1.65, 1.65, 3.4),
    "tanh": (1.5, 3.4, 4.1),
    "softplus": (1.65, 2.4, 3.4),
    "inverse_softplus": (1.75, 1.75, 4.1),
}
MUST_REACH = (2, 4, 6)

# Where results change branch, cross zero or end: around ln 2, the ends of the kernels'
# reduced ranges, the smallest normal results, the last ones that differ from a limit.
WINDOWS = [
    (0.69312, 0.69318),
    (0.34655, 0.34660),
    (-0.34660, -0.34655),
    (1.0397, 1.0398),
    (1.72e-4, 1.73e-4),
    (-1.73e-4, -1.725e-4),
    (8.66, 8.67),
    (17.32, 17.33),
    (-87.35, -87.32),
    (87.32, 87.35),
    (-44.37, -44.35),
    (44.35, 44.37),
    (5.421e-20, 5.422e-20),
]


def derivative(f, order):
    """The elementwise derivative of an order."""
    for _ in range(order):
        f = (lambda g: lambda x: jax.vjp(g, x)[1](jnp.ones_like(x))[0])(f)
    return f


def _mpmath(name, order, x):
    """The same in 60 digits, from the definitions."""
    e = mp.exp(-x) if name != "tanh" else mp.exp(-2 * x)
    s = 1 / (1 + e)
    s1, s2 = e / (1 + e) ** 2, e * (e - 1) / (1 + e) ** 3
    return {
        "sigmoid": (s, s1, s2),
        "softplus": (mp.log1p(mp.exp(x)), s, s1),
        "log_sigmoid": (-mp.log1p(mp.exp(-x)), 1 - s, -s1),
        "tanh": (2 * s - 1, 4 * s1, 8 * s2),
    }[name][order]


def _mpmath_inverse(order, y):
    e = mp.exp(-y)
    slope = 1 / (1 - e)
    return (y + mp.log(1 - e), slope, -e * slope**2)[order]


@pytest.mark.parametrize(("name", "order"), CASES)
def test_references_agree_with_mpmath(name, order):
    rng = np.random.default_rng(order)
    x = np.concatenate(
        [
            rng.uniform(-110, 110, 100),
            rng.choice([-1, 1], 100) * 10 ** rng.uniform(-38, 2, 100),
            np.float32([0.6931472, 0.69314724, 0.6931471, 0.39999, 0.4, 0.99999, 1.0]),
            [87.33, -87.33, 17.5, 1e-30, -1e-30],
        ]
    )
    if name == "inverse_softplus":
        x = np.abs(x)
    found = REFERENCES[name][order](x)
    with mp.workdps(160):
        for value, reference in zip(x, found, strict=True):
            point = mp.mpf(float(value))
            exact = (
                _mpmath_inverse(order, point)
                if name == "inverse_softplus"
                else _mpmath(name, order, point)
            )
            assert abs(mp.mpf(float(reference)) - exact) <= 1e-13 * abs(exact), value


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_16_bit_input(name, dtype):
    for order, mode in [(0, "vjp"), *MODES]:
        found = ulp_errors(
            getattr(fs, name), REFERENCES[name][order], dtype, order=order, mode=mode
        )
        assert found.count == 65_536
        assert found.maximum <= 0.51, (order, mode, found)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_16_bit_input_with_random_cotangents(name, dtype):
    for order, mode in MODES:
        found = ulp_errors(
            getattr(fs, name),
            REFERENCES[name][order],
            dtype,
            order=order,
            mode=mode,
            seed=order,
        )
        assert found.maximum <= 0.51, (order, mode, found)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_float32_sample(name, jit):
    # Eagerly both modes run the same operations one by one.
    for order, mode in [(0, "vjp"), *(MODES if jit else MODES[::2])]:
        found = ulp_errors(
            getattr(fs, name),
            REFERENCES[name][order],
            "float32",
            order=order,
            mode=mode,
            stride=30_011,
            windows=WINDOWS,
            jit=jit,
        )
        assert found.count > 160_000
        bound = min(FLOAT32[name][order] + 0.5, MUST_REACH[order])
        assert found.maximum <= bound, (order, mode, found)


@pytest.mark.parametrize("name", NAMES)
def test_float32_with_random_cotangents(name):
    for order, mode in MODES:
        found = ulp_errors(
            getattr(fs, name),
            REFERENCES[name][order],
            "float32",
            order=order,
            mode=mode,
            stride=30_011,
            windows=WINDOWS,
            seed=order,
        )
        # The product with the cotangent is rounded too: one ULP where a mantissa wraps.
        bound = min(2 * FLOAT32[name][order] + 1, MUST_REACH[order])
        assert found.maximum <= bound, (order, mode, found)


@pytest.mark.parametrize("name", NAMES)
def test_float64_sample(name):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.uniform(-750, 750, 20_000),
            rng.normal(size=20_000),
            rng.choice([-1, 1], 20_000) * 10 ** rng.uniform(-307, 308, 20_000),
        ]
    )
    if name == "inverse_softplus":
        x = np.abs(x)
    with jax.enable_x64(True):
        for order, mode in [(0, "vjp"), *MODES]:
            found = ulp_errors(
                getattr(fs, name),
                lambda x, exact=REFERENCES[name][order]: exact(x.astype(np.longdouble)),
                "float64",
                order=order,
                mode=mode,
                inputs=x,
            )
            assert found.maximum <= (4, 8, 16)[order], (order, mode, found)


LIMITS = {
    "sigmoid": ((0, 1), (0, 0), (0, 0)),
    "log_sigmoid": ((-np.inf, 0), (1, 0), (0, 0)),
    "tanh": ((-1, 1), (0, 0), (0, 0)),
    "softplus": ((0, np.inf), (0, 1), (0, 0)),
    "inverse_softplus": ((np.nan, np.inf), (np.nan, 1), (np.nan, 0)),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_limits_at_infinity_and_nan(name, order, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.array([-np.inf, np.inf, np.nan], dtype)
        for run in (jax.jit, lambda f: f):
            found = run(derivative(getattr(fs, name), order))(x)
            assert found.dtype == dtype
            np.testing.assert_array_equal(
                np.asarray(found, np.float64), (*LIMITS[name][order], np.nan)
            )


def test_inverse_softplus_outside_its_domain():
    y = jnp.float32([0.0, -0.0, -1e-30, -1.0, -200.0])
    for order, limit in enumerate((-np.inf, np.inf, -np.inf)):
        found = derivative(fs.inverse_softplus, order)(y)
        np.testing.assert_array_equal(found, [limit, limit, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("name", NAMES)
def test_third_derivative(name):
    x = np.linspace(-20, 20, 400)
    x = np.abs(x) if name == "inverse_softplus" else x
    found = jax.jit(derivative(getattr(fs, name), 3))(jnp.float32(x))

    def e(x):
        return np.exp(-np.abs(x))

    def third(x):
        return e(x) * (1 - 4 * e(x) + e(x) ** 2) / (1 + e(x)) ** 4

    def inverse_third(y):
        return e(y) * (1 + e(y)) / (1 - e(y)) ** 3

    exact = {
        "sigmoid": third,
        "log_sigmoid": lambda x: -REFERENCES["sigmoid"][2](x),
        "tanh": lambda x: 16 * third(2 * x),
        "softplus": REFERENCES["sigmoid"][2],
        "inverse_softplus": inverse_third,
    }[name](np.float64(np.float32(x)))
    np.testing.assert_allclose(found, exact, rtol=1e-4)


@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_high_orders_are_never_nan(name, order):
    x = np.float32([0, 1e-38, 1e-30, 1e-4, 0.7, 20, 41, 88, 89, 104, 1e4, 3e38])
    x = x[1:] if name == "inverse_softplus" else np.concatenate([x, -x])
    found = jax.jit(derivative(getattr(fs, name), order))(x)
    assert not np.isnan(found).any(), x[np.isnan(found)]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_float8_computes_in_float32(name, order, dtype):
    f = getattr(fs, name)
    x = jnp.array([0.25, 0.75, 1.5, 3, 6], dtype)
    wide = derivative(f, order)(x.astype(np.float32))
    found = derivative(f, order)(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(found, np.float32), np.asarray(wide.astype(dtype), np.float32)
    )


@pytest.mark.parametrize(
    "x",
    [2, 2.5, True, np.float64(2), np.int8(2), np.ones((2, 0), np.int32)],
    ids=lambda x: f"{type(x).__name__}",
)
@pytest.mark.parametrize("name", NAMES)
def test_promotes_as_jax_does(name, x):
    found, expected = getattr(fs, name)(x), jnp.tanh(x)
    assert (found.shape, found.dtype, found.weak_type) == (
        expected.shape,
        expected.dtype,
        expected.weak_type,
    )
    if isinstance(x, float):
        grads = jax.grad(getattr(fs, name))(x), jax.grad(jnp.tanh)(x)
        assert grads[0].weak_type == grads[1].weak_type


@pytest.mark.parametrize("x", [1j, np.ones(2, np.complex64)], ids=["scalar", "array"])
@pytest.mark.parametrize("name", NAMES)
def test_refuses_complex(name, x):
    with pytest.raises(
        TypeError, match=f"{name} is defined for real inputs.*complex64"
    ):
        getattr(fs, name)(x)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_any_shape(name, order, shape):
    x = jnp.full(shape, 0.5, np.float32)
    found = derivative(getattr(fs, name), order)(x)
    assert (found.shape, found.dtype) == (shape, np.float32)
    np.testing.assert_allclose(
        found, REFERENCES[name][order](np.full(shape, 0.5)), rtol=1e-6
    )


def kept(f, x):
    return jax.tree.leaves(jax.vjp(f, x)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_residual(name, dtype):
    f = getattr(fs, name)
    with jax.enable_x64(True):
        x = jnp.linspace(0.1, 20, 64, dtype=dtype)
        (residual,) = kept(f, x)
        output = name == "softplus" and dtype != "bfloat16"
        np.testing.assert_array_equal(residual, f(x) if output else x)


def test_softplus_keeps_nothing_that_the_next_layer_does_not():
    """Unrolled layers of a gradient: temporaries in arrays of the hidden size."""

    def arrays_kept(activation):
        def loss(kernels, x):
            for kernel in kernels:
                x = activation(x @ kernel)
            return x.sum()

        x, kernels = jnp.ones((512, 128)), [jnp.ones((128, 128))] * 8
        compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / x.nbytes / len(kernels)

    assert arrays_kept(fs.softplus) < 0.8 * arrays_kept(jax.nn.softplus)
