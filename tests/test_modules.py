"""The modules of `fs.linen` and `fs.nnx`, one against the other and against Flax's."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx, serialization
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx
from flax_stable._positive import near_permutation

KEY = jax.random.key(0)
ACTIVATIONS = {
    "Softplus": fs.softplus,
    "InverseSoftplus": fs.inverse_softplus,
    "Sigmoid": fs.sigmoid,
    "LogSigmoid": fs.log_sigmoid,
    "Tanh": fs.tanh,
}


def normal(*shape, dtype=jnp.float32, seed=1):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def assert_same(a, b):
    """Bitwise, dtypes included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def linen_dense(features=4, in_features=3, **options):
    layer = fs.linen.StableSoftplusDense(
        features, **{"bias_init": nn.initializers.normal(), **options}
    )
    return layer, layer.init(KEY, jnp.ones((1, in_features)))["params"]


def nnx_linear(in_features=3, out_features=4, **options):
    return fs.nnx.StableSoftplusLinear(
        in_features, out_features, rngs=nnx.Rngs(0), **options
    )


# Activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_modules_are_the_functions(name):
    x = jnp.abs(normal(2, 3)) + 0.1
    expected = ACTIVATIONS[name](x)
    assert_same(getattr(fs.linen, name)().apply({}, x), expected)
    assert_same(getattr(fs.nnx, name)()(x), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_layers_in_sequences(name):
    x = normal(2, 3)
    model = nn.Sequential([fs.linen.StableSoftplusDense(4), getattr(fs.linen, name)()])
    variables = model.init(KEY, x)
    raw_kernel = variables["params"]["layers_0"]["raw_kernel"]
    expected = ACTIVATIONS[name](x @ fs.softplus(raw_kernel))
    assert_same(model.apply(variables, x), expected)
    layer = nnx_linear()
    layer.raw_kernel[...] = raw_kernel
    assert_same(nnx.Sequential(layer, getattr(fs.nnx, name)())(x), expected)


# Flax's own fields, defaults and results


def test_linen_fields_are_those_of_dense():
    def fields(cls):
        return [(f.name, f.default) for f in dataclasses.fields(cls)]

    ours, theirs = map(fields, (fs.linen.StableSoftplusDense, nn.Dense))
    assert [f[0] for f in ours] == [f[0] for f in theirs]
    assert [a[0] for a, b in zip(ours, theirs, strict=True) if a != b] == [
        "kernel_init"
    ]


def test_nnx_arguments_are_those_of_linear():
    def parameters(cls):
        found = inspect.signature(cls.__init__).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    ours, theirs = map(parameters, (fs.nnx.StableSoftplusLinear, nnx.Linear))
    assert [p[:2] for p in ours] == [p[:2] for p in theirs]
    # A MappingProxyType has no equality: compare what it holds.
    differ = [
        a[0]
        for a, b in zip(ours, theirs, strict=True)
        if a != b and not (a[0].endswith("metadata") and dict(a[2]) == dict(b[2]))
    ]
    assert differ in (["kernel_init"], ["kernel_init", "bias_init"])
    assert (nnx_linear().bias[...] == 0).all()


def doubled_product(*args, precision=None):
    return 2 * jax.lax.dot_general(*args, precision=precision)


class CountedProduct(nn.Module):
    """A product with a state of its own, as quantized ones have."""

    @nn.compact
    def __call__(self, *args, precision=None):
        count = self.variable("counts", "calls", lambda: jnp.int32(0))
        count.value += 1
        return doubled_product(*args, precision=precision)


def halve_dtype(*args, dtype=None):
    """A promotion of the user's own, in the way of Linen or of NNX."""
    arrays = args[0] if isinstance(args[0], tuple) else args
    return tuple(None if x is None else x.astype(jnp.float16) for x in arrays)


SHAPES = [(3,), (2, 5, 3)]
OPTIONS = [
    {},
    {"use_bias": False},
    {"dtype": jnp.bfloat16},
    {"dtype": jnp.float16, "use_bias": False},
    {"param_dtype": jnp.bfloat16, "dtype": jnp.float32},
    {"precision": "highest"},
    {"bias_init": nn.initializers.ones},
    {"kernel_init": nn.initializers.constant(0.25)},
    {"promote_dtype": halve_dtype},
]


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"dot_general": doubled_product},
        {"dot_general_cls": lambda: doubled_product},
        {"dot_general_cls": CountedProduct, "dot_general": jax.lax.dot_general},
    ],
    ids="-".join,
)
def test_linen_is_dense_of_the_positive_kernel(options):
    x = normal(2, 3)
    layer = fs.linen.StableSoftplusDense(4, **options)
    variables = layer.init(KEY, x)
    dtype = options.get("param_dtype", jnp.float32)
    assert variables["params"]["raw_kernel"].dtype == dtype
    theirs = nn.Dense(4, **options)
    dense_variables = fs.linen.positive_kernels(variables)
    assert jax.tree.structure(dense_variables) == jax.tree.structure(
        theirs.init(KEY, x)
    )
    for shape in SHAPES:
        x = normal(*shape)
        assert_same(
            layer.apply(variables, x, mutable=["counts"]),
            theirs.apply(dense_variables, x, mutable=["counts"]),
        )


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32},
        {"preferred_element_type": jnp.float32, "use_bias": False},
    ],
    ids="-".join,
)
def test_nnx_is_linear_of_the_positive_kernel(options):
    layer = nnx_linear(**options)
    dtype = options.get("param_dtype", jnp.float32)
    assert layer.raw_kernel.dtype == layer.kernel.dtype == dtype
    assert (layer.bias is None) == (options.get("use_bias") is False)
    theirs = nnx.Linear(3, 4, rngs=nnx.Rngs(0), **options)
    theirs.kernel[...] = layer.kernel
    # Flax adds the bias to a product of another dtype, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        for shape in SHAPES:
            x = normal(*shape)
            assert_same(layer(x), theirs(x))


def test_nnx_product_of_the_users_own_gets_only_what_was_asked_for():
    layer = nnx_linear(dot_general=doubled_product)
    x = normal(2, 3)
    assert_same(layer(x), doubled_product(x, layer.kernel, (((1,), (0,)), ((), ()))))


def test_kernel_init_describes_the_positive_kernel():
    init = nn.initializers.constant(0.25)
    _, params = linen_dense(kernel_init=init)
    layer = nnx_linear(kernel_init=init)
    for raw_kernel in (params["raw_kernel"], layer.raw_kernel[...]):
        assert_same(raw_kernel, fs.inverse_softplus(jnp.full((3, 4), 0.25)))
    assert_same(layer.kernel, fs.softplus(layer.raw_kernel[...]))
    with pytest.raises(AttributeError):
        layer.kernel = jnp.ones((3, 4))


def test_the_default_kernel_is_a_near_permutation():
    _, params = linen_dense(16, 16)
    for kernel in (
        fs.linen.positive_kernels(params)["kernel"],
        nnx_linear(16, 16).kernel,
    ):
        assert (kernel > 0).all()
        for axis in (0, 1):
            assert ((kernel > 1).sum(axis) == 1).all()
            assert ((kernel < 0.15 / 16).sum(axis) == 15).all()


# Linen and NNX


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linen_and_nnx_agree_bitwise(dtype, use_bias, shape, jit):
    options = {"dtype": dtype, "use_bias": use_bias}
    linen, params = linen_dense(7, 5, **options)
    graph, state = nnx.split(nnx_linear(5, 7, **options))
    nnx.replace_by_pure_dict(state, params)
    x, g = normal(*shape), normal(*shape[:-1], 7, seed=2)

    def of_linen(params, x):
        return (linen.apply({"params": params}, x).astype(g.dtype) * g).sum()

    def of_nnx(state, x):
        return (nnx.merge(graph, state)(x).astype(g.dtype) * g).sum()

    wrap = jax.jit if jit else lambda f: f
    out_linen, (d_params, dx_linen) = wrap(jax.value_and_grad(of_linen, (0, 1)))(
        params, x
    )
    out_nnx, (d_state, dx_nnx) = wrap(jax.value_and_grad(of_nnx, (0, 1)))(state, x)
    assert set(params) == ({"raw_kernel", "bias"} if use_bias else {"raw_kernel"})
    assert_same((out_linen, dx_linen), (out_nnx, dx_nnx))
    assert_same(d_params, nnx.to_pure_dict(d_state))
    assert jnp.any(d_params["raw_kernel"] != 0) and jnp.any(dx_nnx != 0)


def test_the_gradient_is_that_of_the_formula():
    x, g = normal(16, 5), normal(16, 7, seed=2)
    linen, params = linen_dense(7, 5)
    params["raw_kernel"] = raw_kernel = 4 * normal(5, 7, seed=3)

    def loss(params):
        return (linen.apply({"params": params}, x) * g).sum()

    grads = jax.grad(loss)(params)
    x, g, raw = (np.asarray(a, np.float64) for a in (x, g, raw_kernel))
    slope = 1 / (1 + np.exp(-raw))
    error = np.abs(grads["raw_kernel"] - x.T @ g * slope)
    # A sum of 16 products in float32, in any order.
    np.testing.assert_array_less(error, 16 * 2**-24 * (np.abs(x).T @ np.abs(g)) * slope)
    error = np.abs(grads["bias"] - g.sum(0))
    np.testing.assert_array_less(error, 16 * 2**-24 * np.abs(g).sum(0))


def test_outputs_increase_with_every_input():
    layer = nnx_linear(5, 7)
    layer.raw_kernel[...] = 10 * normal(5, 7)
    jacobian = jax.jacfwd(layer)(normal(5))
    assert (jacobian > 0).all()


# Partitioning

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
            "kernel_init": nnx.with_partitioning(near_permutation(), (None, "model")),
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
        "kernel_init": placed(near_permutation(), None, "model"),
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


# Transformations


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
            one = jax.tree.map(lambda p: p[i], params)  # noqa: B023
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


# Errors


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return fs.linen.StableSoftplusDense(4, name="hidden")(x)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Outer(name="block")(x)


@pytest.mark.parametrize("shape", [(2, 5), (), (3, 1)])
@pytest.mark.parametrize(
    "model, name",
    [
        (fs.linen.StableSoftplusDense(4), "StableSoftplusDense"),
        (Outer(), "StableSoftplusDense 'hidden'"),
        (Model(), "StableSoftplusDense 'block/hidden'"),
    ],
)
def test_linen_inputs_of_the_wrong_shape(model, name, shape):
    variables = model.init(KEY, jnp.ones((1, 3)))
    message = (
        f"{name} expects inputs of shape (..., 3), but got shape {shape}. Move the "
        "features to the last axis, or initialize the layer for this width."
    )
    for apply in (model.apply, jax.jit(model.apply)):
        with pytest.raises(ValueError, match=re.escape(message)):
            apply(variables, jnp.ones(shape))


def test_linen_cannot_be_initialized_from_a_scalar():
    message = (
        "StableSoftplusDense expects inputs of shape (..., features), but got shape ()."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        fs.linen.StableSoftplusDense(4).init(KEY, jnp.float32(1))


@pytest.mark.parametrize("shape", [(2, 5), (), (3, 1)])
def test_nnx_inputs_of_the_wrong_shape(shape):
    message = (
        f"StableSoftplusLinear expects inputs of shape (..., 3), but got shape {shape}."
        " Move the features to the last axis, or build the layer for this width."
    )
    layer = nnx_linear()
    for call in (layer, nnx.jit(layer)):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(jnp.ones(shape))


def test_raw_kernels_of_the_wrong_kind():
    layer = nnx_linear()
    x = jnp.ones((2, 3))
    linen = fs.linen.StableSoftplusDense(4, use_bias=False)
    for raw_kernel, error, message in (
        (
            jnp.ones((2, 3, 4)),
            ValueError,
            "expects a raw_kernel of shape (inputs, outputs), but holds one of shape "
            "(2, 3, 4). Call a stack of layers by vmap or scan.",
        ),
        (
            jnp.ones((3, 4), jnp.int8),
            TypeError,
            "expects a raw_kernel of real floating dtype, but holds one of dtype int8. "
            "Cast the parameters.",
        ),
    ):
        layer.raw_kernel = nnx.Param(raw_kernel)
        with pytest.raises(error, match=re.escape("StableSoftplusLinear " + message)):
            layer(x)
        with pytest.raises(error, match=re.escape("StableSoftplusDense " + message)):
            linen.apply({"params": {"raw_kernel": raw_kernel}}, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: fs.linen.StableSoftplusDense(4, **o).init(KEY, jnp.ones((1, 3))),
        nnx_linear,
    ],
    ids=["linen", "nnx"],
)
def test_kernels_that_cannot_be(make):
    with pytest.raises(ValueError, match="kernel_init describes the positive kernel"):
        make(kernel_init=nn.initializers.lecun_normal())
    with pytest.raises(TypeError, match="of real floating dtype, but got dtype int32"):
        make(param_dtype=jnp.int32)
    # Under jit the values are not known: they come out as NaN.
    negative = nn.initializers.constant(-1.0)
    leaves = jax.jit(lambda: jax.tree.leaves(make(kernel_init=negative)))()
    assert any(jnp.isnan(leaf).all() for leaf in leaves)
