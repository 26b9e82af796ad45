"""Trees of parameters that are stored raw and read through a transform."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze

import flax_stable as fs

KERNEL_INIT = fs.near_permutation()
UNIT = fs.Transform(fs.tanh, jnp.arctanh)
DOUBLE = fs.Transform(lambda x: 2.0 * x, lambda y: 0.5 * y)
VALUES = jnp.array([[0.01, 1.0, 3.0]])
TREE = {
    "head": {"kernel": VALUES, "bias": VALUES[0]},
    "layers_0": {"kernel": VALUES, "scale": VALUES[0] / 4},
    "layers_11": {"kernel": VALUES},
}


def every_path(tree):
    return {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(
    "parameters, raw",
    [
        ("kernel", {"head", "layers_0", "layers_11"}),
        ("head/kernel", {"head"}),
        (r"layers_\d/kernel", {"layers_0"}),
        (r"layers_\d+/kernel", {"layers_0", "layers_11"}),
        (("head/kernel", "layers_11/.*"), {"head", "layers_11"}),
        ({"layers_0/kernel": [UNIT, DOUBLE, DOUBLE]}, {"layers_0"}),
        (
            lambda path, x: DOUBLE if x.ndim == 2 and "_1" in path else None,
            {"layers_11"},
        ),
    ],
)
def test_parameters_are_found_by_the_end_of_their_path(parameters, raw):
    tree = fs.unconstrain(TREE, parameters)
    expected = every_path(TREE) - {f"{name}/kernel" for name in raw}
    assert every_path(tree) == expected | {f"{name}/raw_kernel" for name in raw}
    assert tree["layers_0"]["scale"] is TREE["layers_0"]["scale"]
    back = fs.constrain(freeze(tree), parameters)
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), back, TREE)


def random_tree(rng, depth=3):
    """Names with slashes, empty ones, and the same ones at several depths."""
    tree = {}
    for _ in range(rng.randint(0, 4)):
        name = "/".join(rng.choices(["a", "b", "scale", "0", ""], k=rng.randint(1, 3)))
        subtree = depth and rng.random() < 0.5
        value = rng.randint(1, 64) / 64
        tree[name] = random_tree(rng, depth - 1) if subtree else value
    return tree


def test_there_and_back_is_the_identity():
    """For any tree and any choice of parameters; nothing is lost on the way."""
    negated = fs.Transform(lambda x: -x, lambda y: -y)
    chosen = 0
    for seed in range(100):
        rng = random.Random(seed)
        tree = random_tree(rng)
        seen = {id(leaf): rng.random() < 0.6 for leaf in jax.tree.leaves(tree)}

        def choose(path, value, seen=seen):
            return negated if seen.get(id(value), True) else None

        if not any(seen.values()):
            continue
        raw = fs.unconstrain(tree, choose)
        chosen += sum(seen.values())
        leaves, negative = jax.tree.leaves(tree), jax.tree.leaves(raw)
        assert len(negative) == len(leaves)
        assert sum(float(x) < 0 for x in negative) == sum(seen.values())
        assert fs.constrain(raw, lambda path, value: negated) == tree
    assert chosen > 150


def test_names_with_slashes_are_kept_apart():
    a, b = VALUES[0], VALUES[0] + 1
    tree = {"W": {"D0/kernel/scale": a, "D1/kernel/scale": b}}
    raw = fs.unconstrain(tree, ".*scale")
    assert list(raw["W"]) == ["raw_D0/kernel/scale", "raw_D1/kernel/scale"]
    back = fs.constrain(raw, "kernel/scale")
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), back, tree)


def test_the_first_of_a_sequence_sees_the_raw_values():
    tree = fs.constrain({"raw_x": jnp.float32(0.5)}, {"x": [UNIT, DOUBLE]})
    assert tree["x"] == 2 * fs.tanh(0.5)
    assert fs.constrain({"raw_x": jnp.float32(0.5)}, "x")["x"] == fs.softplus(0.5)


def test_boxes_and_types_are_kept():
    box = nn.Partitioned(jnp.ones((2, 3), jnp.bfloat16), names=(None, "model"))
    raw = fs.unconstrain({"kernel": box}, "kernel")["raw_kernel"]
    assert raw.names == box.names and raw.value.dtype == jnp.bfloat16
    linear = nnx.Linear(3, 4, kernel_init=KERNEL_INIT, rngs=nnx.Rngs(0))
    raw = fs.unconstrain(nnx.state(linear), "kernel")["raw_kernel"]
    assert type(raw) is nnx.Param and raw.shape == (3, 4)


LOSSY = fs.Transform(lambda x: x, lambda y: 1.1 * y)
TALL = fs.Transform(lambda x: x, lambda y: jnp.stack([y, y]))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda: fs.constrain(TREE, "kernel"),
            ValueError,
            "constrain: 'kernel' names no raw parameter. There are ['head/bias', "
            "'head/kernel', 'layers_0/kernel', 'layers_0/scale', 'layers_11/kernel']: "
            "'raw_' before a name marks raw ones. Plain ones become raw by flax_stable."
            "unconstrain, raw ones plain by flax_stable.constrain.",
        ),
        (
            lambda: fs.unconstrain(TREE, "kern"),
            ValueError,
            "unconstrain: 'kern' names no plain parameter. There are ['head/bias'",
        ),
        (
            lambda: fs.unconstrain({"raw_x": VALUES}, "x"),
            ValueError,
            "unconstrain: 'x' names no plain parameter. There are ['raw_x']",
        ),
        (
            lambda: fs.unconstrain(TREE, lambda path, value: None),
            ValueError,
            "unconstrain: the function given names no plain parameter. There are",
        ),
        (
            lambda: fs.unconstrain(TREE, ["kernel", "head/kernel"]),
            ValueError,
            "unconstrain: 'head/kernel' is named twice in ['kernel', 'head/kernel']. "
            "Give one name a sequence of transforms, or write longer paths.",
        ),
        (
            lambda: fs.unconstrain(TREE, {"kernel": fs.softplus}),
            TypeError,
            "A parameter is read through a Transform or a sequence of them, but got ",
        ),
        (
            lambda: fs.unconstrain(TREE, {"scale": (fs.softplus, jnp.log)}),
            TypeError,
            "Write flax_stable.Transform(forward, inverse).",
        ),
        (
            lambda: fs.unconstrain({"a": {"raw_x": VALUES, "x": VALUES}}, "x"),
            ValueError,
            "unconstrain finds two values for 'a/raw_x': a raw parameter and its plain "
            "one stand side by side. Remove one of them.",
        ),
        (
            lambda: fs.constrain({"x": VALUES, "raw_x": VALUES}, "x"),
            ValueError,
            "constrain finds two values for 'x': a raw parameter and its plain one",
        ),
        (
            lambda: fs.unconstrain(TREE, "*kernel"),
            ValueError,
            "'*kernel' is no regular expression: nothing to repeat at position",
        ),
        (
            lambda: fs.unconstrain(TREE, 3),
            TypeError,
            "Parameters are named by a string, a sequence or a dict of strings, or a "
            "function of path and value, but got 3. Write 'kernel' for all with",
        ),
        (
            lambda: fs.constrain(VALUES, "kernel"),
            TypeError,
            "constrain expects nested dicts of parameters, but got ArrayImpl. Of an "
            "NNX layer take flax_stable.nnx.Parametrized, and plain() of it.",
        ),
        (
            lambda: fs.unconstrain({"a": {"x": jnp.array([1.0, -2.0, 0.0])}}, "x"),
            ValueError,
            "'a/x' cannot be stored raw: inverse_positive takes values above 0, but "
            "the smallest one is -2.0. Raise the value, or lower the floor. A layer "
            "needs an initializer of such values, as flax_stable.near_permutation is "
            "for positive ones.",
        ),
        (
            lambda: fs.unconstrain({"a": {"x": jnp.array([0.5, -2.0])}}, {"x": UNIT}),
            ValueError,
            "'a/x' holds values outside of the range of its transform: 1 of 2, the "
            "first of them -2.0 at (1,). Give values that the transform can take. A "
            "layer needs an initializer of such values, as flax_stable."
            "near_permutation is for positive ones.",
        ),
        (
            lambda: fs.unconstrain({"x": VALUES}, {"x": LOSSY}),
            ValueError,
            "'x' holds values outside of the range of its transform: 2 of 3, the first "
            "of them 1.0 at (0, 1).",
        ),
        (
            lambda: fs.unconstrain({"x": VALUES}, {"x": TALL}),
            ValueError,
            "The transform of 'x' must lead back from raw values to what its inverse "
            "was given, float32[1, 3], but leads to float32[2, 1, 3]. Take a pair that "
            "are inverse to one another.",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, text):
    with pytest.raises(error) as e:
        call()
    assert text in str(e.value)


def test_values_cannot_be_checked_under_jit():
    raw = jax.jit(lambda x: fs.unconstrain({"x": x}, "x"))(jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(jnp.isnan(raw["raw_x"]), [False, True])
