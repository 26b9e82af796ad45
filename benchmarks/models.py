"""Memory and time of the gradient of whole models, alike in all but the activation.

mlp      eight layers: gelu on square layers, swiglu with 8/3 of the width inside.
gpt      four layers of a transformer, a feed-forward of four times the width with gelu.
llama    the same with swiglu, 8/3 of the width inside.

Scanned: the layers are one `jax.lax.scan`.  Unrolled: they follow one another.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import flax_stable as fs
from timing import interleaved, repeat, shown, summary

OURS = ("ours", "ours, fused")


def stock_swiglu(value: jax.Array, gate: jax.Array) -> jax.Array:
    return value * jax.nn.silu(gate)


# A block takes what enters the activation (two arrays where it is gated) and the kernel
# of the dense layer behind it.
def blocks(activation: str) -> dict[str, Callable]:
    """Activation and dense layer: of JAX, of ours, and of ours as one function."""
    gated = activation == "swiglu"
    stock = stock_swiglu if gated else getattr(jax.nn, activation)
    own = getattr(fs, activation)
    remat = jax.checkpoint(stock)
    found = {
        "jax.nn": lambda hidden, kernel: stock(*hidden) @ kernel,
        "jax.checkpoint": lambda hidden, kernel: remat(*hidden) @ kernel,
        "jax.checkpoint, block": jax.checkpoint(
            lambda hidden, kernel: stock(*hidden) @ kernel
        ),
    }
    if gated:
        found["ours"] = lambda hidden, kernel: own(hidden[0], gate=hidden[1]) @ kernel
        found["ours, fused"] = lambda hidden, kernel: fs.gated_dense(
            hidden[0], kernel, gate=hidden[1], activation=own
        )
    else:
        found["ours"] = lambda hidden, kernel: own(*hidden) @ kernel
        found["ours, fused"] = lambda hidden, kernel: fs.activation_dense(
            *hidden, kernel, activation=own
        )
    return found


def bare(activation: str) -> Callable:
    """A block without an activation, which keeps what enters it and nothing else.

    What a model needs with it, no rule of an activation can save.
    """
    if activation == "swiglu":
        return jax.checkpoint(lambda hidden, kernel: (hidden[0] * hidden[1]) @ kernel)
    return lambda hidden, kernel: hidden[0] @ kernel


def project(x: jax.Array, kernels: dict[str, jax.Array]) -> list[jax.Array]:
    """What enters the activation: one array, or the value and the gate."""
    return [x @ kernels[name] for name in ("up", "gate") if name in kernels]


def dense_layer(block: Callable, x: jax.Array, kernels: dict) -> jax.Array:
    """The layer of an MLP; without an `up` kernel the input enters the activation."""
    return block(project(x, kernels) or [x], kernels["down"])


def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer norm, computed in float32 as Flax does."""
    wide = x.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    return (centered * jax.lax.rsqrt(variance + 1e-6)).astype(x.dtype) * scale


HEAD = 64


def transformer_layer(block: Callable, x: jax.Array, kernels: dict) -> jax.Array:
    """Causal attention and a feed-forward, each added to the stream it reads."""
    batch, length, width = x.shape
    heads = (norm(x, kernels["scale 1"]) @ kernels["qkv"]).reshape(
        batch, length, 3, width // HEAD, HEAD
    )
    query, key, value = (heads[:, :, i] for i in range(3))
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + mixed.reshape(x.shape) @ kernels["out"]
    hidden = project(norm(x, kernels["scale 2"]), kernels)
    return x + block(hidden, kernels["down"])


class Model(NamedTuple):
    """A stack of layers.

    Attributes:
      layer: from a block, the stream and a layer's kernels to the stream.
      activation: "gelu" or "swiglu".
      layers: how many.
      x: the shape of the stream.
      kernels: the shapes of a layer's kernels.
    """

    layer: Callable
    activation: str
    layers: int
    x: tuple[int, ...]
    kernels: dict[str, tuple[int, ...]]


def mlp(activation: str, batch: int, width: int) -> Model:
    shapes: dict[str, tuple[int, ...]] = {"down": (width, width)}
    if activation == "swiglu":
        inner = width * 8 // 3
        shapes = {"up": (width, inner), "gate": (width, inner), "down": (inner, width)}
    return Model(dense_layer, activation, 8, (batch, width), shapes)


def transformer(activation: str, batch: int, length: int, width: int) -> Model:
    inner = width * 4 if activation == "gelu" else width * 8 // 3
    shapes: dict[str, tuple[int, ...]] = {
        "scale 1": (width,),
        "qkv": (width, 3 * width),
        "out": (width, width),
        "scale 2": (width,),
        "up": (width, inner),
        "down": (inner, width),
    }
    if activation == "swiglu":
        shapes["gate"] = (width, inner)
    return Model(transformer_layer, activation, 4, (batch, length, width), shapes)


def models(scale: int) -> dict[str, Model]:
    """At a scale of 8 a step takes some tenths of a second on a CPU."""
    return {
        "mlp, gelu": mlp("gelu", 512 * scale, 32 * scale),
        "mlp, swiglu": mlp("swiglu", 512 * scale, 12 * scale),
        "gpt": transformer("gelu", scale, 64, 32 * scale),
        "llama": transformer("swiglu", scale, 64, 24 * scale),
    }


def parameters(model: Model, dtype: str) -> list[dict[str, jax.Array]]:
    """One dictionary for each layer; kernels keep the scale of what they multiply."""
    keys = iter(jax.random.split(jax.random.key(0), model.layers * len(model.kernels)))
    return [
        {
            name: jax.random.normal(next(keys), shape, dtype) * (2 / shape[0]) ** 0.5
            if len(shape) > 1
            else jnp.ones(shape, dtype)
            for name, shape in model.kernels.items()
        }
        for _ in range(model.layers)
    ]


def parameter_types(model: Model, dtype: str) -> list[dict[str, Any]]:
    """The shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: parameters(model, dtype))


def stacked(layers: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """The layers' parameters as `jax.lax.scan` takes them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def gradient(model: Model, block: Callable, scanned: bool) -> Callable:
    """The compiled gradient of a loss by the parameters."""

    def layer(x, kernels):
        return model.layer(block, x, kernels), None

    def loss(params, x):
        if scanned:
            x, _ = jax.lax.scan(layer, x, params)
        else:
            for kernels in params:
                x, _ = layer(x, kernels)
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    return jax.jit(jax.grad(loss))


def temporaries(step: jax.stages.Compiled) -> int:
    return step.memory_analysis().temp_size_in_bytes


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """Bytes of temporaries in the compiled gradient, and the time of a step."""
    for name, model in models(options.scale).items():
        if name not in (options.models or [name]):
            continue
        for dtype in options.dtypes:
            x = jax.random.normal(jax.random.key(1), model.x, dtype)
            layers = parameters(model, dtype)
            for form in ("scanned", "unrolled"):
                scanned = form == "scanned"
                params = stacked(layers) if scanned else layers
                steps, bytes_ = {}, {}
                for variant, block in blocks(model.activation).items():
                    step = gradient(model, block, scanned).lower(params, x).compile()
                    bytes_[variant] = temporaries(step)
                    steps[variant] = repeat(step, params, x)
                step = gradient(model, bare(model.activation), scanned)
                yield {
                    "model": name,
                    "dtype": dtype,
                    "form": form,
                    "bytes": bytes_,
                    "bare": temporaries(step.lower(params, x).compile()),
                    **summary(interleaved(steps, options.rounds), OURS),
                }


def show(row: dict) -> str:
    head = f"{row['model']:12} {row['dtype']:9} {row['form']:9}"
    stock = row["bytes"]["jax.nn"]
    lines = [
        f"{head} bytes {stock:,} with jax.nn; of it: "
        + "  ".join(f"{k} {v / stock:.2f}" for k, v in row["bytes"].items())
        + f"  without an activation {row['bare'] / stock:.2f}"
    ]
    lines += [f"{head} time of {own}: {shown(row, own)}" for own in row["ratios"]]
    return "\n".join(lines)
