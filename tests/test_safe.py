"""Safe functions: right where they are defined, finite and as stated where not."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from flax_stable.testing import ulp_errors

safe = fs.safe
INF, NAN = np.inf, np.nan


class Case(NamedTuple):
    """A function, what it is where it is defined, and arguments from there."""

    function: Callable
    reference: Callable
    args: tuple


def unit(x):
    return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))


POSITIVE = np.array([0.03, 0.4, 1.0, 2.5, 70.0, 0.9])
MIXED = np.array([[-0.3, 1.4, 0.7], [2.0, -1e-3, 0.2]])
CASES = {
    "sqrt": Case(safe.sqrt, jnp.sqrt, (POSITIVE,)),
    "log": Case(safe.log, jnp.log, (POSITIVE,)),
    "divide": Case(safe.divide, jnp.divide, (MIXED, np.array([0.3, -2.0, 5.0]))),
    "power": Case(safe.power, jnp.power, (POSITIVE, np.linspace(-2, 3, 6))),
    "arccos": Case(safe.arccos, jnp.arccos, (np.linspace(-0.99, 0.99, 7),)),
    "norm": Case(
        lambda x: safe.norm(x, -1), lambda x: jnp.sqrt(jnp.sum(x * x, -1)), (MIXED,)
    ),
    "normalize": Case(safe.normalize, unit, (MIXED,)),
}


def along(f, args, directions, third=True):
    """Value and derivatives along a direction, forward over reverse over forward."""

    def first(*args):
        return jax.jvp(f, args, directions)

    def second(*args):
        y, pull_back = jax.vjp(first, *args)
        return y, pull_back((jnp.zeros_like(y[0]), jnp.ones_like(y[1])))

    if not third:
        return second(*args)
    return *second(*args), jax.jvp(lambda *args: second(*args)[1], args, directions)[1]


@functools.cache
def compiled(f, third):
    return jax.jit(functools.partial(along, f, third=third))


def edges(dtype):
    """Numbers where something ends, of either sign."""
    info = jnp.finfo(dtype)
    sizes = [0, info.tiny, 2 * info.tiny, info.eps, 0.5, 1 - info.epsneg, 1, 2, 3.5]
    sizes = np.array([float(s) for s in sizes] + [float(info.max) / 4, float(info.max)])
    return np.concatenate([sizes, -sizes])


def with_edges(name, dtype):
    """Arguments where the function is defined, and after them those at the edges."""
    x, args = edges(dtype), CASES[name].args
    if name in ("norm", "normalize"):
        pairs = np.stack([a.ravel() for a in np.meshgrid(x, x, [0])], -1)
        return [np.concatenate([*args, pairs])]
    every = [a.ravel() for a in np.meshgrid(*[x] * len(args))]
    return [
        np.concatenate([a.ravel(), e])
        for a, e in zip(np.broadcast_arrays(*args), every, strict=True)
    ]


# Of other dtypes, in which only the limits differ, a few.
OTHERS = [("sqrt", "float16"), ("norm", "float16"), ("log", "float64")]


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in CASES), *OTHERS]
)
def test_right_where_defined_and_finite_elsewhere(name, dtype):
    """Beside autodiff of the plain formula; in no direction, also no direction, NaN."""
    function, reference, ordinary = CASES[name]
    # Of a direction the third order takes long to compile, and is the fourth of norm.
    third = dtype == "float32" and name != "normalize"
    args = with_edges(name, dtype)
    directions = [np.cos(3 * np.arange(a.size)).reshape(a.shape) for a in args]
    n = 2 if args[0].ndim > 1 else np.broadcast(*ordinary).size
    with jax.enable_x64(True):
        exact = jax.jit(functools.partial(along, reference))(
            *(tuple(a[:n] for a in both) for both in (args, directions))
        )
    with jax.enable_x64(dtype == "float64"):
        for scale in (1, 0):
            inputs = [
                tuple(jnp.asarray(factor * a, dtype) for a in both)
                for factor, both in ((1, args), (scale, directions))
            ]
            found = compiled(function, third)(*inputs)
            for y in jax.tree.leaves(found):
                assert y.dtype == dtype
                assert not np.isnan(y).any()
            if scale == 0 or dtype == "float16":
                continue
            for order, (a, b) in enumerate(zip(found, exact, strict=False)):
                for y, z in zip(*map(jax.tree.leaves, (a, b)), strict=True):
                    np.testing.assert_allclose(
                        y[:n], z, rtol=1e-5 * 8**order, atol=1e-5
                    )


# What is stated: arguments, the value, and the derivative by each argument.
TINY = float(np.finfo(np.float32).tiny)
CONVENTIONS = [
    (safe.sqrt, (0.0,), 0, (0,)),
    (safe.sqrt, (-4.0,), 0, (0,)),
    (safe.sqrt, (INF,), INF, (0,)),
    (safe.sqrt, (NAN,), NAN, (NAN,)),
    (safe.log, (0.0,), np.log(TINY), (0,)),
    (safe.log, (-1.0,), np.log(TINY), (0,)),
    (safe.log, (TINY,), np.log(TINY), (2.0**104,)),
    (safe.log, (1e-30,), np.log(1e-30), (1e30,)),
    (safe.log, (INF,), INF, (0,)),
    (safe.log, (NAN,), NAN, (NAN,)),
    (lambda x: safe.log(x, 1e-3), (1e-4,), np.log(1e-3), (0,)),
    (lambda x: safe.log(x, 1e-3), (0.5,), np.log(0.5), (2,)),
    (lambda floor: safe.log(0.0, floor), (0.5,), np.log(0.5), (0,)),
    (safe.divide, (1.0, 0.0), 0, (0, 0)),
    (safe.divide, (0.0, 0.0), 0, (0, 0)),
    (safe.divide, (INF, -INF), 0, (0, 0)),
    (safe.divide, (INF, 2.0), INF, (0.5, -(2.0**104))),
    (safe.divide, (3.0, INF), 0, (0, 0)),
    (safe.divide, (1.0, NAN), NAN, (NAN, NAN)),
    (safe.power, (0.0, 0.0), 1, (0, 0)),
    (safe.power, (0.0, 1.0), 0, (1, 0)),
    (safe.power, (0.0, 0.5), 0, (0, 0)),
    (safe.power, (0.0, -1.0), 0, (0, 0)),
    (safe.power, (0.0, 3.0), 0, (0, 0)),
    (safe.power, (-2.0, 3.0), -8, (12, 0)),
    (safe.power, (-2.0, -2.0), 0.25, (0.25, 0)),
    (safe.power, (-2.0, 0.5), 0, (0, 0)),
    (safe.power, (2.0, 0.0), 1, (0, np.log(2))),
    (safe.power, (INF, -1.0), 0, (0, 0)),
    (safe.power, (NAN, 2.0), NAN, (NAN, NAN)),
    (safe.arccos, (1.0,), 0, (0,)),
    (safe.arccos, (-1.0,), np.pi, (0,)),
    (safe.arccos, (3.0,), 0, (0,)),
    (safe.arccos, (-INF,), np.pi, (0,)),
    (safe.arccos, (NAN,), NAN, (NAN,)),
]


def second_unit(x):
    return safe.normalize(x)[1]


VECTORS = [
    (safe.norm, [0, 0], 0, [0, 0]),
    (safe.norm, [3e38, 0], 3e38, [1, 0]),
    (safe.norm, [3e30, -4e30], 5e30, [0.6, -0.8]),
    (safe.norm, [3e-30, 4e-30], 5e-30, [0.6, 0.8]),
    (safe.norm, [3e38, 3e38], INF, [0.5**0.5, 0.5**0.5]),
    (safe.norm, [1, -INF], INF, [0, -1]),
    (safe.norm, [1, NAN], NAN, [NAN, NAN]),
    (second_unit, [0, 0], 0, [0, 0]),
    (second_unit, [0, 4e30], 1, [0, 0]),
    (second_unit, [3e30, 4e30], 0.8, [-0.48 / 5e30, 0.36 / 5e30]),
    (second_unit, [0, 2e-20], 1, [0, 0]),
    (second_unit, [INF, -INF], -(0.5**0.5), [0, 0]),
]


@functools.cache
def both_modes(f, n):
    argnums = tuple(range(n))
    return jax.jit(
        lambda *args: (
            jax.value_and_grad(f, argnums)(*args),
            jax.jacfwd(f, argnums)(*args),
        )
    )


def test_conventions():
    def check(f, args, value, slopes):
        found = both_modes(f, len(args))(*map(np.float32, args))
        leaves = map(jax.tree.leaves, (found, ((value, slopes), slopes)))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, err_msg=f"{f} {args}")

    for f, args, value, slopes in CONVENTIONS:
        check(f, args, value, slopes)
    for f, x, value, slope in VECTORS:
        check(f, (x,), value, (np.array(slope),))
    assert safe.norm(jnp.float16([300, 400])) == 500


@pytest.mark.parametrize("name", ["log", "power", "norm"])
def test_16_bits_round_once(name):
    function, _, args = CASES[name]
    dtype = jnp.bfloat16
    args = [jnp.asarray(a, dtype) for a in args]
    wide = [a.astype(np.float32) for a in args]

    def value_and_gradient(*args):
        y, pull_back = jax.vjp(function, *args)
        return y, pull_back(jnp.ones_like(y))

    kept = sum(a.nbytes for a in jax.tree.leaves(jax.vjp(function, *args)[1]))
    # The divisor, the exponent and the floor are kept in float32.
    others = 4 if name == "log" else sum(2 * a.nbytes for a in args[1:])
    assert kept == args[0].nbytes + others
    for found, exact in zip(
        jax.tree.leaves(value_and_gradient(*args)),
        jax.tree.leaves(value_and_gradient(*wide)),
        strict=True,
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, exact.astype(dtype))


def plain(f, where):
    """``f`` where that is defined, 0 elsewhere, and NaN at NaN."""

    def run(x):
        inside = where(x)
        y = np.where(inside, f(np.where(inside, x, 0.5)), 0)
        return np.where(np.isnan(x), np.nan, y)

    return run


ACCURACY = {
    "sqrt": (
        plain(np.sqrt, lambda x: x > 0),
        plain(lambda x: 0.5 / np.sqrt(x), lambda x: x > 0),
    ),
    "log": (
        lambda x: np.log(np.maximum(x, TINY)),
        plain(lambda x: np.minimum(1 / x, 2.0**104), lambda x: x >= TINY),
    ),
    "arccos": (
        lambda x: np.arccos(np.clip(x, -1, 1)),
        plain(lambda x: -1 / np.sqrt((1 - x) * (1 + x)), lambda x: abs(x) < 1),
    ),
    "arctanh": (
        lambda x, end=1 - 2.0**-24: np.arctanh(np.clip(x, -end, end)),
        plain(lambda x: 1 / ((1 - x) * (1 + x)), lambda x: abs(x) < 1),
    ),
}


@pytest.mark.parametrize("name", ACCURACY)
def test_docstrings_state_the_errors(name):
    f, exact = getattr(safe, name), ACCURACY[name]
    text = " ".join(f.__doc__.split())
    stated = re.search(
        r"float32 errors observed stay below ([\d.]+) and ([\d.]+)", text
    )

    def slope(x):
        return jax.vjp(f, x)[1](jnp.ones_like(x))[0]

    for order, g in enumerate((f, slope)):
        found = ulp_errors(g, exact[order], "float32", stride=80_021)
        assert found.maximum <= float(stated[order + 1]), found
        if (name, order) == ("arctanh", 0):
            # There the end depends on the dtype.
            exact = (lambda x, f=exact[0]: f(x, 1 - 2.0**-8), exact[1])
        found = ulp_errors(g, exact[order], "bfloat16")
        assert found.maximum <= 0.51, found


def test_axes_are_those_of_numpy():
    x = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4)))
    for axis, keepdims in ((None, False), (-1, True), ((0, 2), False)):
        found = safe.norm(x, axis, keepdims)
        exact = np.sqrt(np.sum(np.float64(x) ** 2, axis, keepdims=keepdims))
        assert found.shape == exact.shape
        np.testing.assert_allclose(found, exact, rtol=1e-6)
    length = np.sqrt(np.sum(np.float64(x) ** 2, (1, 2), keepdims=True))
    np.testing.assert_allclose(safe.normalize(x, (1, 2)), x / length, rtol=1e-6)
    assert safe.norm(jnp.zeros((0, 3)), 0).tolist() == [0, 0, 0]
    assert safe.norm(3) == 3 and safe.norm(np.array([3, 4])) == 5


def test_an_explicit_mesh_and_a_scan():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = jnp.linspace(-1, 1, 32).reshape(8, 4).at[3].set(0)

    def loss(x):
        def step(x, _):
            return safe.normalize(x) + safe.divide(x, safe.norm(x)), None

        return jnp.sum(jax.lax.scan(step, x, None, 2)[0] ** 3)

    gradient, second = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),)))(
        x
    )
    assert np.isfinite(gradient).all() and np.isfinite(second).all()
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        found = jax.jit(jax.grad(loss))(sharded)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: safe.sqrt(1j), TypeError, "safe.sqrt is defined for real inputs"),
        (
            lambda: safe.divide(1.0, 1j),
            TypeError,
            "safe.divide is defined .* but y has",
        ),
        (
            lambda: safe.power(np.ones(2), np.ones(3)),
            ValueError,
            r"safe.power broadcasts .* x \(2,\), y \(3,\)",
        ),
        (
            lambda: safe.norm(np.ones(2), 1),
            ValueError,
            "expects axis to be one of the 1 axes",
        ),
        (
            lambda: safe.log(np.ones(2), np.ones(3)),
            ValueError,
            r"safe.log broadcasts .* x \(2,\), floor \(3,\)",
        ),
        (
            lambda: safe.log(1.0, 0.0),
            ValueError,
            "safe.log expects floor to be above 0, .* but got 0.0",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
