"""What it takes to trace and to compile the gradient of a model of twelve layers."""

import argparse
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

import flax_stable as fs
from contenders import stock
from timing import shown, summary

ACTIVATIONS = ("softplus", "tanh", "elu", "silu", "mish", "gelu")
LAYERS, WIDTH, BATCH = 12, 256, 32


def loss_of(activation: Callable) -> Callable:
    """A loss that JAX has never seen."""

    def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = activation(x @ kernel)
        return jnp.mean(x**2)

    return loss


def seconds(activation: Callable) -> dict[str, float]:
    """Seconds to trace and lower, and to compile, with nothing remembered."""
    jax.clear_caches()
    kernels, x = [jnp.zeros((WIDTH, WIDTH))] * LAYERS, jnp.zeros((BATCH, WIDTH))
    gradient = jax.jit(jax.grad(loss_of(activation)))
    start = time.perf_counter()
    lowered = gradient.lower(kernels, x)
    middle = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    return {"trace": middle - start, "compile": end - middle, "both": end - start}


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """The time of ours over that of jax.nn, for each activation."""
    for name in ACTIVATIONS:
        if name not in (options.only or [name]):
            continue
        found: dict[str, dict[str, list[float]]] = {}
        activations = {"ours": getattr(fs, name), "jax.nn": stock(name)}
        for i in range(options.rounds + 1):
            for key in list(activations)[:: 1 if i % 2 else -1]:
                for what, took in seconds(activations[key]).items():
                    samples = found.setdefault(what, {k: [] for k in activations})
                    if i > 0:  # the first round warms up
                        samples[key].append(took)
        for what, samples in found.items():
            yield {"function": name, "what": what, **summary(samples, ["ours"])}


def show(row: dict) -> str:
    return f"{row['function']:24} {row['what']:19} {shown(row)}"
