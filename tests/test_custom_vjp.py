"""The decorator against autodiff of plain references, under every transformation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.ad_checkpoint
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs


class Case(NamedTuple):
    rule: Callable
    reference: Callable
    args: tuple
    residuals: list  # shapes of what fwd keeps


def softplus_reference(x):
    return jnp.logaddexp(x, jnp.zeros_like(x))


@fs.custom_vjp
def softplus(x):
    return softplus_reference(x)


@fs.custom_vjp
def softplus_slope(y):
    return -jnp.expm1(-y)


softplus.defvjp(lambda x: (y := softplus(x), y), lambda y, g: (g * softplus_slope(y),))
softplus_slope.defvjp(lambda y: (softplus_slope(y), y), lambda y, g: (g * jnp.exp(-y),))


@fs.custom_vjp
def log_softmax(x):
    return jax.nn.log_softmax(x)


log_softmax.defvjp(
    lambda x: (y := log_softmax(x), y),
    lambda y, g: (g - jnp.exp(y) * jnp.sum(g, -1, keepdims=True),),
)


@fs.custom_vjp
def product(a, b):
    return a * b


product.defvjp(
    lambda a, b: (product(a, b), (a, b)),
    lambda residuals, g: (g * residuals[1], g * residuals[0]),
)


def polar_reference(point, scale=2):
    x, y = point["x"], point["y"]
    return {"r": scale * jnp.hypot(x, y), "angle": (jnp.arctan2(y, x),)}


@functools.partial(fs.custom_vjp, nondiff_argnames="scale")
def polar(point, scale=2):
    return polar_reference(point, scale)


def polar_fwd(point, scale):
    return polar(point, scale), point


def polar_bwd(scale, point, g):
    x, y = point["x"], point["y"]
    r, (t,) = g["r"] * scale / jnp.hypot(x, y), g["angle"]
    t = t / (x * x + y * y)
    return ({"x": r * x - t * y, "y": r * y + t * x},)


polar.defvjp(polar_fwd, polar_bwd)


@fs.custom_vjp
def held(x, weight):
    return jnp.sin(x) * weight


held.defvjp(
    lambda x, weight: (held(x, weight), (x, weight)),
    lambda r, g: (g * jnp.cos(r[0]) * jax.lax.stop_gradient(r[1]), None),
)


def held_reference(x, weight):
    return jnp.sin(x) * jax.lax.stop_gradient(weight)


# The last axis stays whole on a mesh, since log_softmax sums over it.
X = np.linspace(-2.9, 3.1, 32).reshape(8, 4)
Y = np.cos(3 * X) + 1.5
CASES = {
    "softplus": Case(softplus, softplus_reference, (X,), [X.shape]),
    "log_softmax": Case(log_softmax, jax.nn.log_softmax, (X,), [X.shape]),
    "product": Case(product, lambda a, b: a * b, (X, Y), [X.shape] * 2),
    "polar": Case(polar, polar_reference, ({"x": X, "y": Y},), [X.shape] * 2),
    "held": Case(held, held_reference, (X, Y), [X.shape] * 2),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def tangents(args):
    return jax.tree.map(lambda x: jnp.sin(7 * x).astype(x.dtype), args)


def total(f):
    """A scalar that weighs every output element differently."""

    def scalar(*args):
        leaves = jax.tree.leaves(f(*args))
        return sum(jnp.sum(y * jnp.sin(5 * y) + y) for y in leaves)

    return scalar


def every(f, args):
    return tuple(range(len(args)))


def grad(f, args):
    return jax.grad(total(f), every(f, args))


def jvp(f, args):
    return lambda *args: jax.jvp(f, args, tangents(args))


def vjp(f, args):
    def run(*args):
        out, pull_back = jax.vjp(f, *args)
        return out, pull_back(tangents(out))

    return run


def linearize(f, args):
    def run(*args):
        out, push_forward = jax.linearize(f, *args)
        return out, push_forward(*tangents(args))

    return run


def linear_transpose(f, args):
    def run(*args):
        out, push_forward = jax.linearize(f, *args)
        return jax.linear_transpose(push_forward, *args)(tangents(out))

    return run


def nested(outer, inner):
    def hessian(f, args):
        n = every(f, args)
        second = outer(inner(f, n), n)
        return lambda *args: second(*jax.tree.map(lambda x: x[:2], args))

    return hessian


def third(f, args):
    def along(*args):
        g = lambda t: total(f)(
            *jax.tree.map(lambda x, v: x + t.astype(x.dtype) * v, args, tangents(args))
        )
        return jax.jacfwd(jax.grad(jax.jacfwd(g)))(jnp.zeros((), X.dtype))

    return along


def scanned(f, args):
    def loss(*args):
        def step(carry, args):
            return carry + total(f)(*args), None

        return jax.lax.scan(step, jnp.zeros((), X.dtype), args)[0]

    return jax.grad(loss, every(f, args))


def looped(f, args):
    def repeat(*args):
        def body(state):
            i, acc = state
            return i + 1, acc + total(f)(*args)

        start = (0, jnp.zeros((), X.dtype))
        return jax.lax.while_loop(lambda state: state[0] < 3, body, start)[1]

    return lambda *args: jax.jvp(repeat, args, tangents(args))


def branched(f, args):
    def either(*args):
        other = lambda *args: jax.tree.map(lambda y: 2 * y, f(*args))
        return jax.lax.cond(jax.tree.leaves(args)[0][0, 0] < 0, f, other, *args)

    return jax.jit(grad(either, args))


def remat(policy):
    return lambda f, args: grad(jax.checkpoint(f, policy=policy), args)


def composed(*transformations):
    def run(f, args):
        for t in reversed(transformations):
            f = t(f, args)
        return f

    return run


def vmap(f, args):
    return jax.vmap(f)


def jit(f, args):
    return jax.jit(f)


TRANSFORMATIONS = {
    "grad": grad,
    "vjp": vjp,
    "jvp": jvp,
    "linearize": linearize,
    "linear_transpose of linearize": linear_transpose,
    "jacfwd": lambda f, args: jax.jacfwd(f, every(f, args)),
    "jacrev": lambda f, args: jax.jacrev(f, every(f, args)),
    "hessian, forward over reverse": nested(jax.jacfwd, jax.jacrev),
    "hessian, reverse over reverse": nested(jax.jacrev, jax.jacrev),
    "hessian, forward over forward": nested(jax.jacfwd, jax.jacfwd),
    "hessian, reverse over forward": nested(jax.jacrev, jax.jacfwd),
    "third order": third,
    "vmap of grad": composed(vmap, grad),
    "grad of vmap": composed(grad, vmap),
    "vmap of vjp": composed(vmap, vjp),
    "vjp of vmap": composed(vjp, vmap),
    "vmap of jvp": composed(vmap, jvp),
    "jvp of vmap": composed(jvp, vmap),
    "vmap of linearize": composed(vmap, linearize),
    "linearize of vmap": composed(linearize, vmap),
    "vmap of linear_transpose": composed(vmap, linear_transpose),
    "linear_transpose of vmap": composed(linear_transpose, vmap),
    "vmap of hessian": lambda f, args: jax.vmap(
        jax.hessian(lambda *a: total(f)(*a), every(f, args))
    ),
    "hessian of vmap": composed(nested(jax.jacfwd, jax.jacrev), vmap),
    "jit of grad": composed(jit, grad),
    "grad of jit": composed(grad, jit),
    "jit of jvp": composed(jit, jvp),
    "jvp of jit": composed(jvp, jit),
    "scan": scanned,
    "while": looped,
    "cond": branched,
    "remat": remat(None),
    "remat, everything saveable": remat(jax.checkpoint_policies.everything_saveable),
    "remat, nothing saveable": remat(jax.checkpoint_policies.nothing_saveable),
    "remat, dots saveable": remat(jax.checkpoint_policies.dots_saveable),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@cases
@pytest.mark.parametrize("transform", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
def test_transformations(x64, case, transform):
    args = jax.tree.map(jnp.asarray, case.args)
    got = transform(case.rule, args)(*args)
    expected = transform(case.reference, args)(*args)
    chex.assert_trees_all_close(got, expected, rtol=1e-11, atol=1e-12)


DTYPES = {
    jnp.float8_e4m3fn: 2**-2,
    jnp.float8_e5m2: 2**-1,
    jnp.bfloat16: 2**-6,
    jnp.float16: 2**-9,
    jnp.float32: 2**-20,
    jnp.float64: 2**-48,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", ["softplus", "log_softmax", "product"])
def test_dtypes(x64, name, dtype):
    case, tolerance = CASES[name], DTYPES[dtype]
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32

    def cast(tree, to):
        return jax.tree.map(lambda x: x.astype(to), tree)

    # jax.numpy has no float8 arithmetic: the rule takes and gives it, computing wide.
    @fs.custom_vjp
    def rule(*args):
        return cast(case.rule(*cast(args, wide)), dtype)

    def bwd(args, g):
        return cast(jax.vjp(case.rule, *cast(args, wide))[1](cast(g, wide)), dtype)

    rule.defvjp(lambda *args: (rule(*args), args), bwd)
    args = jax.tree.map(lambda x: jnp.asarray(x, dtype), case.args)
    ones = jax.tree.map(jnp.ones_like, args)
    for run in (
        lambda f, args, ones: jax.vjp(f, *args)[1](ones[0]),
        lambda f, args, ones: jax.jvp(f, args, ones)[1],
    ):
        got = run(rule, args, ones)
        assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
        exact = run(case.reference, cast(args, jnp.float64), cast(ones, jnp.float64))
        chex.assert_trees_all_close(
            cast(got, jnp.float64), exact, rtol=tolerance, atol=tolerance
        )


@cases
def test_eval_shape_and_export(case):
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), case.args)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(grad(case.rule, args), *args), args
    )
    for transform in (grad, jvp):
        exported = jax.export.export(jax.jit(transform(case.rule, args)))(*args)
        chex.assert_trees_all_close(
            exported.call(*args),
            transform(case.reference, args)(*args),
            rtol=2e-5,
            atol=2e-6,
        )


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("transform", [grad, jvp, vjp, linearize, third])
@cases
def test_meshes(x64, case, transform, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    args = jax.tree.map(jnp.asarray, case.args)
    expected = transform(case.reference, args)(*args)
    sharded = jax.device_put(args, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        got = jax.jit(transform(case.rule, sharded))(*sharded)
    chex.assert_trees_all_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("transform", [grad, jvp, vjp, linearize])
@cases
def test_shard_map(x64, case, transform):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    args = jax.tree.map(jnp.asarray, case.args)
    expected = transform(case.reference, args)(*args)
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}
    outside = transform(jax.shard_map(case.rule, **specs), args)
    chex.assert_trees_all_close(outside(*args), expected, rtol=1e-11, atol=1e-12)
    inside = jax.shard_map(transform(case.rule, args), **specs)
    chex.assert_trees_all_close(inside(*args), expected, rtol=1e-11, atol=1e-12)


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
        run = lambda x, f=f: jax.lax.scan(lambda c, _: (f(c), None), x, None, 16)[0]
        kept = jax.tree.leaves(jax.vjp(run, x)[1])
        total_bytes[f] = sum(a.nbytes for a in kept)
    assert total_bytes[softplus] == 16 * x.nbytes
    assert total_bytes[softplus_reference] > total_bytes[softplus]


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
    assert "custom_vjp function" in repr(wrapped)

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


def rule(bwd=lambda x, g: (g * jnp.cos(x),), fwd=None):
    @fs.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(fwd or (lambda x: (jnp.sin(x), x)), bwd)
    return sine


LINEAR = (
    r"sine cannot be transposed: {}\. .*linear in the cotangent g.*forward_mode=False"
)
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
        r"dtype of argument 'x', float32\[\], but it returned float32\[1\]",
    ),
    "bwd dtype": (
        rule(lambda x, g: (g.astype(jnp.bfloat16),)),
        ValueError,
        r"dtype of argument 'x', float32\[\], but it returned bfloat16\[\]",
    ),
    "bwd squares g": (
        rule(lambda x, g: (g * g,)),
        TypeError,
        LINEAR.format("g meets itself, or decides a branch"),
    ),
    "bwd clips g": (
        rule(lambda x, g: (jnp.clip(g, -1, 1),)),
        TypeError,
        LINEAR.format(".*'min' not implemented"),
    ),
    "bwd branches on g": (
        rule(lambda x, g: (jnp.where(g > 0, g, jnp.zeros_like(g)),)),
        TypeError,
        LINEAR.format("g meets itself, or decides a branch"),
    ),
    "bwd adds a number": (
        rule(lambda x, g: (g + 1,)),
        TypeError,
        LINEAR.format("it adds to g a term without g: .*add b 1.0.*"),
    ),
    "bwd adds a residual": (
        rule(lambda x, g: (jax.jit(lambda g: g * 2 + jnp.cos(x))(g),)),
        TypeError,
        LINEAR.format("it adds to g a term without g: .*add.*"),
    ),
}


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize(("f", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_rules(f, error, text, differentiate):
    with pytest.raises(error, match=text):
        differentiate(f)(jnp.float32(1.0))


def test_adding_zeros_is_linear():
    f = rule(lambda x, g: (g * jnp.cos(x) + jnp.zeros_like(x),))
    chex.assert_trees_all_close(jax.jacfwd(f)(1.0), jnp.cos(1.0))


def test_wrong_definitions_and_calls():
    with pytest.raises(
        ValueError, match=r"No rule is defined .* call .*defvjp\(fwd, bw"
    ):
        fs.custom_vjp(lambda x: x)(1.0)
    with pytest.raises(TypeError, match="expects a function to decorate, but got 3"):
        fs.custom_vjp(3)
    with pytest.raises(TypeError, match="expects bwd to be a function, but got None"):
        fs.custom_vjp(lambda x: x).defvjp(lambda x: (x, None), None)
    with pytest.raises(ValueError, match="symbolic_zeros=True.*forward_mode=False"):
        rule().defvjp(None, None, symbolic_zeros=True)
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
