"""Every activation under every transformation, in every dtype, on both kinds of mesh.

One program of a function takes it through all of them: what costs time is to compile.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _table import TABLE
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from flax_stable.testing import REFERENCES
from flax_stable.testing.references import find

NAMES = pytest.mark.parametrize("name", TABLE)
# Code that is slower and compiles faster: it runs once.
QUICK = {"xla_backend_optimization_level": 0}

X = np.linspace(-2.9, 3.1, 32).reshape(8, 4)
# Cotangents and tangents of which no two are alike.
G = np.cos(np.arange(32.0)).reshape(8, 4) + 1.5
T = np.sin(np.arange(32.0)).reshape(8, 4) - 1.5


def points(name, dtype="float32"):
    x = np.abs(X) if TABLE[name].positive else X
    return np.asarray(x, dtype)


def exact(name, x):
    """Value and derivatives in float64."""
    return [reference(np.float64(x)) for reference in REFERENCES[name]]


def vjp(f, g):
    return lambda x: jax.vjp(f, x)[1](g)[0]


def jvp(f, t):
    return lambda x: jax.jvp(f, (x,), (t,))[1]


def both_orders(f, x, g, t):
    """Slope and curvature, forward over reverse and reverse over forward.

    The slopes are weighted by the cotangents and by the tangents, the curvatures by
    both.
    """
    by_vjp, forward = jax.jvp(vjp(f, g), (x,), (t,))
    by_jvp, pull_back = jax.vjp(jvp(f, t), x)
    return by_vjp, by_jvp, forward, pull_back(g)[0]


def scanned(f, g):
    """A loss that takes the rows of x one after another."""

    def loss(x):
        def step(carry, row):
            weights, row = row
            return carry + (weights * f(row)).sum(), None

        return lax.scan(step, jnp.zeros((), x.dtype), (g, x))[0]

    return loss


def looped(f, g):
    def loss(x):
        def body(i, carry):
            return carry + (g[i] * f(x[i])).sum()

        return lax.fori_loop(0, x.shape[0], body, jnp.zeros((), x.dtype))

    return loss


def looped_until(f, t):
    """A loop of unknown length, which has forward mode alone."""

    def loss(x):
        def body(state):
            i, y = state
            return i + 1, y.at[i].set(f(x[i]))

        start = (0, jnp.zeros_like(x))
        return lax.while_loop(lambda state: state[0] < x.shape[0], body, start)[1]

    return jvp(loss, t)


def branched(f):
    return lambda x: lax.cond(x.sum() < 1e9, f, lambda x: 2 * f(x), x)


def ruled(decorator, f):
    """A rule of the user's own, whose parts call the activation and its gradient."""
    rule = decorator(lambda x: f(x))
    rule.defvjp(lambda x: (f(x), x), lambda x, g: (vjp(f, g)(x),))
    return rule


def ruled_forward(f):
    rule = jax.custom_jvp(lambda x: f(x))
    rule.defjvp(lambda x, t: (f(*x), jvp(f, *t)(*x)))
    return rule


NAMED = [name.partition("(")[0] for name in TABLE]
# Nothing saveable, which without a product is dots saveable too, is remat by itself.
POLICIES = {
    "everything saveable": jax.checkpoint_policies.everything_saveable,
    "named saveable": jax.checkpoint_policies.save_only_these_names(*NAMED),
    "others saveable": jax.checkpoint_policies.save_anything_except_these_names(*NAMED),
}


def transformed(f, x, g, t):
    """Results by name, for each quantity that they must equal."""
    row, total = x[0], lambda x: f(x).sum()
    forward, reverse = jax.jacfwd, jax.jacrev
    y, pull_back = jax.vjp(f, x)
    value = {"vjp": y, "jit": jax.jit(f)(x)}
    y, push_forward = jax.linearize(f, x)
    value |= {"linearize": y, "vmap over the last axis": jax.vmap(f, 1, 1)(x)}
    transpose = jax.linear_transpose(push_forward, x)
    pulled_back = {
        "vmap of the cotangents": jax.vmap(pull_back)(jnp.stack([g, g]))[0][1],
        "linear_transpose of linearize": transpose(g)[0],
        "grad of fori_loop": jax.grad(looped(f, g))(x),
        "in JAX's custom_vjp": vjp(ruled(jax.custom_vjp, f), g)(x),
    }
    for name, policy in POLICIES.items():
        pulled_back[f"remat, {name}"] = vjp(jax.checkpoint(f, policy=policy), g)(x)
    pushed_forward = {
        "linearize": push_forward(t),
        "vmap of the tangents": jax.vmap(push_forward)(jnp.stack([t, t]))[1],
        "while": looped_until(f, t)(x),
    }
    second = {"vjp of vjp": vjp(vjp(f, g), t)(x), "jvp of jvp": jvp(jvp(f, t), g)(x)}
    for name, results in {
        "plain": both_orders(f, x, g, t),
        "of vmap": both_orders(jax.vmap(f), x, g, t),
        "vmap": jax.vmap(functools.partial(both_orders, f))(x, g, t),
        "remat": both_orders(jax.checkpoint(f), x, g, t),
        "cond": both_orders(branched(f), x, g, t),
        "in custom_vjp": both_orders(ruled(fs.custom_vjp, f), x, g, t),
        "in custom_jvp": both_orders(ruled_forward(f), x, g, t),
    }.items():
        pulled_back[name], pushed_forward[name], *seconds = results
        second[name], second[f"{name}, reverse"] = seconds
    pulled_back["scan"], second["scan"] = jax.jvp(jax.grad(scanned(f, g)), (x,), (t,))
    jacobian = {"jacfwd": forward(f)(row), "jacrev": reverse(f)(row)}
    hessian = {
        "forward over reverse": forward(reverse(total))(row),
        "reverse over reverse": reverse(reverse(total))(row),
        "forward over forward": forward(forward(total))(row),
        "reverse over forward": reverse(forward(total))(row),
        "vmap": jax.vmap(jax.hessian(total))(x)[0],
    }
    return value, pulled_back, pushed_forward, jacobian, hessian, second


@NAMES
def test_transformations(name):
    x, g, t = points(name), np.float32(G), np.float32(T)
    program = jax.jit(
        functools.partial(transformed, find(fs, name)), compiler_options=QUICK
    )
    y, slope, curvature = exact(name, x)
    expected = (
        y,
        g * slope,
        t * slope,
        np.diag(slope[0]),
        np.diag(curvature[0]),
        g * t * curvature,
    )
    for results, reference in zip(program(x, g, t), expected, strict=True):
        for transformation, found in results.items():
            assert found.dtype == np.float32
            np.testing.assert_allclose(
                found, reference, rtol=2e-6, err_msg=transformation
            )


@NAMES
def test_small_dtypes_and_empty_arrays(name):
    x = np.array([0.25, 0.75, 1.5, 2, 3.5])
    x = x if TABLE[name].positive else np.concatenate([-x, x])
    arrays = [jnp.asarray(x, dtype) for dtype in ("float8_e4m3fn", "float8_e5m2")]
    arrays += [jnp.ones((3, 0, 2), np.float32)]
    f = find(fs, name)
    program = jax.jit(
        lambda *arrays: [
            (f(x), *both_orders(f, x, jnp.ones_like(x), jnp.ones_like(x)))
            for x in arrays
        ],
        compiler_options=QUICK,
    )
    for x, results in zip(arrays, program(*arrays), strict=True):
        info = jnp.finfo(x.dtype)
        y, slope, curvature = exact(name, x)
        for found, reference in zip(
            results, (y, slope, slope, curvature, curvature), strict=True
        ):
            assert (found.dtype, found.shape) == (x.dtype, x.shape)
            # One rounding, of what float32 has; float8 has no way to say overflow.
            inside = np.abs(reference) <= float(info.max)
            np.testing.assert_allclose(
                np.float64(found)[inside],
                reference[inside],
                rtol=0.501 * float(info.eps),
                atol=0.501 * float(info.smallest_subnormal),
            )


COLLECTIVE = re.compile(
    r"all-reduce|all-gather|all-to-all|collective|reduce-scatter|send|recv"
)


def collectives(compiled):
    return set(COLLECTIVE.findall(compiled.as_text()))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@NAMES
def test_meshes_without_communication(name, kind):
    """Shards of an elementwise function know nothing of each other, nor need they.

    What shard_map runs knows nothing of the kind of mesh either: on one kind it runs
    the derivatives, on the other it is differentiated.
    """
    f = find(fs, name)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    spec = P("data", "model")
    sharding = NamedSharding(mesh, spec)
    x = points(name)
    y, slope, curvature = exact(name, x)
    second = G * T * curvature
    reference = (y, G * slope, T * slope, second, second)

    def derivatives(f, *args):
        return f(args[0]), *both_orders(f, *args)

    def program(*args):
        map_shards = functools.partial(
            jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec
        )
        if kind == AxisType.Auto:
            mapped = map_shards(functools.partial(derivatives, f))(*args)
        else:
            mapped = derivatives(map_shards(f), *args)
        return {"jit": derivatives(f, *args), "shard_map": mapped}

    with jax.set_mesh(mesh):
        args = jax.device_put((x, np.float32(G), np.float32(T)), sharding)
        compiled = jax.jit(program, compiler_options=QUICK).lower(*args).compile()
        results = compiled(*args)
    assert collectives(compiled) == set()
    for where, arrays in results.items():
        for found, expected in zip(arrays, reference, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-6, err_msg=where)
            # The compiler places constants as it likes.
            if kind == AxisType.Explicit or expected.any():
                assert found.sharding.is_equivalent_to(sharding, 2), where


def test_communication_is_found():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("data")))
    for f in (jax.nn.softmax, fs.softplus):
        assert not collectives(jax.jit(f).lower(x).compile())
    for f in (
        lambda x: jax.nn.softmax(x, 0),
        lambda x: fs.softplus(x).sum(),
        lambda x: lax.with_sharding_constraint(x, NamedSharding(mesh, P())),
        lambda x: jnp.roll(x, 1, 0),
    ):
        assert collectives(jax.jit(f).lower(x).compile())
