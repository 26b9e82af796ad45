"""What is kept, what may be passed, and what is refused."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _rules import CASES, rule, softplus, softplus_reference
from jax.ad_checkpoint import checkpoint_name
from jax.dtypes import float0

import flax_stable as fs

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def saved(f, *args):
    """Shapes of the arrays that the backward pass of ``f`` keeps."""
    return [x.shape for x in jax.tree.leaves(jax.vjp(f, *args)[1])]


@cases
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_residuals_are_those_of_fwd(case, wrap):
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), case.args)
    assert saved(wrap(case.rule), *args) == case.residuals


def test_residuals_of_a_scan_are_stored_once_a_step():
    x = jnp.ones((4, 1024))
    total_bytes = {}
    for f in (softplus, softplus_reference):

        def run(x, f=f):
            return jax.lax.scan(lambda c, _: (f(c), None), x, None, 16)[0]

        kept = jax.tree.leaves(jax.vjp(run, x)[1])
        total_bytes[f] = sum(a.nbytes for a in kept)
    assert total_bytes[softplus] == 16 * x.nbytes
    assert total_bytes[softplus_reference] > total_bytes[softplus]


@pytest.mark.parametrize("rule", ["fwd", "bwd"])
def test_residuals_have_the_names_that_a_rule_gives_them(rule):
    """In ``bwd`` a name costs nothing; in ``fwd`` it makes another array."""

    def named(kept, where):
        return checkpoint_name(kept, "kept") if where == rule else kept

    @fs.custom_vjp
    def f(x):
        return jnp.sin(x)

    def fwd(x):
        c = jnp.cos(x)
        return f(x), named({"slope": c}, "fwd")

    def bwd(kept, g):
        return (g * named(kept, "bwd")["slope"],)

    f.defvjp(fwd, bwd)
    x = jnp.linspace(-1, 1, 1024)

    def kept(policy):
        g = jax.checkpoint(lambda x: f(jnp.exp(x)), policy=policy)
        np.testing.assert_allclose(
            jax.vjp(g, x)[1](x)[0], x * jnp.exp(x) * jnp.cos(jnp.exp(x)), rtol=1e-5
        )
        return [r.nbytes for r in jax.tree.leaves(jax.vjp(g, x)[1])]

    policies = jax.checkpoint_policies
    assert kept(policies.nothing_saveable) == [x.nbytes]
    # The argument, and what has the name.
    assert kept(policies.save_only_these_names("kept")) == [x.nbytes] * 2
    assert kept(policies.save_only_these_names("another")) == [x.nbytes]
    assert saved(jax.jit(f), x) == saved(f, x) == [x.shape]


def test_an_unperturbed_argument_keeps_and_costs_nothing():
    @fs.custom_vjp
    def scaled(x, w):
        return x * w

    scaled.defvjp(
        lambda x, w: (scaled(x, w), (x, w)), lambda r, g: (g * r[1], g * r[0])
    )
    w = jnp.full((8,), 2.0)
    jaxpr = str(jax.make_jaxpr(jax.linearize(lambda x: scaled(x, w), w)[1])(w))
    assert jaxpr.count(" mul ") == 1


def test_integer_arguments_and_outputs():
    @fs.custom_vjp
    def take(x, i):
        return x[i], i + 1

    def bwd(residuals, g):
        x, i = residuals
        assert g[1].dtype == float0
        return jnp.zeros_like(x).at[i].set(g[0]), np.zeros((), float0)

    take.defvjp(lambda x, i: (take(x, i), (x, i)), bwd)
    x = jnp.arange(4.0)
    got = jax.grad(lambda x: take(x, 2)[0] * 3)(x)
    np.testing.assert_array_equal(got, [0, 0, 3, 0])
    (y, j), (t, t_int) = jax.jvp(lambda x: take(x, 2), (x,), (x,))
    assert (y, j, t) == (2, 3, 2) and t_int.dtype == float0
    by_index = jax.grad(lambda i: take(x, i)[0], allow_int=True)(2)
    assert by_index.dtype == float0

    index_only = fs.custom_vjp(lambda i: i * 2)
    index_only.defvjp(lambda i: (i * 2, None), lambda _, g: (None,))
    assert jax.jvp(index_only, (3,), (np.zeros((), float0),))[0] == 6


def test_arguments_by_keyword_default_and_star():
    @fs.custom_vjp(nondiff_argnums=(0, 3))
    def f(op, x, *rest):
        return op(x) * rest[0] * len(rest[1])

    def fwd(op, x, w, name):
        return f(op, x, w, name), (x, w)

    def bwd(op, name, residuals, g):
        x, w = residuals
        return g * w * len(name), g * op(x) * len(name)

    f.defvjp(fwd, bwd)
    assert jax.grad(f, (1, 2))(lambda x: x, 2.0, 5.0, "abc") == (15.0, 6.0)

    @fs.custom_vjp(nondiff_argnames=("n",))
    def g(x, n, y=4.0):
        return x * y * n

    g.defvjp(
        lambda x, n, y: (g(x, n, y), (x, y)),
        lambda n, r, ct: (ct * r[1] * n, ct * r[0] * n),
    )
    assert jax.grad(lambda x: g(n=3, x=x))(2.0) == 12.0
    assert jax.grad(lambda y: g(2.0, y=y, n=3))(2.0) == 6.0
    assert jax.jvp(lambda x, y: g(x, 3, y), (2.0, 4.0), (1.0, 1.0))[1] == 18.0


def test_none_cotangent_for_part_of_an_argument():
    f = fs.custom_vjp(lambda p: p["a"] * p["b"][0])
    f.defvjp(lambda p: (f(p), p), lambda p, g: ({"a": g * p["b"][0], "b": None},))
    p = {"a": jnp.float32(2.0), "b": [jnp.float32(3.0)]}
    assert jax.grad(f)(p) == {"a": 3.0, "b": [0.0]}
    assert jax.jvp(f, (p,), (jax.tree.map(jnp.ones_like, p),))[1] == 3.0


def test_metadata_and_closures():
    def f(x, *, unused=None):
        """Doc."""

    wrapped = fs.custom_vjp(f)
    assert (wrapped.__name__, wrapped.__doc__) == ("f", "Doc.")
    assert wrapped.__wrapped__ is f

    def scaled(w, x):
        inner = fs.custom_vjp(lambda x: x * w)
        inner.defvjp(lambda x: (x * w, None), lambda _, g: (g * w,))
        return jax.grad(inner)(x)

    np.testing.assert_array_equal(
        jax.jit(jax.vmap(scaled))(*[jnp.arange(3.0)] * 2), [0, 1, 2]
    )


def test_forward_mode_false_is_jax_custom_vjp():
    @fs.custom_vjp(forward_mode=False)
    def clipped(x):
        return x

    assert isinstance(clipped, jax.custom_vjp)
    clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))
    assert jax.grad(lambda x: 5 * clipped(x))(2.0) == 1.0
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(clipped, (2.0,), (1.0,))

    symbolic = fs.custom_vjp(lambda x, y: x * y, forward_mode=False)
    seen = []

    def fwd(x, y):
        seen.append((x.perturbed, y.perturbed))
        return x.value * y.value, y.value

    symbolic.defvjp(fwd, lambda y, g: (g * y, None), symbolic_zeros=True)
    assert jax.grad(symbolic)(2.0, 3.0) == 3.0 and seen == [(True, False)]


WRONG = {
    "fwd no pair": (
        rule(fwd=lambda x: jnp.sin(x)),
        TypeError,
        r"fwd of .*sine must return a pair \(output, residuals\), but it returned",
    ),
    "fwd a triple": (
        rule(fwd=lambda x: (x, x, x)),
        TypeError,
        "a pair .* returned a tuple of length 3",
    ),
    "bwd no tuple": (
        rule(lambda x, g: g),
        TypeError,
        "bwd of .*sine must return a tuple of 1 cotangents, one for each positional",
    ),
    "bwd too many": (
        rule(lambda x, g: (g, g)),
        TypeError,
        "a tuple of 1 cotangents.* returned a tuple of length 2",
    ),
    "bwd structure": (
        rule(lambda x, g: ({"a": g},)),
        TypeError,
        r"structure of argument 'x', PyTreeDef\(\*\), but it returned .*'a'",
    ),
    "bwd shape": (
        rule(lambda x, g: (g[None],)),
        ValueError,
        r"type of argument 'x', float32\[\], but it returned float32\[1\]",
    ),
}


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize(("f", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_rules(f, error, text, differentiate):
    with pytest.raises(error, match=text):
        differentiate(f)(jnp.float32(1.0))


def test_wrong_definitions_and_calls():
    with pytest.raises(
        AttributeError, match=r"No rule is defined .* call .*defvjp\(fwd, bw"
    ):
        fs.custom_vjp(lambda x: x)(1.0)
    with pytest.raises(TypeError, match="expects a function to decorate, but got 3"):
        fs.custom_vjp(3)
    with pytest.raises(TypeError, match="expects bwd to be a function, but got None"):
        fs.custom_vjp(lambda x: x).defvjp(lambda x: (x, None), None)
    with pytest.raises(
        ValueError, match=r"must name its parameters \(x\), but got 'y'"
    ):
        fs.custom_vjp(lambda x: x, nondiff_argnames=("y",))
    with pytest.raises(ValueError, match="positions among its 1 parameters, but got 1"):
        fs.custom_vjp(lambda x: x, nondiff_argnums=(1,))
    with pytest.raises(TypeError, match=r"sine\(x\): missing a required argument: 'x'"):
        rule()()
    f = fs.custom_vjp(lambda x, *, scale=1.0: x * scale)
    f.defvjp(lambda x: (x, None), lambda _, g: (g,))
    with pytest.raises(TypeError, match="keyword-only ones: scale"):
        f(1.0, scale=2.0)
    static = fs.custom_vjp(lambda x, n: x * n, nondiff_argnums=1)
    static.defvjp(lambda x, n: (x * n, None), lambda n, _, g: (g * n,))
    with pytest.raises(
        jax.errors.UnexpectedTracerError, match="tracer for argument 'n'"
    ):
        jax.jit(static)(1.0, 2.0)


def test_errors_inside_rules_come_through():
    def bwd(x, g):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        jax.grad(rule(bwd))(1.0)


def test_static_residuals_stay_what_they_are():
    @fs.custom_vjp
    def first_two(x):
        return x[:2]

    def bwd(residuals, g):
        shape, flag, order = residuals
        assert flag and order.tolist() == [1, 0]
        return (jnp.zeros(shape).at[order].set(g, unique_indices=True),)

    first_two.defvjp(lambda x: (x[:2], (x.shape, True, np.array([1, 0]))), bwd)
    x, weights = jnp.arange(4.0), jnp.array([3.0, 5.0])
    gradient = jax.grad(lambda x: first_two(x) @ weights)
    np.testing.assert_array_equal(gradient(x), [5, 3, 0, 0])
    np.testing.assert_array_equal(jax.jit(gradient)(x), [5, 3, 0, 0])


def test_options_that_have_no_forward_mode():
    """They give jax.custom_vjp itself, nondiff arguments and all."""
    seen = []

    def fwd(n, x, y):
        seen.append((x.perturbed, y.perturbed))
        return n * x.value * y.value, y.value

    f = fs.custom_vjp(lambda n, x, y: n * x * y, nondiff_argnums=(0,))
    f.defvjp(fwd, lambda n, y, g: (n * g * y, None), symbolic_zeros=True)
    assert jax.grad(f, 1)(2, 2.0, 3.0) == 6.0 and seen == [(True, False)]

    g = fs.custom_vjp(lambda n, x: n * x, nondiff_argnames="n")
    g.defvjp(lambda n, x: (n * x, None), lambda n, _, g: (n * g,), optimize_remat=True)
    assert jax.jit(jax.grad(jax.checkpoint(lambda x: g(2, x))))(3.0) == 2.0
    for h in (lambda x: f(2, x, 3.0), lambda x: g(2, x)):
        with pytest.raises(TypeError, match="forward-mode") as e:
            jax.jvp(h, (2.0,), (1.0,))
        assert "symbolic_zeros or optimize_remat" in e.value.__notes__[0]
    f.defvjp(lambda n, x, y: (f(n, x, y), (x, y)), lambda n, r, g: (0.0 * g, 7 * g))
    assert jax.jacfwd(f, 2)(2, 2.0, 3.0) == 7


@flax.struct.dataclass
class Interval:
    low: jax.Array
    high: jax.Array

    def __post_init__(self):
        for x in (self.low, self.high):
            if not isinstance(x, jax.Array):
                raise TypeError(f"an Interval is made of arrays, not of {x!r}")


@pytest.mark.parametrize(
    "cotangent",
    [
        lambda g: Interval(g.low, 3 * g.high),
        lambda g: None,
    ],
)
def test_classes_that_take_nothing_but_arrays(cotangent):
    f = fs.custom_vjp(lambda x, i: Interval(x * i.low, i.high))
    f.defvjp(lambda x, i: (f(x, i), i.low), lambda low, g: (low * g.low, cotangent(g)))
    i = Interval(jnp.float32(2.0), jnp.float32(5.0))
    expected = 3.0 * (cotangent(i) is not None)
    for differentiate in (jax.grad, jax.jacfwd):
        assert differentiate(lambda x: f(x, i).low)(3.0) == 2.0
        by_high = differentiate(lambda h: f(3.0, Interval(i.low, h)).high)
        assert jax.jit(by_high)(jnp.float32(1.0)) == expected


@pytest.mark.parametrize("where", ["fun", "fwd", "bwd"])
def test_a_differentiated_value_that_a_rule_closes_over(where):
    def loss(w, x):
        def factor(place):
            return w if where == place else 1.0

        f = fs.custom_vjp(lambda x: x * factor("fun"))
        f.defvjp(lambda x: (x * factor("fwd"), None), lambda _, g: (g * factor("bwd"),))
        return f(x)

    def scanned(w, x):
        return jax.lax.scan(lambda c, _: (loss(w, c), None), x, None, 2)[0]

    text = (
        r"<lambda> closes over w, float32\[\], which is differentiated.* pass w as an"
    )
    for differentiate in (
        jax.grad(jax.jit(loss), (0, 1)),
        jax.jit(jax.grad(loss, (0, 1))),
        jax.grad(loss, (0, 1)),
        jax.grad(scanned, (0, 1)),
        lambda w, x: jax.jvp(jax.jit(loss), (w, x), (w, x)),
    ):
        with pytest.raises(TypeError, match=text):
            differentiate(2.0, 3.0)
    # One that is not differentiated, or by another derivative, may be closed over.
    by_x = jax.vmap(jax.grad(loss, 1))
    expected = [2.0, 3.0] if where == "bwd" else [1.0, 1.0]
    np.testing.assert_array_equal(by_x(jnp.array([2.0, 3.0]), jnp.ones(2)), expected)
    assert jax.grad(jax.grad(loss, 1))(2.0, 3.0) == float(where == "bwd")


def test_a_rule_is_traced_once_for_arguments_of_the_same_types():
    traced = []
    f = fs.custom_vjp(lambda n, x: n * x, nondiff_argnums=(0,))

    def bwd(n, kept, g):
        traced.append((n, g.shape))
        return (kept * g,)

    f.defvjp(lambda n, x: (f(n, x), n), bwd)
    assert jax.jit(jax.grad(lambda x: f(3, f(3, f(2, x)))))(1.0) == 18
    assert traced == [(2, ()), (3, ())]
    np.testing.assert_array_equal(
        jax.grad(lambda x: f(3, x).sum())(jnp.ones(2)), [3, 3]
    )
    f.defvjp(lambda n, x: (f(n, x), None), lambda n, _, g: (7 * g,))
    assert jax.grad(lambda x: f(3, x))(1.0) == 7


def test_the_function_alone_is_plain():
    for f in (fs.relu, fs.gelu, lambda x: fs.softplus(x), fs.leaky_relu):
        program = str(jax.make_jaxpr(f)(jnp.ones(3)))
        assert "prevent_cse" not in program and "name[" not in program
        assert f is fs.leaky_relu or "symbolic_zeros=True" not in program
