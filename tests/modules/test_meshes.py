"""On a mesh a model moves what the same of Flax and `jax.nn` moves, and no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import normal
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx
from flax_stable.testing import REFERENCES, collectives
from flax_stable.testing.references import find

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
MESHES = pytest.mark.parametrize(
    "shape", [(2, 1, 1), (1, 4, 1), (1, 1, 8), (2, 2, 2)], ids=str
)
AXIS_TYPES = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name
)
QUICK = {"xla_backend_optimization_level": 0}
WIDTH = 16


def make_mesh(shape, axis_type):
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, AXES, (axis_type,) * 3, devices=devices)


def spec_of(path, fsdp="fsdp"):
    """Kernels are split by columns on the way up, by rows on the way down."""
    names = [key.key for key in path]
    down = any(name.endswith("down") for name in names)
    if names[-1] == "bias":
        return P() if down else P("tensor")
    return P("tensor", fsdp) if down else P(fsdp, "tensor")


def gathered(params):
    """Parameters whole along fsdp, to compute with."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return jax.tree_util.tree_map_with_path(
        lambda path, p: move(p, spec_of(path, fsdp=None)), params
    )


def gradient(apply, mesh, params, x):
    """The gradient by all parameters, which lie on the mesh as it does, lowered."""

    def loss(params, x):
        return sum((y**2).sum() for y in jax.tree.leaves(apply(gathered(params), x)))

    def shape(p, spec):
        return jax.ShapeDtypeStruct(
            p.shape, p.dtype, sharding=NamedSharding(mesh, spec)
        )

    params = jax.tree_util.tree_map_with_path(
        lambda path, p: shape(p, spec_of(path)), params
    )
    step = jax.jit(
        jax.grad(loss),
        out_shardings=jax.tree.map(lambda p: p.sharding, params),
        compiler_options=QUICK,
    )
    return step.lower(params, shape(x, P(BATCH, None)))


# Functions


def summed(*args, **kwargs):
    """A product over what tensor may split; on Explicit axes it has to say so."""
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        kwargs["out_sharding"] = P(BATCH, None)
    return jax.lax.dot_general(*args, **kwargs)


class Between(nn.Module):
    """Functions of two arrays, each of them between the same dense layers."""

    functions: tuple

    @nn.compact
    def __call__(self, x):
        value, gate = (nn.Dense(WIDTH, name=name)(x) for name in ("up", "gate"))
        down = nn.Dense(8, dot_general=summed, name="down")
        # By a factor apart, lest two that are alike become one.
        return [
            down(f((1 + i / 64) * value, gate)) for i, f in enumerate(self.functions)
        ]


def of_value(f):
    return lambda value, gate: f(value)


def of_both(f):
    return lambda value, gate: f(value, gate=gate)


def less(f):
    return lambda x, _: x - f(x, -1, keepdims=True)


def stock_gate(activation):
    return lambda value, gate: value * activation(gate)


# Each function, and what stands for it in the plain model: a function of `jax.nn`, or
# another one that needs nothing but an element, or a row, to compute one.
ELEMENTWISE = {
    name: (of_value(find(fs, name)), of_value(getattr(jax.nn, name, jnp.tanh)))
    for name in REFERENCES
} | {
    "glu": (of_both(fs.glu), stock_gate(jax.nn.sigmoid)),
    "swiglu": (of_both(fs.swiglu), stock_gate(jax.nn.silu)),
    "geglu": (of_both(fs.geglu), stock_gate(jax.nn.gelu)),
    "reglu": (of_both(fs.reglu), stock_gate(jax.nn.relu)),
}
ROWS = {
    "softmax": (of_value(fs.softmax), of_value(jax.nn.softmax)),
    "log_softmax": (of_value(fs.log_softmax), of_value(jax.nn.log_softmax)),
    "standardize": (of_value(fs.standardize), of_value(jax.nn.standardize)),
    "logsumexp": (less(fs.logsumexp), less(jax.nn.logsumexp)),
    "logmeanexp": (less(fs.logmeanexp), less(jax.nn.logmeanexp)),
}


def moved(functions, mesh):
    model, x = Between(tuple(functions)), jnp.ones((8, 8))
    with jax.set_mesh(mesh):
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        lowered = gradient(lambda p, x: model.apply({"params": p}, x), mesh, params, x)
    return collectives(lowered.compile())


def assert_moves_no_more(table, mesh):
    ours, plain = zip(*table.values(), strict=True)
    expected = moved(plain, mesh)
    assert expected != {}
    if moved(ours, mesh) != expected:
        alone = {
            name: (moved([f], mesh), moved([peer], mesh))
            for name, (f, peer) in table.items()
        }
        raise AssertionError({k: v for k, v in alone.items() if v[0] != v[1]} or alone)


@AXIS_TYPES
def test_functions_move_what_those_of_jax_do(axis_type):
    """On a mesh that is split in every way: all meshes else are less."""
    assert_moves_no_more(ELEMENTWISE, make_mesh((2, 2, 2), axis_type))


@AXIS_TYPES
def test_rows_that_are_whole_move_what_those_of_jax_do(axis_type):
    assert_moves_no_more(ROWS, make_mesh((2, 4, 1), axis_type))


def test_what_moves_more_is_named():
    """By a sum over the batch, which one function of two takes."""
    table = {"tanh": (of_value(jnp.tanh),) * 2}
    table["centered"] = (of_value(lambda x: x - x.mean(0)), of_value(jnp.tanh))
    with pytest.raises(AssertionError, match="centered") as e:
        assert_moves_no_more(table, make_mesh((2, 1, 1), AxisType.Auto))
    assert "'tanh'" not in str(e.value)


# Layers and blocks, each with its default activation

LINEN = {
    "positive_up": fs.linen.StableSoftplusDense(WIDTH),
    "positive_down": fs.linen.StableSoftplusDense(8),
    "mlp": fs.linen.MLP(WIDTH),
    "gated": fs.linen.GatedMLP(WIDTH, use_bias=True),
}


def linen(params, x):
    for name, layer in LINEN.items():
        x = layer.apply({"params": params[name]}, x)
    return x


def nnx_layers():
    rngs = nnx.Rngs(0)
    layers = {
        "positive_up": fs.nnx.StableSoftplusLinear(8, WIDTH, rngs=rngs),
        "positive_down": fs.nnx.StableSoftplusLinear(WIDTH, 8, rngs=rngs),
        "mlp": fs.nnx.MLP(8, WIDTH, rngs=rngs),
        "gated": fs.nnx.GatedMLP(8, WIDTH, use_bias=True, rngs=rngs),
    }
    return {name: nnx.split(layer)[0] for name, layer in layers.items()}


NNX = nnx.eval_shape(nnx_layers)


def in_nnx(params, x):
    for name in LINEN:
        x = nnx.merge(NNX[name], params[name])(x)
    return x


def plain(params, x):
    """The same of Flax's dense layers and functions of `jax.nn`."""

    def dense(layer, x, down=False):
        kernel = layer.get("kernel", jax.nn.softplus(layer.get("raw_kernel", 0.0)))
        product = summed if down else jax.lax.dot_general
        module = nn.Dense(kernel.shape[1], dot_general=product)
        return module.apply({"params": {**layer, "kernel": kernel}}, x)

    mlp, gated = params["mlp"], params["gated"]
    x = dense(params["positive_up"], x)
    x = dense(params["positive_down"], x, down=True)
    x = dense(mlp["down"], jax.nn.gelu(dense(mlp["up"], x)), down=True)
    hidden = dense(gated["up"], x) * jax.nn.silu(dense(gated["gate"], x))
    return dense(gated["down"], hidden, down=True)


@pytest.fixture(scope="module")
def params():
    rng, width = np.random.default_rng(0), 8
    shapes = {}
    for name, layer in LINEN.items():
        example = jax.ShapeDtypeStruct((1, width), jnp.float32)
        variables = jax.eval_shape(layer.init, jax.random.key(0), example)
        shapes[name] = variables["params"]
        width = WIDTH if name == "positive_up" else 8
    return jax.tree.map(lambda p: rng.normal(0, 0.5, p.shape).astype(p.dtype), shapes)


@AXIS_TYPES
@MESHES
def test_layers_and_blocks_move_what_those_of_flax_do(params, shape, axis_type):
    mesh, x = make_mesh(shape, axis_type), np.asarray(normal(8, 8))
    with jax.set_mesh(mesh):
        peer, ours, nnx_ours = (
            gradient(apply, mesh, params, x) for apply in (plain, linen, in_nnx)
        )
        # One program is both.
        assert nnx_ours.as_text() == ours.as_text()
        peer, ours = peer.compile(), ours.compile()
        assert collectives(ours) == collectives(peer) != {}
        found, expected = (
            step(*jax.device_put((params, x), step.input_shardings[0]))
            for step in (ours, peer)
        )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
