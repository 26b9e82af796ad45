"""Rows of infinities, masks, axes, factors, residuals, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _row_judge import kept

import flax_stable as fs

INF, NAN = np.inf, np.nan
NAMES = ["softmax", "log_softmax", "logsumexp", "logmeanexp", "standardize"]
RNG = np.random.default_rng(0)
X, G, B = RNG.normal(size=(3, 4, 6, 5)).astype(np.float32)
WHERE = RNG.random((4, 6, 5)) < 0.6
WHERE[0, 0] = True


def gradient(f, x):
    y, pull = jax.vjp(f, x)
    return pull(jnp.ones_like(y))[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    ("row", "softmax", "log_softmax", "logsumexp", "slope"),
    [
        ([-INF, -INF], [0, 0], [-INF, -INF], -INF, [0, 0]),
        ([-INF, 1, 1], [0, 0.5, 0.5], [-INF, -np.log(2), -np.log(2)], 1.693, None),
        ([INF, 1], [NAN, NAN], [NAN, NAN], INF, [NAN, NAN]),
        ([INF, -INF], [NAN, NAN], [NAN, NAN], INF, [NAN, NAN]),
        ([NAN, 1], [NAN, NAN], [NAN, NAN], NAN, [NAN, NAN]),
        ([3], [1], [0], 3, [1]),
        ([], [], [], -INF, []),
        ([6e4, -6e4], [1, 0], [0, -INF], 6e4, [1, 0]),
    ],
    ids=str,
)
def test_special_rows(row, softmax, log_softmax, logsumexp, slope, dtype):
    x = jnp.array(row, dtype)
    if dtype != "float16" and row == [6e4, -6e4]:
        log_softmax = [0, -1.2e5]
    expected = {"softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp}
    for name, value in expected.items():
        found = getattr(fs, name)(x)
        assert found.dtype == dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), value, rtol=4e-3)
    found = np.asarray(gradient(fs.logsumexp, x), np.float64)
    np.testing.assert_allclose(found, softmax if slope is None else slope)


@pytest.mark.parametrize("order", [1, 2])
def test_a_row_of_minus_infinity_has_zero_gradients(order):
    x = jnp.full(3, -INF, np.float32)
    for f in (fs.softmax, fs.logsumexp, fs.logmeanexp):
        for _ in range(order):
            f = functools.partial(gradient, f)
        np.testing.assert_array_equal(f(x), 0)


def test_many_float16_zeros():
    x = jnp.zeros(65_536, np.float16)
    np.testing.assert_array_equal(fs.softmax(x), np.float16(2**-16))
    np.testing.assert_array_equal(fs.log_softmax(x), np.float16(-np.log(65_536)))
    assert fs.logsumexp(x) == np.float16(np.log(65_536))
    assert fs.logmeanexp(x) == 0
    np.testing.assert_array_equal(gradient(fs.logsumexp, x), np.float16(2**-16))


@pytest.mark.parametrize("masked", [False, True], ids=["all", "where"])
@pytest.mark.parametrize("name", NAMES)
def test_axes_and_masks_as_in_jax(name, masked):
    where = WHERE if masked else None
    axes = 0, (-1, 1), None

    def run(module):
        def f(x, axis):
            y = getattr(module, name)(x, axis=axis, where=where)
            if masked and y.shape == x.shape:
                y = jnp.where(where, y, 0)
            return jnp.where(jnp.isfinite(y), y, 0)

        def value_and_gradient(x, axis):
            return f(x, axis), gradient(lambda x: f(x, axis) ** 2, x)

        return jax.jit(lambda x: [value_and_gradient(x, axis) for axis in axes])(X)

    for axis, ours, theirs in zip(axes, run(fs), run(jax.nn), strict=True):
        for found, expected in zip(ours, theirs, strict=True):
            assert found.shape == expected.shape
            # jax.nn's variance cancels.
            rtol = 5e-3 if name == "standardize" else 2e-4
            expected = np.nan_to_num(expected)  # where nothing takes part
            np.testing.assert_allclose(
                found, expected, rtol=rtol, atol=2e-5, err_msg=str(axis)
            )


@pytest.mark.parametrize("name", NAMES)
def test_masked_elements_have_no_influence(name):
    def f(x):
        y = getattr(fs, name)(x, axis=-1, where=WHERE)
        return jnp.where(WHERE, y, 0) if y.shape == x.shape else y

    @jax.jit
    def of(x):
        first = gradient(lambda x: f(x) ** 2, x)
        second = gradient(lambda x: gradient(lambda x: f(x) ** 2, x) * G, x)
        return f(x), first, second

    expected = of(X)
    for hidden in (NAN, INF, -INF, 1e30):
        found = of(jnp.where(WHERE, X, hidden))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b, str(hidden))
        for a in found[1:]:
            np.testing.assert_array_equal(np.asarray(a)[~WHERE], 0, str(hidden))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_what_a_mask_leaves_out(name):
    found = getattr(fs, name)(X, where=WHERE)
    np.testing.assert_array_equal(
        np.asarray(found)[~WHERE], 0 if name == "softmax" else -INF
    )


@pytest.mark.parametrize("return_sign", [False, True])
@pytest.mark.parametrize("keepdims", [False, True])
def test_logsumexp_with_factors(keepdims, return_sign):
    b = np.where(np.abs(B) < 0.3, 0, B)
    options = {
        "axis": (0, 2),
        "keepdims": keepdims,
        "return_sign": return_sign,
        "where": WHERE,
    }
    found, expected = (f(X, b=b, **options) for f in (fs.logsumexp, jax.nn.logsumexp))
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_logsumexp_derivatives_of_factors():
    a, b = np.float32([1, 2, 3, 200]), np.float32([2, -1, 0.5, 0])
    total = np.sum(b[:3] * np.exp(np.float64(a[:3])))
    found = jax.grad(fs.logsumexp, (0, 2))(a, None, b)
    np.testing.assert_allclose(found[0], [*b[:3] * np.exp(a[:3]) / total, 0], rtol=1e-6)
    np.testing.assert_allclose(found[1][:3], np.exp(a[:3]) / total, rtol=1e-6)
    assert np.isfinite(found[1][3]) and found[1][3] > 1e30


def test_a_zero_factor_hides_what_it_multiplies():
    a, b = np.float32([1, INF, NAN]), np.float32([2, 0, 0])
    np.testing.assert_allclose(fs.logsumexp(a, b=b), 1 + np.log(2), rtol=1e-6)
    found = jax.grad(fs.logsumexp, (0, 2))(a, None, b)
    np.testing.assert_allclose(found, [[1, 0, 0], [0.5, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_residual(name, dtype):
    x = jnp.asarray(RNG.normal(size=(64, 1024)), dtype)
    f = getattr(fs, name)
    arrays = kept(lambda x: f(x, axis=-1), x)
    (whole,) = (r for r in arrays if r.size == x.size)
    output = (name, dtype) == ("softmax", "float32")
    np.testing.assert_array_equal(whole, f(x) if output else x)
    rows = 1 if name in ("softmax", "standardize") else 3
    assert len(arrays) <= rows
    assert sum(r.nbytes for r in arrays) <= x.nbytes + 4 * 64 * (rows - 1)


@pytest.mark.parametrize("name", NAMES)
def test_promotes_and_keeps_weak_types(name):
    f, reference = getattr(fs, name), getattr(jax.nn, name)
    for x in (2.5, np.float32(2), jnp.bfloat16(2)):
        found, expected = f(x, axis=None), reference(x, axis=None)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert f(np.arange(3)).dtype == np.float32


@pytest.mark.parametrize("name", [*NAMES, "glu"])
def test_refuses_complex(name):
    with pytest.raises(TypeError, match=f"{name} is defined for real.*complex64"):
        getattr(fs, name)(np.ones(2, np.complex64))


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_axis_that_is_not_there(name):
    with pytest.raises(ValueError, match="axis 3 is out of bounds"):
        getattr(fs, name)(X, axis=3)


def test_standardize_takes_its_moments_from_outside():
    mean, variance = np.float32(0.5), np.float32(2)
    for given in ({"mean": mean}, {"variance": variance}, {"epsilon": mean}):
        found = fs.standardize(X, **given)
        expected = jax.nn.standardize(X, **given, algorithm="stable")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"algorithm to be 'fast' or 'stable'.*slow"):
        fs.standardize(X, algorithm="slow")


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_glu(axis, dtype):
    x = jnp.asarray(X, dtype)
    a, b = np.split(np.asarray(x, np.float64), 2, axis)
    found = np.asarray(fs.glu(x, axis), np.float64)
    tolerance = 2e-7 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(found, a / (1 + np.exp(-b)), rtol=tolerance)


@pytest.mark.parametrize(("axis", "words"), [(2, "even size"), (3, "its 3 axes")])
def test_glu_refuses_what_it_cannot_halve(axis, words):
    with pytest.raises(ValueError, match=words):
        fs.glu(X, axis)
