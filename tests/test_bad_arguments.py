"""What functions of arrays cannot take they refuse in words that help."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_stable as fs

X = jnp.ones((4, 8))
KEY = jax.random.key(0)
# What functions need besides their first argument.
REST = {
    "softcap": {"cap": 1.0},
    "safe.divide": {"y": 1.0},
    "safe.power": {"y": 1.0},
    "safe.xlogy": {"y": 1.0},
    "safe.xlog1py": {"y": 1.0},
    "safe.logaddexp": {"x2": 1.0},
    "safe.kl_divergence": {"targets": 1.0},
    "activation_dense": {"kernel": jnp.ones((8, 2))},
    "gated_dense": {"kernel": jnp.ones((4, 2))},
    "gradient.scale_gradient": {"scale": 1.0},
    "gradient.clip_gradient": {"value": 1.0},
}
OTHERS = (
    "constrain unconstrain custom_vjp fan_in_constant host_function icnn_initializers "
    "moment_preserving near_permutation positive_transform reproducible_value_and_grad "
    "gradient.replace_gradient gradient.straight_through gradient.stop_gradient_where"
)
FUNCTIONS = {
    prefix + name: value
    for prefix, module in (("", fs), ("safe.", fs.safe), ("gradient.", fs.gradient))
    for name, value in vars(module).items()
    if inspect.isfunction(value) and prefix + name not in OTHERS.split()
    if not name.startswith("_")
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)

# Of each kind a value, and how the error shows it.
NO_NUMBERS = [
    ("a text", "'a text' of type str"),
    (np.array(["a text"]), "<U6[1]"),
    (KEY, "a random key, key<fry>[]"),
    (None, "None of type NoneType"),
    ({"a": 1.0}, "of type dict"),
]
# Functions of trees let keys pass, and None is a tree without arrays.
TREES = "scale_gradient reverse_gradient clip_gradient".split()


def test_the_functions_are_found():
    assert {"relu", "swish", "softmax", "safe.sqrt", "positive"} <= FUNCTIONS.keys()
    assert len(FUNCTIONS) > 50


@each_function
def test_what_holds_no_numbers(name):
    function = FUNCTIONS[name]
    argument = next(iter(inspect.signature(function).parameters))
    for value, shown in NO_NUMBERS[: 2 if function.__name__ in TREES else None]:
        with pytest.raises(TypeError) as error:
            function(value, **REST.get(name, {}))
        text = str(error.value)
        assert re.search(rf"\b{function.__name__} expects {argument} to ", text), text
        assert shown in text


STATIC = set(
    "axis bits residual approximate keepdims return_sign algorithm axis_name".split()
)


@each_function
def test_arrays_in_the_place_of_static_arguments(name):
    function = FUNCTIONS[name]
    rest = REST.get(name, {})
    for argument in STATIC & inspect.signature(function).parameters.keys():
        with pytest.raises(TypeError) as error:
            function(X, **{argument: X}, **rest)
        text = str(error.value)
        assert f"{name} expects {argument} to be a Python value" in text
        assert re.search(rf"It takes one array.*: {name}\(\w+[,)]", text), text


def test_traced_values_in_the_place_of_static_arguments():
    with pytest.raises(TypeError, match=r"softmax expects axis .* jax.jit static_argn"):
        jax.jit(fs.softmax)(X, 0)


WRONG = {
    "glu, two arrays": (
        lambda: fs.glu(X, X),
        "glu expects axis to be a Python value that is known when it is compiled, but "
        "got an array of type float32[4, 8]. It takes one array by position, others by "
        "keyword: glu(x, gate=...).",
    ),
    "gelu, two arrays": (lambda: fs.gelu(X, X), "It takes one array: gelu(x)."),
    "a list of axes": (lambda: fs.softmax(X, [0, 1]), "got [0, 1] of type list"),
    "softcap, 0": (lambda: fs.softcap(X, 0.0), "softcap expects cap to be a number ab"),
    "softcap, -1": (lambda: fs.softcap(X, cap=-1), "bound of the results, but got -1"),
    "softcap, NaN": (lambda: fs.softcap(X, np.float32("nan")), "but got nan"),
    "softcap, text": (lambda: fs.softcap(X, "a"), "softcap expects cap to be an array"),
    "softcap, key": (lambda: fs.softcap(X, KEY), "softcap expects cap to hold real"),
    "celu": (lambda: fs.celu(X, 0.0), "celu expects alpha to be other than 0"),
    "snake": (lambda: fs.snake(X, 0), "snake expects a to be other than 0"),
    "softplus": (lambda: fs.softplus(X, 0), "softplus expects beta to be other than 0"),
    "squareplus": (lambda: fs.squareplus(X, -1), "squareplus expects b to be 0 (as in"),
    "standardize": (lambda: fs.standardize(X, epsilon=-1), "standardize expects epsi"),
    "mean": (lambda: fs.standardize(X, mean=1j), "but mean has dtype complex64"),
    "floor": (lambda: fs.safe.log(X, -1), "safe.log expects floor to be above 0"),
    "value": (
        lambda: fs.gradient.clip_gradient(X, value=-1.0),
        "clip_gradient expects value to be 0 or more, but got -1.0",
    ),
    "norm": (
        lambda: fs.gradient.clip_gradient(X, norm=-1.0),
        "clip_gradient expects norm to be 0 or more",
    ),
    "positive, beta": (
        lambda: fs.positive(X, beta=-1),
        "positive expects a finite bet",
    ),
    "positive, raw": (
        lambda: fs.positive(1j),
        "positive is defined for real inputs, b",
    ),
    "positive, beta and raw": (
        lambda: fs.positive(1j, beta=2.0),
        "positive is defined",
    ),
    "positive, shapes": (
        lambda: fs.positive(X, beta=jnp.ones(3)),
        "positive broadcasts its parameters against raw as NumPy does, but got shapes "
        "raw (4, 8), beta (3,)",
    ),
    "reverse_gradient": (
        lambda: fs.gradient.reverse_gradient(X, jnp.ones(3)),
        "reverse_gradient expects scale to broadcast to the array, but got shapes (3,) "
        "and (4, 8)",
    ),
    "swish": (lambda: fs.swish(X, bits=5), "swish keeps a derivative of 1, 2, 3 or 4"),
    "approximate": (
        lambda: fs.gelu(X, "none"),
        "gelu expects approximate to be True or False, but got 'none'",
    ),
    "geglu": (lambda: fs.geglu(X, approximate="tanh"), "geglu expects approximate"),
    "glu, axis": (lambda: fs.glu(X, 2), "glu halves x along axis 2, but x has shape"),
    "glu, no axis": (lambda: fs.glu(X, "a"), "glu halves x along one axis, but got ax"),
    "activation": (
        lambda: fs.activation_dense(X, jnp.ones((8, 2)), activation="gelu"),
        "activation_dense expects activation to be a function of arrays, but got 'gel",
    ),
}


@pytest.mark.parametrize(
    "name", "softmax log_softmax logsumexp logmeanexp standardize".split()
)
def test_wrong_rows(name):
    function = getattr(fs, name)
    for axis in (2, (0, 0), "a", 0.5):
        with pytest.raises((TypeError, ValueError)) as error:
            function(X, axis=axis)
        expected = f"{name} expects axis to be one of the 2 axes of an array of shape "
        assert str(error.value).startswith(f"{expected}(4, 8)"), axis
    with pytest.raises(
        ValueError, match=f"{name} expects where to broadcast to an arr"
    ):
        function(X, where=jnp.ones(3, bool))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case):
    call, message = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


def test_what_is_right_is_not_looked_at():
    """Errors that have another cause stay as they are."""
    with pytest.raises(TypeError, match=r"gelu\(\) missing 1 required positional"):
        fs.gelu()
    with pytest.raises(TypeError, match="unexpected keyword argument 'b'"):
        fs.relu(X, b=1)
    with pytest.raises(ZeroDivisionError):
        fs.activation_dense(X, jnp.ones((8, 2)), activation=lambda x: 1 / 0)
    np.testing.assert_array_equal(fs.relu([-1.0, 2.0]), [0.0, 2.0])
