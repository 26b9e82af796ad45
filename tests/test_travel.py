"""Functions and modules go to other processes and machines: pickles and exports."""

import copy
import functools
import inspect
import pickle
import typing

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import export

import flax_stable as fs

WAYS = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
    "deepcopy": copy.deepcopy,
}
each_way = pytest.mark.parametrize("way", WAYS)
FUNCTIONS = {
    f"{module.__name__}.{name}": value
    for module in (fs, fs.safe, fs.gradient, fs.decay, fs.linen, fs.nnx, fs.testing)
    for name, value in vars(module).items()
    if inspect.isroutine(value) and not name.startswith("_")
    # What it imports for itself stands there too.
    if module is not fs.decay or value.__module__ == module.__name__
}


@each_way
def test_functions(way):
    assert len(FUNCTIONS) > 70
    for name, function in FUNCTIONS.items():
        assert WAYS[way](function) is function, name


def test_names_and_signatures():
    for name, function in FUNCTIONS.items():
        assert f"{function.__module__}.{function.__qualname__}" == name
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters
        assert hints.keys() == {*parameters, "return"}, name


@fs.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g,))


def minus(x):
    return -x


@each_way
def test_rules_and_functions_of_users(way):
    assert WAYS[way](cube) is cube
    hosted = WAYS[way](fs.host_function(np.cos, derivative=minus))
    assert jax.grad(hosted)(2.0) == -2
    transform = WAYS[way](fs.positive_transform(floor=0.5))
    assert transform.forward(-100.0) == 0.5
    assert WAYS[way](fs.Transform(cube, fs.tanh)) == (cube, fs.tanh)


def test_a_rule_of_main_is_pickled_by_value():
    """As cloudpickle treats what another process cannot import."""
    there = {"__name__": "__main__", "fs": fs}
    source = (
        "@fs.custom_vjp\n"
        "def square(x): return x * x\n"
        "square.defvjp(lambda x: (x * x, x), lambda x, g: (5 * x * g,))\n"
    )
    exec(source, there)
    square = cloudpickle.loads(cloudpickle.dumps(there["square"]))
    assert jax.grad(square)(2.0) == 10
    assert jax.jvp(square, (2.0,), (1.0,))[1] == 10


INIT = fs.near_permutation()
# How modules are made that need something, by their names in both APIs.
LINEN = {
    "Softcap": lambda cls: cls(30.0),
    "MLP": lambda cls: cls(16, activation=fs.swish),
    "GatedMLP": lambda cls: cls(16),
    "StableSoftplusDense": lambda cls: cls(4, monotone=(1, -1, 0, 1, 1, 1, 1, 1)),
    "StableSoftplusDenseGeneral": lambda cls: cls(4),
    "StableSoftplusConv": lambda cls: cls(4, (3,)),
    "StableSoftplusEinsum": lambda cls: cls((8, 4), "...a,ab->...b"),
    "StableSoftplusEmbed": lambda cls: cls(8, 4),
    "ICNN": lambda cls: cls((8, 8), activation=fs.celu),
    "MonotoneMLP": lambda cls: cls((9,)),
    "Parametrized": lambda cls: cls(nn.Dense(4, kernel_init=INIT), "kernel"),
}
NNX = {
    "Softcap": lambda cls, rngs: cls(30.0),
    "MLP": lambda cls, rngs: cls(8, 16, activation=fs.swish, rngs=rngs),
    "GatedMLP": lambda cls, rngs: cls(8, 16, rngs=rngs),
    "StableSoftplusLinear": lambda cls, rngs: cls(8, 4, rngs=rngs),
    "StableSoftplusLinearGeneral": lambda cls, rngs: cls(8, 4, rngs=rngs),
    "StableSoftplusConv": lambda cls, rngs: cls(8, 4, (3,), rngs=rngs),
    "StableSoftplusEinsum": lambda cls, rngs: cls("...a,ab->...b", (8, 4), rngs=rngs),
    "StableSoftplusEmbed": lambda cls, rngs: cls(8, 4, rngs=rngs),
    "StableSoftplusScale": lambda cls, rngs: cls(8, rngs=rngs),
    "ICNN": lambda cls, rngs: cls(8, (8, 8), activation=fs.celu, rngs=rngs),
    "MonotoneMLP": lambda cls, rngs: cls(8, (9,), rngs=rngs),
    "Parametrized": lambda cls, rngs: cls(
        nnx.Linear(8, 4, kernel_init=INIT, rngs=rngs), "kernel"
    ),
}


def made(api, name, cls):
    """A module; one of NNX with the shapes of its arrays, which costs less."""
    if api is fs.linen:
        return LINEN.get(name, lambda cls: cls())(cls)
    make = NNX.get(name, lambda cls, rngs: cls())
    return nnx.eval_shape(lambda: make(cls, nnx.Rngs(0)))


MODULES = {
    f"{api.__name__}.{name}": made(api, name, value)
    for api in (fs.linen, fs.nnx)
    for name, value in vars(api).items()
    if inspect.isclass(value)
}


@each_way
def test_modules(way):
    for name, module in MODULES.items():
        other = WAYS[way](module)
        assert type(other) is type(module), name
        if "activation" in vars(module):
            assert other.activation is module.activation
        if isinstance(module, nnx.Module):
            states = [jax.tree.map(jnp.shape, nnx.state(m)) for m in (module, other)]
            assert states[0] == states[1], name


PLATFORMS = "cpu", "cuda", "tpu"
BATCH, LENGTH, SIZE = export.symbolic_shape("batch, length, 2 * half")
X = jax.ShapeDtypeStruct((BATCH, LENGTH, SIZE), np.float32)
ROW = jax.ShapeDtypeStruct((SIZE,), np.float32)


def with_gradients(functions):
    """The functions' values and gradients by all arguments, as one function."""

    def of_all(*args):
        def loss(*args):
            values = [f(*args) for f in functions]
            floats = [
                y
                for y in jax.tree.leaves(values)
                if jnp.issubdtype(y.dtype, np.floating)
            ]
            return sum(jnp.sum(y * y) for y in floats), values

        return jax.value_and_grad(loss, range(len(args)), has_aux=True)(*args)

    return of_all


def exported(function, *args):
    return export.export(jax.jit(function), platforms=PLATFORMS)(*args)


def variants(names, module=fs, **options):
    return [
        functools.partial(getattr(module, name), **options) for name in names.split()
    ]


FEW_BITS = "gelu silu mish tanh softplus swiglu"
ROWS = "softmax log_softmax logsumexp logmeanexp"
UNITS = "glu swiglu geglu reglu"
WITH_PARAMETER = "celu elu leaky_relu snake softcap softplus squareplus"
# Arguments, and functions of them.
EXPORTED = {
    "one array": (
        (X,),
        variants(
            "gelu hard_sigmoid hard_silu hard_tanh identity inverse_positive "
            "inverse_softplus log1mexp log_cosh log_ndtr log_sigmoid mish positive "
            "relu relu6 relu_squared selu sigmoid silu soft_sign softplus sparse_plus "
            "sparse_sigmoid standardize tanh glu swiglu geglu reglu"
        )
        + variants("sigmoid tanh elu", residual="output")
        + variants("gelu geglu", approximate=False)
        + variants(FEW_BITS, bits=3)
        + variants("positive inverse_positive", floor=0.1)
        + variants("standardize", axis=None)
        + variants("arccos log norm normalize sqrt", fs.safe)
        + variants("norm", fs.safe, axis=1, keepdims=True)
        + [lambda x: fs.standardize(x, where=x > 0)],
    ),
    "rows": (
        (X,),
        [
            *variants(ROWS),
            *variants(ROWS, axis=(0, 2)),
            *variants(ROWS, axis=None),
            *(lambda x, f=f: f(x, where=x > 0) for f in variants(ROWS, axis=1)),
            lambda x: fs.logsumexp(x, axis=-1, b=x, return_sign=True),
        ],
    ),
    "parameters": ((X, ROW), variants(WITH_PARAMETER)),
    "safe": ((X, ROW), variants("divide power", fs.safe)),
    "gates": (
        (X, X),
        [
            *(lambda x, y, f=f: f(x, gate=y) for f in variants(UNITS)),
            lambda x, y: fs.swiglu(x, gate=y, bits=2),
        ],
    ),
    "gradient": (
        (X, ROW),
        [
            fs.gradient.scale_gradient,
            fs.gradient.reverse_gradient,
            lambda x, row: fs.gradient.stop_gradient_where(row > 0, x),
            lambda x, row: fs.gradient.clip_gradient(x, value=1.0),
            lambda x, row: fs.gradient.clip_gradient(x, norm=1.0),
            lambda x, row: fs.gradient.straight_through_round(x),
            lambda x, row: fs.gradient.straight_through_sign(x),
            lambda x, row: fs.gradient.straight_through(jnp.round)(x),
            lambda x, row: fs.gradient.replace_gradient(jnp.sign, jnp.tanh)(x),
        ],
    ),
    "blocks": (
        (X, X, jax.ShapeDtypeStruct((SIZE, BATCH), np.float32)),
        [
            lambda x, gate, kernel: fs.activation_dense(x, kernel),
            lambda x, gate, kernel: fs.gated_dense(x, kernel, gate=gate),
        ],
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_export(name):
    args, functions = EXPORTED[name]
    exported(with_gradients(functions), *args)


def test_an_export_computes_the_same():
    args, functions = EXPORTED["safe"]
    f = with_gradients(functions)
    given = np.float32(np.ones((2, 3, 4))), np.float32(np.arange(1, 5))
    expected = jax.jit(f)(*given)
    for a, b in zip(
        *map(jax.tree.leaves, (exported(f, *args).call(*given), expected)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def initializers_take_symbolic_sizes():
    """Those of JAX, which Flax calls for their shapes: not those of JAX 0.12."""
    init = jax.nn.initializers.lecun_normal()
    try:
        jax.eval_shape(lambda key: init(key, (SIZE, 4)), jax.random.key(0))
    except jax.errors.TracerBoolConversionError:
        return False
    return True


def linen_calls():
    """Layers and blocks with shapes of parameters, and what the inputs are."""
    # Flax's DenseGeneral computes sizes with NumPy.
    fixed = {"StableSoftplusDenseGeneral", "StableSoftplusEinsum"}
    if not initializers_take_symbolic_sizes():
        fixed |= {"MLP", "GatedMLP", "ICNN"}
    for name, make in LINEN.items():
        cls, x = getattr(fs.linen, name), X
        if name in fixed:
            x = jax.ShapeDtypeStruct((BATCH, LENGTH, 8), np.float32)
        if name == "StableSoftplusEmbed":
            x = jax.ShapeDtypeStruct((BATCH, LENGTH), np.int32)
        if name == "StableSoftplusDense":
            module = cls(4, kernel_init=fs.moment_preserving())
        else:
            module = make(cls)
        yield module.apply, jax.eval_shape(module.init, jax.random.key(0), x), x


def nnx_calls():
    for name in NNX:
        graph, state = nnx.split(MODULES[f"flax_stable.nnx.{name}"])
        shape, dtype = (BATCH, LENGTH, 8), np.float32
        if name == "StableSoftplusEmbed":
            shape, dtype = (BATCH, LENGTH), np.int32
        x = jax.ShapeDtypeStruct(shape, dtype)
        yield lambda state, x, graph=graph: nnx.merge(graph, state)(x), state, x


@pytest.mark.parametrize("calls", [linen_calls, nnx_calls])
def test_export_of_modules(calls):
    """One program of all layers and blocks, and of their gradients."""
    functions, states, inputs = zip(*calls(), strict=True)

    def loss(states, floats, integers):
        given = iter(floats), iter(integers)
        total = 0.0
        for f, state, x in zip(functions, states, inputs, strict=True):
            y = f(state, next(given[x.dtype == np.int32]))
            total += jnp.sum(y * y)
        return total

    floats, integers = (
        [x for x in inputs if x.dtype == t] for t in ("float32", "int32")
    )
    exported(jax.grad(loss, (0, 1)), states, floats, integers)
