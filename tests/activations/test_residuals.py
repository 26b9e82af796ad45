"""What a backward pass keeps: how many bytes, by which name, at what cost."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _table import TABLE

import flax_stable as fs
from flax_stable.testing import REFERENCES, ulp_errors
from flax_stable.testing.references import find

NEW = jax.__version_info__ >= (0, 12)
DTYPES = ("bfloat16", "float32", "float64")
POLICIES = jax.checkpoint_policies
QUICK = {"xla_backend_optimization_level": 0}


def lean(name):
    return f"{name}(residual='output')"


# What a function keeps in float32.
KEPT = {name: expected.residual for name, expected in TABLE.items()}
KEPT |= {lean(name): "output" for name in ("sigmoid", "tanh", "elu")}
ROWS = {
    "softmax": "share",
    "log_softmax": "parts",
    "logsumexp(axis=-1, keepdims=True)": "parts",
    "logmeanexp(axis=-1, keepdims=True)": "parts",
    "standardize": "input",
    "glu": "halves",
    "swiglu": "halves",
    "geglu": "halves",
    "reglu": "halves",
}
EVERY = pytest.mark.parametrize("name", [*KEPT, *ROWS])


def points(dtype="float32"):
    return jnp.linspace(0.1, 3, 512).reshape(8, 64).astype(dtype)


def expected_bytes(name, x):
    what = {**KEPT, **ROWS}[name]
    if what in ("bool", "nothing"):
        return x.size * (what == "bool")
    rows = x.size // x.shape[-1] if what == "parts" else 0
    return x.nbytes + 2 * max(4, x.dtype.itemsize) * rows


def assert_bytes(residuals, expected):
    """Asserts their size, the parameters aside, which are scalars here."""
    found = sum(r.dtype.itemsize * r.size for r in residuals if r.ndim > 1)
    assert found == expected, residuals


def residuals(f, *args):
    """What the backward pass of ``f`` keeps, without running anything."""
    return jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(f, *args)[1], *args))


def without(arrays, others):
    """The arrays, less one of the type of each of the others."""
    rest = [(x.shape, x.dtype) for x in others]
    return [x for x in arrays if not _taken((x.shape, x.dtype), rest)]


def _taken(one, rest):
    if one in rest:
        rest.remove(one)
        return True
    return False


def base(name):
    return name.partition("(")[0]


# In bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KEPT)
def test_residual(name, dtype):
    f = find(fs, name)
    with jax.enable_x64(True):
        x = points(dtype)
        y, pull_back = jax.vjp(f, x)
        arrays = [r for r in jax.tree.leaves(pull_back) if r.ndim]
        assert_bytes(arrays, expected_bytes(name, x))
        if KEPT[name] == "nothing":
            return
        (residual,) = arrays
        if KEPT[name] == "bool":
            assert (residual.shape, residual.dtype) == (x.shape, bool)
            return
        output = KEPT[name] == "output"
        if name == "softplus":
            output &= NEW and dtype != "bfloat16"
            np.testing.assert_array_equal(residual, y if output else x)
            return
        # The very array: what other functions keep of it too is kept once.
        kept = y if output else x
        assert residual.unsafe_buffer_pointer() == kept.unsafe_buffer_pointer()


@pytest.mark.parametrize("dtype", DTYPES)
def test_residuals_of_compiled_programs(dtype):
    names = [*KEPT, *ROWS]

    def forward(x):
        return {name: jax.vjp(find(fs, name), x)[1] for name in names}

    with jax.enable_x64(True):
        x = points(dtype)
        program = jax.jit(forward, compiler_options=QUICK)
        for name, pull_back in program(x).items():
            assert_bytes(jax.tree.leaves(pull_back), expected_bytes(name, x))


def stacked(f, dtype="float32", count=3):
    """What the backward pass of a scan stacks, which a linear model would not."""
    x = points(dtype)

    def forward(f):
        def layer(x, scale):
            y = f(x * scale)
            return x + jnp.broadcast_to(jnp.sum(y, -1, keepdims=True), x.shape), None

        return lambda x, scales: jax.lax.scan(layer, x, scales)[0]

    scales = jnp.ones((count, *x.shape), dtype)
    kept, linear = (residuals(forward(g), x, scales) for g in (f, lambda x: x))
    return without(kept, linear)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@EVERY
def test_residual_in_a_scan(name, dtype):
    expected = expected_bytes(name, points(dtype))
    assert_bytes(stacked(find(fs, name), dtype), 3 * expected)


def test_a_scan_keeps_once_what_two_functions_keep():
    kept = stacked(lambda x: fs.sigmoid(x) + fs.gelu(x) + fs.elu(x))
    assert_bytes(kept, 3 * points().nbytes)


# What a layer more costs a gradient, in arrays of the hidden size, one of which the
# linear layer costs alone: with JAX 0.12 and, where its compilers keep more, before.
A_LAYER = {
    "identity": (1, 1),
    "softplus": (1, 2),
    "gelu": (2, 2),
    "silu": (2, 2),
    "relu": (1, 2),
    "tanh": (2, 3),
    lean("tanh"): (1, 1),
    lean("elu"): (1, 1),
    "softmax": (1, 3.01),
}


def a_layer_more(activation):
    def temporaries(layers):
        def loss(kernels, x):
            for kernel in kernels:
                x = activation(x @ kernel)
            return x.sum()

        x, kernels = jnp.ones((512, 128)), [jnp.ones((128, 128))] * layers
        compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / x.nbytes

    return (temporaries(8) - temporaries(4)) / 4


@pytest.mark.parametrize("name", A_LAYER)
def test_residual_in_unrolled_layers(name):
    assert a_layer_more(find(fs, name)) <= A_LAYER[name][not NEW] + 0.005


def test_layers_of_jax_cost_more():
    assert a_layer_more(jax.nn.gelu) > 2.9
    assert a_layer_more(jax.nn.softplus) > 1.9


def test_leaky_relu_keeps_its_input_for_a_slope_that_is_differentiated():
    x = points()
    kept = residuals(fs.leaky_relu, x, 0.1)
    assert_bytes(kept, x.nbytes + x.size)


# Under checkpoints


def kept_under(policy, f):
    """What a checkpoint keeps of a function, but for its own argument."""
    x = points()
    kept = residuals(jax.checkpoint(lambda x: f(jnp.cos(x)), policy=policy), x)
    return without(kept, [x])


@EVERY
def test_policies_know_residuals_by_name(name):
    f, expected = find(fs, name), expected_bytes(name, points())
    named = POLICIES.save_only_these_names(base(name))
    assert_bytes(kept_under(named, f), expected)
    for policy in (
        POLICIES.nothing_saveable,
        POLICIES.dots_saveable,
        POLICIES.save_only_these_names("another"),
    ):
        assert_bytes(kept_under(policy, f), 0)


@EVERY
def test_policies_that_save_all_but_some_names(name):
    """They may keep the slope instead: a float, and a bool where it is chosen."""
    x = points()
    policy = POLICIES.save_anything_except_these_names(base(name))
    found = kept_under(policy, find(fs, name))
    most = 3.25 if base(name) == "softmax" else 1.25
    assert sum(r.dtype.itemsize * r.size for r in found) <= most * x.nbytes


def test_what_is_named_is_not_computed_anew():
    """Of a layer whose pre-activation is kept the backward pass repeats no matmul."""
    x, kernel = jnp.ones((4, 8)), jnp.ones((8, 8))

    def matmuls(policy):
        layer = jax.checkpoint(lambda w: fs.gelu(x @ w).sum(), policy=policy)
        return str(jax.make_jaxpr(jax.grad(layer))(kernel)).count("dot_general[")

    assert matmuls(POLICIES.save_only_these_names("gelu")) == 2
    assert matmuls(POLICIES.nothing_saveable) == 3


# In words

WORDS = {
    "input": "the input",
    "halves": "the value and the gate",
    "output": "the output",
    "share": "the output; in 16 bits and less,[^.]* the input",
    "parts": "the input and two wide numbers a row|that of `logsumexp`",
    "bool": "a boolean for each element",
    "nothing": "nothing",
}


# With default parameters, which come first.
STATED = {base(name): what for name, what in reversed([*KEPT.items(), *ROWS.items()])}


@pytest.mark.parametrize("name", STATED)
def test_docstrings_state_the_residual(name):
    doc = inspect.getdoc(getattr(fs, name))
    assert re.search(rf"\nResidual: ({WORDS[STATED[name]]})", doc)


# At a cost

# Up to where the derivative is good, its largest errors observed there in float32 and
# in 16 bits, and from where it is 0 in float32, float16 and bfloat16.
LEAN = {
    "sigmoid": ((-np.inf, 1), (2.6, 1.372), (17.4, 8.4, 6.3)),
    "tanh": ((-1, 1), (3.65, 1.95), (9.1, 4.6, 3.5)),
    "elu": ((-2, np.inf), (2.31, 2.0), (-17.0, -8.4, -6.3)),
}
each_lean = pytest.mark.parametrize("name", LEAN)


def slope(f, x):
    return jax.vjp(f, x)[1](jnp.ones_like(x))[0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@each_lean
def test_what_keeping_the_output_costs(name, dtype):
    f, ((low, high), observed, zeros) = find(fs, lean(name)), LEAN[name]
    bits = np.arange(0, 2**32, 30_011) if dtype == "float32" else np.arange(2**16)
    wide = dtype == "float32"
    x = bits.astype(np.uint32 if wide else np.uint16).view(jnp.dtype(dtype))
    with np.errstate(invalid="ignore"):  # NaNs are among them
        inputs = x[(x >= low) & (x <= high)]
    for mode in ("vjp", "jvp") if wide else ("vjp",):
        found = ulp_errors(
            f, REFERENCES[name][1], dtype, order=1, mode=mode, inputs=inputs
        )
        assert found.maximum <= observed[not wide] + 0.1 * wide + 0.005, found
    zero = zeros[("float32", "float16", "bfloat16").index(dtype)]
    beyond = jnp.asarray([zero, 1.2 * zero], dtype)
    assert not slope(f, beyond).any() and slope(find(fs, name), beyond).all()
    np.testing.assert_array_equal(f(beyond), find(fs, name)(beyond))


@each_lean
def test_higher_orders_of_what_keeps_the_output(name):
    """Also where a scan is differentiated twice, and in each order of the modes."""
    f, x = find(fs, lean(name)), jnp.linspace(-3, 3, 24)

    def scanned(x):
        return jax.lax.scan(lambda y, _: (f(y), None), x, None, length=2)[0]

    def forward(f):
        return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]

    def reverse(f):
        return lambda x: slope(f, x)

    def program(x):
        modes = (forward, reverse)
        once = [outer(inner(f))(x) for outer in modes for inner in modes]
        twice = [outer(inner(scanned))(x) for outer in modes for inner in modes]
        return once, twice, reverse(reverse(reverse(f)))(x)

    exact = [r(np.float64(x)) for r in REFERENCES[name]]
    value, first, _ = (r(exact[0]) for r in REFERENCES[name])
    chained = REFERENCES[name][2](exact[0]) * exact[1] ** 2 + first * exact[2]
    once, twice, third = jax.jit(program, compiler_options=QUICK)(x)
    np.testing.assert_allclose(f(f(x)), value, rtol=1e-6)
    for found in once:
        np.testing.assert_allclose(found, exact[2], rtol=1e-6, atol=3e-7)
    for found in twice:
        np.testing.assert_allclose(found, chained, rtol=1e-6, atol=1e-6)
    expected = reverse(reverse(reverse(find(fs, name))))(x)
    np.testing.assert_allclose(third, expected, rtol=1e-5, atol=1e-6)


def test_elu_that_keeps_its_output_has_the_derivatives_of_its_parameter():
    x, alpha = jnp.linspace(-3, 3, 24).reshape(4, 6), jnp.linspace(0.5, 3, 6)

    def derivatives(residual):
        def loss(x, alpha):
            return (fs.elu(x, alpha, residual=residual) * jnp.cos(x)).sum()

        first = jax.grad(loss, (0, 1))(x, alpha)
        return first, jax.hessian(loss, 1)(x, alpha)

    program = jax.jit(derivatives, static_argnums=0, compiler_options=QUICK)
    found, expected = map(program, ("output", "input"))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@each_lean
def test_a_residual_that_cannot_be(name):
    message = f"{name} keeps its 'input' or its 'output'.*got residual='all'"
    with pytest.raises(ValueError, match=message):
        find(fs, name)(1.0, residual="all")
