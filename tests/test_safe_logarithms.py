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
def program(name, both):
    """Value, gradients and Hessians, of which one or both modes."""
    function, n = CASES[name].function, len(CASES[name].args[0])
    every = tuple(range(n))
    modes = jax.grad(function, every), jax.jacfwd(function, every)
    seconds = jax.jacfwd(modes[0], every), jax.jacrev(modes[1], every)
    if not both:
        modes, seconds = modes[:1], seconds[:1]
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
        info, wide = jnp.finfo(dtype), dtype in ("float32", "float64")
        floor = float(info.epsneg if name == "arctanh" else info.tiny)
        with jax.enable_x64(dtype == "float64"):
            args = [jnp.asarray(column, dtype) for column in zip(*rows, strict=True)]
            value, firsts, seconds = program(name, dtype == "float32")(*args)
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
                rtol = (16 if wide else 0.51) * float(info.eps)
                atol = 8 * float(
                    jnp.finfo("float64" if dtype == "float64" else "float32").eps
                )
                np.testing.assert_allclose(
                    a, b, rtol, atol, err_msg=f"{dtype} {order} {rows[i]}"
                )


def along(f, args, directions):
    """A derivative along a direction, and the gradient of that."""

    def slope(*args):
        return jax.jvp(f, args, directions)[1]

    return jax.value_and_grad(slope, tuple(range(len(args))))(*args)


def scanned(f):
    """f in each of two steps, weighed."""

    def run(*args):
        def step(total, weight):
            return total + weight * f(*args), None

        return jax.lax.scan(step, jnp.zeros(()), jnp.array([0.25, 0.75]))[0]

    return run


SHIFT = np.array([0.3, -1.0, 0.7, 0.2])


def plain_entropy(x):
    return -jnp.sum(jax.nn.softmax(x) * jax.nn.log_softmax(x))


def plain_policy_loss(x):
    """A policy gradient with an entropy bonus, of the actions that are allowed."""
    return -2.0 * jax.nn.log_softmax(x)[0] - 0.1 * plain_entropy(x)


def policy_loss(x):
    log_p = fs.log_softmax(x)
    return -2.0 * log_p[0] - 0.1 * safe.entropy(jnp.exp(log_p))


KEEP = np.array([0, 2, 3])
LOGITS = np.array([0.5, -INF, 1.5, -2.0])
P = np.array([0.25, 0.0, 0.5, 0.25])
# What users report NaN of: functions of four numbers with one that is no number, or 0
# and at the end of its domain, beside the same of the other three.
REPORTS = {
    "masked entropy, squared": (
        lambda x: safe.softmax_entropy(x) ** 2,
        lambda x: plain_entropy(x) ** 2,
        LOGITS,
    ),
    "masked policy, squared": (
        lambda x: policy_loss(x) ** 2,
        lambda x: plain_policy_loss(x) ** 2,
        LOGITS,
    ),
    "entropy of probabilities, its exponential": (
        lambda p: jnp.exp(safe.entropy(p)),
        lambda p: jnp.exp(-jnp.sum(p * jnp.log(p))),
        P,
    ),
    "divergence by zero targets, squared": (
        lambda p: safe.kl_divergence(jnp.asarray(LOGITS, p.dtype), p) ** 2,
        lambda p: jnp.sum(p * (jnp.log(p) - LOGITS[KEEP])) ** 2,
        P,
    ),
    "divergence by masked logits, squared": (
        lambda x: safe.kl_divergence(fs.log_softmax(x), jnp.asarray(P, x.dtype)) ** 2,
        lambda x: jnp.sum(P[KEEP] * (np.log(P[KEEP]) - jax.nn.log_softmax(x))) ** 2,
        LOGITS,
    ),
    "sum of logarithms, one of them of 0": (
        lambda x: functools.reduce(safe.logaddexp, x) ** 2,
        lambda x: jax.scipy.special.logsumexp(x) ** 2,
        LOGITS,
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_public_reports(name):
    """Two orders of a composition, in a scan and out of it, are those without it."""
    f, plain, x = REPORTS[name]
    with jax.enable_x64(True):
        exact = jax.jit(functools.partial(along, plain))((x[KEEP],), (SHIFT[KEEP],))
    for g in (f, scanned(f)):
        slope, (bend,) = jax.jit(functools.partial(along, g))(
            (jnp.float32(x),), (jnp.float32(SHIFT),)
        )
        np.testing.assert_allclose(slope, exact[0], rtol=2e-5)
        np.testing.assert_allclose(bend[KEEP], exact[1][0], rtol=2e-4, atol=1e-6)
        assert bend[1] == 0


def test_bernoulli_entropies_at_the_ends():
    def entropy(p):
        return -safe.xlogy(p, p) - safe.xlog1py(1 - p, -p)

    p = jnp.array([0.0, 0.25, 1.0])
    slope = jax.grad(entropy)
    first, second = jax.jit(jax.vmap(jax.value_and_grad(slope)))(p)
    np.testing.assert_allclose(first[1], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(second[1], -16 / 3, rtol=1e-6)
    assert entropy(p)[::2].tolist() == [0, 0]
    assert np.isfinite(first).all() and np.isfinite(second).all()
    ends = jnp.stack([p, 1 - p], -1)
    slopes = jax.grad(lambda p: safe.entropy(p).sum())(ends)
    np.testing.assert_array_equal(slopes[0], [0, -1])
    np.testing.assert_allclose(safe.entropy(ends), entropy(p), rtol=1e-6)


TINY = float(np.finfo(np.float32).tiny)
# Arguments, the value, and the derivative by each argument.
CONVENTIONS = [
    (safe.xlogy, (0.0, INF), 0, (2.0**104, 0)),
    (safe.xlogy, (0.0, NAN), NAN, (NAN, NAN)),
    (safe.xlogy, (1.0, TINY / 2), np.log(TINY), (np.log(TINY), 0)),
    (safe.xlogy, (1.0, TINY), np.log(TINY), (np.log(TINY), 2.0**104)),
    (safe.xlog1py, (1.0, -1.0), np.log(TINY), (np.log(TINY), 0)),
    (safe.logaddexp, (-INF, -INF), -INF, (0, 0)),
    (safe.logaddexp, (INF, INF), INF, (0, 0)),
    (safe.logaddexp, (3e38, -3e38), 3e38, (1, 0)),
    (safe.logaddexp, (INF, 0.0), INF, (1, 0)),
    (safe.logaddexp, (NAN, -INF), NAN, (NAN, NAN)),
    (safe.arctanh, (NAN,), NAN, (NAN,)),
    (safe.arctanh, (INF,), np.arctanh(1 - 2.0**-24), (0,)),
    (safe.entropy, ([NAN],), NAN, ([NAN],)),
    (safe.softmax_entropy, ([-INF, -INF],), 0, ([0, 0],)),
    (safe.softmax_entropy, ([3e38, -3e38],), 0, ([0, 0],)),
    (safe.softmax_entropy, ([NAN, 0.0],), NAN, ([NAN, NAN],)),
    (safe.kl_divergence, ([-INF, 0.0], [0.5, 0.0]), 2.0**103, ([0, 0], [2.0**104, 0])),
    (safe.kl_divergence, ([1.0], [NAN]), NAN, ([NAN], [NAN])),
]


def test_conventions():
    for f, args, value, slopes in CONVENTIONS:
        args = [np.float32(a) for a in args]
        argnums = tuple(range(len(args)))
        found = (
            jax.value_and_grad(f, argnums)(*args),
            jax.jacfwd(f, argnums)(*args),
        )
        for a, b in zip(
            jax.tree.leaves(found),
            map(np.float32, [value, *slopes, *slopes]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=2e-6, err_msg=f"{f} {args}")


def test_axes_and_masks():
    x = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4)))
    p, where = np.exp(x), x > -0.5
    q = np.where(where, p, 0)
    for axis in (None, 1, (0, -1)):
        total = q.sum(axis, keepdims=True)
        exact = -np.sum(np.where(where, q * np.log(p), 0), axis)
        found = safe.entropy(p, axis, where)
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
        found = safe.softmax_entropy(x, axis, where)
        exact = safe.entropy(q / total, axis)
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
        found = safe.kl_divergence(x, q / total, axis, where)
        exact = np.sum(np.where(where, q / total * (np.log(p / total) - x), 0), axis)
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_an_entropy_next_to_0_keeps_its_digits():
    found = safe.softmax_entropy(jnp.array([0.0, -30.0]))
    np.testing.assert_allclose(found, 31 * np.exp(-30.0), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_errors(name):
    f = getattr(safe, name)
    several = [1.0] * (len(CASES[name].args[0]) if "entropy" not in name else 1)
    args = [1j, 0.5] if name == "kl_divergence" else [1j, *several[1:]]
    with pytest.raises(TypeError, match=f"safe.{name} is defined for real inputs"):
        f(*args)
    if len(args) == 2:
        with pytest.raises(ValueError, match=f"safe.{name} broadcasts its parameters"):
            f(np.ones(2), np.ones(3))
