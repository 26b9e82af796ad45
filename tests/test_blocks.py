"""An activation and the product after it: the composition, with less kept."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs


def normal(*shape, dtype=jnp.float32, seed=0):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def assert_same(found, expected):
    """Bitwise, dtypes included."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def product(x, kernel, bias=None, **options):
    contraction = (((x.ndim - 1,), (0,)), ((), ()))
    y = jax.lax.dot_general(x, kernel, contraction, **options)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def kept(f, *args):
    """The shapes and dtypes of what the backward pass of ``f`` keeps."""
    leaves = jax.tree.leaves(jax.vjp(f, *args)[1])
    return sorted((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def cube_of_gate(x, *, gate):
    return x * gate**3


# The fused function of its arrays, the composition, and the arrays.
CASES = {
    "gelu": (
        fs.activation_dense,
        lambda x, kernel, bias: product(fs.gelu(x), kernel, bias),
        [(3, 6), (6, 4), (4,)],
    ),
    "relu of three axes, no bias": (
        functools.partial(fs.activation_dense, activation=jax.nn.relu),
        lambda x, kernel: product(jax.nn.relu(x), kernel),
        [(2, 3, 6), (6, 4)],
    ),
    "one row": (
        functools.partial(fs.activation_dense, activation=jax.nn.tanh),
        lambda x, kernel: product(jax.nn.tanh(x), kernel),
        [(6,), (6, 4)],
    ),
    "swiglu in one": (
        fs.gated_dense,
        lambda x, kernel, bias: product(fs.swiglu(x), kernel, bias),
        [(3, 12), (6, 4), (4,)],
    ),
    "swiglu apart": (
        lambda x, gate, kernel: fs.gated_dense(x, kernel, gate=gate),
        lambda x, gate, kernel: product(fs.swiglu(x, gate=gate), kernel),
        [(3, 6), (3, 6), (6, 4)],
    ),
    "a gated unit of one's own": (
        lambda x, gate, kernel: fs.gated_dense(
            x, kernel, gate=gate, activation=cube_of_gate, precision="highest"
        ),
        lambda x, gate, kernel: product(x * gate**3, kernel, precision="highest"),
        [(3, 6), (3, 6), (6, 4)],
    ),
}


@pytest.mark.parametrize(
    "case, dtype", [*((case, jnp.float32) for case in CASES), ("gelu", jnp.bfloat16)]
)
def test_value_and_gradient_are_those_of_the_composition(case, dtype):
    fused, composed, shapes = CASES[case]
    args = [normal(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)]
    (y, vjp), (expected, expected_vjp) = (jax.vjp(f, *args) for f in (fused, composed))
    assert y.dtype == dtype
    assert_same(y, expected)
    g = normal(*y.shape, dtype=dtype, seed=9)
    assert_same(vjp(g), expected_vjp(g))


@pytest.mark.parametrize("case", CASES)
def test_inputs_and_kernel_alone_are_kept(case):
    fused, _, shapes = CASES[case]
    args = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    without_bias = sorted((s, "float32") for s in shapes if s != (4,))
    assert kept(fused, *args) == without_bias


def test_every_transformation():
    x, kernel = normal(3, 6), normal(6, 4, seed=1)

    def fused(x, kernel):
        return fs.activation_dense(x, kernel, activation=jnp.tanh)

    def composed(x, kernel):
        return product(jnp.tanh(x), kernel)

    for transform in (
        jax.jit,
        jax.jacfwd,
        jax.jacrev,
        lambda f: jax.vmap(f, (0, None)),
        lambda f: jax.hessian(lambda x, kernel: f(x, kernel).sum()),
        lambda f: jax.grad(lambda x, w: jax.jvp(f, (x, w), (x, w))[1].sum(), (0, 1)),
    ):
        found = transform(fused)(x, kernel)
        expected = transform(composed)(x, kernel)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            found,
            expected,
        )


def test_what_an_activation_closes_over_has_its_gradient():
    slope, x, kernel = jnp.float32(0.3), normal(3, 6), normal(6, 4, seed=1)

    def fused(slope, x, kernel):
        return fs.activation_dense(
            x, kernel, activation=lambda x: fs.leaky_relu(x, slope)
        ).sum()

    def composed(slope, x, kernel):
        return product(fs.leaky_relu(x, slope), kernel).sum()

    args = slope, x, kernel
    assert_same(jax.grad(fused, (0, 1, 2))(*args), jax.grad(composed, (0, 1, 2))(*args))
    assert kept(fused, *args) == sorted(
        (a.shape, "float32") for a in (slope, x, kernel)
    )


def test_a_product_of_the_users_own_gets_only_what_was_asked_for():
    def doubled(*args, precision):
        assert precision == "highest"
        return 2 * jax.lax.dot_general(*args, precision=precision)

    x, kernel = normal(3, 6), normal(6, 4, seed=1)
    y = fs.activation_dense(x, kernel, dot_general=doubled, precision="highest")
    assert_same(y, 2 * product(fs.gelu(x), kernel, precision="highest"))


def test_policies_of_checkpoint_can_name_the_pre_activation():
    x, up, down = normal(3, 5), normal(5, 6, seed=1), normal(6, 4, seed=2)

    def block(x, up, down):
        return fs.activation_dense(x @ up, down, activation=jax.nn.tanh)

    inputs = [((3, 5), "float32"), ((5, 6), "float32"), ((6, 4), "float32")]
    names = jax.checkpoint_policies.save_only_these_names
    assert kept(jax.checkpoint(block), x, up, down) == inputs
    assert kept(jax.checkpoint(block, policy=names("other")), x, up, down) == inputs
    by_name = jax.checkpoint(block, policy=names("mlp_hidden"))
    assert kept(by_name, x, up, down) == sorted([*inputs, ((3, 6), "float32")])


# Memory

WIDTH, HIDDEN, BATCH = 64, 256, 2048


def swiglu_of_jax(x, gate):
    return x * jax.nn.silu(gate)


BLOCKS = {
    "gelu": {
        "jax.nn": lambda x, up, down: jax.nn.gelu(x @ up) @ down,
        "checkpoint": lambda x, up, down: jax.checkpoint(jax.nn.gelu)(x @ up) @ down,
        "fused": lambda x, up, down: fs.activation_dense(x @ up, down),
    },
    "swiglu": {
        "jax.nn": lambda x, up, down: swiglu_of_jax(x @ up, x @ (2 * up)) @ down,
        "checkpoint": lambda x, up, down: (
            jax.checkpoint(swiglu_of_jax)(x @ up, x @ (2 * up)) @ down
        ),
        "fused": lambda x, up, down: fs.gated_dense(
            x @ up,
            down,
            gate=x @ (2 * up),
        ),
    },
}


def temporaries(block, layers, scanned, mesh=None):
    """What the compiled gradient of a residual model holds, in arrays of a layer."""

    def layer(x, kernels):
        return x + block(x, *kernels), None

    def loss(kernels, x):
        if scanned:
            return (jax.lax.scan(layer, x, kernels)[0] ** 2).sum()
        for i in range(layers):
            x, _ = layer(x, [kernel[i] for kernel in kernels])
        return (x**2).sum()

    def array(shape, *spec):
        sharding = None if mesh is None else NamedSharding(mesh, P(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    kernels = (
        array((layers, WIDTH, HIDDEN), None, None, "model"),
        array((layers, HIDDEN, WIDTH), None, "model", None),
    )
    x = array((BATCH, WIDTH), "data", None)
    memory = jax.jit(jax.grad(loss)).lower(kernels, x).compile().memory_analysis()
    devices = 1 if mesh is None else mesh.size
    return devices * memory.temp_size_in_bytes / (layers * BATCH * HIDDEN * 4)


@pytest.mark.parametrize("block, share", [("gelu", 0.30), ("swiglu", 0.45)])
def test_memory_of_a_scanned_model(block, share):
    """In 24 layers, of which one at a time computes."""
    found = {k: temporaries(f, 24, scanned=True) for k, f in BLOCKS[block].items()}
    assert found["fused"] <= share * found["jax.nn"], found
    assert found["fused"] < found["checkpoint"], found


@pytest.mark.parametrize("block", BLOCKS)
def test_memory_of_an_unrolled_model(block):
    found = {k: temporaries(f, 4, scanned=False) for k, f in BLOCKS[block].items()}
    assert found["fused"] < found["jax.nn"], found
    # The oldest JAX that is supported recomputes little of what is written out on CPU.
    if jax.__version_info__ >= (0, 12):
        assert found["fused"] < found["checkpoint"], found


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_memory_of_a_scanned_model_on_a_mesh(axis_type):
    """A device holds its part, in which the whole of the sums weighs more."""

    def of_jax(x, up, down):
        hidden = jax.nn.gelu(x @ up)
        explicit = axis_type is AxisType.Explicit
        return product(hidden, down, out_sharding=P("data", None) if explicit else None)

    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        theirs, ours = (
            temporaries(block, 24, scanned=True, mesh=mesh)
            for block in (of_jax, BLOCKS["gelu"]["fused"])
        )
    assert ours <= 0.35 * theirs


# Meshes


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_features_split_between_devices_are_summed(axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    specs = P("data", "model"), P("model", None), P()
    args = normal(8, 6), normal(6, 4, seed=1), normal(4, seed=2)
    expected = fs.activation_dense(*args)
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip(args, specs, strict=True)
        ]
        f = jax.jit(fs.activation_dense)
        np.testing.assert_allclose(f(*placed), expected, rtol=1e-5, atol=1e-6)
        text = f.lower(*placed).compile().as_text()
        assert re.findall(r" (all-\w+|reduce-scatter)\(", text) == ["all-reduce"]
        if axis_type is AxisType.Explicit:
            assert jax.typeof(f(*placed)).sharding.spec == P("data", None)
            scattered = functools.partial(
                fs.activation_dense, out_sharding=P("data", "model")
            )
            y = jax.jit(scattered)(*placed[:2])
            assert jax.typeof(y).sharding.spec == P("data", "model")


# Errors


@pytest.mark.parametrize(
    "f, shapes, message",
    [
        (
            fs.activation_dense,
            [(3, 6), (5, 4)],
            "The last axis of the activation, of shape (3, 6), must be the first of "
            "the kernel, but that has shape (5, 4).",
        ),
        (
            fs.gated_dense,
            [(3, 6), (6, 4)],
            "of shape (3, 3), must be the first of the kernel, but that has shape "
            "(6, 4). Mind that a gated unit halves its input if it gets no gate.",
        ),
        (
            fs.activation_dense,
            [(3, 6), (2, 6, 4)],
            "activation_dense expects a kernel of shape (inputs, outputs), but got "
            "shape (2, 6, 4). Take jax.vmap for a stack of kernels.",
        ),
        (
            fs.gated_dense,
            [(3, 12), (6, 4), (1,)],
            "gated_dense expects a bias of shape (4,), one number for each output of "
            "the kernel, but got shape (1,).",
        ),
    ],
)
def test_arrays_that_do_not_fit(f, shapes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        f(*(jnp.ones(shape) for shape in shapes))
