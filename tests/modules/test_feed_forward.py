"""The feed-forward blocks, one API against the other and against Flax's layers."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _blocks import (
    ACTIVATIONS,
    BLOCKS,
    Plain,
    linen_block,
    nnx_block,
    nnx_graph,
    plain_params,
)
from _layers import KEY, assert_same, normal
from flax import linen as nn
from flax import nnx
from flax.errors import ScopeParamShapeError
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx


@BLOCKS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": True, "dtype": jnp.bfloat16},
        {"use_bias": False, "param_dtype": jnp.bfloat16, "dtype": jnp.float32},
        {"use_bias": True, "precision": "highest", "features": 3},
    ],
    ids="-".join,
)
def test_a_block_is_that_of_dense_layers(name, options):
    block, params = linen_block(name, 7, **options)
    features = options.get("features", 5)
    rest = {k: v for k, v in options.items() if k != "features"}
    rest.setdefault("use_bias", name == "MLP")
    plain = Plain(name, 7, features, rest)
    x = normal(2, 3, 5)
    expected = jax.eval_shape(plain.init, KEY, x)["params"]
    assert jax.tree.map(jnp.shape, plain_params(params)) == (
        jax.tree.map(jnp.shape, expected)
    )

    def loss(model, params, x):
        y = model.apply({"params": params}, x)
        return (y.astype(jnp.float32) ** 2).sum(), y

    (_, y), grads = jax.value_and_grad(loss, 1, has_aux=True)(block, params, x)
    (_, expected), expected_grads = jax.value_and_grad(loss, 1, has_aux=True)(
        plain, plain_params(params), x
    )
    assert_same((y, plain_params(grads)), (expected, expected_grads))


@BLOCKS
def test_linen_and_nnx_agree_bitwise(name):
    """With every default, in bfloat16."""
    options = {"dtype": jnp.bfloat16}
    default = getattr(fs.linen, name).activation
    linen, params = linen_block(name, 7, 3, **options, activation=default)
    graph = nnx_graph(name, 5, 7, 3, **options, activation=default)

    def of_linen(params, x):
        y = linen.apply({"params": params}, x)
        return (y.astype(jnp.float32) ** 2).sum(), y

    def of_nnx(params, x):
        y = nnx.merge(graph, params)(x)
        return (y.astype(jnp.float32) ** 2).sum(), y

    found, expected = (
        jax.jit(jax.grad(f, (0, 1), has_aux=True))(params, normal(2, 5))
        for f in (of_nnx, of_linen)
    )
    assert expected[1].dtype == jnp.bfloat16
    assert_same(found, expected)


def test_fields_and_arguments_are_the_same_in_both_blocks_and_apis():
    def fields(cls):
        own = [f for f in dataclasses.fields(cls) if f.name not in ("parent", "name")]
        return {f.name: f.default for f in own}

    def arguments(cls):
        found = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in found if p.name != "self"}

    for read, module, flax in (
        (fields, fs.linen, {*fields(nn.Dense)} - {"features"}),
        (arguments, fs.nnx, {*arguments(nnx.Linear)}),
    ):
        mlp, gated = read(module.MLP), read(module.GatedMLP)
        assert list(mlp) == list(gated)
        assert (mlp["use_bias"], gated["use_bias"]) == (True, False)
        assert (mlp["activation"], gated["activation"]) == (fs.gelu, fs.swiglu)
        assert flax <= {*mlp}


# What is kept


def kept(f, *args):
    """The shapes and dtypes of what a compiled program keeps for the backward pass."""
    leaves = jax.tree.leaves(
        jax.eval_shape(jax.jit(lambda *args: jax.vjp(f, *args)[1]), *args)
    )
    return sorted((leaf.shape, str(leaf.dtype)) for leaf in leaves)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@BLOCKS
def test_pre_activations_alone_are_kept(name, rate):
    options = {"dropout_rate": rate, "use_bias": True}
    layer, params = linen_block(name, 7, **options, deterministic=False)
    graph, state, rest = nnx.split(nnx_block(name, 5, 7, **options), nnx.Param, ...)
    hidden = [((2, 7), "float32")] * (1 if name == "MLP" else 2)
    kernels = [(p["kernel"].shape, "float32") for p in params.values()]
    keys = [((), "key<fry>")] * (2 if rate else 0)
    key = jax.random.key(3)
    for f, variables in (
        (lambda p, x: layer.apply({"params": p}, x, rngs={"dropout": key}), params),
        (lambda s, x: nnx.merge(graph, s, rest)(x, rngs=key), state),
    ):
        found = kept(f, variables, normal(2, 5))
        assert found == sorted([((2, 5), "float32"), *hidden, *kernels, *keys])
        policy = jax.checkpoint_policies.save_only_these_names("mlp_hidden")
        named = kept(jax.checkpoint(f, policy=policy), variables, normal(2, 5))
        assert [array for array in named if array in hidden] == hidden


class Layer(nn.Module):
    block: str

    @nn.compact
    def __call__(self, x, _):
        block = getattr(fs.linen, self.block)
        return x + block(7, activation=ACTIVATIONS[self.block])(x), None


def linen_stack(name, layer):
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    model = nn.scan(layer, **axes, length=3)(name)
    return lambda params, x: model.apply({"params": params}, x, None)[0]


def nnx_stack(name):
    options = {"activation": ACTIVATIONS[name]}

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return getattr(fs.nnx, name)(5, 7, **options, rngs=rngs)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def forward(block, x):
        return x + nnx.remat(lambda block, x: block(x))(block, x)

    graph, _ = nnx.split(nnx.eval_shape(lambda: stack(nnx.Rngs(0))))
    return lambda params, x: forward(nnx.merge(graph, params[f"{name}_0"]), x)


@BLOCKS
def test_scan_and_remat(name):
    linen, one = linen_block(name, 7)
    params = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, -p]), one)
    params, x = {f"{name}_0": params}, normal(2, 5)

    def unrolled(params, x):
        for i in range(3):
            one = jax.tree.map(lambda p, i=i: p[i], params[f"{name}_0"])
            x = x + linen.apply({"params": one}, x)
        return x

    def gradient(apply):
        return jax.jit(jax.grad(lambda p, x: (apply(p, x) ** 2).sum()))(params, x)

    expected, wide = gradient(unrolled), (3, 2, 7)
    for apply, arrays in (
        (linen_stack(name, Layer), 1 if name == "MLP" else 2),
        (linen_stack(name, nn.remat(Layer)), 0),
        (nnx_stack(name), 0),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            gradient(apply),
            expected,
        )
        assert [shape for shape, _ in kept(apply, params, x)].count(wide) == arrays


# Dropout


def test_dropout_of_linen():
    block, params = linen_block("MLP", 64, 32, dropout_rate=0.5)
    x, other, g = normal(40, 5), normal(40, 5, seed=2), normal(40, 32, seed=3)

    @jax.jit
    def run(x, key):
        def dropping(x):
            return block.apply({"params": params}, x, False, rngs={"dropout": key})

        y, tangent = jax.jvp(dropping, (x,), (other,))
        return y, tangent, jax.vjp(dropping, x)[1](g)[0]

    y, tangent, cotangent = run(x, jax.random.key(5))
    # The derivatives see the masks of the forward pass.
    assert 0.4 < (y == 0).mean() < 0.6
    np.testing.assert_array_equal(tangent == 0, y == 0)
    np.testing.assert_allclose((tangent * g).sum(), (cotangent * other).sum(), 1e-4)
    assert ((y == 0) != (run(x, jax.random.key(6))[0] == 0)).any()


def test_a_mask_lies_within_the_block_too():
    """With kernels of ones, an output is a sum over what was not dropped before."""
    ones = nnx.initializers.ones
    block = nnx_block("MLP", 1, 64, 40, dropout_rate=0.25, kernel_init=ones)
    x, within = jnp.ones((40, 1)), jax.random.split(KEY)[0]
    masked = nnx.Dropout(0.25)(jnp.tanh(jnp.ones((40, 64))), rngs=within)
    sums = jnp.broadcast_to(masked.sum(1, keepdims=True), (40, 40)) / 0.75
    y = block(x, rngs=KEY)
    np.testing.assert_allclose(y, jnp.where(y == 0, 0, sums), rtol=1e-5)
    assert 0.6 < (y != 0).mean() < 0.9
    assert len({*np.asarray(sums[:, 0])}) > 1


@BLOCKS
def test_dropout_of_nnx(name):
    block = nnx_block(name, 5, 64, 32, dropout_rate=0.5)
    linen, _ = linen_block(name, 64, 32, dropout_rate=0.5)
    _, params, _ = nnx.split(block, nnx.Param, ...)
    x, key = normal(40, 5), jax.random.key(5)
    # Two calls differ, as the stream goes on, but for a key that they are given.
    assert ((block(x) == 0) != (block(x) == 0)).any()
    dropped = block(x, rngs=key)
    assert_same(dropped, block(x, rngs=key))
    assert ((block(x, rngs=nnx.Rngs(dropout=1)) == 0) != (dropped == 0)).any()
    block.eval()
    assert_same(dropped, block(x, rngs=key, deterministic=False))
    still = linen.apply({"params": nnx.to_pure_dict(params)}, x, deterministic=True)
    assert_same(block(x), still)
    assert (still != 0).all()


def test_all_may_be_dropped():
    linen, params = linen_block("MLP", 7, dropout_rate=1.0, deterministic=False)
    y = linen.apply({"params": params}, normal(2, 5), rngs={"dropout": KEY})
    assert_same(y, jnp.zeros((2, 5)))


# Meshes


@BLOCKS
def test_metadata_of_both_apis_split_the_block(name):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    up, down = (None, "model"), ("model", None)
    wrap, init = nn.with_logical_partitioning, nn.initializers.ones
    with jax.set_mesh(mesh):
        block = nnx_block(
            name,
            4,
            8,
            use_bias=True,
            dropout_rate=0.5,
            kernel_metadata={"out_sharding": up},
            bias_metadata={"out_sharding": ("model",)},
            down_kernel_metadata={"out_sharding": down},
        )
        x = jax.device_put(normal(8, 4), NamedSharding(mesh, P("data", None)))
        assert jax.typeof(block.down.kernel[...]).sharding.spec == P(*down)
        assert jax.typeof(block(x)).sharding.spec == P("data", None)
        scattered = block(x, out_sharding=P("data", "model"))
        assert jax.typeof(scattered).sharding.spec == P("data", "model")
    _, params = linen_block(
        name,
        8,
        in_features=4,
        kernel_init=wrap(init, up),
        down_kernel_init=wrap(init, down),
    )
    specs = nn.get_partition_spec(params)
    assert specs["up"]["kernel"] == P(*up)
    assert specs["down"]["kernel"] == P(*down)


# Errors


@BLOCKS
def test_what_is_refused(name):
    x = jnp.ones((1, 5))
    message = f"{name} expects a dropout_rate from 0 to 1, the share of elements to"
    for make in (
        lambda: getattr(fs.linen, name)(7, dropout_rate=1.5).init(KEY, x),
        lambda: nnx_block(name, 5, 7, dropout_rate=-0.1),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    message = re.escape(f"{name} expects inputs of shape (..., 5), but got shape (2,).")
    with pytest.raises(ValueError, match=message):
        nnx_block(name, 5, 7)(jnp.ones(2))
    block, params = linen_block(name, 7)
    with pytest.raises(ScopeParamShapeError, match=r"\(5, 7\)"):
        block.apply({"params": params}, jnp.ones(2))
    with pytest.raises(ValueError, match="deterministic"):
        block.clone(dropout_rate=0.5).apply({"params": params}, x)
