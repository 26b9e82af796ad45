"""Gated units: one argument fixed, the other over all inputs of a dtype."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors

EXACT = {"approximate": False}
# The function, the activation of jax.nn, its name in REFERENCES, and the errors in
# float32 below which docstrings say that value and derivatives stay.
UNITS = {
    "glu": (fs.glu, jax.nn.sigmoid, "sigmoid", (2.8, 4.2, 4.4)),
    "swiglu": (fs.swiglu, jax.nn.silu, "silu", (2.4, 4.1, 4.3)),
    "geglu": (fs.geglu, jax.nn.gelu, "gelu", (2.8, 4.3, 5.8)),
    "geglu_exact": (
        functools.partial(fs.geglu, **EXACT),
        functools.partial(jax.nn.gelu, **EXACT),
        "gelu(approximate=False)",
        (2.8, 4.3, 5.8),
    ),
    "reglu": (fs.reglu, jax.nn.relu, "relu", (0.501, 0, 0)),
}
UNIT = pytest.mark.parametrize("name", UNITS)
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
AXES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])

VALUES = (1.0, -3.75, 30976.0, -np.inf)  # the last stands for the largest number
GATES = (1.0, -3.75, 0.01171875, -12.0)
# Roots, and where exponentials cease to be numbers but products do not.
WINDOWS = ((-2.3994, -2.3993), (-1.2785, -1.2784), (-0.7525, -0.7524), (-104, -103.99))
# By the gate once or twice, in either mode; by the value; by one after the other.
BY_GATE = ("value", "1 vjp", "1 jvp", "2 vjp", "2 jvp")
BY_VALUE = ("0 vjp", "0 jvp", "1 vjp 0", "1 jvp 0", "0 vjp 1", "0 jvp 1")


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def reverse(f, x):
    y, pull_back = jax.vjp(f, x)
    return pull_back(jnp.ones_like(y))[0]


def forward(f, x):
    return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


@functools.cache
def derivatives(name):
    """All of a unit, computed by one program."""
    unit = UNITS[name][0]

    def by_gate(mode, value, gate):
        return mode(lambda gate: unit(value, gate=gate), gate)

    def by_value(mode, gate, value):
        return mode(lambda value: unit(value, gate=gate), value)

    @jax.jit
    def compute(value, gate):
        found = {"value": unit(value, gate=gate)}
        for key, mode in (("vjp", reverse), ("jvp", forward)):
            slope = functools.partial(by_gate, mode, value)
            factor = functools.partial(by_value, mode, value=value)
            found[f"1 {key}"] = slope(gate)
            found[f"2 {key}"] = mode(slope, gate)
            found[f"0 {key}"] = factor(gate)
            found[f"0 {key} 1"] = mode(factor, gate)
            slope_of_value = functools.partial(by_gate, mode, gate=gate)
            found[f"1 {key} 0"] = mode(slope_of_value, value)
        return found

    return compute


@functools.cache
def factor(reference, order, gates):
    """What multiplies the value, of gates that come as bytes, to be computed once."""
    wide = np.longdouble if jax.config.jax_enable_x64 else np.float64
    return REFERENCES[reference][order](np.frombuffer(gates, np.float64).astype(wide))


def exact(name, key, value, gate):
    order = 0 if key == "value" else sum(map(int, re.findall(r"[012]", key)))
    f = factor(UNITS[name][2], order, np.float64(gate).tobytes())
    if key in BY_VALUE:
        return f + np.zeros_like(value, f.dtype)
    # A product with the line that relu is does not depend on how large the value is.
    zero = (name == "reglu") & (f == 0) & np.isinf(value)
    return np.where(zero, 0, value * f)


def assert_accurate(name, dtype, pair, keys, **options):
    """Of the value and the gate one is a number, the other None: every number."""
    every = pair.index(None)

    def full(x):
        number = jnp.finfo(dtype).min if np.isinf(pair[1 - every]) else pair[1 - every]
        both = [x, x]
        both[1 - every] = np.full_like(x, number)
        return both

    for key in keys:
        order = max(map(int, re.findall(r"[12]", key)), default=0)
        found = ulp_errors(
            lambda x, key=key: derivatives(name)(*map(jnp.asarray, full(x)))[key],
            lambda x, key=key: exact(name, key, *full(x)),
            dtype,
            jit=False,
            **options,
        )
        bounds = {"float32": UNITS[name][3], "float64": (4, 8, 16)}
        bound = bounds[dtype][order] if dtype in bounds else 0.51
        assert found.maximum <= bound, (pair, key, found)


@pytest.mark.optimized
@UNIT
@DTYPES
def test_every_gate(dtype, name):
    options = {"stride": 40_009, "windows": WINDOWS} if dtype == "float32" else {}
    for value in VALUES:
        assert_accurate(name, dtype, (value, None), BY_GATE, **options)
    assert_accurate(name, dtype, (1.0, None), BY_VALUE, **options)


@pytest.mark.optimized
@UNIT
@DTYPES
def test_every_value(dtype, name):
    options = {"stride": 40_009} if dtype == "float32" else {}
    for gate in GATES:
        keys = ("value", "1 vjp", "0 vjp", "0 jvp 1")
        assert_accurate(name, dtype, (None, gate), keys, **options)


@pytest.mark.parametrize("name", ["glu", "swiglu", "geglu"])
def test_docstrings_state_the_bounds(name):
    value, first, second = UNITS[name][3]
    stated = f"errors observed stay below {value}, {first} and {second} ULP"
    assert stated in " ".join(UNITS[name][0].__doc__.split())


@pytest.mark.optimized
@UNIT
def test_float64(name, x64):
    inputs = np.concatenate([np.linspace(-60, 60, 4001), np.linspace(-1480, 740, 4001)])
    for value in VALUES:
        keys = ("value", "1 vjp", "2 jvp")
        assert_accurate(name, "float64", (value, None), keys, inputs=inputs)


MARKS = {"inf": "+", "-inf": "-", "nan": "n", "0.0": "0", "-0.0": "0"}
AT_INFINITY = np.float32([-np.inf, -3e38, -200, -2, 0, 1, 200, 3e38, np.inf])


@pytest.mark.parametrize(
    ("name", "signs"),
    [
        ("glu", ("n++++++++", "n+++++++n", "n+++n---n")),
        ("swiglu", ("n---n++++", "n---+++++", "n--+++--n")),
        ("geglu", ("n---n++++", "n---+++++", "n---++--n")),
        ("geglu_exact", ("n---n++++", "n---+++++", "n---++--n")),
        ("reglu", ("0000n++++", "0000n++++", "0000n0000")),
    ],
)
def test_an_infinite_value(name, signs):
    """It stays that unless the factor is zero: then 0 if that is flat there, or NaN."""
    # In the shape of all inputs there is a program for it.
    gates = jnp.asarray(np.resize(AT_INFINITY, 1 << 16), jnp.bfloat16)
    found = derivatives(name)(jnp.full_like(gates, jnp.inf), gates)
    for key, expected in zip(("value", "1 vjp", "2 jvp"), signs, strict=True):
        results = np.float32(found[key][: AT_INFINITY.size])
        assert "".join(MARKS[str(y)] for y in results) == expected, key


@UNIT
def test_what_is_kept(name):
    unit = UNITS[name][0]
    x = jnp.ones((4, 6), jnp.bfloat16)
    half = x[:, :3]

    def residuals(f, *args):
        return sum(a.nbytes for a in jax.tree.leaves(jax.vjp(f, *args)[1]))

    assert residuals(unit, x) == x.nbytes
    assert residuals(lambda value, gate: unit(value, gate=gate), half, half) == x.nbytes


@UNIT
def test_halves_are_a_value_and_a_gate(name):
    """As in jax.nn.glu; and what is done to a batch is done to each of it."""
    unit, activation, *_ = UNITS[name]
    apart = jax.vmap(jax.vmap(lambda value, gate: unit(value, gate=gate)))

    def split(x, f):
        return f(*jnp.split(x, 2, axis=0))

    @jax.jit
    def compute(x):
        functions = (
            functools.partial(unit, axis=0),
            functools.partial(split, f=apart),
            functools.partial(split, f=lambda value, gate: value * activation(gate)),
        )
        pairs = [jax.vjp(f, x) for f in functions]
        return [(y, *pull_back(jnp.sin(y))) for y, pull_back in pairs]

    found, of_each, peer = compute(normal(4, 6))
    jax.tree.map(np.testing.assert_array_equal, found, of_each)
    for a, b in zip(found, peer, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@UNIT
def test_jacobians(name):
    unit = UNITS[name][0]
    x = normal(6)

    @jax.jit
    def compute(x):
        reverse, forward = (jac(unit)(x) for jac in (jax.jacrev, jax.jacfwd))
        hessians = [
            outer(inner(lambda x: unit(x).sum()))(x)
            for outer, inner in [(jax.jacrev, jax.jacfwd), (jax.jacfwd, jax.jacrev)]
        ]
        return [reverse, forward, *hessians]

    reverse, forward, hessian, other = compute(x)
    np.testing.assert_allclose(forward, reverse, rtol=1e-6)
    np.testing.assert_allclose(other, hessian, rtol=1e-6)


@AXES
def test_a_mesh_adds_no_collective(axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    arrays = normal(8, 6), normal(8, 6, seed=1)
    sharded = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))

    def loss(value, gate):
        units = [unit for unit, *_ in UNITS.values()]
        apart = sum((unit(value, gate=gate) for unit in units), jnp.zeros_like(value))
        return apart.sum() + fs.swiglu(value).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    with jax.set_mesh(mesh):
        for found, expected in zip(gradient(*sharded), gradient(*arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        text = gradient.lower(*sharded).compile().as_text()
    assert not re.search("all-reduce|all-gather|all-to-all", text)


def test_a_mesh_may_repeat_the_value():
    """Then the derivative by it is summed over devices, as that of a product is."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    value, gate = normal(1, 6), normal(8, 6, seed=1)

    def gradient(value, gate):
        return jax.grad(lambda value: fs.swiglu(value, gate=gate).sum())(value)

    specs = PartitionSpec(), PartitionSpec("data")
    found = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs[0])
    expected = jax.nn.silu(gate).sum(0, keepdims=True)
    np.testing.assert_allclose(jax.jit(found)(value, gate), expected, rtol=1e-5)


def test_dtypes():
    one, two = jnp.bfloat16(1), jnp.float32(2)
    with pytest.raises(ValueError, match="no available implicit"):
        fs.swiglu(one, gate=two)
    with jax.numpy_dtype_promotion("standard"):
        assert fs.swiglu(one, gate=two).dtype == np.float32
        slopes = jax.grad(lambda a, b: fs.swiglu(a, gate=b), (0, 1))(one, two)
        assert [slope.dtype for slope in slopes] == [one.dtype, two.dtype]
    assert fs.reglu(one, gate=2.0).dtype == fs.reglu(2.0, gate=one).dtype == one.dtype
    assert fs.geglu(1, gate=2.0).weak_type and not fs.geglu(one, gate=2.0).weak_type
    assert fs.glu(np.arange(4)).dtype == np.float32


@pytest.mark.parametrize("name", ["glu", "swiglu", "geglu", "reglu"])
def test_errors(name):
    unit, x = getattr(fs, name), np.ones((2, 3), np.float32)
    for options, error, message in [
        ({"axis": 2}, ValueError, r"along axis 2, but .*\(2, 3\). Name one of its 2"),
        ({}, ValueError, r"along axis -1, which must have an even size, .*\(2, 3\)"),
        (
            {"gate": np.ones(3, np.float32)},
            ValueError,
            r"the same shape, but got shapes x \(2, 3\), gate \(3,\). Broadcast one",
        ),
        ({"gate": x * 1j}, TypeError, "but gate has dtype complex64"),
    ]:
        with pytest.raises(error, match=f"^{name} .*{message}"):
            unit(x, **options)
