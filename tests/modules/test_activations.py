"""The modules of activations: the functions, in either API, to the bit."""

import dataclasses
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _cases import CASES
from _layers import KEY, assert_same, nnx_linear, normal
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx
from flax_stable.testing import REFERENCES

# The number that can be learned, and the function.
LEARNABLE = {
    "CELU": ("alpha", fs.celu),
    "ELU": ("alpha", fs.elu),
    "LeakyReLU": ("negative_slope", fs.leaky_relu),
    "Snake": ("a", fs.snake),
    "Softcap": ("cap", fs.softcap),
    "Softplus": ("beta", fs.softplus),
    "Squareplus": ("b", fs.squareplus),
}
# What is not a field of a module, but an argument when it is called.
PASSED_ON = {
    "Softmax": (fs.softmax, "where"),
    "LogSoftmax": (fs.log_softmax, "where"),
    "Standardize": (fs.standardize, "where"),
    "GLU": (fs.glu, "gate"),
    "GeGLU": (fs.geglu, "gate"),
    "ReGLU": (fs.reglu, "gate"),
    "SwiGLU": (fs.swiglu, "gate"),
}
APIS = pytest.mark.parametrize("api", ["linen", "nnx"])
learnable = pytest.mark.parametrize("name", LEARNABLE)


def flat(name):
    return name.lower().replace("_", "")


def test_every_function_has_a_module_and_a_case():
    names = {call.partition("(")[0] for call in REFERENCES}
    names |= {function.__name__ for function, _ in PASSED_ON.values()}
    tested = {name for name, *_ in CASES} | {"PReLU"}
    for api in (fs.linen, fs.nnx):
        modules = {
            name
            for name, value in vars(api).items()
            if inspect.isclass(value)
            and not re.match("Stable|Parametrized|.*MLP|ICNN", name)
        }
        assert modules == tested
        assert {flat(name) for name in names} <= {flat(module) for module in modules}
        assert api.HardSwish is api.HardSiLU and api.Swish is api.SiLU


def called(api, name, fields):
    """The module as a function."""
    module = getattr(getattr(fs, api), name)(**fields)
    if api == "nnx":
        return module
    return lambda *args, **options: module.apply({}, *args, **options)


@pytest.mark.parametrize(("name", "fields", "function", "options"), CASES)
def test_modules_are_the_functions(name, fields, function, options):
    x = 4 * normal(4, 6)
    if name in ("InverseSoftplus", "Log1mExp"):
        x = jnp.abs(x)

    def value_and_gradient(f):
        y, pull_back = jax.vjp(f, x)
        return y, *pull_back(normal(*y.shape, seed=2))

    modules = (called(api, name, fields) for api in ("linen", "nnx"))
    functions = functools.partial(function, **options), *modules
    # One program of all compiles faster.
    results = jax.jit(lambda: [value_and_gradient(f) for f in functions])()
    for found in results[1:]:
        assert_same(found, results[0])


@APIS
@pytest.mark.parametrize("name", PASSED_ON)
def test_calls_take_the_other_array(name, api):
    function, keyword = PASSED_ON[name]
    x, other = normal(3, 4), normal(3, 4, seed=2)
    other = {keyword: other > -1 if keyword == "where" else other}
    assert_same(called(api, name, {})(x, **other), function(x, **other))


def test_activations_in_sequences():
    x = normal(2, 3)
    layers = [fs.linen.ELU(learnable=True), fs.linen.Softmax(), fs.linen.PReLU()]
    model = nn.Sequential([fs.linen.StableSoftplusDense(4), *layers])
    variables = model.init(KEY, x)
    params = variables["params"]
    assert params["layers_1"] == {"alpha": 1} and "layers_2" not in params
    dense = nnx_linear()
    dense.raw_kernel[...] = params["layers_0"]["raw_kernel"]
    layers = [fs.nnx.ELU(learnable=True), fs.nnx.Softmax(), fs.nnx.PReLU()]
    found = nnx.Sequential(dense, *layers)(x)
    assert_same(found, model.apply(variables, x))
    hidden = fs.elu(x @ fs.softplus(dense.raw_kernel[...]))
    assert_same(found, fs.softmax(hidden))


# Learnable numbers


@pytest.mark.parametrize("param_shape", [(), (5,), (3, 1)])
@learnable
def test_learned_numbers(name, param_shape):
    field, function = LEARNABLE[name]
    options = {field: 0.5, "learnable": True, "param_shape": param_shape}
    x, g = 4 * normal(3, 5), normal(3, 5, seed=2)
    linen = getattr(fs.linen, name)(**options)
    params = linen.init(KEY, x)["params"]
    assert_same(params, {field: jnp.full(param_shape, 0.5)})
    graph, state = nnx.split(getattr(fs.nnx, name)(**options))
    assert_same(nnx.to_pure_dict(state), params)

    def of_function(number, x):
        return function(x, number)

    def of_linen(number, x):
        return linen.apply({"params": {field: number}}, x)

    def of_nnx(number, x):
        copy = jax.tree.map(lambda leaf: number, state)
        return nnx.merge(graph, copy)(x)

    @jax.jit
    def derivatives(number, x):
        def of(f):
            loss = jax.value_and_grad(lambda *args: (f(*args) * g).sum(), (0, 1))
            return loss(number, x)

        return [of(f) for f in (of_function, of_linen, of_nnx)]

    expected, *found = derivatives(params[field], x)
    for each in found:
        assert_same(each, expected)
    assert (expected[1][0] != 0).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@learnable
def test_outputs_keep_the_dtype_of_the_inputs(name, dtype):
    field, function = LEARNABLE[name]
    x = normal(7, dtype=dtype)
    options = {field: 0.3, "learnable": True}
    linen = getattr(fs.linen, name)(**options)
    module = getattr(fs.nnx, name)(**options)
    variables = linen.init(KEY, x)
    expected = function(x, jnp.asarray(0.3, dtype))
    assert expected.dtype == dtype
    assert_same(linen.apply(variables, x), expected)
    assert_same(module(x), expected)
    gradient = jax.grad(lambda v: linen.apply(v, x).sum().astype(jnp.float32))
    grads = jax.eval_shape(gradient, variables)
    assert grads["params"][field].dtype == np.float32
    # Integers become floating, and do not make the number an integer.
    assert_same(module(jnp.arange(-3, 3)), function(jnp.arange(-3, 3), np.float32(0.3)))


@learnable
def test_param_dtype(name):
    field, _ = LEARNABLE[name]
    options = {field: 0.5, "learnable": True, "param_dtype": jnp.bfloat16}
    module = getattr(fs.nnx, name)(**options)
    params = getattr(fs.linen, name)(**options).init(KEY, 1.0)["params"]
    assert getattr(module, field).dtype == params[field].dtype == jnp.bfloat16
    assert module(normal(3)).dtype == np.float32


@learnable
def test_a_learned_number_is_found(name):
    field, function = LEARNABLE[name]
    x = normal(256)
    y = function(x, 0.7)
    module = getattr(fs.nnx, name)(0.5, learnable=True)
    linen = getattr(fs.linen, name)(0.5, learnable=True)
    params = linen.init(KEY, x)

    def descend(params, _):
        grads = jax.grad(lambda p: ((linen.apply(p, x) - y) ** 2).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

    @nnx.scan(in_axes=(nnx.Carry,), out_axes=nnx.Carry, length=1000)
    def descend_nnx(module):
        grads = nnx.grad(lambda m: ((m(x) - y) ** 2).mean())(module)
        number = getattr(module, field)
        number[...] -= 0.1 * getattr(grads, field)[...]
        return module

    params, _ = jax.lax.scan(descend, params, None, length=1000)
    module = descend_nnx(module)
    np.testing.assert_allclose(params["params"][field], 0.7, rtol=1e-3)
    np.testing.assert_allclose(getattr(module, field)[...], 0.7, rtol=1e-3)


# PReLU and Flax's own


def test_fields_of_prelu_are_those_of_flax():
    def fields(cls):
        return [(f.name, f.type, f.default) for f in dataclasses.fields(cls)]

    def arguments(cls):
        found = inspect.signature(cls.__init__).parameters.values()
        return [(p.name, p.kind, p.default) for p in found if p.name != "self"]

    def simple(arguments):
        # A MappingProxyType has no equality.
        return [a if not a[0].endswith("metadata") else a[:2] for a in arguments]

    ours, theirs = fields(fs.linen.PReLU), fields(nn.PReLU)
    assert [f[::2] for f in ours] == [f[::2] for f in theirs]
    assert simple(arguments(fs.nnx.PReLU)) == simple(arguments(nnx.PReLU))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_prelu_takes_the_parameters_of_flax(dtype):
    x = normal(4, 5, dtype=dtype)
    theirs, ours = nn.PReLU(negative_slope_init=0.3), fs.linen.PReLU()
    variables = theirs.init(KEY, x)
    assert jax.tree.structure(ours.init(KEY, x)) == jax.tree.structure(variables)
    assert_same(ours.apply(variables, x), theirs.apply(variables, x))
    theirs, ours = nnx.PReLU(0.3), fs.nnx.PReLU()
    nnx.update(ours, nnx.state(theirs))
    assert_same(ours(x), theirs(x))
    assert_same(ours(x), fs.linen.PReLU().apply(variables, x))
    grads = [nnx.grad(lambda m: (m(x) ** 2).sum())(m) for m in (ours, theirs)]
    found, expected = (np.float32(g.negative_slope[...]) for g in grads)
    np.testing.assert_allclose(found, expected, rtol=2e-2)


def test_options_of_prelu():
    x = normal(4, 5)
    module = fs.nnx.PReLU(
        0.3,
        dtype=jnp.bfloat16,
        param_dtype=jnp.float16,
        negative_slope_metadata={"tag": "slope"},
    )
    slope = module.negative_slope
    assert (slope.dtype, slope.tag) == (np.float16, "slope")
    theirs = nnx.PReLU(0.3, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    assert_same(module(x), theirs(x))
    params = fs.linen.PReLU(jnp.float16, 0.3).init(KEY, x)["params"]
    assert_same(params, {"negative_slope": jnp.float16(0.3)})


# Flax's transformations


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.Dense(3)(x)
        return fs.linen.PReLU()(fs.linen.CELU(learnable=True, name="celu")(x)), None


def test_linen_scan_and_vmap_over_layers():
    x = normal(2, 3)
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    stack = nn.scan(nn.remat(Block), length=4, **options)()
    variables = stack.init(KEY, x, None)
    slopes = variables["params"]["PReLU_0"]["negative_slope"]
    assert_same(slopes, jnp.full(4, 0.01))
    variables["params"]["celu"]["alpha"] = jnp.linspace(0.5, 2, 4)
    expected = x
    for i in range(4):
        one = jax.tree.map(lambda p, i=i: p[i], variables)
        expected, _ = Block().apply(one, expected, None)
    found, _ = jax.jit(stack.apply)(variables, x, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    mapped = nn.vmap(fs.linen.ELU, **options)(learnable=True)
    params = mapped.init(KEY, x)["params"]
    assert params["alpha"].shape == (2,)


def test_nnx_transformations():
    x = normal(4, 3)
    module = fs.nnx.CELU(2.0, learnable=True)
    expected = module(x)
    graph, state = nnx.split(module)
    assert_same(nnx.merge(graph, state)(x), expected)
    assert_same(nnx.clone(module)(x), expected)
    assert_same(nnx.jit(lambda m, x: m(x))(module, x), fs.celu(x, np.float32(2)))
    assert_same(nnx.vmap(lambda m, x: m(x), in_axes=(None, 0))(module, x), expected)

    @nnx.vmap(in_axes=(), axis_size=4)
    def stack():
        return fs.nnx.CELU(2.0, learnable=True)

    layers = stack()
    assert layers.alpha.shape == (4,)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def forward(layer, x):
        return layer(x)

    for _ in range(4):
        x = fs.celu(x, np.float32(2))
    np.testing.assert_allclose(forward(layers, normal(4, 3)), x, rtol=1e-6)
    # What is not learned is no state, and part of what a compiled function is for.
    graph, state = nnx.split(fs.nnx.CELU(2.0))
    assert not jax.tree.leaves(state)
    assert nnx.split(fs.nnx.CELU(2.0))[0] == graph != nnx.split(fs.nnx.CELU(3.0))[0]
    assert hash(fs.linen.CELU(2.0)) == hash(fs.linen.CELU(2.0))


# Errors


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (lambda f: {f: "1"}, TypeError, r"a real number as {f}, but got '1'"),
        (lambda f: {f: 1j}, TypeError, r"a real number as {f}, but got 1j"),
        (lambda f: {f: np.ones(3)}, TypeError, r"set learnable and param_shape"),
        (lambda f: {f: np.nan}, ValueError, r"a finite number as {f}, but got nan"),
        (lambda f: {f: -np.inf}, ValueError, r"a finite number as {f}, but got -inf"),
        (
            lambda f: {"param_shape": (3,)},
            ValueError,
            r"has the param_shape \(3,\), but its {f} is not learnable",
        ),
        (
            lambda f: {"learnable": True, "param_dtype": jnp.int32},
            TypeError,
            r"learns {f} in a real floating dtype, but param_dtype is int32",
        ),
    ],
)
@APIS
@learnable
def test_fields_that_cannot_be(name, api, fields, error, message):
    field, _ = LEARNABLE[name]
    with pytest.raises(error, match=f"{name} .*{message.format(f=re.escape(field))}"):
        called(api, name, {field: 1.0} | fields(field))(1.0)


@APIS
@learnable
def test_a_parameter_that_does_not_broadcast(name, api):
    module = getattr(getattr(fs, api), name)(1.0, learnable=True, param_shape=(3,))
    call = module if api == "nnx" else lambda x: module.init(KEY, x)
    with pytest.raises(ValueError, match=r"broadcasts its parameters.*\(2, 4\)"):
        call(jnp.ones((2, 4)))
