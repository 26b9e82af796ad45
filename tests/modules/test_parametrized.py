"""Layers of both APIs that read raw parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_stable as fs

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 3))
KERNEL_INIT = fs.near_permutation()
HALF = nn.initializers.constant(0.5)
DOUBLE = fs.Transform(lambda x: 2.0 * x, lambda y: 0.5 * y)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        bool((x == y).all())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def nnx_dense(parameters="kernel"):
    linear = nnx.Linear(3, 4, kernel_init=KERNEL_INIT, rngs=nnx.Rngs(0))
    return fs.nnx.Parametrized(linear, parameters)


DENSE = nn.Dense(4, kernel_init=KERNEL_INIT)


@pytest.fixture(scope="module")
def variables():
    return fs.linen.Parametrized(DENSE).init(KEY, X)


def test_linen_is_the_plain_layer_in_other_words(variables):
    assert same(variables, fs.unconstrain(DENSE.init(KEY, X), "kernel"))
    plain = fs.constrain(variables, "kernel")
    layer = fs.linen.Parametrized(DENSE)
    y = layer.apply(variables, X)
    assert same(y, DENSE.apply(plain, X))

    def loss(layer):
        return lambda variables: jnp.sum(fs.tanh(layer.apply(variables, X)))

    grads = jax.jit(jax.grad(loss(layer)))(variables)["params"]
    plain_grads = jax.grad(loss(DENSE))(plain)["params"]
    slope = fs.sigmoid(variables["params"]["raw_kernel"])
    np.testing.assert_allclose(grads["bias"], plain_grads["bias"], rtol=1e-6)
    np.testing.assert_allclose(
        grads["raw_kernel"], plain_grads["kernel"] * slope, rtol=1e-5
    )


def test_both_apis_agree(variables):
    layer = nnx_dense()
    layer.load(fs.constrain(variables, "kernel")["params"])
    linen = fs.linen.Parametrized(DENSE)
    assert same(layer(X), linen.apply(variables, X))
    # Of the inverse of its forward value, a raw parameter differs in the last bits.
    layer.layer.raw_kernel[...] = variables["params"]["raw_kernel"]
    grads = nnx.grad(lambda layer: jnp.sum(layer(X) ** 2))(layer)["layer"]
    expected = jax.grad(lambda v: jnp.sum(linen.apply(v, X) ** 2))(variables)["params"]
    assert same(nnx.to_pure_dict(grads), expected)
    assert same(grads["raw_kernel"][...], expected["raw_kernel"])


class Model(nn.Module):
    """A stack of layers, and other collections than parameters."""

    @nn.compact
    def __call__(self, x):
        def block(layer, x, _):
            return fs.tanh(layer(x)), None

        scan = nn.scan(
            nn.remat(block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        dense = nn.Dense(3, kernel_init=KERNEL_INIT, name="stack")
        x, _ = scan(fs.linen.Parametrized(dense), x, None)
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.Dropout(0.5, deterministic=False)(x)


def test_linen_in_scan_and_around_a_model():
    rngs = {"params": KEY, "dropout": KEY}
    model = Model()
    variables = jax.jit(model.init)(rngs, X)
    assert variables["params"]["stack"]["raw_kernel"].shape == (3, 3, 3)

    whole = fs.linen.Parametrized(model, {"scale": [DOUBLE, DOUBLE]})
    raw = fs.unconstrain(variables, {"scale": [DOUBLE, DOUBLE]})
    assert "raw_scale" in raw["params"]["BatchNorm_0"]

    @jax.jit
    def apply(variables):
        return whole.apply(variables, X, rngs={"dropout": KEY}, mutable=["batch_stats"])

    y, stats = apply(raw)
    expected, expected_stats = model.apply(
        variables, X, rngs={"dropout": KEY}, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected_stats
    )


class Tied(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        options = {"kernel_init": KERNEL_INIT, "rngs": rngs}
        self.one = nnx.Linear(3, 3, **options)
        self.two = nnx.Linear(3, 3, **options)
        self.two.kernel = self.one.kernel
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rest = nnx.List([nnx.Param(jnp.ones(3))])

    def __call__(self, x):
        return self.dropout(self.norm(self.two(self.one(x)))) * self.rest[0]


def test_nnx_leaves_the_layer_and_shares_the_rest():
    model = Tied()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    wrapped = fs.nnx.Parametrized(model, {"two/kernel": fs.positive_transform()})
    assert wrapped.layer.one.raw_kernel is wrapped.layer.two.raw_kernel
    assert not hasattr(wrapped.layer.one, "kernel")
    plain = wrapped.plain()
    assert plain.one.kernel is plain.two.kernel
    assert plain.one.kernel is not model.one.kernel
    np.testing.assert_allclose(plain.one.kernel, model.one.kernel, rtol=1e-6)

    raw = wrapped.layer.one.raw_kernel[...]
    wrapped.eval()
    first = wrapped(X)
    wrapped.train()
    dropped = wrapped(X)
    assert bool((dropped == 0).any()) and not bool((first == 0).any())
    assert bool((plain.norm.mean[...] != 0).all())
    assert same(raw, wrapped.layer.one.raw_kernel[...])
    assert same(before, nnx.to_pure_dict(nnx.state(model, nnx.Param)))

    other = Tied()
    other.one.kernel[...] = jnp.full((3, 3), 0.5)
    wrapped.load(other)
    assert same(wrapped.plain().two.kernel[...], jnp.full((3, 3), 0.5))
    assert bool((wrapped.layer.norm.mean[...] == 0).all())


def test_nnx_trains_raw_parameters():
    model = nnx_dense()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    raw = model.layer.raw_kernel[...]
    traces = 0

    @nnx.jit
    def step(model, optimizer):
        nonlocal traces
        traces += 1
        grads = nnx.grad(lambda model: jnp.sum(model(X)))(model)
        optimizer.update(model, grads)
        return grads["layer"]["raw_kernel"][...]

    grad = step(model, optimizer)
    np.testing.assert_allclose(model.layer.raw_kernel[...], raw - 0.1 * grad, rtol=1e-5)
    step(model, optimizer)
    assert traces == 1


def test_nnx_in_vmap_scan_and_remat():
    @nnx.vmap
    def make(key):
        init = {"kernel_init": KERNEL_INIT, "rngs": nnx.Rngs(key)}
        return fs.nnx.Parametrized(nnx.Linear(3, 3, **init))

    layers = make(jax.random.split(KEY, 3))
    assert layers.layer.raw_kernel.shape == (3, 3, 3)

    @nnx.jit
    @nnx.grad
    def grad(layers):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return nnx.remat(lambda layer, x: layer(x))(layer, x)

        return jnp.sum(run(X, layers))

    def reference(raw):
        x = X
        for r in raw:
            x = x @ fs.softplus(r)
        return jnp.sum(x)

    expected = jax.grad(reference)(layers.layer.raw_kernel[...])
    raw_grad = grad(layers)["layer"]["raw_kernel"][...]
    np.testing.assert_allclose(raw_grad, expected, rtol=1e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_shardings_are_kept(axis_type):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axis_type,) * 2)
    columns = NamedSharding(mesh, PartitionSpec(None, "model"))
    with jax.set_mesh(mesh):
        linear = nnx.Linear(
            3,
            4,
            kernel_init=HALF,
            kernel_metadata={"out_sharding": (None, "model")},
            rngs=nnx.Rngs(0),
        )
        layer = fs.nnx.Parametrized(linear)
        raw = layer.layer.raw_kernel
        assert raw.out_sharding == (None, "model")
        assert raw[...].sharding.is_equivalent_to(columns, 2)
        grads = nnx.jit(nnx.grad(lambda layer: jnp.sum(layer(X))))(layer)
        grad = grads["layer"]["raw_kernel"][...]
        assert grad.sharding.is_equivalent_to(columns, 2)

        init = nn.with_logical_partitioning(HALF, (None, "model"))
        dense = fs.linen.Parametrized(nn.Dense(4, kernel_init=init))
        box = jax.eval_shape(dense.init, KEY, X)["params"]["raw_kernel"]
        assert box.names == (None, "model")
        params = {"raw_kernel": raw[...], "bias": linear.bias[...]}
        grad = jax.jit(jax.grad(lambda p: jnp.sum(dense.apply({"params": p}, X))))
        assert grad(params)["raw_kernel"].sharding.is_equivalent_to(columns, 2)


@pytest.mark.parametrize(
    "call, text",
    [
        (
            lambda: fs.linen.Parametrized(nn.Dense(4)).init(KEY, X),
            "'params/kernel' cannot be stored raw: inverse_positive takes values above",
        ),
        (
            lambda: fs.linen.Parametrized(nn.Dense(4)).apply(
                nn.Dense(4).init(KEY, X), X
            ),
            "constrain: 'kernel' names no raw parameter. There are ['params/bias', "
            "'params/kernel']",
        ),
        (
            lambda: fs.nnx.Parametrized(nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
            "'kernel' cannot be stored raw: inverse_positive takes values above 0, but",
        ),
        (
            lambda: fs.nnx.Parametrized(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "scale"),
            "Parametrized: 'scale' names no plain parameter. There are ['bias', "
            "'kernel']",
        ),
        (
            lambda: nnx_dense().load({"kernel": jnp.ones((4, 3))}),
            "Parametrized.load expects 'kernel' of shape (3, 4), but got shape (4, 3). "
            "Give values of the plain layer.",
        ),
        (
            lambda: nnx_dense().load({"raw_kernel": jnp.ones((3, 4))}),
            "Parametrized.load knows no 'raw_kernel'. Give values of the plain layer, "
            "which has ['bias', 'kernel'].",
        ),
        (
            lambda: nnx_dense().load({"kernel": -jnp.ones((3, 4))}),
            "'kernel' cannot be stored raw: inverse_positive takes values above 0, but",
        ),
        (
            lambda: fs.linen.Parametrized(nnx_dense()),
            "Parametrized expects a Linen layer or model, but got Parametrized(",
        ),
        (
            lambda: fs.nnx.Parametrized(DENSE),
            "Parametrized expects an NNX layer or model, but got Dense(",
        ),
    ],
)
def test_errors_say_what_to_do(call, text):
    with pytest.raises((TypeError, ValueError)) as e:
        call()
    assert text in str(e.value)
