"""Derivatives of few bits: how good, and how small."""

import functools
import inspect
import itertools
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _few_bits import BITS, expected, normal, quick, residuals, size, steps

import few_bits
import flax_stable as fs
from flax_stable._activations._few_bit import optimal_steps, pack, unpack
from flax_stable.testing import REFERENCES

FUNCTIONS = {k: f for k, f in few_bits.FUNCTIONS.items() if k != "swiglu"}
NAMES = pytest.mark.parametrize("name", FUNCTIONS)
POLICIES = jax.checkpoint_policies


# How good


def test_the_page_is_what_is_measured():
    assert few_bits.main(["--check"]) == 0


def test_errors_for_a_normal_input():
    """Of gelu below what was aimed at, and as docstrings have it."""
    found = few_bits.errors(1)
    for name in ("gelu", "gelu(approximate=False)"):
        for bits, bound in {2: 0.14, 3: 0.086, 4: 0.046}.items():
            assert found[name][bits] <= bound
    for name, row in found.items():
        if name == "gelu(approximate=False)":
            continue
        doc = " ".join(inspect.getdoc(getattr(fs, name)).split())
        stated = re.search(r"off by (\S+), (\S+), (\S+) and (\S+)% of the norm", doc)
        errors = [f"{100 * row[bits]:.2g}" for bits in BITS]
        assert list(stated.groups()) == errors, name


@pytest.mark.parametrize("name", few_bits.FUNCTIONS)
def test_derivatives_are_the_step_functions(name):
    x = few_bits.INPUTS
    for bits, found in few_bits.derivatives()[name].items():
        ends = np.float32(steps(name, bits).ends)
        off = (np.abs(np.abs(x)[:, None] - np.abs(ends)) > 1e-5).all(1)
        np.testing.assert_allclose(
            found[off], expected(name, bits, x[off]), rtol=1e-6, atol=1e-7
        )


X = np.linspace(0, 7, 7001)


def mean_square(name, ends):
    """The error that the best levels leave, for many choices of ends at once."""
    x = X if name == "tanh" else np.concatenate([-X[:0:-1], X])
    y, weights = REFERENCES[name][1](x), np.exp(-x * x / 2)
    ends = np.sort(np.asarray(ends), -1)
    index = np.searchsorted(x, ends)
    left, right = np.zeros_like(index[..., :1]), np.full_like(index[..., :1], x.size)
    index = np.concatenate([left, index, right], -1)

    def of_each(y):
        return np.diff(np.concatenate([[0], y.cumsum()])[index])

    mass = np.maximum(of_each(weights), 1e-30)
    lost = of_each(weights * y**2) - of_each(weights * y) ** 2 / mass
    return lost.sum(-1) / weights.sum()


@NAMES
def test_no_other_ends_are_better(name):
    """Neither all of a coarse grid, nor any of many at random or close by."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0 if name == "tanh" else -3, 3, 41)
    for bits in BITS:
        ends = steps(name, bits).ends
        others = [
            rng.normal(size=(2000, ends.size)),
            ends + rng.normal(scale=0.1, size=(500, ends.size)),
            ends + rng.normal(scale=0.01, size=(500, ends.size)),
        ]
        if bits < 3:
            others.append(np.array(list(itertools.combinations(grid, ends.size))))
        others = np.concatenate(others)
        others = np.abs(others) if name == "tanh" else others
        assert mean_square(name, ends) <= 1.003 * mean_square(name, others).min()


@NAMES
def test_levels_are_means(name):
    x = np.linspace(-6, 6, 60_001)
    weights, derivative = np.exp(-x * x / 2), REFERENCES[name][1](x)
    for bits in BITS:
        found = steps(name, bits)
        index = np.searchsorted(found.ends, np.abs(x) if found.even else x)
        means = np.bincount(index, weights * derivative) / np.bincount(index, weights)
        np.testing.assert_allclose(found.levels[0], means, atol=2e-3)


def test_steps_are_computed_quickly_and_by_numpy():
    def slope(x):
        assert type(x) is np.ndarray
        return REFERENCES["gelu"][1](x)

    def seconds():
        start = time.process_time()
        found = optimal_steps.__wrapped__(4, slope)
        assert {type(found.ends), type(found.levels)} == {np.ndarray}
        return time.process_time() - start

    assert min(seconds() for _ in range(5)) < 0.05


@NAMES
def test_values_are_untouched(name):
    f = FUNCTIONS[name]
    for dtype in ("float32", "bfloat16"):
        x = jnp.asarray([*np.linspace(-9, 9, 61), -np.inf, np.inf, np.nan], dtype)
        assert np.asarray(f(x, bits=2)).tobytes() == np.asarray(f(x)).tobytes()


# How small


@pytest.mark.parametrize("bits", BITS)
def test_bytes_kept(bits):
    for name, f in FUNCTIONS.items():
        for dtype in ("bfloat16", "float32"):
            kept = residuals(lambda x, f=f: f(x, bits=bits), jnp.ones((8, 64), dtype))
            assert size(kept) == 8 * 64 * bits / 8, name
            assert {a.dtype for a in kept} == {np.dtype(np.uint8)}
    # Of whole bytes: so many elements of the last axis fill one, or three.
    whole = math.lcm(8, bits) // bits
    f = functools.partial(fs.gelu, bits=bits)
    for shape in [(), (1,), (7,), (3, 10), (2, 3, 9), (0, 5), (4, 0)]:
        *outer, last = shape or (1,)
        elements = math.prod(outer) * (-(-last // whole) * whole)
        assert size(residuals(f, jnp.ones(shape))) == elements * bits / 8


def test_bytes_that_are_there():
    """In arrays of an eager call, and of a compiled program."""
    x, f = normal(4, 16), functools.partial(fs.silu, bits=3)
    for pull_back in (jax.vjp(f, x)[1], jax.jit(lambda x: jax.vjp(f, x)[1])(x)):
        arrays = [a for a in jax.tree.leaves(pull_back) if a.ndim]
        assert sum(a.nbytes for a in arrays) == x.size * 3 / 8


def test_codes_come_back():
    shapes = [(), (1,), (7,), (8,), (3, 10), (2, 3, 16), (0, 5), (4, 0)]
    rng = np.random.default_rng(0)
    codes = {
        bits: [rng.integers(0, 2**bits, shape).astype(np.uint32) for shape in shapes]
        for bits in BITS
    }

    def there_and_back(codes):
        return {
            bits: [unpack(pack(x, bits), bits, x.shape) for x in arrays]
            for bits, arrays in codes.items()
        }

    found = quick(there_and_back, jax.tree.map(jnp.asarray, codes))
    jax.tree.map(np.testing.assert_array_equal, found, codes)


def test_bytes_in_a_scan_and_under_checkpoints():
    x = jnp.ones((5, 8, 64))

    def scanned(bits):
        def layer(carry, x):
            return carry + fs.gelu(x, bits=bits), None

        return lambda x: jax.lax.scan(layer, jnp.zeros((8, 64)), x)[0]

    assert size(residuals(scanned(3), x)) == x.size * 3 / 8
    for bits, policy, kept in [
        (3, POLICIES.save_only_these_names("gelu"), 3 / 8),
        (3, POLICIES.nothing_saveable, 4),  # the argument
        (None, POLICIES.save_only_these_names("gelu"), 4),
    ]:
        f = functools.partial(fs.gelu, bits=bits)
        inner = jax.checkpoint(lambda x, f=f: f(jnp.cos(x)), policy=policy)
        found = [a for a in residuals(inner, x) if a.dtype != np.float32]
        named = found if kept < 1 else residuals(inner, x)[:1]
        assert size(named) == x.size * kept


# Errors


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "softplus", "tanh", "swiglu"])
def test_numbers_of_bits_that_cannot_be(name):
    for bits in (0, 5, -1, 2.5, "3"):
        with pytest.raises(
            ValueError, match=f"^{name} .* 1, 2, 3 or 4 bits, but got bits={bits!r}"
        ):
            getattr(fs, name)(jnp.ones(2), bits=bits)


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match=r"tanh keeps either its output or bits=3"):
        fs.tanh(1.0, residual="output", bits=3)
    with pytest.raises(
        ValueError, match=r"softplus .* got beta=2.0. Write softplus\(beta \* x, bits=3"
    ):
        fs.softplus(1.0, 2.0, bits=3)
    with pytest.raises(ValueError, match="softplus keeps bits=3 only with the number"):
        fs.linen.Softplus(learnable=True, bits=3).init(jax.random.key(0), jnp.ones(2))
