"""Feed-forward blocks call their layers: what works on Flax's layers works there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _blocks import ACTIVATIONS, BLOCKS, linen_block, nnx_block
from _layers import KEY, assert_same, normal
from flax import linen as nn
from flax import nnx
from flax.struct import dataclass

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

IN, WIDTH, OUT = 5, 7, 3
X = normal(2, IN)


@dataclass
class Quantized:
    """What a quantizer puts in the place of a kernel: no array."""

    value: Any
    scale: Any

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    dtype = property(lambda self: self.scale.dtype)

    def __getitem__(self, index):
        return self

    def read(self):
        return self.value.astype(self.dtype) * self.scale


def quantized(kernel):
    scale = jnp.abs(kernel).max(0) / 127
    return Quantized(jnp.round(kernel / scale).astype(jnp.int8), scale)


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


# NNX


class Composed(nnx.Module):
    """A block's layers, called one after the other."""

    def __init__(self, block):
        self.layers = nnx.Dict({k: getattr(block, k) for k in layer_names(block)})
        self.activation = block.activation

    def __call__(self, x):
        value, *gate = (f(x) for k, f in self.layers.items() if k != "down")
        hidden = dict(zip(("gate",), gate, strict=False))
        return self.layers["down"](self.activation(value, **hidden))


def layer_names(block):
    return [k for k in ("up", "gate", "down") if hasattr(block, k)]


def is_variable(x):
    return isinstance(x, nnx.Variable)


class Quantizing(nnx.Module):
    """Quantizes the kernel of a layer, once it is called."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        if isinstance(self.layer.kernel, nnx.Param):
            held = quantized(self.layer.kernel[...])
            self.layer.kernel = nnx.data(jax.tree.map(nnx.Param, held))
        kernel = jax.tree.map(lambda p: p[...], self.layer.kernel, is_leaf=is_variable)
        return x @ kernel.read() + self.layer.bias[...]


class Counting(nnx.Module):
    """Counts its calls, and leaves its parameters alone."""

    def __init__(self, layer):
        self.layer = layer
        self.calls = nnx.BatchStat(jnp.int32(0))

    def __call__(self, x):
        self.calls[...] += 1
        return self.layer(x)


def lora(layer):
    rank, b = 2, nnx.initializers.normal()
    width, features = layer.in_features, layer.out_features
    options = {"base_module": layer, "b_initializer": b, "rngs": nnx.Rngs(1)}
    return nnx.LoRA(width, rank, features, **options)


WRAPPERS = {
    "LoRA": lora,
    "Parametrized": lambda layer: fs.nnx.Parametrized(layer, "kernel"),
    "WeightNorm": lambda layer: nnx.WeightNorm(
        layer, feature_axes=-1, rngs=nnx.Rngs(1)
    ),
    "SpectralNorm": lambda layer: nnx.SpectralNorm(layer, rngs=nnx.Rngs(1)),
    "quantized": Quantizing,
    "counted": Counting,
}


def is_trained(path, x):
    return isinstance(x, nnx.Param) and jnp.issubdtype(x.dtype, jnp.floating)


def test_wrappers_of_nnx():
    """In place of every layer: value, gradients and all that is written."""

    def positive(key, shape, dtype):
        values = np.sin(np.arange(1, np.prod(shape) + 1)) ** 2
        return jnp.asarray(values.reshape(shape), dtype)

    block = nnx_block("MLP", IN, WIDTH, OUT, kernel_init=positive)
    blocks, plain = nnx.Dict(), nnx.Dict()
    for key, wrap in WRAPPERS.items():
        blocks[key] = nnx.clone(block)
        for layer in layer_names(block):
            setattr(blocks[key], layer, wrap(getattr(blocks[key], layer)))
        plain[key] = Composed(nnx.clone(blocks[key]))

    @nnx.jit
    def run(models, x):
        gradient = nnx.value_and_grad(
            lambda model: (model(x) ** 2).sum(),
            argnums=nnx.DiffState(0, is_trained),
        )
        return {key: gradient(model) for key, model in models.items()}

    found, expected = run(blocks, X), run(plain, X)
    for key in WRAPPERS:
        np.testing.assert_allclose(found[key][0], expected[key][0], rtol=1e-5)
        grads = nnx.to_pure_dict(expected[key][1])
        close(nnx.to_pure_dict(found[key][1]), grads["layers"])
        for layer in layer_names(block):
            assert any((g != 0).any() for g in jax.tree.leaves(grads["layers"][layer]))
            close(
                nnx.to_pure_dict(nnx.state(getattr(blocks[key], layer))),
                nnx.to_pure_dict(nnx.state(plain[key].layers[layer])),
            )
    assert blocks["counted"].down.calls[...] == 1


def test_a_transformation_may_close_over_a_block_of_nnx():
    block = nnx_block("GatedMLP", IN, WIDTH)
    plain = Composed(block)
    for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
        close(transform(lambda x: block(x))(X), transform(lambda x: plain(x))(X))


class Slope(nnx.Module):
    def __init__(self):
        self.slope = nnx.Param(jnp.float32(0.3))

    def __call__(self, x):
        return fs.leaky_relu(x, self.slope[...])


def test_an_activation_of_nnx_may_learn():
    block = nnx_block("MLP", IN, WIDTH, activation=Slope())
    gradient = nnx.grad(lambda model: model(X).sum())
    close(gradient(block)["activation"], gradient(Composed(block))["activation"])


def test_an_activation_of_linen_may_learn():
    block, params = linen_block("MLP", WIDTH, activation=nn.PReLU())

    def composed(params):
        hidden = nn.Dense(WIDTH).apply({"params": params["up"]}, X)
        hidden = nn.PReLU().apply({"params": params["activation"]}, hidden)
        return nn.Dense(IN).apply({"params": params["down"]}, hidden).sum()

    found = jax.grad(lambda params: block.apply({"params": params}, X).sum())(params)
    close(found, jax.grad(composed)(params))


def test_tables_list_every_layer():
    rows = nnx.tabulate(nnx_block("GatedMLP", IN, WIDTH), X)
    assert all(layer in rows for layer in ("up", "gate", "down"))
    block, _ = linen_block("GatedMLP", WIDTH)
    rows = block.tabulate(KEY, X)
    assert all(layer in rows for layer in ("up", "gate", "down"))


# Linen


class Layers(nn.Module):
    """A block of Flax's own layers, with a block's names for them."""

    block: str
    dot_general_cls: Any = None

    @nn.compact
    def __call__(self, x):
        def dense(features, name):
            cls = self.dot_general_cls
            return nn.Dense(features, dot_general_cls=cls, name=name)

        gate = {"gate": dense(WIDTH, "gate")(x)} if self.block == "GatedMLP" else {}
        hidden = ACTIVATIONS[self.block](dense(WIDTH, "up")(x), **gate)
        return dense(IN, "down")(hidden)


class Calibrating(nn.Module):
    """A product with a variable of its own, as those of quantizers have."""

    @nn.compact
    def __call__(self, lhs, rhs, contraction, **options):
        bound = self.variable("bounds", "lhs", lambda: jnp.zeros(()))
        bound.value = jnp.maximum(bound.value, jnp.abs(lhs).max())
        return jax.lax.dot_general(lhs, rhs, contraction, **options) / bound.value


class Spectral(nn.Module):
    layer: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.SpectralNorm(self.layer)(x, update_stats=True)


@pytest.mark.parametrize(
    "name, how",
    [
        ("MLP", "as it is"),
        ("MLP", "WeightNorm"),
        ("MLP", "SpectralNorm"),
        ("GatedMLP", "product"),
    ],
)
def test_wrappers_of_linen(name, how):
    wrap = {"WeightNorm": nn.WeightNorm, "SpectralNorm": Spectral}.get(how, lambda m: m)
    options = {"dot_general_cls": Calibrating if how == "product" else None}
    block, _ = linen_block(name, WIDTH, use_bias=True, **options)
    models = wrap(block), wrap(Layers(name, **options))

    def run(model):
        variables = jax.tree.map(
            lambda p: jnp.cos(jnp.arange(1.0, p.size + 1)).reshape(p.shape) / 2,
            jax.eval_shape(model.init, KEY, X),
        )

        def loss(params, x):
            y, written = model.apply(
                {**variables, "params": params}, x, mutable=nn.DenyList("params")
            )
            return (y**2).sum(), (y, written)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], X)

    close(*map(jax.tree.leaves, map(run, models)))


@BLOCKS
def test_interceptors_and_quantized_kernels_of_linen(name):
    """A layer gets the activations, and its kernel is nobody's business but its own."""
    block, params = linen_block(name, WIDTH, use_bias=True)
    held = {k: {**p, "kernel": quantized(p["kernel"])} for k, p in params.items()}

    def run(model):
        seen = {}

        def intercept(call, args, kwargs, context):
            layer = context.module
            if not isinstance(layer, nn.Dense):
                return call(*args, **kwargs)
            kernel = layer.get_variable("params", "kernel")
            bias = layer.get_variable("params", "bias")
            y = args[0] @ kernel.read() + bias
            seen[layer.name] = context.method_name, jnp.shape(args[0])
            layer.sow("seen", "inputs", args[0])
            return y

        with nn.intercept_methods(intercept):
            return seen, jax.jit(
                lambda held: model.apply({"params": held}, X, mutable="seen")
            )(held)

    (seen, found), (expected_seen, expected) = run(block), run(Layers(name))
    assert seen == expected_seen
    assert_same(found, expected)


# Layers with raw parameters


@pytest.mark.parametrize(
    "call",
    [
        lambda held: fs.linen.StableSoftplusDense(4).apply(
            {"params": {"raw_kernel": held, "bias": jnp.zeros(4)}}, X
        ),
        lambda held: fs.linen.StableSoftplusDenseGeneral(4).apply(
            {"params": {"raw_kernel": held, "bias": jnp.zeros(4)}}, X
        ),
        lambda held: fs.unconstrain({"kernel": held}, "kernel"),
    ],
    ids=["dense", "general", "Parametrized"],
)
def test_a_quantizer_that_takes_a_raw_kernel_is_told_the_way_out(call):
    message = "must be one array, but a quantizer put Quantized, of 2 arrays, in its"
    with pytest.raises(TypeError, match=message):
        call(quantized(normal(IN, 4)))


def test_a_quantizer_that_takes_a_raw_kernel_of_nnx_is_told_the_way_out():
    layer = fs.nnx.StableSoftplusLinear(IN, 4, rngs=nnx.Rngs(0))
    held = quantized(layer.raw_kernel[...])
    layer.raw_kernel = nnx.data(held)
    with pytest.raises(TypeError, match=r"Quantize the plain layer.*constrain"):
        layer(X)
