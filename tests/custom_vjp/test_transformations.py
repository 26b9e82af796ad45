"""Every transformation of a rule against autodiff of its plain reference."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import pytest
from _rules import (
    CASES,
    X,
    every,
    grad,
    jvp,
    linear_transpose,
    linearize,
    tangents,
    third,
    total,
    vjp,
)

import flax_stable as fs

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def nested(outer, inner):
    def hessian(f, args):
        n = every(f, args)
        second = outer(inner(f, n), n)
        return lambda *args: second(*jax.tree.map(lambda x: x[:2], args))

    return hessian


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
        def other(*args):
            return jax.tree.map(lambda y: 2 * y, f(*args))

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


# What a program of all of them would not see.
EAGER = "grad", "jvp", "linearize", "hessian, forward over reverse", "vmap of grad"


@cases
def test_transformations(x64, case):
    args = jax.tree.map(jnp.asarray, case.args)

    def transformed(f, names):
        return {name: TRANSFORMATIONS[name](f, args) for name in names}

    def results(f, *args):
        every = transformed(f, TRANSFORMATIONS)
        return {name: function(*args) for name, function in every.items()}

    found, expected = (
        # To compile one program takes less time than one of each.
        jax.jit(functools.partial(results, f))(*args)
        for f in (case.rule, case.reference)
    )
    for name, function in transformed(case.rule, EAGER).items():
        found[f"{name}, eager"] = function(*args)
        expected[f"{name}, eager"] = expected[name]
    for name, tree in found.items():
        try:
            chex.assert_trees_all_close(tree, expected[name], rtol=1e-11, atol=1e-12)
        except AssertionError as e:
            raise AssertionError(name) from e


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


@pytest.mark.parametrize("transform", [grad, jvp])
@cases
def test_export_with_symbolic_shapes(case, transform):
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), case.args)
    (n,) = jax.export.symbolic_shape("n")
    symbolic = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n, x.shape[1]), x.dtype), args
    )
    exported = jax.export.export(jax.jit(transform(case.rule, args)))(*symbolic)
    chex.assert_trees_all_close(
        exported.call(*args),
        transform(case.reference, args)(*args),
        rtol=2e-5,
        atol=2e-6,
    )
