"""Monotone and input-convex networks: that they are, and one API like the other."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY, assert_same, normal
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx
from flax_stable._positive.networks import mixed

DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
DIRECTIONS = (1, -1, 0, 1)
WIDTHS = (24, 24)
SEEDS = range(4)


def network(name, dtype=jnp.float32, widths=WIDTHS, **options):
    """A Linen network of four inputs and two outputs, and draws of its parameters."""
    options = {"dtype": dtype, "param_dtype": dtype, **options}
    model = getattr(fs.linen, name)(widths, 2, **options)
    shapes = jax.eval_shape(model.init, KEY, jnp.ones((1, 4)))["params"]

    def draw(seed):
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), shapes
        )

    return model, draw


def along(scale, j, seed, dtype):
    """Inputs along axis ``j``, from minus to plus a scale, from 16 places."""
    x = np.random.default_rng(seed).normal(0, 3, (16, 1, 4))
    x = np.broadcast_to(x, (16, 201, 4)).copy()
    x[..., j] = np.linspace(-scale, scale, 201)
    return jnp.asarray(x, dtype)


@DTYPES
@pytest.mark.parametrize("activation", [fs.relu, fs.softplus])
def test_no_output_steps_back(activation, dtype):
    """Exactly, if the activation is monotone to the bit; else to some of the last."""
    model, draw = network(
        "MonotoneMLP", dtype, monotone=DIRECTIONS, activation=activation
    )
    apply = jax.jit(model.apply)
    # A unit in the last place of the largest output, by each layer.
    allowed = 0 if activation is fs.relu else 3 * float(jnp.finfo(dtype).eps)
    steps = {direction: [] for direction in DIRECTIONS}
    for seed in SEEDS:
        for scale in (0.1, 3.0, 100.0):
            for j, direction in enumerate(DIRECTIONS):
                y = apply({"params": draw(seed)}, along(scale, j, seed, dtype))
                y = np.float64(y)
                assert np.isfinite(y).all()
                step = np.diff(y, axis=1) / np.abs(y).max()
                steps[direction].append((step.min(), step.max()))
    assert min(low for low, _ in steps[1]) >= -allowed
    assert max(high for _, high in steps[-1]) <= allowed
    # The free input goes both ways, and the others go somewhere.
    assert min(low for low, _ in steps[0]) < -0.01
    assert min(max(high for _, high in steps[d]) for d in (0, 1)) > 0.01
    assert min(low for low, _ in steps[-1]) < -0.01


def test_monotone_networks_bend_both_ways():
    """Which with one convex activation they cannot."""
    model, draw = network("MonotoneMLP")
    y = jax.jit(model.apply)({"params": draw(0)}, along(3.0, 0, 0, jnp.float32))
    bend = np.diff(np.float64(y), n=2, axis=1) / np.float64(y).max()
    assert bend.min() < -1e-4 and bend.max() > 1e-4


def test_three_shapes_of_activation():
    x = jnp.linspace(-5, 5, 11)
    y = mixed(jnp.tile(x[:, None], 7), fs.softplus)
    assert y.shape == (11, 7)
    np.testing.assert_array_equal(y[:, :3], fs.softplus(jnp.tile(x[:, None], 3)))
    np.testing.assert_allclose(y[:, 3:6], -y[::-1, :3], rtol=1e-6)
    bounded = y[:, 6]
    np.testing.assert_allclose(bounded, -bounded[::-1], atol=1e-6)
    assert (jnp.diff(bounded) > 0).all() and jnp.abs(bounded).max() < fs.softplus(1.0)
    clipped = mixed(jnp.tile(x[:, None], 3), fs.relu)[:, 2]
    np.testing.assert_array_equal(clipped, jnp.clip(x, -1, 1))


@DTYPES
@pytest.mark.parametrize("activation", [fs.relu, fs.softplus])
def test_middles_are_below_means(activation, dtype):
    """To some units in the last place of the terms: of each layer and the average."""
    model, draw = network("ICNN", dtype, activation=activation)
    apply = jax.jit(model.apply)
    eps = float(jnp.finfo(dtype).eps)
    excess = []
    for seed in SEEDS:
        for scale in (2.0**-6, 0.125, 4.0):
            # Numbers of few bits, so that the middle is one of the dtype.
            rng = np.random.default_rng(seed)
            middle, half = scale * rng.integers(-20, 21, (2, 200, 4))
            a, b = middle - half, middle + half
            params = {"params": draw(seed)}
            at_a, at_b, at_middle = (
                np.float64(apply(params, jnp.asarray(x, dtype))) for x in (a, b, middle)
            )
            # What the terms add up to if none cancels.
            sizes = {"params": jax.tree.map(jnp.abs, params["params"])}
            most = np.maximum(np.abs(a), np.abs(b))
            terms = np.float64(apply(sizes, jnp.asarray(most, dtype)))
            excess.append((at_middle - (at_a + at_b) / 2) / terms)
    assert max(e.max() for e in excess) <= 4 * eps
    # The function is not linear.
    assert min(e.min() for e in excess) < -0.01


def test_signed_kernels_are_not_convex():
    """What the test above would find: it can fail."""
    a, b = np.float64(3 * normal(2, 500, 4))
    first, second = np.random.default_rng(0).normal(size=(2, 4, 4))

    def f(x):
        return np.logaddexp(x @ first, 0) @ second

    assert (f((a + b) / 2) - (f(a) + f(b)) / 2).max() > 0.01


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("MonotoneMLP", jnp.bfloat16, {"monotone": DIRECTIONS, "activation": fs.relu}),
        ("ICNN", jnp.float32, {"floor": 0.01}),
    ],
    ids=["MonotoneMLP", "ICNN"],
)
def test_linen_and_nnx_agree_bitwise(name, dtype, options):
    widths = (6,)
    model, draw = network(name, dtype, widths, **options)
    options = {"dtype": dtype, "param_dtype": dtype, **options}

    def other():
        return getattr(fs.nnx, name)(4, widths, 2, rngs=nnx.Rngs(0), **options)

    graph, state = nnx.split(nnx.eval_shape(other))
    params = draw(0)
    nnx.replace_by_pure_dict(state, params)
    x = normal(5, 4, dtype=dtype)

    def of_linen(params, x):
        return model.apply({"params": params}, x).sum()

    def of_nnx(state, x):
        return nnx.merge(graph, state)(x).sum()

    y, grads = jax.jit(jax.value_and_grad(of_linen, (0, 1)))(params, x)
    z, others = jax.jit(jax.value_and_grad(of_nnx, (0, 1)))(state, x)
    assert_same((y, grads[1]), (z, others[1]))
    assert_same(grads[0], nnx.to_pure_dict(others[0]))
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(("name", "layers"), [("MonotoneMLP", 2), ("ICNN", 3)])
def test_networks_have_the_fields_of_flaxs_layers(name, layers):
    """And their layers get them."""
    linen, other = getattr(fs.linen, name), getattr(fs.nnx, name)
    assert {f.name for f in dataclasses.fields(nn.Dense)} <= {
        f.name for f in dataclasses.fields(linen)
    }
    theirs = inspect.signature(nnx.Linear.__init__).parameters
    assert set(theirs) <= set(inspect.signature(other.__init__).parameters)

    x, products = jnp.ones((5, 4)), []

    def product(*args, **options):
        products.append(options["precision"])
        return jax.lax.dot_general(*args, **options)

    def half(*args, dtype):
        arrays = args[0] if isinstance(args[0], tuple) else args
        return tuple(None if a is None else a.astype(jnp.float16) for a in arrays)

    options = {"use_bias": False, "promote_dtype": half, "precision": "highest"}
    for field in ({"dot_general": product}, {"dot_general_cls": lambda: product}):
        model = linen((6,), 2, **options, **field)
        y, variables = jax.eval_shape(model.init_with_output, KEY, x)
        assert y.dtype == jnp.float16
        paths = jax.tree_util.tree_leaves_with_path(variables)
        assert len(paths) == layers and "bias" not in str(paths)
    assert products == ["highest"] * 2 * layers

    def make(**more):
        metadata = {"kernel_metadata": {"mine": 1}, "bias_metadata": {"mine": 2}}
        return other(4, (6,), 2, rngs=nnx.Rngs(0), **metadata, **more)

    def run(**more):
        model = make(**more)
        return model(x), nnx.state(model)

    y, state = jax.eval_shape(lambda: run(dot_general=product, **options))
    assert y.dtype == jnp.float16 and len(jax.tree.leaves(state)) == layers
    assert products == ["highest"] * 3 * layers
    with jax.numpy_dtype_promotion("standard"):
        wide = {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}
        y, state = jax.eval_shape(lambda: run(**wide))
    assert y.dtype == jnp.float32
    for path, param in nnx.to_flat_state(state):
        assert param.get_metadata("mine") == (2 if path[-1] == "bias" else 1)


def test_input_convex_networks_start_in_scale():
    x = normal(256, 16)
    model = fs.linen.ICNN((128, 128), 4)
    y, variables = model.init_with_output(KEY, x)
    assert jnp.abs(y.mean()) < 0.5 and 0.5 < y.std() < 2
    biases = [variables["params"][f"skip_{i}"]["bias"] for i in range(3)]
    assert (biases[0] == 2).all() and all((b < 0).all() for b in biases[1:])
    other = fs.nnx.ICNN(16, (128, 128), 4, rngs=nnx.Rngs(0))
    assert_same([getattr(other, f"skip_{i}").bias[...] for i in range(3)], biases)


@pytest.mark.parametrize("name", ["MonotoneMLP", "ICNN"])
def test_networks_that_cannot_be(name):
    def make(widths, **options):
        with pytest.raises(ValueError, match=message):
            getattr(fs.linen, name)(widths, **options).init(KEY, jnp.ones((1, 3)))
        with pytest.raises(ValueError, match=message):
            getattr(fs.nnx, name)(3, widths, **options, rngs=nnx.Rngs(0))

    for widths in ((), (8, 0), (8, 2.5)):
        message = re.escape(
            f"{name} expects the widths of one hidden layer or more, but got {widths}."
        )
        make(widths)
    message = "expects a finite beta above 0, but got -1"
    make((8,), beta=-1)
    if name == "MonotoneMLP":
        message = "expects in monotone one number for each of its 3 inputs, but got 2"
        make((8,), monotone=(1, 1))
        message = r"expects in monotone 1, 0 or -1 for each input, but got \[1, 2, 0\]"
        make((8,), monotone=(1, 2, 0))
        message = r"but got \[0, 0, 0\]. If all are free, take Dense or Linear of Flax"
        make((8,), monotone=(0, 0, 0))
