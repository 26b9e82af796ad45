"""Values and derivatives, in every dtype, against exact references."""

import jax
import numpy as np
import pytest
from _table import TABLE, assert_reference_is_exact

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors
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


def judged(name, dtype, order, mode, stride=None, windows=()):
    """The errors with cotangents of 1, and in reverse mode with random ones too.

    One program does both: to compile takes longer than to run.
    """
    apply = jax.jit(derivative(find(fs, name), order, mode))
    found = []
    for seed in (None, order) if order and mode == "vjp" else (None,):
        chunks = _chunks(np.dtype(dtype), None, stride, windows)
        found += sweep([apply], REFERENCES[name][order], chunks, seed=seed)
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", TABLE)
def test_every_16_bit_input(name, dtype):
    for order, mode in [(0, "vjp"), *MODES]:
        for found in judged(name, dtype, order, mode):
            assert found.count == 65_536
            assert found.maximum <= 0.51, (order, mode, found)


@pytest.mark.parametrize("name", TABLE)
def test_float32_sample(name):
    sample = {"stride": 30_011, "windows": TABLE[name].windows}
    observed = TABLE[name].float32
    for order, mode in [(0, "vjp"), *MODES]:
        found, *random = judged(name, "float32", order, mode, **sample)
        assert found.count > 140_000
        bound = min(observed[order] + 0.5, MUST_REACH[order])
        assert found.maximum <= bound, (order, mode, found)
        # The judge itself is right where it found the most.
        assert_reference_is_exact(name, order, np.array([found.worst_input]))
        for found in random:
            # The product is rounded too: one ULP more where a mantissa wraps.
            bound = min(2 * observed[order] + 1, MUST_REACH[order])
            assert found.maximum <= bound, (order, found)


@pytest.mark.parametrize("name", TABLE)
def test_float32_sample_in_eager_mode(name):
    # There both modes run the same operations one by one.
    for order in range(3):
        found = ulp_errors(
            find(fs, name),
            REFERENCES[name][order],
            "float32",
            order=order,
            stride=30_011,
            windows=TABLE[name].windows,
            jit=False,
        )
        assert found.count > 140_000
        bound = min(TABLE[name].float32[order] + 0.5, MUST_REACH[order])
        assert found.maximum <= bound, (order, found)
        assert_reference_is_exact(name, order, np.array([found.worst_input]))


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
        for order, mode in [(0, "vjp"), *MODES]:
            found = ulp_errors(
                find(fs, name),
                lambda x, exact=REFERENCES[name][order]: exact(x.astype(np.longdouble)),
                "float64",
                order=order,
                mode=mode,
                inputs=x,
            )
            assert found.maximum <= (4, 8, 16)[order], (order, mode, found)
