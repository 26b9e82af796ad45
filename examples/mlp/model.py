"""The model in both APIs, its loss, and where its parameters live."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from mlp.data import CLASSES, PIXELS

HIDDEN = 256
NAMES = "softplus", "sigmoid", "log_sigmoid", "tanh", "gelu", "silu", "mish"
ACTIVATIONS: dict[str, Callable] = {name: getattr(fs, name) for name in NAMES}


class LinenMLP(nn.Module):
    hidden: nn.Module
    after: Callable
    output: nn.Module

    def __call__(self, x):
        return self.output(self.after(self.hidden(x)))


class NnxMLP(nnx.Module):
    def __init__(self, hidden, after, output):
        self.hidden, self.after, self.output = hidden, after, output

    def __call__(self, x):
        return self.output(self.after(self.hidden(x)))


def make_model(options):
    """The initial parameters, a dict of dicts, and a function that applies them."""
    hidden: Any
    activation, gated = ACTIVATIONS[options.activation], options.mlp == "gated"
    after = fs.identity if gated else activation

    def unit(value, gate):
        return value * activation(gate)

    if options.api == "linen":
        hidden = nn.Dense(HIDDEN, dtype=options.dtype)
        if gated:
            hidden = fs.linen.GatedMLP(HIDDEN, activation=unit, dtype=options.dtype)
        output = fs.linen.StableSoftplusDense(CLASSES, dtype=options.dtype)
        linen = LinenMLP(hidden, after, output)
        key, example = jax.random.key(options.seed), np.zeros((1, PIXELS), np.float32)
        params = jax.jit(linen.init)(key, example)["params"]
        return params, lambda params, x: linen.apply({"params": params}, x)
    make = {"dtype": options.dtype, "rngs": nnx.Rngs(options.seed)}
    hidden = nnx.Linear(PIXELS, HIDDEN, **make)
    if gated:
        hidden = fs.nnx.GatedMLP(PIXELS, HIDDEN, activation=unit, **make)
    last = fs.nnx.StableSoftplusLinear(PIXELS if gated else HIDDEN, CLASSES, **make)
    graph, state = nnx.split(NnxMLP(hidden, after, last))
    return nnx.to_pure_dict(state), lambda params, x: nnx.merge(graph, params)(x)


def apply_jax_nn(options, params, x):
    """The same model of the functions of `jax.nn`, to compare with."""
    activation = getattr(jax.nn, options.activation)
    x, params = jax.tree.map(lambda a: a.astype(options.dtype), (x, params))
    hidden, output = params["hidden"], params["output"]
    if options.mlp == "gated":
        value, gate = (x @ hidden[name]["kernel"] for name in ("up", "gate"))
        x = (value * activation(gate)) @ hidden["down"]["kernel"]
    else:
        x = activation(x @ hidden["kernel"] + hidden["bias"])
    return x @ jax.nn.softplus(output["raw_kernel"]) + output["bias"]


def kept_bytes(apply, params):
    """What the backward pass keeps of an image: the difference that one more makes."""

    def vjp(params, x):
        return jax.vjp(lambda params: apply(params, x), params)[1]

    kept = [jax.eval_shape(vjp, params, np.zeros((n, PIXELS), "f")) for n in (1, 2)]
    one, two = (
        sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(t)) for t in kept
    )
    return two - one


def make_loss(apply):
    def loss(params, batch):
        images, targets = batch
        scores = apply(gather(params), images).astype(jnp.float32)
        chex.assert_equal_shape([scores, targets])
        return optax.losses.softmax_cross_entropy(scores, targets).mean()

    return loss


def gather(params):
    """Parameters whole along ``fsdp``, to compute with; gradients are scattered."""
    axis_types = jax.sharding.get_abstract_mesh().axis_types
    if AxisType.Manual in axis_types:  # a group of a reproducible gradient
        return params
    explicit = AxisType.Explicit in axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return jax.tree.map(move, params, specs_of(params, fsdp=()))


def specs_of(params, fsdp=("fsdp",)):
    """Where parameters live; both APIs name layers and parameters alike."""
    up, down = P(fsdp, "model"), P(("model", *fsdp), None)
    hidden: Any = {"kernel": up, "bias": P("model")}
    if gated := "up" in params["hidden"]:
        hidden = {"up": up, "gate": up, "down": down}
        hidden = {name: {"kernel": spec} for name, spec in hidden.items()}
    raw_kernel = P(fsdp, None) if gated else down
    return {"hidden": hidden, "output": {"raw_kernel": raw_kernel, "bias": P()}}
