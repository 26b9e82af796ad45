"""The judge of errors in units in the last place."""

import jax.numpy as jnp
import numpy as np
import pytest

from flax_stable.testing import _distance, ulp_errors
from flax_stable.testing._ulp import UlpErrors, merge, patterns

DTYPES = ["float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_short_cut_is_the_distance(dtype):
    dtype = np.dtype(dtype)
    info = jnp.finfo(dtype)
    rng = np.random.default_rng(0)
    size = 1 << 18
    computed = rng.integers(0, 1 << 8 * dtype.itemsize, size).astype(
        f"u{dtype.itemsize}"
    )
    computed = computed.view(dtype)
    smallest, largest = float(info.smallest_normal), float(info.max)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, smallest, -smallest, largest]
    special += [2 * largest, 2.0 ** (info.maxexp - 1), smallest / 2, 5e-324, 1e308]
    with np.errstate(all="ignore"):
        off = rng.normal(size=size) * 10.0 ** rng.uniform(-9, 1, size)
        exact = computed.astype(np.float64) * (1 + off)
        exact = np.where(rng.random(size) < 0.1, rng.choice(special, size), exact)
        short = _distance._common(dtype, computed, exact)
        full = _distance._distance(dtype, computed, exact, None)
    np.testing.assert_array_equal(short, full)
    assert np.isinf(full).any() and (full == 0).any()
    assert ((full > 0) & (full < 1)).any()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda x: x * jnp.float32(1 + 2**-23), 1),
        (lambda x: x * jnp.float32(1 + 2**-20), 8),
        (lambda x: jnp.where(x == 2, jnp.nan, x), np.inf),
        (lambda x: jnp.where(x == 2, jnp.inf, x), np.inf),
        (lambda x: jnp.where(x == 2, jnp.float32(0), x), np.inf),
        (lambda x: jnp.where(x == 2, -x, x), 2**24),
    ],
)
def test_errors_of_known_size(wrong, error):
    inputs = np.array([1.0, 2.0, 4.0])
    found = ulp_errors(wrong, lambda x: x, "float32", inputs=inputs)
    assert found.maximum == error


def test_a_subnormal_input_may_be_read_as_zero():
    """Also among others that are NaN; a normal one may not."""

    def step(x):
        return np.where(x < 0, 2.0, 1.0)

    for smallest, error in ((-1e-41, 0), (-1e-37, 2.0**22)):
        inputs = np.array([np.nan, smallest, 1.0])
        found = ulp_errors(jnp.ones_like, step, "float32", inputs=inputs)
        assert found.maximum == error


def test_every_pattern_comes_once():
    dtype = np.dtype("float16")
    whole = np.concatenate(list(patterns(dtype)))
    np.testing.assert_array_equal(whole.view(np.uint16), np.arange(1 << 16))
    parts = [*patterns(dtype, 7, 0, 7 * 5000), *patterns(dtype, 7, 7 * 5000)]
    np.testing.assert_array_equal(
        np.concatenate(parts).view(np.uint16), np.arange(0, 1 << 16, 7)
    )


def test_merging():
    parts = [UlpErrors(0.5, 1.0, 0.0, 3), UlpErrors(2.0, -4.0, 0.5, 4)]
    assert merge(parts) == UlpErrors(2.0, -4.0, 2 / 7, 7)
    assert merge([]).count == 0


def test_nothing_to_judge_is_an_error():
    with pytest.raises(ValueError, match="expects inputs to judge, but got none"):
        ulp_errors(jnp.sin, np.sin, "float32", inputs=np.zeros(0))
