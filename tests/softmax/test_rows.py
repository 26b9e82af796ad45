"""Errors of rows, in every order, and of every transformation of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _row_judge import EXACT, derivatives, row_errors
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

# The largest errors observed in float32, of value and two derivatives.
OBSERVED = {
    "softmax": (3.6, 14.2, 10.9),
    "log_softmax": (1.4, 5.9, 16.6),
    "logsumexp": (1.3, 3.1, 15.6),
    "logmeanexp": (1.0, 3.1, 15.6),
    "standardize": (2.7, 2.6, 6.5),
}
# Sizes, scales and offsets of rows.
ROWS = [
    (1024, 1, 0),
    (1024, 10, 0),
    (1024, 1, 1000),
    (33, 1, 0),
    (33, 10, 0),
]


def activation(name, axis=-1, module=fs):
    keep = {"keepdims": True} if "exp" in name else {}
    return lambda x: getattr(module, name)(x, axis=axis, **keep)


def arguments(name, n, scale, offset, dtype, rows=None):
    rng = np.random.default_rng(n)
    rows = rows or 2**16 // n
    x = rng.normal(size=(rows, n)) * scale + offset
    g = rng.normal(size=(rows, 1 if "exp" in name else n))
    h = rng.normal(size=(rows, n))
    return [jnp.asarray(v).astype(dtype) for v in (x, g, h)]


def together(functions):
    """One program of them all: to compile takes longer than to run."""
    functions = list(functions)
    return jax.jit(lambda *args: [f(*args) for f in functions])


def exact(name, args):
    return EXACT[name](*(np.asarray(v, np.float64) for v in args))


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", EXACT)
def test_rows(name, dtype):
    # 16 bits have no room for an offset of 1000.
    rows = [row for row in ROWS if dtype == "float32" or not row[2]]
    inputs = [arguments(name, *row, dtype) for row in rows]
    truths = [exact(name, args) for args in inputs]
    keys = [(0, "vjp"), (1, "vjp"), (2, "vjp"), (2, "jvp")]
    program = together(derivatives(activation(name), *key) for key in keys)
    for row, args, truth in zip(rows, inputs, truths, strict=True):
        for (order, mode), found in zip(keys, program(*args), strict=True):
            bound = OBSERVED[name][order] + 0.5 if dtype == "float32" else 0.51
            assert row_errors(found, truth[order]).max() <= bound, (row, order, mode)


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", [name for name in EXACT if name != "standardize"])
def test_no_less_accurate_than_jax_nn(name, dtype):
    # Random and peaked rows, and such in which a gradient is made of tiny shares alone.
    # Where those are no normal numbers units are those of what is kept.
    least = np.finfo(np.float32).tiny / np.finfo(np.float32).eps
    keys = [(order, mode) for order in range(3) for mode in ("vjp", "jvp")]
    ours, theirs = (
        together(derivatives(activation(name, -1, module), *key) for key in keys)
        for module in (fs, jax.nn)
    )
    for row in [(1024, 1, 0), (33, 10, 0), (33, 30, 0)]:
        args = arguments(name, *row, dtype, rows=64)
        truth = exact(name, args)
        for (order, _), *found in zip(keys, ours(*args), theirs(*args), strict=True):
            error, bound = (row_errors(y, truth[order], least).max() for y in found)
            # Sums in another order are off by as much.
            assert error <= bound + (1.5 if dtype == "float32" else 0), (row, order)


@pytest.mark.optimized
@pytest.mark.parametrize("name", EXACT)
def test_columns(name):
    args = arguments(name, 1024, 1, 0, "float32")
    truth = exact(name, args)
    args = [v.T for v in args]
    program = together(derivatives(activation(name, 0), order) for order in range(3))
    for order, found in enumerate(program(*args)):
        worst = row_errors(found.T, truth[order]).max()
        assert worst <= OBSERVED[name][order] + 1, order


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_confident_row_keeps_its_gradient(name):
    x = np.float32([18, 0, -1])
    p = np.exp(np.float64(x) - 18)
    p /= p.sum()
    found = jax.jacobian(activation(name))(x)
    if name == "softmax":
        others = p[1:].sum()
        np.testing.assert_allclose(found[0, 0], others, rtol=1e-5)
        np.testing.assert_allclose(found[1, 1], p[1], rtol=1e-5)
    np.testing.assert_allclose(found[0, 1], -p[1] * p[0] ** ("l" not in name), 1e-5)


@pytest.mark.parametrize("n", [2, 3, 256, 4096])
@pytest.mark.parametrize("name", [name for name in EXACT if name != "standardize"])
@pytest.mark.parametrize("low", [-16.9, -30])
def test_a_confident_row_keeps_what_is_small_in_its_sum(name, n, low):
    x = np.full((16, n), low, np.float32)
    x[np.arange(16), np.random.default_rng(n).integers(0, n, 16)] = 0
    truth = EXACT[name](*np.float64([x, x, x]))[0]
    found = jax.jit(activation(name))(x)
    assert row_errors(found, truth).max() <= OBSERVED[name][0] + 0.5


def transforms(name):
    f = activation(name)
    return [
        derivatives(f, 1),
        lambda x, g, h: jax.jvp(f, (x,), (h,))[1],
        derivatives(f, 2),
    ]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", EXACT)
def test_meshes_and_shard_map(name, axis_type):
    """What shard_map runs is the same on either kind of mesh: it is run on one."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    args = arguments(name, 16, 1, 0, "float32", rows=8)
    sharded = jax.device_put(args, NamedSharding(mesh, P("data")))
    functions = transforms(name)
    specs = {"in_specs": (P("data"),) * 3, "out_specs": P("data")}
    expected = together(functions)(*args)
    if axis_type == AxisType.Auto:
        functions += [jax.shard_map(f, mesh=mesh, **specs) for f in functions]
        expected += expected
    with jax.set_mesh(mesh):
        for a, b in zip(together(functions)(*sharded), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_vmap(name):
    args = arguments(name, 16, 1, 0, "float32", rows=8)
    functions = transforms(name)
    found = together(map(jax.vmap, functions))(*args)
    for a, b in zip(found, together(functions)(*args), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
