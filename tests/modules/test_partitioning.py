"""Layers on meshes, by the metadata of their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY, assert_same, linen_dense, nnx_linear, normal
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

AXIS_TYPES = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name
)


def make_mesh(axis_type):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)


def assert_spec(array, mesh, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    assert array.sharding.is_equivalent_to(sharding, array.ndim), array.sharding


def grads_on(mesh, loss, params, x):
    """Loss and gradients of a batch over the data axis, taken under jit."""
    x = jax.device_put(x, NamedSharding(mesh, P("data", None)))
    return jax.jit(jax.value_and_grad(loss))(params, x)


def assert_close(sharded, single):
    """The order of a reduction may change with the mesh, nothing else."""
    for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@AXIS_TYPES
@pytest.mark.parametrize("how", ["kernel_metadata", "with_partitioning"])
def test_nnx_partitioning(axis_type, how):
    metadata = {"out_sharding": (None, "model")}
    options = (
        {"kernel_metadata": metadata, "bias_metadata": {"out_sharding": ("model",)}}
        if how == "kernel_metadata"
        else {
            "kernel_init": nnx.with_partitioning(
                fs.near_permutation(), (None, "model")
            ),
            "bias_init": nnx.with_partitioning(nnx.initializers.zeros, ("model",)),
        }
    )
    x = normal(8, 4)

    def loss(params, x):
        return (nnx.merge(graph, params)(x) ** 2).sum()

    graph, state = nnx.split(nnx_linear(4, 6))
    single = jax.value_and_grad(loss)(state, x)
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        layer = nnx_linear(4, 6, **options)
        assert layer.raw_kernel.get_metadata("out_sharding") == (None, "model")
        assert_spec(layer.raw_kernel[...], mesh, None, "model")
        assert_spec(layer.kernel, mesh, None, "model")
        assert_spec(layer.bias[...], mesh, "model")
        # What random bits are drawn may depend on the mesh: take the same kernel.
        layer.raw_kernel[...] = jax.device_put(
            state["raw_kernel"][...], layer.raw_kernel[...].sharding
        )
        graph, state = nnx.split(layer)
        value, grads = grads_on(mesh, loss, state, x)
        assert_spec(grads["raw_kernel"][...], mesh, None, "model")
    assert_close((value, grads), single)


@AXIS_TYPES
def test_nnx_out_sharding_of_a_call(axis_type):
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        layer = nnx_linear(4, 6)
        x = jax.device_put(normal(8, 4), NamedSharding(mesh, P("data", None)))
        y = layer(x)
        assert_spec(y, mesh, "data", None)
        if axis_type is AxisType.Explicit:
            theirs = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
            theirs.kernel[...] = layer.kernel
            spec = P(None, "model")
            contracted = jax.device_put(x, NamedSharding(mesh, P(None, "data")))
            out = layer(contracted, out_sharding=P(None, None))
            assert_same(out, theirs(contracted, out_sharding=P(None, None)))
            assert jax.typeof(layer(x, out_sharding=spec)).sharding.spec == spec


@AXIS_TYPES
@pytest.mark.parametrize("wrap", [nn.with_partitioning, nn.with_logical_partitioning])
def test_linen_partitioning(axis_type, wrap):
    def placed(init, *spec):
        # Linen's with_partitioning constrains what it gets, which on an Explicit mesh
        # has to be there already.
        def init_there(*args):
            value = init(*args)
            if axis_type is AxisType.Explicit:
                value = jax.sharding.reshard(value, P(*spec))
            return value

        return wrap(init_there, spec)

    options = {
        "kernel_init": placed(fs.near_permutation(), None, "model"),
        "bias_init": placed(nn.initializers.zeros, "model"),
    }
    x = normal(8, 4)
    layer, params = linen_dense(6, 4)
    params["bias"] = jnp.zeros(6)

    def loss(params, x):
        return (layer.apply({"params": params}, x) ** 2).sum()

    single = jax.value_and_grad(loss)(params, x)
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh), nn.logical_axis_rules([("model", "model")]):
        layer = fs.linen.StableSoftplusDense(6, **options)
        boxed = layer.init(KEY, x)["params"]
        assert type(boxed["raw_kernel"]) is type(wrap(lambda: x, (None, None))())
        specs = nn.get_partition_spec(boxed)
        assert specs == {"raw_kernel": P(None, "model"), "bias": P("model")}
        kernel = fs.linen.positive_kernels(boxed)["kernel"]
        assert kernel.names == (None, "model")
        boxed = jax.tree.map(
            lambda spec, p: jax.device_put(p, NamedSharding(mesh, spec)),
            specs,
            params,
            is_leaf=lambda s: isinstance(s, P),
        )
        value, grads = grads_on(mesh, loss, boxed, x)
        assert_spec(grads["raw_kernel"], mesh, None, "model")
    assert_close((value, grads), single)
