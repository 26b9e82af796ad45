"""`check_rule` itself: what it reports, compares with, looks at and refuses."""

import gc
import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import flax_stable as fs
from flax_stable.testing import check_rule
from flax_stable.testing._check_rule import CHECKS
from flax_stable.testing._rule._differences import slopes, stencil
from flax_stable.testing._rule._points import choose, intervals
from flax_stable.testing._rule._subject import subject

X = np.float32(0.5)
ROW = np.array([0.5, -1.25, 2.0], np.float32)
# What takes a program of its own.
SLOW = CHECKS


@fs.custom_vjp
def cube(x):
    return x * x * x


cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * g * x * x,))


@fs.custom_vjp
def sine(x):
    return jnp.sin(x)


sine.defvjp(lambda x: (sine(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.custom_jvp
def wrong_below_1000(x):
    return 2 * x


@wrong_below_1000.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return 2 * x, dx * jnp.where(x < -1000, 3.0, 2.0)


def test_report():
    report = check_rule(sine, (X,), max_residual_bytes=4)
    checks = [row.check for row in report.rows]
    assert len(checks) == len(set(checks))
    expected = {"value", "NaN", "reverse mode", "forward mode", "adjoint", *CHECKS}
    # There is one argument and one output, no integer.
    expected -= {"one argument", "one output", "integer arguments"}
    assert expected <= set(checks)
    assert report.passed and report.faults == () and report.residual_bytes == 4
    header, rule, *lines = str(report).splitlines()
    assert header.split() == [
        *("check", "worst", "input", "expected", "got", "ULP", "judged", "passed")
    ]
    assert set(rule) == {"-", " "} and len(lines) == len(checks)
    by_check = {row.check: row for row in report.rows}
    row = by_check["reverse mode"]
    assert row.judged > 180 and 0 < row.error < 3
    assert row.got == pytest.approx(row.expected, rel=1e-6)
    (x,) = re.findall(r"x = (\S+)", row.at)
    assert row.expected == pytest.approx(np.cos(float(x)), rel=1e-5)
    assert by_check["leaks"].passed and gc.get_freeze_count() == 0


def test_message():
    with pytest.raises(AssertionError) as caught:
        check_rule(wrong_below_1000, (X,), skip=SLOW)
    first, blank, header, *_ = str(caught.value).splitlines()
    assert first.startswith(
        "wrong_below_1000: the derivative in reverse mode is 1.5 times what it should "
        "be at x = -"
    )
    assert "expected 2, got 3 (" in first and first.endswith("more below)")
    assert not blank and header.startswith("check")


def test_a_domain_and_points_say_where_to_look():
    inside = {"domain": (-999, np.inf), "skip": SLOW}
    assert check_rule(wrong_below_1000, (X,), **inside).passed
    with pytest.raises(AssertionError, match="at x = -2000: expected 2, got 3"):
        check_rule(wrong_below_1000, (X,), points=[-2000.0], **inside)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_points(dtype):
    judged = subject(jnp.add, (jnp.asarray(0.5, dtype), ROW.astype(dtype)))
    table, common = choose(judged, None, [7.0], seed=0)
    assert table.shape[1] == 4 and (table[0] == [0.5, *ROW]).all()
    assert (table.astype(dtype).astype(float) == table)[~np.isnan(table)].all()
    info = jnp.finfo(dtype)
    for i in range(4):
        seen = table[:, i]
        assert {0.0, np.inf, -np.inf, 7.0, float(info.max)} <= set(seen)
        assert np.isnan(seen).any() and np.signbit(seen[seen == 0]).any()
        assert ((seen != 0) & (np.abs(seen) < float(info.smallest_normal))).any()
    # Extremes come one at a time.
    extreme = ~(np.abs(table) < 1e4)
    assert extreme.sum(axis=1).max() == 1
    assert (np.abs(table[common]) < 16).all() and len(common) == 12
    same, _ = choose(judged, None, [7.0], seed=0)
    other, _ = choose(judged, None, [7.0], seed=1)
    np.testing.assert_array_equal(table, same)
    assert other.shape != table.shape or not (other == table).all()


def test_domains_of_arguments():
    judged = subject(jnp.add, (X, ROW))
    table, _ = choose(judged, [(2, 3), None], [], seed=0)
    assert table[0, 0] == 0.5  # the example stands
    assert ((table[1:, 0] >= 2) & (table[1:, 0] <= 3)).all()
    assert np.isnan(table[:, 1:]).any()


@pytest.mark.parametrize(
    "function, derivative",
    [
        (np.exp, np.exp),
        (np.expm1, np.exp),
        (np.arctan, lambda x: 1 / (1 + x * x)),
        (lambda x: x**3, lambda x: 3 * x**2),
        (np.abs, np.sign),
        (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1, 0.5 * (x == 0))),
        (np.sin, np.cos),
        (lambda x: 1 / x, lambda x: -1 / x / x),
        (lambda x: x + np.sin(x) ** 2, lambda x: 1 + np.sin(2 * x)),
    ],
)
def test_differences_know_their_error(function, derivative):
    x = np.array([-40, -3, -1e-3, -1e-30, 0, 1e-20, 1e-8, 0.7, 1, 5, 30, 1e4, 1e10])
    with np.errstate(all="ignore"):
        nodes, width = stencil(x[:, None], [None])
        slope, slack = slopes(function(x)[:, None], function(nodes), width)
        exact = derivative(x)
    off = np.abs(slope[:, 0, 0] - exact)
    known = np.isfinite(slope[:, 0, 0]) & np.isfinite(exact)
    assert (off <= slack[:, 0, 0] + 1e-14 * np.abs(exact))[known].all()
    ordinary = known & (np.abs(x) > 0.5) & (np.abs(x) < 10)
    assert ordinary.sum() == 4
    assert (slack[ordinary, 0, 0] < 1e-7 * np.maximum(1, np.abs(exact[ordinary]))).all()


def test_differences_stay_within_limits():
    nodes, _ = stencil(np.array([[0.5], [2.0]]), [(0, 2)])
    assert np.nanmin(nodes) >= 0 and np.nanmax(nodes) <= 2
    assert np.isnan(nodes[1, 0, :, 0]).all()


def test_exact_holds_to_a_convention():
    """A reference leaves all slopes between both sides; what is exact does not."""
    options = {"skip": SLOW, "second_order": False}

    def value(x):
        return np.where(x < 0, 0.0, x)

    check_rule(jax.nn.relu, (X,), reference=lambda x: jnp.maximum(x, 0), **options)
    exact = (value, lambda x: np.where(x > 0, 1.0, 0.0))
    check_rule(jax.nn.relu, (X,), exact=exact, **options)
    with pytest.raises(AssertionError, match="at x = 0: expected 1, got 0"):
        exact = (value, lambda x: np.where(x >= 0, 1.0, 0.0))
        check_rule(jax.nn.relu, (X,), exact=exact, **options)


def test_exact_in_mpmath_and_in_ulp():
    """`jax.nn.softplus` is 8.48 ULP off in its derivative."""
    exact = (lambda x: mp.log1p(mp.exp(x)), lambda x: 1 / (1 + mp.exp(-x)))
    options = {"skip": SLOW, "domain": (-80, 80), "second_order": False}
    report = check_rule(fs.softplus, (X,), exact=exact, max_ulp=2.6, **options)
    (error,) = (row.error for row in report.rows if row.check == "reverse mode")
    assert 0.4 < error <= 2.6
    with pytest.raises(AssertionError, match=r"the value.* is wrong at x = "):
        check_rule(fs.softplus, (X,), exact=exact, max_ulp=0.1, **options)


def test_forward_mode_may_be_asked_for():
    reverse_only = jax.custom_vjp(lambda x: x + x)
    reverse_only.defvjp(lambda x: (x + x, None), lambda _, g: (g + g,))
    report = check_rule(reverse_only, (X,), skip=SLOW)
    notes = {row.check: row.note for row in report.rows}
    assert notes["forward mode"] == "no forward mode"
    with pytest.raises(AssertionError, match="forward mode raises TypeError"):
        check_rule(reverse_only, (X,), forward_mode=True, skip=SLOW)
    checks = {
        row.check
        for row in check_rule(reverse_only, (X,), forward_mode=False, skip=SLOW).rows
    }
    assert "forward mode" not in checks


def test_float64(x64):
    report = check_rule(cube, (0.5,), skip=SLOW)
    rows = {row.check: row for row in report.rows}
    assert rows["reverse mode"].judged > 150
    wrong = fs.custom_vjp(lambda x: x * x)
    wrong.defvjp(lambda x: (x * x, x), lambda x, g: (g * x * (2 + 1e-8),))
    with pytest.raises(AssertionError, match="is wrong"):
        check_rule(wrong, (0.5,), skip=SLOW, domain=(0.5, 2))


def test_settings_stay():
    before = {k: v for k, v in jax.config.values.items()}
    check_rule(cube, (X,), skip=SLOW)
    assert {k: v for k, v in jax.config.values.items()} == before
    assert jnp.ones(1).dtype == np.float32


def test_a_constant_of_another_dtype():
    """Strict promotion is for the caller's dtypes, not for float64."""
    kernel = jnp.asarray(ROW)
    assert check_rule(lambda x: jnp.dot(x, kernel), (ROW,), skip=SLOW).passed


def test_atol_lets_lost_tails_pass():
    options = {"skip": SLOW, "domain": (-20, 20)}
    with pytest.raises(AssertionError, match="in reverse mode vanishes at x = "):
        check_rule(jnp.tanh, (X,), **options)
    assert check_rule(jnp.tanh, (X,), atol=1e-6, **options).passed


@pytest.mark.parametrize(
    "fn, args, options, error, text",
    [
        (3, (X,), {}, TypeError, "expects a function to judge, but got 3"),
        (cube, X, {}, TypeError, "write (x,) for one argument"),
        (cube, (1j,), {}, TypeError, "judges real functions, but x is complex"),
        (cube, ("a",), {}, TypeError, "but x is 'a': close over"),
        (cube, (np.ones(65, np.float32),), {}, ValueError, "has 65 floating elements"),
        (cube, (3,), {}, ValueError, "found no floating elements in the args of cube"),
        (lambda: 1.0, (), {}, ValueError, "found no floating elements in the args"),
        (jnp.argmax, (ROW,), {}, ValueError, "no floating elements in the output"),
        (jnp.linalg.inv, (X,), {}, ValueError, "cannot trace inv at the args given"),
        (cube, (X,), {"domain": (1, 0)}, ValueError, "(low, high) with low < high"),
        (cube, (X,), {"domain": [(0, 1)] * 2}, ValueError, "sequence of 1 of them"),
        (cube, (X,), {"skip": ["jit"]}, ValueError, "but got skip=['jit']"),
        (cube, (X,), {"skip": "scan"}, ValueError, "but got skip='scan'"),
        (cube, (X,), {"max_ulp": -1}, ValueError, "at least 0, but got -1"),
        (cube, (X,), {"exact": ()}, ValueError, "up to three of them"),
        (cube, (ROW,), {"exact": np.sin}, ValueError, "for a function of one number"),
        (cube, (X,), {"exact": np.isnan}, ValueError, "exact[0] to map a float64"),
        (
            cube,
            (X,),
            {"reference": lambda x: (x, x)},
            ValueError,
            "to return what cube does, floating arrays of the shapes [()], but got",
        ),
        (
            cube,
            (X,),
            {"reference": lambda x, y: x},
            ValueError,
            "cannot trace the reference in float64",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(fn, args, options, error, text):
    with pytest.raises(error, match=re.escape(text)):
        check_rule(fn, args, **options)


def test_intervals_reach_every_element():
    judged = subject(lambda p, n: p["a"][n], ({"a": ROW}, np.int32(2)))
    assert intervals(judged, [(0, 1), None]) == [(0, 1)] * 3
    assert intervals(judged, None) == [None] * 3
    assert judged.labels == tuple(f"p['a'][{i}]" for i in range(3))
