"""Functions of NumPy with derivatives given by hand, beside the same in JAX."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

X = jnp.linspace(-1.3, 1.7, 16).reshape(8, 2)
Y = jnp.cos(3 * X) + 1.5


def rotated(xp, p, k):
    """Integers in and out, trees in and out, sums over the last axis."""
    r = p["x"] * xp.sum(p["y"], -1, keepdims=True) * k.astype(np.float32)
    return {"r": r, "k": (k + 1, p["y"])}


def rotated_types(p, k):
    return {"r": p["x"], "k": (k, p["y"])}


def rotated_vjp(args, out, g):
    p, k = args
    g, (none, g_y) = g["r"] * k.astype(np.float32), g["k"]
    assert none is None and out["k"][0].dtype == k.dtype == np.int32
    total = np.sum(p["y"], -1, keepdims=True)
    by_y = np.sum(g * p["x"], -1, keepdims=True)
    return {"x": g * total, "y": by_y + g_y}, None


def rotated_jvp(args, out, tangents):
    p, k = args
    t, none = tangents
    assert none is None and out["r"].dtype == np.float32
    total = np.sum(p["y"], -1, keepdims=True)
    total_t = np.sum(t["y"], -1, keepdims=True)
    return {
        "r": (t["x"] * total + p["x"] * total_t) * k.astype(np.float32),
        "k": (None, t["y"]),
    }


class Case(NamedTuple):
    function: Callable
    reference: Callable
    args: tuple


def by_rules(vmap_method, **rules):
    function = fs.host_function(
        functools.partial(rotated, np),
        result_shape_dtypes=rotated_types,
        vmap_method=vmap_method,
        **rules,
    )
    k = jnp.full((8, 1), 3, np.int32)
    reference = functools.partial(rotated, jnp)
    return Case(function, reference, ({"x": X, "y": Y}, k))


TURN = np.float32([[0.5, 1.5], [-1, 0.25]])
VJP, JVP = {"vjp": rotated_vjp}, {"jvp": rotated_jvp}
CASES = {
    "derivative": Case(fs.host_function(np.sin, derivative=jnp.cos), jnp.sin, (X,)),
    "two derivatives": Case(
        fs.host_function(
            np.arctan2,
            derivative=(
                lambda x, y: y / (x * x + y * y),
                lambda x, y: -x / (x * x + y * y),
            ),
            vmap_method="sequential",
        ),
        jnp.arctan2,
        (X, Y[:, :1]),
    ),
    "adjoint": Case(
        fs.host_function(
            lambda x: x @ TURN,
            adjoint=lambda g: g @ TURN.T,
            result_shape_dtypes=lambda x: x,
            vmap_method="vectorized",
        ),
        lambda x: x @ TURN,
        (X,),
    ),
    "vjp": by_rules("sequential", **VJP),
    "jvp": by_rules("vectorized", **JVP),
    "vjp and jvp": by_rules("vectorized", **VJP, **JVP),
}
cases = pytest.mark.parametrize("name", CASES)


def moved(tree):
    """Another tree of its floating leaves, and of float0 for the others."""

    def move(x):
        floating = jnp.issubdtype(x.dtype, np.inexact)
        return jnp.sin(7 * x) if floating else np.zeros(x.shape, jax.dtypes.float0)

    return jax.tree.map(move, tree)


def total(f, args):
    """A scalar of the floating arguments that weighs each element differently."""
    floats, rest = split(args)

    def scalar(*floats):
        leaves = jax.tree.leaves(f(*floats, *rest))
        return sum(jnp.sum(y * jnp.sin(5 * y)) for y in leaves if y.dtype != np.int32)

    return scalar, floats


def split(args):
    floats = [a for a in args if all(x.dtype != np.int32 for x in jax.tree.leaves(a))]
    return floats, args[len(floats) :]


def grad(f, *args):
    scalar, floats = total(f, args)
    return jax.grad(scalar, tuple(range(len(floats))))(*floats)


def jvp(f, *args):
    y, t = jax.jvp(f, args, moved(args))
    return y, [t for t in jax.tree.leaves(t) if t.dtype != jax.dtypes.float0]


def linearize(f, *args):
    scalar, floats = total(f, args)
    y, push_forward = jax.linearize(scalar, *floats)
    return y, push_forward(*moved(floats))


def in_scan(f, *args):
    """Three steps, with a part of the output as the next argument."""

    def step(x, _):
        first = {"x": x, "y": args[0]["y"]} if isinstance(args[0], dict) else x
        y = f(first, *args[1:])
        return (y["r"] if isinstance(y, dict) else y) / 4, None

    def run(x):
        return jnp.sum(jax.lax.scan(jax.checkpoint(step), x, None, 3)[0])

    return jax.value_and_grad(run)(X)


def vmapped(transform):
    return lambda f, *args: jax.vmap(functools.partial(transform, f))(*args)


# Parameters of what is mapped that all elements share.
def vmapped_in_part(f, *args):
    x, *rest = args
    one = jax.tree.map(lambda a: a[0], rest)
    return jax.vmap(lambda x: grad(f, x, *one))(x)


TRANSFORMS = {
    "grad": grad,
    "jvp": jvp,
    "linearize": linearize,
    "scan": in_scan,
    "vmap grad": vmapped(grad),
    "vmap jvp": vmapped(jvp),
    "vmap in part": vmapped_in_part,
}


def transformed(f, *args, only=tuple(TRANSFORMS)):
    return {name: TRANSFORMS[name](f, *args) for name in only}


@functools.cache
def expected(name):
    case = CASES[name]
    return jax.jit(functools.partial(transformed, case.reference))(*case.args)


def check(found, name):
    for key, value in found.items():
        chex.assert_trees_all_close(
            value, expected(name)[key], rtol=2e-5, atol=1e-5, custom_message=key
        )


@cases
def test_transformations(name):
    function, _, args = CASES[name]
    check(jax.jit(functools.partial(transformed, function))(*args), name)


@cases
def test_eager(name):
    function, _, args = CASES[name]
    check({"jvp": jvp(function, *args)}, name)


MESHES = [(name, AxisType.Explicit) for name in CASES]
MESHES += [("derivative", AxisType.Auto), ("vjp", AxisType.Auto)]


@pytest.mark.parametrize(("name", "axis_type"), MESHES)
def test_meshes(name, axis_type):
    function, _, args = CASES[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    args = jax.device_put(args, NamedSharding(mesh, P("data")))
    run = jax.jit(functools.partial(transformed, function, only=("grad", "jvp")))
    with jax.set_mesh(mesh):
        found = run(*args)
        check(found, name)
        # What comes from the host can stand beside what lives on the mesh.
        jax.tree.map(jnp.add, found["grad"][0], args[0])
        alone = jax.jit(function)(*args)
        jax.tree.map(jnp.add, alone, alone)
    if axis_type == AxisType.Explicit:
        for ct in jax.tree.leaves(found["grad"]):
            assert ct.sharding.spec[0] == "data"


@cases
def test_shard_map(name):
    function, _, args = CASES[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs: Any = {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}
    outside = functools.partial(transformed, jax.shard_map(function, **specs))
    found = jax.jit(functools.partial(outside, only=("grad", "jvp")))(*args)
    check(found, name)
    inside = jax.shard_map(functools.partial(grad, function), **specs)
    check({"grad": jax.jit(inside)(*args)}, name)


def close(a, b):
    chex.assert_trees_all_close(a, b, rtol=2e-5, atol=1e-5)


def squares(f, *args):
    return jnp.sum(f(*args) ** 2)


def test_arguments_that_vary_differently_in_shard_map():
    function = fs.host_function(
        lambda x, w: x * w,
        vjp=lambda args, out, g: (g * args[1], np.sum(g * args[0], 0)),
        result_shape_dtypes=lambda x, w: x,
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs: Any = {"mesh": mesh, "in_specs": (P("data"), P())}
    for f in (
        function,
        fs.host_function(np.multiply, derivative=(lambda x, w: w, lambda x, w: x)),
    ):
        inside = jax.shard_map(
            jax.grad(functools.partial(squares, f), (0, 1)),
            out_specs=(P("data"), P()),
            **specs,
        )
        w = Y[0]
        close(inside(X, w), (2 * X * w**2, jnp.sum(2 * X**2 * w, 0)))


# Orders, dtypes and what is kept


def bessel(special):
    """Two functions whose derivatives are made of each other."""
    zero: Callable = fs.host_function(special.j0, derivative=lambda x: -one(x))
    one: Callable = fs.host_function(
        special.j1, derivative=lambda x: zero(x) - one(x) / x
    )
    return zero, one


def test_every_order():
    special = pytest.importorskip("scipy.special")
    zero, _ = bessel(special)
    x = jnp.linspace(0.5, 9, 7)
    second = jax.jit(jax.vmap(jax.grad(jax.jacfwd(zero))))(x)
    close(second, -special.j0(x) + special.j1(x) / x)
    third = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(jax.grad(zero)))))(x)
    close(third, (special.j1(x) * (x * x - 2) + x * special.j0(x)) / (x * x))


def test_16_bits_round_once():
    dtype, seen = jnp.bfloat16, []

    def sine(x):
        seen.append(x.dtype)
        return np.sin(x)

    f = fs.host_function(sine, derivative=jnp.cos)
    x = jnp.linspace(-3, 3, 33).astype(dtype)
    wide = x.astype(np.float32)
    for found, exact in (
        (f(x), jnp.sin(wide)),
        (jax.vmap(jax.grad(f))(x), jnp.cos(wide)),
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, exact.astype(dtype))
    assert set(seen) == {np.dtype(np.float32)}


def test_arguments_promote_as_in_jax():
    f = fs.host_function(np.hypot)
    assert f(3, jnp.int8(4)) == 5.0
    found = f(jnp.ones((3, 1)), np.ones(4))
    assert (found.shape, found.dtype) == ((3, 4), np.float32)
    with pytest.raises(TypeError, match=r"hypot is defined for real .*argument 1 has"):
        f(1.0, 1j)


def test_what_the_backward_pass_keeps():
    def kept(f, *args):
        return sorted(a.nbytes for a in jax.tree.leaves(jax.vjp(f, *args)[1]))

    sine, by_vjp = CASES["derivative"], CASES["vjp"]
    assert kept(sine.function, X) == [X.nbytes]
    out = by_vjp.function(*by_vjp.args)
    every = jax.tree.leaves((by_vjp.args, out))
    assert kept(by_vjp.function, *by_vjp.args) == sorted(a.nbytes for a in every)


def test_calls():
    """How often the host is asked: once for a gradient, vectorized or not."""
    calls = []

    def counted(kind, f):
        return lambda *args: (calls.append(kind), f(*args))[1]

    for method, times in (("sequential", 8), ("vectorized", 1)):
        f = fs.host_function(
            counted("fn", np.sin),
            counted("vjp", lambda args, out, g: (g * np.cos(args[0]),)),
            lambda x: x,
            vmap_method=method,
        )
        gradient = jax.grad(functools.partial(squares, f))
        calls.clear()
        jax.block_until_ready(gradient(X))
        assert calls == ["fn", "vjp"]
        calls.clear()
        jax.block_until_ready(jax.vmap(gradient)(X))
        assert sorted(calls) == ["fn"] * times + ["vjp"] * times


def test_a_rule_of_jax_that_calls_the_host():
    host_cos = fs.host_function(np.cos)
    host_sin = fs.host_function(np.sin)

    @fs.custom_vjp
    def f(x):
        return host_sin(x)

    f.defvjp(lambda x: (f(x), x), lambda x, g: (g * host_cos(x),))
    close(jax.jit(jax.vmap(jax.jacfwd(f)))(X[:, 0]), jnp.cos(X[:, 0]))


def test_forward_mode_false():
    f = fs.host_function(
        np.copy,
        lambda args, out, g: (np.clip(g, -1, 1),),
        lambda x: x,
        forward_mode=False,
    )
    np.testing.assert_array_equal(jax.grad(lambda x: (f(x) * 5).sum())(X[0]), [1, 1])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(f, (X,), (X,))
