"""Gated units: one argument fixed, the other over all inputs of a dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors

EXACT = {"approximate": False}
# The function, the activation of the gate, its name in REFERENCES and the largest
# errors observed in float32, by order of the derivative.
UNITS = {
    "glu": (fs.glu, jax.nn.sigmoid, "sigmoid", (2.71, 4.03, 4.28)),
    "swiglu": (fs.swiglu, jax.nn.silu, "silu", (2.71, 4.03, 4.28)),
    "geglu": (fs.geglu, jax.nn.gelu, "gelu", (2.71, 4.03, 4.28)),
    "geglu_exact": (
        functools.partial(fs.geglu, **EXACT),
        functools.partial(jax.nn.gelu, **EXACT),
        "gelu(approximate=False)",
        (2.71, 4.03, 4.28),
    ),
    "reglu": (fs.reglu, jax.nn.relu, "relu", (0.5, 0.5, 0)),
}
UNIT = pytest.mark.parametrize("name", UNITS)
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
VALUES = (1.0, -3.75, 30976.0, -np.inf)  # the last stands for the largest number
GATES = (1.0, -3.75, 0.01171875, -12.0)
# Where each activation or its derivatives have roots, or cease to be numbers.
WINDOWS = ((-2.3994, -2.3993), (-1.2785, -1.2784), (-0.7525, -0.7524), (-104, -103.9))


@functools.cache
def computed(name):
    """All derivatives at once, to compile them once: of two arrays, by what they are.

    The names are those of the order by the gate; "by value" is by the value as well.
    """
    unit = UNITS[name][0]

    def reverse(f, x):
        y, pull_back = jax.vjp(f, x)
        return pull_back(jnp.ones_like(y))[0]

    def forward(f, x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    def derivatives(value, gate):
        def by_gate(mode, value, gate):
            return mode(lambda gate: unit(value, gate=gate), gate)

        def by_value(mode, value, gate):
            return mode(lambda value: unit(value, gate=gate), value)

        found = {"0": unit(value, gate=gate)}
        for key, mode in (("vjp", reverse), ("jvp", forward)):
            first = functools.partial(by_gate, mode, value)
            found[f"1 {key}"] = first(gate)
            found[f"2 {key}"] = mode(first, gate)
            linear = functools.partial(by_value, mode, value)
            found[f"0 by value, {key}"] = linear(gate)
            found[f"1 by value, {key}"] = mode(linear, gate)
            mixed = functools.partial(by_gate, mode, gate=gate)
            found[f"1 {key}, by value"] = mode(mixed, value)
        return found

    return jax.jit(derivatives)


@functools.cache
def factor(reference, order, gates):
    """The activation or a derivative, exactly, of numbers that come as bytes."""
    dtype = np.longdouble if jax.config.jax_enable_x64 else np.float64
    return REFERENCES[reference][order](np.frombuffer(gates, np.float64).astype(dtype))


def exact_product(value, gate, name, key):
    f = factor(UNITS[name][2], int(key[0]), np.float64(gate).tobytes())
    if "by value" in key:
        return f + np.zeros_like(value)
    zero = (name == "reglu") & (f == 0) & (gate != 0) & np.isinf(value)
    return np.where(zero, 0.0, value * f)


def assert_accurate(name, dtype, value, gate, keys=None):
    """One of the two is a number, the other, which is None, every number."""
    pair = [np.asarray(v, dtype) if v is not None else None for v in (value, gate)]
    if pair[0] is not None and np.isinf(pair[0]):
        pair[0] = np.asarray(jnp.finfo(dtype).min)
    every = pair.index(None)
    fixed = pair[1 - every]

    def arguments(x):
        both = [x, x]
        both[1 - every] = np.broadcast_to(fixed.astype(x.dtype), x.shape)
        return both

    options = {"stride": None}
    if dtype == "float32":
        options = {"stride": 40_009, "windows": WINDOWS if every else ()}
    elif dtype == "float64":
        options = {"stride": (1 << 64) // 50_001}
    small = (0.51,) * 3 if dtype != "float64" else (4, 8, 16)
    for key in keys or computed(name)(*[jnp.ones(2, dtype)] * 2):
        found = ulp_errors(
            lambda x, key=key: computed(name)(*map(jnp.asarray, arguments(x)))[key],
            lambda x, key=key: exact_product(*arguments(x), name, key),
            dtype,
            jit=False,
            **options,
        )
        bound = (UNITS[name][3] if dtype == "float32" else small)[int(key[0])]
        print(name, dtype, value, gate, key, found.maximum, found.worst_input)
        assert found.maximum <= bound + 0.3 * (dtype == "float32"), (key, found)


@UNIT
@DTYPES
def test_every_gate(dtype, name):
    for value in VALUES:
        # What is a derivative by the value does not depend on it.
        keys = None if value == 1 else ["0", "1 vjp", "1 jvp", "2 vjp", "2 jvp"]
        assert_accurate(name, dtype, value, None, keys)


@UNIT
@DTYPES
def test_every_value(dtype, name):
    for gate in GATES:
        assert_accurate(name, dtype, None, gate, ["0", "1 vjp", "0 by value, jvp"])
