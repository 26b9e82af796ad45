"""Values and derivatives, in every dtype, against exact references."""

import functools

import jax
import numpy as np
import pytest
from _table import TABLE, assert_reference_is_exact

import flax_stable as fs
from flax_stable.testing import REFERENCES
from flax_stable.testing._ulp import _chunks, derivative, sweep
from flax_stable.testing.references import find

pytestmark = pytest.mark.optimized

CASES = [(name, order) for name in TABLE for order in range(3)]
MODES = [(order, mode) for order in (1, 2) for mode in ("vjp", "jvp")]
MUST_REACH = (2, 4, 6)


def test_every_activation_is_judged():
    assert set(TABLE) == set(REFERENCES)


@pytest.mark.parametrize(("name", "order"), CASES)
def test_references_agree_with_mpmath(name, order):
    rng = np.random.default_rng(order)
    x = np.concatenate(
        [
            rng.uniform(-110, 110, 40),
            rng.uniform(-3, 3, 40),
            rng.choice([-1, 1], 40) * 10 ** rng.uniform(-30, 2, 40),
            np.float32([0.6931472, 0.69314724, 0.6931471, 0.39999, 0.4, 0.99999, 1.0]),
            [87.33, -87.33, 17.5, 1e-30, -1e-30],
        ]
    )
    if TABLE[name].positive:
        x = np.abs(x)
    assert_reference_is_exact(name, order, x)


def judged(name, dtype, inputs=None, stride=None, windows=(), eager=False):
    """Every order with the way to it and its errors, and that its limits are exact.

    One program computes all of them: to compile takes longer than to run.  In eager
    mode both modes run the same operations one by one.
    """
    f, keys = find(fs, name), [(0, "vjp"), *MODES]
    every = [derivative(f, order, mode) for order, mode in keys]
    program = jax.jit(lambda *args: [apply(*args) for apply in every])
    chunks = list(_chunks(np.dtype(dtype), inputs, stride, windows))
    shape = ()

    def compute(i, x, g):
        nonlocal shape
        shape = x.shape
        return program(x, g)[i]

    for order, exact in enumerate(REFERENCES[name]):
        ways = {
            mode: functools.partial(compute, i)
            for i, (n, mode) in enumerate(keys)
            if n == order
        }
        if eager:
            ways["eager"] = derivative(f, order, "vjp")
        if dtype == "float64":
            exact = _longdouble(exact)
        found = sweep([*ways.values()], exact, chunks)
        yield from ((order, *pair) for pair in zip(ways, found, strict=True))
        if order and dtype != "float64":
            (found,) = sweep([ways["vjp"]], exact, chunks, seed=order)
            yield order, "random cotangents", found

    x = np.resize(np.array([-np.inf, np.inf, np.nan], dtype), shape)
    for (order, mode), found in zip(keys, program(x, np.ones_like(x)), strict=True):
        at_nan = (np.nan, *TABLE[name].at_nan)[order]
        limits = np.array([*TABLE[name].limits[order], at_nan]).astype(dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(
            np.float64(found[:3]), np.float64(limits), f"{order} {mode}"
        )


def _longdouble(exact):
    return lambda x: exact(x.astype(np.longdouble))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", TABLE)
def test_every_16_bit_input(name, dtype):
    for order, way, found in judged(name, dtype):
        assert found.count == 65_536
        assert found.maximum <= 0.51, (order, way, found)


@pytest.mark.parametrize("name", TABLE)
def test_float32_sample(name):
    observed, windows = TABLE[name].float32, TABLE[name].windows
    sample = {"stride": 30_011, "windows": windows}
    for order, way, found in judged(name, "float32", eager=True, **sample):
        assert found.count > 140_000
        bound = observed[order] + 0.5
        if way == "random cotangents":
            # The product is rounded too: one ULP more where a mantissa wraps.
            bound = 2 * observed[order] + 1
        else:
            # The judge itself is right where it found the most.
            assert_reference_is_exact(name, order, np.array([found.worst_input]))
        assert found.maximum <= min(bound, MUST_REACH[order]), (order, way, found)


@pytest.mark.parametrize("name", TABLE)
def test_float64_sample(name):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.uniform(-750, 750, 20_000),
            rng.normal(size=20_000),
            rng.choice([-1, 1], 20_000) * 10 ** rng.uniform(-307, 308, 20_000),
        ]
    )
    if TABLE[name].positive:
        x = np.abs(x)
    with jax.enable_x64(True):
        for order, way, found in judged(name, "float64", x):
            assert found.maximum <= (4, 8, 16)[order], (order, way, found)
