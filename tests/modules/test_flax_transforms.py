"""Layers under Flax's transformations and in storage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY, assert_same, linen_dense, nnx_linear, normal
from flax import linen as nn
from flax import nnx, serialization

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx


def test_linen_under_remat_vmap_and_jit():
    layer, params = linen_dense(3, 3)
    x = normal(2, 3)
    expected = layer.apply({"params": params}, x)
    remat = nn.remat(fs.linen.StableSoftplusDense)(3)
    assert_same(remat.apply({"params": params}, x), expected)
    jitted = jax.jit(layer.apply)({"params": params}, x)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)
    stack = nn.vmap(
        fs.linen.StableSoftplusDense,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )(3)
    stacked = stack.init(KEY, x)["params"]
    assert stacked["raw_kernel"].shape == (2, 3, 3)
    y = stack.apply({"params": stacked}, x)
    for i in range(2):
        one = jax.tree.map(lambda p, i=i: p[i], stacked)
        np.testing.assert_allclose(
            y[i], layer.apply({"params": one}, x[i]), rtol=1e-6, atol=1e-7
        )


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return fs.linen.Tanh()(fs.linen.StableSoftplusDense(3)(x)), None


def test_linen_under_scan():
    x = normal(2, 3)
    stack = nn.scan(
        nn.remat(Block),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=4,
    )()
    params = stack.init(KEY, x, None)["params"]
    raw_kernels = params["StableSoftplusDense_0"]["raw_kernel"]
    assert raw_kernels.shape == (4, 3, 3)
    assert len({r.tobytes() for r in np.asarray(raw_kernels)}) == 4

    def unrolled(params, x):
        for i in range(4):
            one = jax.tree.map(lambda p, i=i: p[i], params)
            x, _ = Block().apply({"params": one}, x, None)
        return (x**2).sum()

    def scanned(params, x):
        return (stack.apply({"params": params}, x, None)[0] ** 2).sum()

    for a, b in zip(
        jax.tree.leaves(jax.value_and_grad(scanned)(params, x)),
        jax.tree.leaves(jax.value_and_grad(unrolled)(params, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_linen_initializes_under_jit_and_abstractly():
    layer = fs.linen.StableSoftplusDense(4)
    x = jnp.ones((1, 3))
    eager = layer.init(KEY, x)
    shapes = jax.tree.map(jnp.shape, eager)
    assert jax.tree.map(jnp.shape, jax.eval_shape(layer.init, KEY, x)) == shapes
    for a, b in zip(
        jax.tree.leaves(jax.jit(layer.init)(KEY, x)),
        jax.tree.leaves(eager),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_nnx_transformations():
    layer = nnx_linear(3, 3)
    x = normal(2, 3)
    expected = layer(x)
    for transformed in (nnx.jit(lambda m, x: m(x)), nnx.remat(lambda m, x: m(x))):
        np.testing.assert_allclose(transformed(layer, x), expected, rtol=1e-6)
    grads = nnx.grad(lambda m: (m(x) ** 2).sum())(layer)
    assert set(grads) == {"raw_kernel", "bias"}

    abstract = nnx.eval_shape(lambda: nnx_linear(3, 3))
    assert abstract.raw_kernel.shape == (3, 3)
    assert jax.typeof(jax.eval_shape(lambda: layer.kernel)).shape == (3, 3)

    @nnx.split_rngs(splits=4)
    @nnx.vmap
    def stack(rngs):
        return fs.nnx.StableSoftplusLinear(3, 3, rngs=rngs)

    layers = stack(nnx.Rngs(0))
    assert layers.raw_kernel.shape == layers.kernel.shape == (4, 3, 3)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def forward(layer, x):
        return fs.tanh(layer(x))

    y = forward(layers, x)
    for kernel, bias in zip(layers.kernel, layers.bias[...], strict=True):
        x = fs.tanh(x @ kernel + bias[None])
    np.testing.assert_allclose(y, x, rtol=1e-5)


def test_parameters_survive_serialization():
    _, params = linen_dense()
    bytes_ = serialization.to_bytes(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert_same(serialization.from_bytes(zeros, bytes_), params)
    x = normal(2, 3)
    graph, state = nnx.split(nnx_linear(use_bias=False))
    again = serialization.from_bytes(
        nnx.to_pure_dict(jax.tree.map(jnp.zeros_like, state)),
        serialization.to_bytes(nnx.to_pure_dict(state)),
    )
    merged = nnx.merge(graph, state)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, again))
    assert_same(nnx.merge(graph, state)(x), merged(x))
    assert_same(nnx.clone(merged)(x), merged(x))


# A layer under remat, and how many arrays of the hidden size that keeps.

P = jax.checkpoint_policies
REMATS = [
    (P.nothing_saveable, 0),
    (P.dots_saveable, 1),
    (P.save_only_these_names("gelu"), 1),
    (P.save_only_these_names("tanh"), 0),
    (P.save_anything_except_these_names("gelu"), 2),
]


class Hidden(nn.Module):
    @nn.compact
    def __call__(self, x):
        return fs.linen.GELU()(nn.Dense(32)(x))


class NNXHidden(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(8, 32, rngs=nnx.Rngs(0))
        self.gelu = fs.nnx.GELU()

    def __call__(self, x):
        return self.gelu(self.dense(x))


def linen_losses(policy, x):
    variables = Hidden().init(KEY, x)
    remat = nn.remat(Hidden, policy=policy)()
    return [lambda v, m=m: m.apply(v, x).sum() for m in (Hidden(), remat)], variables


def nnx_losses(policy, x):
    graph, state = nnx.split(NNXHidden())
    remat = nnx.remat(lambda module, x: module(x), policy=policy)
    calls = (lambda module, x: module(x)), remat
    return [lambda s, f=f: f(nnx.merge(graph, s), x).sum() for f in calls], state


@pytest.mark.parametrize("losses", [linen_losses, nnx_losses])
@pytest.mark.parametrize(("policy", "most"), REMATS)
def test_remat_keeps_what_the_policy_names(losses, policy, most):
    x = normal(16, 8)
    (plain, remat), params = losses(policy, x)

    def hidden(loss):
        kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        return sum(r.shape == (16, 32) for r in jax.tree.leaves(kept))

    assert hidden(plain) == 1
    assert hidden(remat) == most if most < 2 else hidden(remat) <= most
    gradients = jax.jit(lambda p: [jax.grad(f)(p) for f in (remat, plain)])(params)
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
