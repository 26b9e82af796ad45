"""Parametrized layers have the paths, methods and attributes of the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import flax_stable as fs

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 3))
HALF = nn.initializers.constant(0.5)
DOUBLE = fs.Transform(lambda x: 2.0 * x, lambda y: 0.5 * y)


def draw(key, shape, dtype):
    return 0.5 + jax.random.uniform(key, shape, dtype)


class Held(nn.Module):
    """A layer in a field, which is called through a transformation of Flax."""

    layer: nn.Module
    lift: str = "none"

    def __call__(self, x):
        calls = {
            "none": call,
            "remat": nn.remat(call),
            "jit": nn.jit(call),
            "vmap": nn.vmap(call, {"params": None}, {"params": False}),
            "stack": nn.vmap(
                call, {"params": 0}, {"params": True}, in_axes=None, axis_size=2
            ),
            "scan": nn.scan(
                carry, {"params": 0}, split_rngs={"params": True}, length=2
            ),
            "map_variables": nn.map_variables(
                call, "params", init=self.is_initializing()
            ),
            "cond": lambda layer, x: nn.cond(True, call, call, layer, x),
        }
        y = calls[self.lift](self.layer, x)
        return y[0] if self.lift == "scan" else y


def call(layer, x):
    return layer(x)


def carry(layer, x):
    return layer(x), None


class Twice(nn.Module):
    """One layer at several places, made in setup, in a compact method, and given."""

    layer: nn.Module
    wrap: bool

    def setup(self):
        self.made = self._wrap(nn.Dense(3, kernel_init=draw))
        self.listed = [self._wrap(self.layer), self.made]

    @nn.compact
    def __call__(self, x):
        inside = self._wrap(nn.Dense(3, kernel_init=draw, name="inside"))
        for layer in (self.made, *self.listed, inside, inside):
            x = layer(x)
        return x

    @nn.nowrap
    def _wrap(self, layer):
        return fs.linen.Parametrized(layer) if self.wrap else layer


LIFTS = "none remat jit vmap stack scan map_variables cond".split()
SQUARE = nn.Dense(3, kernel_init=draw)


def wrapped_and_plain():
    wrap, inner = fs.linen.Parametrized, Held(SQUARE)
    for lift in LIFTS:
        yield f"held-{lift}", Held(wrap(inner), lift), Held(inner, lift)
        yield f"around-{lift}", wrap(Held(inner, lift)), Held(inner, lift)
    pair = [nn.Dense(3, kernel_init=draw), Held(inner)]
    wrapped = [wrap(layer) for layer in pair]
    for lift in ("none", "remat", "scan"):
        held = Held(nn.Sequential(wrapped), lift)
        yield f"sequential-{lift}", held, Held(nn.Sequential(pair), lift)
    yield "class", Held(nn.remat(wrap)(inner)), Held(inner)
    yield "twice", Twice(Held(SQUARE), True), Twice(Held(SQUARE), False)
    yield "remat-twice", nn.remat(Twice)(SQUARE, True), Twice(SQUARE, False)
    yield "shared", nn.Sequential([wrap(SQUARE)] * 2), nn.Sequential([SQUARE] * 2)
    same_layer = nn.Sequential([wrap(SQUARE), wrap(SQUARE)])
    yield "same-layer", same_layer, nn.Sequential([SQUARE] * 2)


@pytest.mark.parametrize(
    "wrapped, plain",
    [pytest.param(w, p, id=name) for name, w, p in wrapped_and_plain()],
)
def test_paths_and_values_are_those_of_the_layer(wrapped, plain):
    """However it is held, wrapped and lifted; no transformation moves a parameter."""
    y, variables = plain.init_with_output(KEY, X)
    stored = fs.unconstrain(variables, "kernel")
    first, found = wrapped.init_with_output(KEY, X)
    assert jax.tree.structure(found) == jax.tree.structure(stored)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(stored), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(first, y, rtol=1e-5)
    np.testing.assert_allclose(wrapped.apply(stored, X), y, rtol=1e-5)


def test_parametrized_may_be_nested():
    layer = fs.linen.Parametrized(Held(nn.Dense(4, kernel_init=HALF)))
    model = fs.linen.Parametrized(layer, {"bias": DOUBLE})
    params = jax.eval_shape(model.init, KEY, X)["params"]
    assert set(params["layer"]) == {"raw_kernel", "raw_bias"}


class Coder(nn.Module):
    """Parameters of fields, of setup and of its own, and methods that use them."""

    encoder: nn.Module

    def setup(self):
        self.decoder = nn.Dense(3, kernel_init=HALF)
        self.scale = self.param("scale", HALF, ())

    @property
    def doubled(self):
        return 2 * self.scale

    def encode(self, x):
        return self.encoder(x)

    def decode(self, x):
        return self.scale * self.decoder(x)

    def __call__(self, x):
        return self.decode(self.encode(x))


def test_linen_methods_and_attributes_are_forwarded():
    coder = Coder(nn.Dense(2, kernel_init=HALF))
    model = fs.linen.Parametrized(coder, ("kernel", "scale"))
    variables = model.init(KEY, X)
    plain = fs.constrain(variables, ("kernel", "scale"))

    def both(method, *args):
        found = model.apply(variables, *args, method=method)
        np.testing.assert_allclose(found, coder.apply(plain, *args, method=method))
        return found

    z = both("encode", X)
    both("decode", z)
    both("encoder", X)
    for method in (
        lambda m, x: m.decode(m.encode(x)),
        lambda m, x: m.scale * m.decoder(m.encoder(x)) * m.doubled,
    ):
        both(method, X)
    np.testing.assert_array_equal(model.bind(variables).encode(X), z)
    assert model.encoder.features == 2
    assert fs.linen.Parametrized(SQUARE).kernel_init is draw
    params = jax.eval_shape(lambda: model.init(KEY, X, method="encode"))["params"]
    assert set(params["encoder"]) == {"raw_kernel", "bias"}
    for module in (model, model.bind(variables)):
        with pytest.raises(
            AttributeError, match='"Coder" object has no attribute "no"'
        ):
            module.no  # noqa: B018

    embed = fs.linen.Parametrized(nn.Embed(5, 3, embedding_init=HALF), "embedding")
    variables = embed.init(KEY, jnp.ones((1, 3)), method="attend")
    scores = embed.apply(variables, jnp.ones((1, 3)), method="attend")
    np.testing.assert_allclose(scores, 1.5 * jnp.ones((1, 5)), rtol=1e-6)


def test_recurrent_cells():
    x = jnp.ones((2, 3, 4))
    cell = nn.SimpleCell(3, kernel_init=HALF, recurrent_kernel_init=HALF)
    plain, model = nn.RNN(cell), nn.RNN(fs.linen.Parametrized(cell, ".*/kernel"))
    y, variables = jax.jit(plain.init_with_output)(KEY, x)
    found, raw = jax.jit(model.init_with_output)(KEY, x)
    stored = fs.unconstrain(variables, ".*/kernel")
    assert jax.tree.structure(raw) == jax.tree.structure(stored)
    np.testing.assert_allclose(found, y, rtol=1e-5)
    assert fs.linen.Parametrized(cell).initialize_carry(KEY, (2, 4)).shape == (2, 3)

    options = {"kernel_init": HALF, "recurrent_kernel_init": HALF}
    cell = nnx.SimpleCell(4, 3, **options, rngs=nnx.Rngs(0))
    y, model = nnx.RNN(cell)(x), nnx.RNN(fs.nnx.Parametrized(cell, ".*/kernel"))
    np.testing.assert_allclose(model(x), y, rtol=1e-5)


def test_scales_of_weight_norm_are_kept_apart():
    layers = [nn.Dense(n, kernel_init=HALF) for n in (3, 2)]
    model = fs.linen.Parametrized(nn.WeightNorm(nn.Sequential(layers)), ".*scale")
    variables = model.init(KEY, X)
    scales = {k: v for k, v in variables["params"].items() if k.endswith("scale")}
    assert {v.shape for v in scales.values()} == {(3,), (2,)}
    assert model.apply(variables, X).shape == (4, 2)


class Recorder(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, kernel_init=HALF, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.calls = 0

    def encode(self, x):
        self.calls += 1
        z = self.layer(x)
        self.sow(nnx.Intermediate, "z", z)
        return z

    def __call__(self, x):
        return self.norm(self.encode(x))


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_nnx_methods_and_attributes_are_forwarded():
    plain = Recorder(nnx.Rngs(0))
    model = fs.nnx.Parametrized(plain)
    assert "raw_kernel" in nnx.state(model)["layer"]["layer"]
    model.eval()
    assert model.layer.norm.use_running_average
    z = model.encode(X)
    np.testing.assert_allclose(z, plain.encode(X), rtol=1e-6)
    nnx.jit(lambda model, x: model(x))(model, X)
    assert model.calls == 2
    assert len(nnx.pop(model, nnx.Intermediate)["layer"]["z"].get_value()) == 2
    model.train()
    model(X)
    assert bool((model.norm.mean[...] != 0).all())
    model.calls = 7
    assert model.layer.calls == 7
    # What makes nothing may be called at another level than it was made at.
    linear = fs.nnx.Parametrized(nnx.Linear(3, 4, kernel_init=HALF, rngs=nnx.Rngs(0)))
    assert jax.jacfwd(linear)(X[0]).shape == (4, 3)
    assert linear.in_features == 3 and linear.bias is linear.layer.bias
    np.testing.assert_allclose(linear.kernel[...], 0.5, rtol=1e-6)
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'no'"):
        linear.no  # noqa: B018
    message = "kernel of Parametrized is computed from raw_kernel. Give load the value"
    with pytest.raises(AttributeError, match=message):
        linear.kernel = nnx.Param(jnp.ones((3, 4)))
