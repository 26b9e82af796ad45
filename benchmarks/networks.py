"""Small networks as people write them, with the functions of JAX or with ours in them.

Each is a Flax module that takes its functions from a namespace, `STOCK` or `OURS`, and
is the same in all else.  Measured are the gradient's temporaries, the time of a step,
and the time to trace and to compile it.

gpt, llama     two layers of a decoder and the cross-entropy of the next token.
vit            two layers of an encoder over patches.
convnext       two blocks: a depthwise convolution, layer norm, two dense layers.
mbconv         two blocks: an inverted bottleneck with squeeze and excitation.
lstm, gru      a layer over 32 steps, at two sizes of batch.
ppo            the loss of a policy and its value function.
"""

import argparse
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import compilation
import flax_stable as fs
from models import stock_swiglu, temporaries
from timing import interleaved, repeat, shown, summary

NAMES = ("gelu", "silu", "tanh", "sigmoid", "softmax", "log_softmax")
STOCK = SimpleNamespace(swiglu=stock_swiglu, **{k: getattr(jax.nn, k) for k in NAMES})
OURS = SimpleNamespace(
    swiglu=lambda value, gate: fs.swiglu(value, gate=gate),
    **{k: getattr(fs, k) for k in NAMES},
)
# A number below those of bfloat16's scores, for what a causal mask hides.
HIDDEN = -1e30


class Attention(nn.Module):
    of: Any
    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[-1] // self.heads
        query, key, value = (nn.DenseGeneral((self.heads, size))(x) for _ in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / size**0.5
        if self.causal:
            scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, HIDDEN)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", self.of.softmax(scores), value)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1))(mixed)


class Transformer(nn.Module):
    """Layers of attention and a feed-forward; with gates as in Llama."""

    of: Any
    gated: bool
    causal: bool
    layers: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.RMSNorm if self.gated else nn.LayerNorm
        width = x.shape[-1]
        for _ in range(self.layers):
            x = x + Attention(self.of, width // 32, self.causal)(norm()(x))
            h = norm()(x)
            if self.gated:
                value, gate = (nn.Dense(width * 8 // 3)(h) for _ in range(2))
                h = self.of.swiglu(value, gate)
            else:
                h = self.of.gelu(nn.Dense(width * 4)(h))
            x = x + nn.Dense(width)(h)
        return norm()(x)


class LanguageModel(nn.Module):
    """The cross-entropy of each next token."""

    of: Any
    gated: bool
    vocabulary: int = 512

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(self.vocabulary, 128)
        x = Transformer(self.of, self.gated, causal=True)(embed(tokens[:, :-1]))
        logs = self.of.log_softmax(embed.attend(x))
        return -jnp.take_along_axis(logs, tokens[:, 1:, None], -1).mean()


class ConvNeXt(nn.Module):
    of: Any
    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        for i in range(self.blocks):
            h = nn.Conv(width, (7, 7), feature_group_count=width)(x)
            h = self.of.gelu(nn.Dense(4 * width)(nn.LayerNorm()(h)))
            scale = self.param(f"scale_{i}", nn.initializers.constant(0.1), (width,))
            x = x + scale * nn.Dense(width)(h)
        return x


class MBConv(nn.Module):
    of: Any
    blocks: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, inner = x.shape[-1], 4 * x.shape[-1]
        norm = lambda x: nn.BatchNorm(use_running_average=False)(x)  # noqa: E731
        for _ in range(self.blocks):
            h = self.of.silu(norm(nn.Conv(inner, (1, 1), use_bias=False)(x)))
            h = nn.Conv(inner, (3, 3), feature_group_count=inner, use_bias=False)(h)
            h = self.of.silu(norm(h))
            squeezed = self.of.silu(nn.Dense(width // 4)(h.mean((1, 2), keepdims=True)))
            h = h * self.of.sigmoid(nn.Dense(inner)(squeezed))
            x = x + norm(nn.Conv(width, (1, 1), use_bias=False)(h))
        return x


class Policy(nn.Module):
    """The clipped loss of PPO, with the value's error and the entropy."""

    of: Any
    actions: int = 6

    @nn.compact
    def __call__(self, seen, actions, old, advantages, returns) -> jax.Array:
        def tower(outputs: int) -> jax.Array:
            x = seen
            for _ in range(2):
                x = self.of.tanh(nn.Dense(64)(x))
            return nn.Dense(outputs)(x)

        logs = self.of.log_softmax(tower(self.actions))
        ratio = jnp.exp(jnp.take_along_axis(logs, actions[:, None], -1)[:, 0] - old)
        clipped = jnp.clip(ratio, 0.8, 1.2)
        gain = jnp.minimum(ratio * advantages, clipped * advantages)
        entropy = -(jnp.exp(logs) * logs).sum(-1)
        error = jnp.square(tower(1)[:, 0] - returns)
        return (0.5 * error - gain - 0.01 * entropy).mean()


def recurrent(cell: type[nn.RNNCellBase]) -> Callable[[Any, str], nn.Module]:
    """A layer of cells that take their functions as arguments."""

    def build(of: Any, dtype: str) -> nn.Module:
        return nn.RNN(
            cell(
                128,
                gate_fn=of.sigmoid,
                activation_fn=of.tanh,
                # The default is an orthogonal matrix, which bfloat16 has no QR for.
                recurrent_kernel_init=nn.initializers.lecun_normal(),
                param_dtype=dtype,
            )
        )

    return build


LSTM, GRU = recurrent(nn.OptimizedLSTMCell), recurrent(nn.GRUCell)


class Network(NamedTuple):
    """A network and what it sees.

    Attributes:
      build: from a namespace of functions and a dtype to a module; its output is a loss
        or else is squared and averaged.
      inputs: the shape of each input; with "int" before it, small integers.
    """

    build: Callable[[Any, str], nn.Module]
    inputs: tuple[tuple, ...]


NETWORKS = {
    "gpt": Network(lambda of, _: LanguageModel(of, False), (("int", 8, 129),)),
    "llama": Network(lambda of, _: LanguageModel(of, True), (("int", 8, 129),)),
    "vit": Network(lambda of, _: Transformer(of, False, False), ((8, 196, 128),)),
    "convnext": Network(lambda of, _: ConvNeXt(of), ((2, 14, 14, 96),)),
    "mbconv": Network(lambda of, _: MBConv(of), ((2, 14, 14, 48),)),
    "lstm, batch 16": Network(LSTM, ((16, 32, 128),)),
    "lstm, batch 256": Network(LSTM, ((256, 32, 128),)),
    "gru, batch 16": Network(GRU, ((16, 32, 128),)),
    "gru, batch 256": Network(GRU, ((256, 32, 128),)),
    "ppo": Network(
        lambda of, _: Policy(of),
        ((2048, 17), ("int", 2048), (2048,), (2048,), (2048,)),
    ),
}


def inputs(network: Network, dtype: str) -> list[jax.Array]:
    key = jax.random.key(0)
    return [
        jax.random.randint(key, shape[1:], 0, 6)
        if shape[0] == "int"
        else jax.random.normal(key, shape, dtype)
        for shape in network.inputs
    ]


def variables(network: Network, dtype: str) -> tuple[dict, dict]:
    """The parameters of a dtype, and what else a module keeps, in float32."""
    module, args = network.build(STOCK, "float32"), inputs(network, "float32")
    rest = jax.jit(module.init)(jax.random.key(1), *args)
    params = rest.pop("params")
    return jax.tree.map(lambda x: x.astype(dtype), params), rest


def gradient(network: Network, of: Any, dtype: str) -> Callable:
    """A new function every time: one that JAX has never seen."""
    module = network.build(of, dtype)

    def loss(params: dict, rest: dict, args: list[jax.Array]) -> jax.Array:
        out, _ = module.apply({"params": params, **rest}, *args, mutable=[*rest])
        return jnp.mean(out if out.ndim == 0 else jnp.square(out))

    return jax.value_and_grad(loss)


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """Bytes of temporaries in the compiled gradient, and the times of and to a step."""
    for name, network in NETWORKS.items():
        if name not in (options.models or [name]):
            continue
        for dtype in options.dtypes:
            args = inputs(network, dtype)
            params, rest = variables(network, dtype)
            libraries = {"ours": OURS, "jax.nn": STOCK}
            # The first round warms up, and two more are enough for what is this even.
            samples: dict[str, dict[str, list[float]]] = {}
            steps, bytes_ = {}, {}
            for i in range(3):
                for peer in list(libraries)[:: 1 if i % 2 else -1]:
                    f = gradient(network, libraries[peer], dtype)
                    took, step = compilation.seconds(f, params, rest, args)
                    bytes_[peer] = temporaries(step)
                    steps[peer] = repeat(step, params, rest, args)
                    for what in took if i > 0 else ():
                        of_all = samples.setdefault(what, {k: [] for k in libraries})
                        of_all[peer].append(took[what])
            samples["step"] = interleaved(steps, options.rounds)
            for what, found in samples.items():
                row = {"model": name, "dtype": dtype, "what": what}
                kept = {"bytes": bytes_} if what == "step" else {}
                yield {**row, **kept, **summary(found, ["ours"])}


def show(row: dict) -> str:
    head = f"{row['model']:16} {row['dtype']:9} {row['what']:9} {shown(row)}"
    if "bytes" not in row:
        return head
    ours, stock = row["bytes"]["ours"], row["bytes"]["jax.nn"]
    return f"{head}  temporaries {stock:,} -> {ours:,}: {ours / stock:.2f}"
