"""Fields of layers that make no sense: which layer, what it expects, what came."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

KEY = jax.random.key(0)
# The layer, other fields and the inputs it is initialized with, and what is checked.
LINEN = [
    ("StableSoftplusDense", {}, (2, 3), "features"),
    ("StableSoftplusDenseGeneral", {}, (2, 3), "features"),
    ("StableSoftplusConv", {"kernel_size": (2,)}, (1, 4, 3), "features"),
    ("StableSoftplusConv", {"features": 2}, (1, 4, 3), "kernel_size"),
    (
        "StableSoftplusConv",
        {"features": 2, "kernel_size": (2,)},
        (1, 4, 3),
        "feature_group_count",
    ),
    ("StableSoftplusEinsum", {"einsum_str": "ab,bc->ac"}, (2, 3), "shape"),
    ("StableSoftplusEmbed", {"features": 3}, (2,), "num_embeddings"),
    ("StableSoftplusEmbed", {"num_embeddings": 3}, (2,), "features"),
    ("MonotoneMLP", {"hidden_features": (3,)}, (2, 3), "features"),
    ("ICNN", {"hidden_features": (3,)}, (2, 3), "features"),
    ("MLP", {}, (2, 3), "intermediate_features"),
    ("MLP", {"intermediate_features": 3}, (2, 3), "features"),
    ("GatedMLP", {}, (2, 3), "intermediate_features"),
    ("GatedMLP", {"intermediate_features": 3}, (2, 3), "features"),
]
# None stands for the number of inputs.
OPTIONAL = {("MLP", "features"), ("GatedMLP", "features")}
OPTIONAL |= {("MLP", "out_features"), ("GatedMLP", "out_features")}
NNX = [
    ("StableSoftplusLinear", {"out_features": 3}, "in_features"),
    ("StableSoftplusLinear", {"in_features": 3}, "out_features"),
    ("StableSoftplusLinearGeneral", {"out_features": 3}, "in_features"),
    ("StableSoftplusLinearGeneral", {"in_features": 3}, "out_features"),
    ("StableSoftplusConv", {"out_features": 3, "kernel_size": 2}, "in_features"),
    ("StableSoftplusConv", {"in_features": 3, "kernel_size": 2}, "out_features"),
    ("StableSoftplusConv", {"in_features": 3, "out_features": 2}, "kernel_size"),
    (
        "StableSoftplusConv",
        {"in_features": 3, "out_features": 2, "kernel_size": 2},
        "feature_group_count",
    ),
    ("StableSoftplusEinsum", {"einsum_str": "ab,bc->ac"}, "kernel_shape"),
    ("StableSoftplusEmbed", {"features": 3}, "num_embeddings"),
    ("StableSoftplusEmbed", {"num_embeddings": 3}, "features"),
    ("StableSoftplusScale", {}, "num_features"),
    ("MonotoneMLP", {"hidden_features": (3,)}, "in_features"),
    ("MonotoneMLP", {"hidden_features": (3,), "in_features": 3}, "out_features"),
    ("ICNN", {"hidden_features": (3,)}, "in_features"),
    ("ICNN", {"hidden_features": (3,), "in_features": 3}, "out_features"),
    ("MLP", {"intermediate_features": 3}, "in_features"),
    ("MLP", {"in_features": 3}, "intermediate_features"),
    ("MLP", {"in_features": 3, "intermediate_features": 3}, "out_features"),
    ("GatedMLP", {"intermediate_features": 3}, "in_features"),
    ("GatedMLP", {"in_features": 3}, "intermediate_features"),
    ("GatedMLP", {"in_features": 3, "intermediate_features": 3}, "out_features"),
]
SIZES = [
    (0, ValueError),
    (-1, ValueError),
    (2.5, TypeError),
    ("3", TypeError),
    (None, TypeError),
    (True, TypeError),
    ((2, -1), ValueError),
]
# Fields of other kinds, and what the layer says of them.
OTHERS = [
    ("kernel_init", 0.5, "expects a function in kernel_init, but got 0.5. For the"),
    ("promote_dtype", None, "expects a function in promote_dtype, but got None."),
    ("beta", "1", "expects a real number as beta, or an array of such, but got '1'."),
    ("floor", 1j, "expects a real number as floor, or an array of such, but got 1j."),
    ("monotone", 1, "expects in monotone one number for each of its 3 inputs, but got"),
    ("monotone", "up", "expects in monotone one number for each of its 3 inputs"),
    ("monotone", "abc", "expects in monotone one number for each of its 3 inputs"),
]


def init(name, fields, shape=(2, 3)):
    inputs = jnp.ones(shape, int if name.endswith("Embed") else float)
    return getattr(fs.linen, name)(**fields).init(KEY, inputs)


def make(name, fields):
    return getattr(fs.nnx, name)(**fields, rngs=nnx.Rngs(0))


def assert_refused(error, message, call, *args):
    with pytest.raises(error, match=re.escape(message)):
        call(*args)


@pytest.mark.parametrize(("size", "error"), SIZES)
def test_sizes_are_whole_and_above_0(size, error):
    expected = f"{{}} expects in {{}} whole numbers above 0, but got {size!r}. Give the"
    for name, fields, shape, field in LINEN:
        if size is None and (name, field) in OPTIONAL:
            continue
        message = expected.format(name, field)
        assert_refused(error, message, init, name, {**fields, field: size}, shape)
    for name, fields, field in NNX:
        if size is None and (name, field) in OPTIONAL:
            continue
        message = expected.format(name, field)
        assert_refused(error, message, make, name, {**fields, field: size})


@pytest.mark.parametrize(("field", "value", "text"), OTHERS)
def test_other_fields(field, value, text):
    error = (TypeError, ValueError)
    fields = {field: value}
    assert_refused(error, text, init, "StableSoftplusDense", {"features": 2, **fields})
    sizes = {"in_features": 3, "out_features": 2}
    assert_refused(error, text, make, "StableSoftplusLinear", {**sizes, **fields})
    networks = {"hidden_features": (3,), **fields}
    assert_refused(error, text, init, "MonotoneMLP", networks)
    assert_refused(error, text, make, "MonotoneMLP", {"in_features": 3, **networks})


@pytest.mark.parametrize("name", ["MonotoneMLP", "ICNN"])
def test_fields_of_networks(name):
    for fields, text in (
        ({"hidden_features": 8}, "the widths of one hidden layer or more, but got 8. "),
        ({"hidden_features": "8"}, "the widths of one hidden layer or more, but got"),
        ({"hidden_features": (3,), "activation": 0.5}, "a function in activation, but"),
    ):
        message = f"{name} expects {text}"
        assert_refused(TypeError, message, init, name, fields)
        assert_refused(TypeError, message, make, name, {"in_features": 3, **fields})


@pytest.mark.parametrize("name", ["MLP", "GatedMLP"])
def test_fields_of_blocks(name):
    for field, value, text in (
        ("activation", "gelu", "a function in activation, but got 'gelu'"),
        ("kernel_init", 0.5, "a function in kernel_init, but got 0.5"),
        ("promote_dtype", None, "a function in promote_dtype, but got None"),
        ("dropout_rate", 1.5, "a dropout_rate from 0 to 1, the share of elements"),
        ("dropout_rate", "0.5", "a dropout_rate from 0 to 1, the share of elements"),
    ):
        message, fields = f"{name} expects {text}", {field: value}
        error = (TypeError, ValueError)
        sizes = {"intermediate_features": 3}
        assert_refused(error, message, init, name, {**sizes, **fields})
        assert_refused(
            error, message, make, name, {"in_features": 3, **sizes, **fields}
        )
