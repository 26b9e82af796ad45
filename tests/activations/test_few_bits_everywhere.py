"""Derivatives of few bits under transformations, on meshes, and of a gated unit."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _few_bits import BITS, QUICK, expected, normal, quick, residuals, size, steps
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import few_bits
import flax_stable as fs
from flax_stable.testing import REFERENCES

FUNCTIONS = few_bits.FUNCTIONS


def transformed(f, x, g, t):
    """What must be g times the step function, or t times that, or zero."""
    y, pull_back = jax.vjp(f, x)
    _, push_forward = jax.linearize(f, x)

    def weighted(x):
        return (f(x) * g).sum()

    def scanned(x):
        def step(carry, row):
            row, weights = row
            return carry + (f(row) * weights).sum(), None

        return jax.lax.scan(step, 0.0, (x, g))[0]

    pulled = {
        "vjp": pull_back(g)[0],
        "vmap of cotangents": jax.vmap(pull_back)(jnp.stack([g, g]))[0][1],
        "rows": jax.grad(lambda x: (jax.vmap(f)(x) * g).sum())(x),
        "elements": jax.grad(lambda x: (jax.vmap(jax.vmap(f))(x) * g).sum())(x),
        "last axis": jax.grad(lambda x: (jax.vmap(f, 1, 1)(x) * g).sum())(x),
        "scan": jax.grad(scanned)(x),
        "remat": jax.grad(jax.checkpoint(weighted))(x),
        "cond": jax.grad(lambda x: jax.lax.cond(x.sum() < 1e9, f, jnp.sin, x).sum())(x)
        * g,
    }
    pushed = {
        "jvp": jax.jvp(f, (x,), (t,))[1],
        "linearize": push_forward(t),
        "vmap of tangents": jax.vmap(push_forward)(jnp.stack([t, t]))[1],
    }
    row = {"jacfwd": jax.jacfwd(f)(x[0]), "jacrev": jax.jacrev(f)(x[0])}
    second = {
        "forward over reverse": jax.jvp(jax.grad(weighted), (x,), (t,))[1],
        "reverse over reverse": jax.grad(lambda x: (jax.grad(weighted)(x) * t).sum())(
            x
        ),
        "of scan": jax.jvp(jax.grad(scanned), (x,), (t,))[1],
    }
    return y, pulled, pushed, row, second


def test_transformations():
    name, bits = "gelu", 3
    f = functools.partial(FUNCTIONS[name], bits=bits)
    x, g, t = (normal(4, 10, seed=seed) for seed in range(3))
    slope = expected(name, bits, np.float64(x))
    program = functools.partial(transformed, f)
    y, pulled, pushed, row, second = quick(program, x, g, t)
    np.testing.assert_allclose(y, REFERENCES[name][0](np.float64(x)), rtol=1e-6)
    for results, reference in (
        (pulled, g * slope),
        (pushed, t * slope),
        (row, np.diag(slope[0])),
        (second, np.zeros_like(x)),
    ):
        for transformation, found in results.items():
            np.testing.assert_allclose(
                found, reference, rtol=1e-6, err_msg=transformation
            )


def test_eager_derivatives_agree_with_compiled_ones():
    x, f = normal(3, 9), functools.partial(fs.mish, bits=3)
    reference = expected("mish", 3, np.float64(x))
    np.testing.assert_allclose(jax.vjp(f, x)[1](x)[0], x * reference, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(f, (x,), (x,))[1], x * reference, rtol=1e-6)


def test_dtypes(x64):
    x = np.array([[-2.5, -0.75, 0.25, 0.75, 1.5, 3.5]])
    slope = expected("gelu", 3, x)
    dtypes = ("float8_e4m3fn", "float16", "bfloat16", "float32", "float64")
    arrays = [jnp.asarray(x, dtype) for dtype in dtypes]

    def gradients(arrays):
        f = functools.partial(fs.gelu, bits=3)
        return [jax.vjp(f, x)[1](jnp.ones_like(x))[0] for x in arrays]

    for dtype, found in zip(dtypes, quick(gradients, arrays), strict=True):
        assert found.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.float64(found), slope, rtol=0.51 * eps, atol=1e-3)
    assert jax.grad(functools.partial(fs.gelu, bits=1))(1.0).weak_type
    assert fs.gelu(np.arange(3), bits=3).dtype == np.float64


def test_what_is_not_a_number():
    lowest, *_, highest = steps("silu", 2).levels[0]
    x = jnp.asarray([-np.inf, np.inf, np.nan])
    (found,) = jax.vjp(functools.partial(fs.silu, bits=2), x)[1](jnp.ones(3))
    np.testing.assert_allclose(found, [lowest, highest, lowest], rtol=1e-6)


@pytest.mark.parametrize("where", ["Auto", "Explicit", "shard_map"])
def test_meshes_without_communication(where):
    """Shards of 8 elements, or 3 where the mesh tells how many there are."""
    kind = AxisType.Explicit if where == "Explicit" else AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    last = 16 if where == "Auto" else 6
    x, g, gate = (normal(8, last, seed=seed) for seed in range(3))

    def derivatives(x, g, gate):
        found = {}
        for name, bits in {"gelu": 3, "tanh": 4}.items():
            f = functools.partial(FUNCTIONS[name], bits=bits)
            y, pull_back = jax.vjp(f, x)
            found[name] = y, pull_back(g)[0], jax.jvp(f, (x,), (g,))[1]
        unit = functools.partial(fs.swiglu, bits=3)
        y, pull_back = jax.vjp(lambda x, gate: unit(x, gate=gate), x, gate)
        return found | {"swiglu": (y, *pull_back(g))}

    reference = quick(derivatives, x, g, gate)
    spec = P("data", "model")
    program = derivatives
    if where == "shard_map":
        program = jax.shard_map(derivatives, mesh=mesh, in_specs=spec, out_specs=spec)
    with jax.set_mesh(mesh):
        args = jax.device_put((x, g, gate), NamedSharding(mesh, spec))
        compiled = jax.jit(program, compiler_options=QUICK).lower(*args).compile()
        found = compiled(*args)
    collective = "all-reduce|all-gather|all-to-all|collective|reduce-scatter"
    assert not re.search(collective, compiled.as_text())
    for a, b in zip(*map(jax.tree.leaves, (found, reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)
        assert a.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)


# The gated unit


def gated(value, gate, bits):
    return fs.swiglu(value, gate=gate, bits=bits)


def test_derivatives_of_swiglu():
    value, gate, g = (normal(4, 10, seed=seed) for seed in range(3))
    value = value.at[0].set(0).at[1].set(1e-39)
    found = steps("silu", 3)
    index = np.searchsorted(found.ends, np.float64(gate))
    slope = found.levels[0][index]
    silu = REFERENCES["silu"][0](np.float64(gate))
    assert (gated(value, gate, 3) == gated(value, gate, None)).all()

    def derivatives(value, gate):
        f = functools.partial(gated, bits=3)
        _, pull_back = jax.vjp(f, value, gate)
        pushed = jax.jvp(f, (value, gate), (g, g))[1]
        hessian = jax.hessian(f, (0, 1))(value[2, 0], gate[2, 0])
        return pull_back(g), pushed, hessian

    (by_value, by_gate), pushed, hessian = quick(derivatives, value, gate)
    np.testing.assert_allclose(by_value[2:], (g * silu)[2:], rtol=1e-6)
    # Where the output says nothing of the factor: its mean in the interval.
    x = np.linspace(-6, 6, 60_001)
    weights = np.exp(-x * x / 2)
    which = np.searchsorted(found.ends, x)
    means = np.bincount(which, weights * REFERENCES["silu"][0](x))
    means /= np.bincount(which, weights)
    np.testing.assert_allclose(by_value[:2], (g * means[index])[:2], atol=5e-3)
    np.testing.assert_allclose(by_gate, g * value * slope, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(pushed, by_value + by_gate, rtol=1e-5, atol=1e-6)
    mixed = slope[2, 0]
    np.testing.assert_allclose(hessian, [[0, mixed], [mixed, 0]], rtol=1e-5, atol=1e-6)


def test_bytes_of_swiglu():
    value, gate = jnp.ones((2, 8, 64))
    for bits in BITS:
        kept = residuals(functools.partial(gated, bits=bits), value, gate)
        codes = [a for a in kept if a.dtype == np.uint8]
        assert size(codes) == gate.size * bits / 8
        # The value and the output, of which a matmul keeps one anyway.
        assert size(kept) == 2 * value.nbytes + size(codes)

    def layers(bits):
        def layer(x, kernels):
            up, gate, down = kernels
            return x + gated(x @ up, x @ gate, bits) @ down, None

        return lambda x, kernels: jax.lax.scan(layer, x, kernels)[0]

    x, kernels = jnp.ones((8, 64)), [jnp.ones((3, 64, 64))] * 3
    exact, few = (size(residuals(layers(bits), x, kernels)) for bits in (None, 3))
    assert exact - few == 3 * x.nbytes * (1 - 3 / 32)


def test_a_mesh_may_repeat_the_value():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    value, gate = normal(1, 6), normal(8, 6, seed=1)

    def gradient(value, gate):
        return jax.grad(lambda value: gated(value, gate, 3).sum())(value)

    specs = P(), P("data")
    found = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs[0])
    reference = jax.nn.silu(gate).sum(0, keepdims=True)
    np.testing.assert_allclose(jax.jit(found)(value, gate), reference, rtol=1e-5)
