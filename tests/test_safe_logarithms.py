"""Safe functions of logarithms, beside mpmath: two orders, both modes, four dtypes."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import flax_stable as fs

safe = fs.safe
INF, NAN = np.inf, np.nan
DTYPES = ("float16", "bfloat16", "float32", "float64")


class Case(NamedTuple):
    """A function, its definition in mpmath, and arguments, a row for each.

    Attributes:
      near: by which of the definition's arguments one is replaced where the function
        ends: its derivatives there are those on that side, by convention.
    """

    function: Callable
    exact: Callable
    args: list
    near: Callable = lambda x, floor: x


def mp_xlogy(shift):
    def exact(x, y, floor):
        # Steps of differences about 0 are larger than the floor.
        y = y + shift
        return x * mp.log(y if y > 1e-9 else floor)

    return exact


def mp_logaddexp(x, y, floor):
    return mp.log(mp.exp(x) + mp.exp(y))


def mp_arctanh(x, floor):
    end = 1 - mp.mpf(floor)
    return mp.atanh(x) if abs(x) < 1 else mp.sign(x) * mp.atanh(end)


def mp_entropy(*args):
    *p, _ = args
    return -sum(v * mp.log(v) for v in p if v > 0)


def mp_softmax_entropy(*args):
    *x, _ = args
    e = [mp.exp(v) for v in x]
    return mp_entropy(*[v / sum(e) for v in e], 0)


def mp_kl(*args):
    *all_, _ = args
    n = len(all_) // 2
    pairs = zip(all_[:n], all_[n:], strict=True)
    return sum(p * (mp.log(p) - q) for q, p in pairs if p > 0)


def outside(x, floor):
    """Where something ends at 0 or at 1: a number beyond."""
    return -1.0 if x == 0 else x


FINITE = [0.3, 1.0, 2.5, 0.0, -0.0, -1.0]
CASES = {
    "xlogy": Case(safe.xlogy, mp_xlogy(0), [*itertools.product(FINITE, FINITE)]),
    "xlog1py": Case(
        safe.xlog1py,
        mp_xlogy(1),
        [*itertools.product([0.3, -2.0, 0.0], [-3.0, -1.0, -0.5, 0.0, 2.0**-7, 5.0])],
    ),
    "logaddexp": Case(
        safe.logaddexp,
        mp_logaddexp,
        [*itertools.product([-INF, -3.0, 0.5, 2.0], [-9.0, 0.5, 2.0])],
        lambda x, floor: max(x, -1e6),
    ),
    "arctanh": Case(
        safe.arctanh,
        mp_arctanh,
        [(x,) for x in (-INF, -2.0, -1.0, -0.75, -(2.0**-8), 2.0**-4, 0.5, 1.0, 3.0)],
        lambda x, floor: np.clip(x, -4, 4) + (np.sign(x) if abs(x) == 1 else 0),
    ),
    "entropy": Case(
        lambda *p: safe.entropy(jnp.stack(p)),
        mp_entropy,
        [(0.5, 0.25, 0.25), (1.0, 0.0, 0.0), (0.75, -0.0, 0.25), (0.0, 0.0, 0.0)],
        outside,
    ),
    "softmax_entropy": Case(
        lambda *x: safe.softmax_entropy(jnp.stack(x)),
        mp_softmax_entropy,
        [
            *((0.0, 1.0, -2.0), (0.5, 0.5, 0.5), (0.0, -INF, 0.5), (4.0, -INF, -INF)),
            *((0.0, -9.0, -30.0), (1000.0, 999.0, -1000.0)),
        ],
        lambda x, floor: max(x, -1e6),
    ),
    "kl_divergence": Case(
        lambda a, b, p, q: safe.kl_divergence(jnp.stack([a, b]), jnp.stack([p, q])),
        mp_kl,
        [(-1.0, -0.5, 0.5, 0.5), (-0.25, -INF, 1.0, 0.0), (-2.0, -3.0, 0.0, -0.0)],
        # An argument that is 0 here is a target.
        lambda x, floor: -1.0 if x == 0 else max(x, -1e6),
    ),
}


@functools.cache
def program(name):
    """Value, gradients and Hessians, the latter two in both modes."""
    function, n = CASES[name].function, len(CASES[name].args[0])
    every = tuple(range(n))
    modes = jax.grad(function, every), jax.jacfwd(function, every)
    seconds = jax.jacfwd(modes[0], every), jax.jacrev(modes[1], every)
    return jax.jit(
        jax.vmap(
            lambda *args: (
                function(*args),
                [f(*args) for f in modes],
                [f(*args) for f in seconds],
            )
        ),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def expected(name, x, floor):
    case, n = CASES[name], len(x)
    point = [mp.mpf(float(case.near(v, floor))) for v in x]

    def derivative(order):
        if not any(order):
            return case.exact(*point, floor)
        return mp.diff(lambda *v: case.exact(*v, floor), tuple(point), order)

    unit = np.eye(n, dtype=int)
    with mp.workdps(60):
        first = [derivative(tuple(u.tolist())) for u in unit]
        second = [[derivative(tuple((u + v).tolist())) for v in unit] for u in unit]
        return derivative((0,) * n), first, second


@pytest.mark.parametrize("name", CASES)
def test_two_orders_in_both_modes(name):
    rows = CASES[name].args
    for dtype in DTYPES:
        info = jnp.finfo(dtype)
        floor = float(info.epsneg if name == "arctanh" else info.tiny)
        with jax.enable_x64(dtype == "float64"):
            args = [jnp.asarray(column, dtype) for column in zip(*rows, strict=True)]
            value, firsts, seconds = program(name)(*args)
        assert value.dtype == dtype
        for i in range(len(rows)):
            exact = expected(name, [float(a[i]) for a in args], floor)
            found = [
                (value, exact[0]),
                *((f, exact[1]) for f in firsts),
                *((s, exact[2]) for s in seconds),
            ]
            for order, (a, b) in enumerate(found):
                a = np.array([float(v[i]) for v in jax.tree.leaves(a)])
                b = np.array([float(v) for v in jax.tree.leaves(b)])
                # 16 bits round once; what is added up loses what its terms lose.
                wide = dtype in ("float32", "float64")
                rtol = (16 if wide else 0.51) * float(info.eps)
                atol = 8 * float(
                    jnp.finfo("float64" if dtype == "float64" else "float32").eps
                )
                np.testing.assert_allclose(
                    a, b, rtol, atol, err_msg=f"{dtype} {order} {rows[i]}"
                )
