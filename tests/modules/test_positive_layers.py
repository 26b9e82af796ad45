"""Flax's layers with positive parameters: results, gradients, both APIs alike."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY, assert_same, normal
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec as P

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

MASK = np.tile([[[1.0, 0.0, 1.0, 1.0]]], (3, 2, 1)).astype(np.float32)
# The end of a layer's name in either API, its arguments there, the positive parameter,
# and the inputs.
CASES = [
    (
        ("DenseGeneral", {"features": (4, 5), "axis": (-1, 1), "batch_dims": (0,)}),
        ("LinearGeneral", ((3, 2), (4, 5)), {"axis": (1, -1), "batch_axis": {0: 6}}),
        "kernel",
        normal(6, 3, 2),
    ),
    (
        (
            "Conv",
            {"features": 4, "kernel_size": (3,), "mask": MASK, "padding": "CIRCULAR"},
        ),
        ("Conv", (2, 4, 3), {"mask": MASK, "padding": "CIRCULAR"}),
        "kernel",
        normal(2, 6, 2),
    ),
    (
        ("Einsum", {"shape": (8, 2, 4), "einsum_str": "nta,hab->nthb"}),
        ("Einsum", ("nta,hab->nthb", (8, 2, 4), (8, 4)), {}),
        "kernel",
        normal(3, 5, 2),
    ),
    (
        ("Embed", {"num_embeddings": 5, "features": 3}),
        ("Embed", (5, 3), {}),
        "embedding",
        jnp.array([[0, 4], [1, 1]]),
    ),
    (("Scale", {}), ("Scale", (3,), {}), "scale", normal(2, 4, 3)),
]
NAMES = [f"{linen[0]}-{i}" for i, (linen, *_) in enumerate(CASES)]
OPTIONS = {"floor": 1e-3}
# A steepness for the smallest layers: it takes longer to compile.
STEEP = {"Embed": {"beta": 2.0}, "Scale": {"beta": 2.0}}


class Scale(nn.Module):
    """What a layer of positive scales stands for."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, x.shape[-1:])


def flax_layer(name, options):
    return Scale() if name == "Scale" else getattr(nn, name)(**options)


def draw(params):
    """Raw parameters of any size and sign, and biases."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(0, 2, p.shape), p.dtype), params
    )


def loss_and_grads(f, params, x):
    """The output, and the gradients of a product with it, by parameters and inputs."""
    y, g = jax.eval_shape(f, params, x), None
    g = normal(*y.shape, seed=2, dtype=y.dtype)
    if jnp.issubdtype(x.dtype, jnp.integer):
        y, vjp = jax.vjp(lambda p: f(p, x), params)
    else:
        y, vjp = jax.vjp(f, params, x)
    return y, *vjp(g)


@pytest.mark.parametrize(("linen", "of_nnx", "positive", "x"), CASES, ids=NAMES)
def test_layers_are_flaxs_with_the_positive_parameter(linen, of_nnx, positive, x):
    name, arguments = linen
    transform = OPTIONS | STEEP.get(name, {})
    layer = getattr(fs.linen, f"StableSoftplus{name}")(**arguments, **transform)
    params = draw(layer.init(KEY, x)["params"])
    raw = params[f"raw_{positive}"]
    ours = loss_and_grads(lambda p, x: layer.apply({"params": p}, x), params, x)

    theirs = flax_layer(name, arguments)
    plain = fs.linen.positive_kernels(params, **transform)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(
        jnp.shape, theirs.init(KEY, x)["params"]
    )
    expected = loss_and_grads(lambda p, x: theirs.apply({"params": p}, x), plain, x)
    assert_same(ours[0], expected[0])
    assert_same(ours[2:], expected[2:])
    # The gradient goes on to the raw parameter.
    _, vjp = jax.vjp(lambda r: fs.positive(r, **transform), raw)
    (expected[1][f"raw_{positive}"],) = vjp(expected[1].pop(positive))
    assert_same(ours[1], expected[1])

    name, args, arguments = of_nnx
    cls = getattr(fs.nnx, f"StableSoftplus{name}")
    other = cls(*args, **arguments, **transform, rngs=nnx.Rngs(0))
    assert (getattr(other, positive) > 1e-3).all()
    graph, state = nnx.split(other)
    nnx.replace_by_pure_dict(state, params)
    found = loss_and_grads(lambda s, x: nnx.merge(graph, s)(x), state, x)
    assert_same(found[0], ours[0])
    assert_same(found[2:], ours[2:])
    # Flax counts a mask among the state.
    grads = nnx.to_pure_dict(nnx.filter_state(found[1], nnx.Param))
    assert_same(grads, ours[1])
    assert_same(getattr(nnx.merge(graph, state), positive), plain[positive])


@pytest.mark.parametrize(("linen", "of_nnx", "positive", "x"), CASES, ids=NAMES)
def test_initializers_describe_the_positive_parameter(linen, of_nnx, positive, x):
    init, wrapped = f"{positive}_init", nn.initializers.constant(0.25)
    name, arguments = linen
    transform = OPTIONS | STEEP.get(name, {})
    cls = getattr(fs.linen, f"StableSoftplus{name}")
    raw = f"raw_{positive}"
    boxed = nn.with_partitioning(wrapped, ("model",))
    params = cls(**arguments, **transform, **{init: boxed}).init(KEY, x)["params"]
    assert params[raw].names == ("model",)
    np.testing.assert_allclose(
        fs.positive(params[raw].value, **transform), 0.25, rtol=1e-6
    )
    other, args, options = of_nnx
    other = getattr(fs.nnx, f"StableSoftplus{other}")
    options = {**options, **transform, f"{positive}_metadata": {"mine": 1}}
    module = other(*args, **options, **{init: wrapped}, rngs=nnx.Rngs(0))
    assert getattr(module, raw).get_metadata("mine") == 1
    np.testing.assert_allclose(getattr(module, positive), 0.25, rtol=1e-6)
    with pytest.raises(AttributeError, match=f"is computed from {raw}. Set that"):
        setattr(module, positive, nnx.Param(jnp.ones(())))

    # What cannot be is refused in either API.
    for bad, error, message in (
        (
            {init: nn.initializers.constant(-1.0)},
            ValueError,
            "must return values above",
        ),
        ({"param_dtype": jnp.int32, init: jnp_ones}, TypeError, "real floating dtype"),
        ({"beta": 0}, ValueError, "expects a finite beta above 0, but got 0"),
        ({"floor": -0.5}, ValueError, "a finite floor of 0 or more, but got -0.5"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            cls(**arguments, **bad).init(KEY, x)
        with pytest.raises(error, match=re.escape(message)):
            other(*of_nnx[1], **of_nnx[2], **bad, rngs=nnx.Rngs(0))


def jnp_ones(key, shape, dtype):
    return jnp.ones(shape, dtype)


class Convolved(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return fs.linen.StableSoftplusConv(3, (3,), name="conv")(x), None


def test_layers_under_flax_transformations():
    x = normal(2, 6, 3)
    stack = nn.scan(
        nn.remat(Convolved),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=2,
    )()
    variables = stack.init(KEY, x, None)
    assert variables["params"]["conv"]["raw_kernel"].shape == (2, 3, 3, 3)
    y = x
    for i in range(2):
        one = jax.tree.map(lambda p, i=i: p[i], variables)
        y, _ = Convolved().apply(one, y, None)
    np.testing.assert_allclose(stack.apply(variables, x, None)[0], y, rtol=1e-5)

    def stacked():
        @nnx.split_rngs(splits=2)
        @nnx.vmap
        def make(rngs):
            return fs.nnx.StableSoftplusConv(3, 3, 3, rngs=rngs)

        return make(nnx.Rngs(0))

    layers = nnx.eval_shape(stacked)
    assert layers.raw_kernel.shape == (2, 3, 3, 3)
    assert set(nnx.state(layers)) == {"raw_kernel", "bias"}


def test_embeddings_attend():
    layer = fs.linen.StableSoftplusEmbed(5, 3)
    params = draw(layer.init(KEY, jnp.array([0]))["params"])
    query = normal(2, 3)
    expected = query @ fs.softplus(params["raw_embedding"]).T
    variables = {"params": params}
    assert_same(layer.apply(variables, query, method="attend"), expected)
    module = fs.nnx.StableSoftplusEmbed(5, 3, rngs=nnx.Rngs(0))
    module.raw_embedding[...] = params["raw_embedding"]
    assert_same(module.attend(query), expected)


def test_scales_of_the_wrong_width():
    with pytest.raises(ValueError, match=re.escape("(..., 3), but got shape (2, 1)")):
        fs.nnx.StableSoftplusScale(3, rngs=nnx.Rngs(0))(jnp.ones((2, 1)))
    layer = fs.linen.StableSoftplusScale()
    variables = layer.init(KEY, jnp.ones((2, 3)))
    with pytest.raises(Exception, match="raw_scale"):
        layer.apply(variables, jnp.ones((2, 1)))


# A direction for each input


def linear_layer(monotone, **options):
    return fs.nnx.StableSoftplusLinear(
        len(monotone), 5, monotone=monotone, rngs=nnx.Rngs(0), **options
    )


@pytest.mark.parametrize("monotone", [(0, 0, 1, 0, -1), (1, -1, -1)])
def test_directions_of_inputs(monotone):
    """The weights of free inputs are a parameter of their own, which is not raw."""
    dense = fs.linen.StableSoftplusDense(5, monotone=monotone, floor=0.125)
    linear = linear_layer(monotone, floor=0.125)
    free = monotone.count(0)
    x = normal(3, len(monotone))
    params = draw(dense.init(KEY, x)["params"])
    assert params["raw_kernel"].shape == (len(monotone) - free, 5)
    assert ("free_kernel" in params) == (free > 0)
    graph, state = nnx.split(linear)
    assert set(state) == set(params)
    nnx.replace_by_pure_dict(state, params)

    def kernel(params):
        rows = iter(fs.positive(params["raw_kernel"], floor=0.125))
        frees = iter(params.get("free_kernel", ()))
        return jnp.stack([d * next(rows) if d else next(frees) for d in monotone])

    assert_same(nnx.merge(graph, state).kernel, kernel(params))
    expected = loss_and_grads(lambda p, x: x @ kernel(p) + p["bias"], params, x)
    found = loss_and_grads(lambda p, x: dense.apply({"params": p}, x), params, x)
    assert_same(found, expected)
    found = loss_and_grads(lambda s, x: nnx.merge(graph, s)(x), state, x)
    assert_same((found[0], nnx.to_pure_dict(found[1]), found[2]), expected)
    # What goes by names takes the free weights for what they are.
    mask = fs.decay.raw_mask(params)
    assert [name for name in params if mask[name]] == ["raw_kernel"]
    read = fs.linen.positive_kernels(params, floor=0.125)
    assert set(read) == {name.removeprefix("raw_") for name in params}
    assert free == 0 or read["free_kernel"] is params["free_kernel"]
    message = f"expects inputs of shape (..., {len(monotone)}), but got shape (3, 2). "
    for call in (lambda x: dense.apply({"params": params}, x), linear):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(x[:, :2])


def test_free_weights_start_with_either_sign():
    """And, row by row, with the sizes that the initializer gives for all inputs."""

    def init(key, shape, dtype):
        return jnp.tile(jnp.arange(1, 1 + shape[0], dtype=dtype)[:, None], shape[1])

    boxed = nn.with_partitioning(init, (None, "model"))
    monotone = [0] * 20 + [1] + [0] * 20 + [-1]
    dense = fs.linen.StableSoftplusDense(5, monotone=monotone, kernel_init=boxed)
    params = dense.init(KEY, jnp.ones((1, 42)))["params"]
    assert params["free_kernel"].names == (None, "model")
    linear = linear_layer(
        monotone, kernel_init=init, kernel_metadata={"mine": 1}, floor=0.01
    )
    assert linear.raw_kernel.get_metadata("mine") == 1
    assert linear.free_kernel.get_metadata("mine") == 1
    sizes = np.tile(np.arange(1, 43.0)[:, None], 5)
    np.testing.assert_allclose(jnp.abs(linear.kernel), sizes, rtol=1e-6)
    for free in (params["free_kernel"].value, linear.free_kernel[...]):
        np.testing.assert_array_equal(jnp.abs(free), np.delete(sizes, (20, 41), axis=0))
        assert 70 < (free > 0).sum() < 130
    np.testing.assert_allclose(
        fs.positive(params["raw_kernel"].value), sizes[[20, 41]], rtol=1e-6
    )
    # Each of the two has a key of its own.
    linear = linear_layer([1, 0, 1], kernel_init=nn.initializers.uniform())
    sizes = jnp.abs(linear.kernel)
    other = linear_layer([1, 1, 1], kernel_init=nn.initializers.uniform()).kernel
    assert_same(sizes[::2], other[::2])
    assert (sizes[1] != other[1]).all()


@pytest.mark.parametrize(
    ("monotone", "message"),
    [
        (
            [1, 0],
            "expects in monotone one number for each of its 3 inputs, but got 2 of "
            "shape (2,). Name a direction for each: 1 for increasing, -1 for",
        ),
        ([], "expects in monotone one number for each of its 3 inputs, but got 0 of"),
        (
            [1, 0, 2],
            "expects in monotone 1, 0 or -1 for each input, but got [1, 0, 2]. An",
        ),
        ([1, 0, 0.5], "expects in monotone 1, 0 or -1 for each input, but got"),
        (
            [0, 0, 0],
            "expects in monotone 1 or -1 for one input or more, but got [0, 0, 0]. If",
        ),
    ],
)
def test_directions_that_cannot_be(monotone, message):
    with pytest.raises(ValueError, match=re.escape("StableSoftplusDense " + message)):
        fs.linen.StableSoftplusDense(5, monotone=monotone).init(KEY, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=re.escape("StableSoftplusLinear " + message)):
        fs.nnx.StableSoftplusLinear(3, 5, monotone=monotone, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "axis_type", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit]
)
def test_free_weights_under_a_mesh(axis_type):
    """Split by outputs, both kernels and the one made of them."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(axis_type,))
    spec = P(None, "model")
    with jax.set_mesh(mesh):
        layer = fs.nnx.StableSoftplusLinear(
            3,
            4,
            monotone=(0, 1, 0),
            kernel_init=nn.initializers.ones,
            kernel_metadata={"out_sharding": tuple(spec)},
            rngs=nnx.Rngs(0),
        )
        kernel = layer.kernel
        for array in (layer.raw_kernel[...], layer.free_kernel[...], kernel):
            assert array.sharding.spec == spec
        y = layer(normal(2, 3))
    np.testing.assert_allclose(y, normal(2, 3) @ np.asarray(kernel), rtol=1e-5)


def test_partitioning_under_a_mesh():
    """A convolution split by its outputs gives what it gives in one piece."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    x = normal(2, 6, 3)
    single = fs.nnx.StableSoftplusConv(3, 4, 3, rngs=nnx.Rngs(0))
    with jax.set_mesh(mesh):
        split = fs.nnx.StableSoftplusConv(
            3,
            4,
            3,
            kernel_metadata={"out_sharding": (None, None, "model")},
            rngs=nnx.Rngs(0),
        )
        spec = P(None, None, "model")
        assert split.raw_kernel[...].sharding.spec == spec
        assert split.kernel.sharding.spec == spec
        split.raw_kernel[...] = jax.device_put(
            single.raw_kernel[...], split.raw_kernel[...].sharding
        )
        y = split(x)
    np.testing.assert_allclose(y, single(x), rtol=1e-5)
