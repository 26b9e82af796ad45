"""Gradients on purpose: what comes out, what flows back, in both modes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

gradient = fs.gradient
X = jnp.linspace(-1.65, 1.4, 16).reshape(8, 2)
G = jnp.cos(5 * X)


def pulled(f, x=X, g=G):
    y, pull_back = jax.vjp(f, x)
    return y, pull_back(g.astype(y.dtype))[0]


# Each linear function, its value and its slope.
LINEAR = {
    "straight_through": (
        lambda x: gradient.straight_through(jnp.round(x), jnp.sin(x)),
        jnp.round,
        jnp.cos,
    ),
    "straight_through of functions": (
        gradient.straight_through(lambda x: x > 0, fs.tanh),
        lambda x: (x > 0).astype(x.dtype),
        jax.vmap(jax.vmap(jax.grad(jnp.tanh))),
    ),
    "round": (gradient.straight_through_round, jnp.round, jnp.ones_like),
    "sign": (
        gradient.straight_through_sign,
        lambda x: jnp.where(x >= 0, 1, -1).astype(x.dtype),
        lambda x: (jnp.abs(x) < 1).astype(x.dtype),
    ),
    "replace_gradient": (
        gradient.replace_gradient(jnp.floor, jnp.cos),
        jnp.floor,
        jnp.cos,
    ),
    "scale_gradient": (
        lambda x: gradient.scale_gradient(x, 0.3),
        lambda x: x,
        lambda x: jnp.full_like(x, 0.3),
    ),
    "scale_gradient by arrays": (
        lambda x: gradient.scale_gradient(x, jnp.array([2.0, -0.5])),
        lambda x: x,
        lambda x: jnp.zeros_like(x) + jnp.array([2, -0.5], x.dtype),
    ),
    "reverse_gradient": (
        gradient.reverse_gradient,
        lambda x: x,
        lambda x: -jnp.ones_like(x),
    ),
    "stop_gradient_where": (
        lambda x: gradient.stop_gradient_where(x > 0.5, x),
        lambda x: x,
        lambda x: (x <= 0.5).astype(x.dtype),
    ),
}
linear = pytest.mark.parametrize("name", LINEAR)


def every_way(f, x, g):
    """The value, and its gradient by reverse and forward mode, in a scan, by vmap."""

    def in_scan(x):
        return jax.lax.scan(jax.checkpoint(lambda _, x: (None, f(x))), None, x[None])[1]

    return (
        *pulled(f, x, g),
        jax.jvp(f, (x,), (g,))[1],
        pulled(in_scan, x, g[None])[1],
        pulled(jax.vmap(f), x, g)[1],
        jax.jvp(lambda x: pulled(f, x, g)[1], (x,), (g,))[1],
    )


@linear
def test_value_and_gradient(name):
    f, value, slope = LINEAR[name]
    y, *found, second = jax.jit(functools.partial(every_way, f))(X, G)
    np.testing.assert_allclose(y, value(X), rtol=1e-6)
    for ct in found:
        np.testing.assert_allclose(ct, G * slope(X), rtol=1e-6, atol=1e-7)
    bend = jax.jvp(slope, (X,), (G,))[1]
    np.testing.assert_allclose(second, G * bend, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["scale_gradient", "round", "replace_gradient"])
def test_16_bits_round_once(name):
    f, value, slope = LINEAR[name]
    x = X.astype(jnp.bfloat16)
    y, ct = pulled(f, x)
    assert y.dtype == ct.dtype == x.dtype
    np.testing.assert_array_equal(y, value(x))
    if "scale" in name:
        scale = np.float32(slope(jnp.zeros(2)))
        exact = np.float32(G.astype(x.dtype)) * scale
        np.testing.assert_array_equal(ct, exact.astype(x.dtype))


@pytest.mark.parametrize(
    "name", ["sign", "replace_gradient", "scale_gradient", "stop_gradient_where"]
)
def test_sharding_is_kept(name):
    f, _, slope = LINEAR[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    sharding = NamedSharding(mesh, P("data"))
    x, g = jax.device_put((X, G), sharding)
    with jax.set_mesh(mesh):
        y, ct = jax.jit(functools.partial(pulled, f))(x, g)
    assert y.sharding.is_equivalent_to(sharding, 2)
    assert ct.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_allclose(ct, G * slope(X), rtol=1e-6, atol=1e-7)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    inside = jax.shard_map(
        lambda x, g: pulled(f, x, g)[1],
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    np.testing.assert_allclose(inside(X, G), G * slope(X), rtol=1e-6, atol=1e-7)


def test_what_is_kept():
    def kept(f):
        return [a.nbytes for a in jax.tree.leaves(jax.vjp(f, X)[1])]

    assert kept(gradient.straight_through_round) == []
    assert kept(gradient.straight_through_sign) == [X.size]
    assert kept(LINEAR["stop_gradient_where"][0]) == [X.size]
    assert kept(LINEAR["replace_gradient"][0]) == [X.nbytes]
    assert kept(gradient.reverse_gradient) == [4]


def test_surrogates_of_several_arguments_and_trees():
    f = gradient.straight_through(
        lambda x, y: {"a": jnp.round(x * y), "b": x > y},
        lambda x, y: {"a": x * y, "b": x},
    )
    y, ct = jax.value_and_grad(lambda x: sum(f(x, 1.3).values()))(2.0)
    assert y == 3 + 1 and ct == np.float32(1.3) + 1
    g = gradient.replace_gradient(jnp.power, lambda x, y: (y, None))
    assert jax.grad(lambda x, y: g(x, y).sum(), (0, 1))(3.0, 2.0) == (2, 0)
    # A slope per element, and the sum of it for an argument that was broadcast.
    h = gradient.replace_gradient(jnp.multiply, lambda x, y: (1.0, x))
    by_x, by_y = jax.grad(lambda x, y: h(x, y).sum(), (0, 1))(X, 2.0)
    np.testing.assert_allclose([by_x[0, 0], by_y], [1, X.sum()], rtol=1e-5)


def test_trees_with_integers():
    tree = {"a": jnp.ones(2), "b": (jnp.arange(3), jnp.float32(1))}

    def run(f):
        y = f(tree)
        assert y["b"][0] is tree["b"][0] or y["b"][0].dtype == np.int32

        def loss(a):
            sums = map(jnp.sum, jax.tree.leaves(f(tree | {"a": a})))
            return sum(sums).astype(np.float32)

        return jax.grad(loss)(tree["a"])

    with jax.numpy_dtype_promotion("standard"):
        assert run(lambda x: gradient.scale_gradient(x, 3)).tolist() == [3, 3]
        assert run(gradient.reverse_gradient).tolist() == [-1, -1]
        assert run(lambda x: gradient.clip_gradient(x, value=0.5)).tolist() == [0.5] * 2
        mask = {"a": jnp.array([True, False]), "b": (False, False)}
        assert run(lambda x: gradient.stop_gradient_where(mask, x)).tolist() == [0, 1]
        assert run(lambda x: gradient.stop_gradient_where(True, x)).tolist() == [0, 0]


def test_a_scale_may_be_a_schedule_and_has_no_gradient():
    @jax.jit
    def f(x, step):
        y = gradient.scale_gradient(x, step / 10)
        return fs.linen.GradientReversal().apply({}, y, step) ** 2

    by_x, by_step = jax.grad(f, (0, 1))(3.0, 2.0)
    np.testing.assert_allclose(by_x, -6 * 0.2 * 2, rtol=1e-6)
    assert by_step == 0
    reverse = fs.nnx.GradientReversal(0.5)
    ct = nnx.jit(lambda m, s: jax.grad(lambda x: m(x, s) + m(x))(1.0))(reverse, 3.0)
    assert ct == -3.5


def test_a_stopped_gradient_may_be_nan():
    ct = jax.grad(
        lambda x: (gradient.stop_gradient_where(x == 0, x) * jnp.log(x)).sum()
    )
    assert np.isnan(ct(jnp.zeros(1)))  # the slope of log itself flows back as well
    _, ct = pulled(lambda x: gradient.stop_gradient_where(x > 0, x), X, X * np.nan)
    np.testing.assert_array_equal(ct, np.where(X > 0, 0, np.nan))


# Clipping


def test_clip_by_value():
    _, ct = pulled(lambda x: gradient.clip_gradient(x, value=0.25))
    np.testing.assert_array_equal(ct, np.clip(G, -0.25, 0.25))
    x = X.astype(jnp.bfloat16)
    _, ct = pulled(lambda x: gradient.clip_gradient(x, value=0.3), x)
    bound = np.float32(0.3).astype(x.dtype)
    np.testing.assert_array_equal(ct, np.clip(G.astype(x.dtype), -bound, bound))


@pytest.mark.parametrize("scale", [1e-3, 1e30])
def test_clip_by_norm(scale):
    """Of all arrays together, without overflow; what is short enough stays."""
    tree = {"a": X, "b": (X[0], jnp.arange(3))}
    weights = {"a": G * scale, "b": (G[0] * scale,)}

    def loss(floats):
        y = gradient.clip_gradient({"a": floats[0], "b": (floats[1], 1)}, norm=0.5)
        return jnp.sum(y["a"] * weights["a"]) + jnp.sum(y["b"][0] * weights["b"][0])

    found = jax.grad(loss)((tree["a"], tree["b"][0]))
    exact = [np.float64(g) for g in (weights["a"], weights["b"][0])]
    length = np.sqrt(sum(np.sum(g * g) for g in exact))
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b * min(1, 0.5 / length), rtol=1e-5)


def test_the_norm_is_that_of_the_whole_array():
    f = functools.partial(gradient.clip_gradient, norm=0.5)
    expected = G * 0.5 / jnp.linalg.norm(G)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x, g = jax.device_put((X, G), NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        _, ct = jax.jit(functools.partial(pulled, f))(x, g)
    np.testing.assert_allclose(ct, expected, rtol=1e-5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = functools.partial(f, axis_name="data")
    for run, axes in (
        (jax.shard_map, {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}),
        (jax.vmap, {"axis_name": "data"}),
    ):
        ct, each = jax.jit(
            run(lambda x, g: (pulled(whole, x, g)[1], pulled(f, x, g)[1]), **axes)
        )(X, G)
        np.testing.assert_allclose(ct, expected, rtol=1e-5)
        lengths = jnp.linalg.norm(G, axis=1, keepdims=True)
        np.testing.assert_allclose(each, G * 0.5 / lengths.clip(0.5), rtol=1e-5)


def test_clipping_has_no_forward_mode():
    for options in ({"value": 0.5}, {"norm": 0.5}):
        f = functools.partial(gradient.clip_gradient, **options)
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(f, (X,), (G,))
        # Reverse over reverse: the clipped gradient of x^2 moves where it is not.
        twice = jax.grad(lambda x, f=f: jax.grad(lambda x: jnp.sum(f(x) ** 2))(x).sum())
        assert np.isfinite(twice(X)).all()
    assert "no forward mode" in gradient.clip_gradient.__doc__


def test_extremes_of_a_clipped_norm():
    def clipped(g):
        return pulled(lambda x: gradient.clip_gradient(x, norm=1.0), X[0], g)[1]

    np.testing.assert_array_equal(clipped(jnp.zeros(2)), [0, 0])
    np.testing.assert_array_equal(clipped(jnp.array([np.nan, 1])), [np.nan, np.nan])
    np.testing.assert_array_equal(clipped(jnp.array([np.inf, 1])), [np.nan, 0])


# Errors


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: gradient.straight_through(X),
            TypeError,
            "got an array and no surrogate. Pass the array that is differentiated",
        ),
        (
            lambda: gradient.straight_through(X, jnp.sin),
            TypeError,
            "an array as value and a function as surrogate. Pass two arrays or two",
        ),
        (
            lambda: gradient.straight_through(jnp.round, X),
            TypeError,
            "a function as value and an array as surrogate",
        ),
        (
            lambda: gradient.straight_through(X, (X,)),
            TypeError,
            "value and surrogate of one structure, but got",
        ),
        (
            lambda: gradient.straight_through(X, X[0]),
            ValueError,
            r"of one shape, but got \(8, 2\) and \(2,\). Broadcast",
        ),
        (
            lambda: gradient.straight_through(X, X.astype(jnp.bfloat16)),
            TypeError,
            "of one dtype, but got float32 and bfloat16. Cast",
        ),
        (
            lambda: jax.grad(
                gradient.replace_gradient(jnp.hypot, lambda x, y: x), (0, 1)
            )(1.0, 2.0),
            TypeError,
            "must return 2 slopes, one for each argument, but it returned 1",
        ),
        (
            lambda: gradient.scale_gradient(X[0], X),
            ValueError,
            r"scale to broadcast to the array, but got shapes \(8, 2\) and \(2,\)",
        ),
        (
            lambda: gradient.stop_gradient_where(X > 0, X[0]),
            ValueError,
            r"mask to broadcast to the array, but got shapes \(8, 2\) and \(2,\)",
        ),
        (
            lambda: gradient.clip_gradient(X),
            TypeError,
            "expects value or norm, but got neither",
        ),
        (
            lambda: gradient.clip_gradient(X, value=1, norm=1),
            TypeError,
            "expects value or norm, but got both",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
