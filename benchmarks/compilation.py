"""What it takes to trace and to compile the gradient of a model of twelve layers."""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from contenders import functions
from timing import shown, summary

ACTIVATIONS = ("softplus", "tanh", "elu", "silu", "mish", "gelu", "swiglu")
LAYERS, WIDTH, BATCH = 12, 256, 32


def loss_of(activation: Callable, arity: int) -> Callable:
    """A loss that JAX has never seen."""

    def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = activation(*jnp.split(x @ kernel, arity, -1))
        return jnp.mean(x**2)

    return loss


def seconds(f: Callable, *args: Any) -> tuple[dict[str, float], jax.stages.Compiled]:
    """Seconds to trace and lower, and to compile, with nothing remembered."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(f).lower(*args)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    took = {"trace": middle - start, "compile": end - middle, "both": end - start}
    return took, compiled


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """The time of ours over that of jax.nn, for each activation."""
    for name in ACTIVATIONS:
        if name not in (options.only or [name]):
            continue
        function = functions()[name]
        activations = {"ours": function.ours, "jax.nn": function.peers["jax.nn"]}
        for dtype in options.dtypes:
            kernels = [jnp.zeros((WIDTH, WIDTH * function.arity), dtype)] * LAYERS
            x = jnp.zeros((BATCH, WIDTH), dtype)
            found: dict[str, dict[str, list[float]]] = {}
            for i in range(options.rounds + 1):
                for key in list(activations)[:: 1 if i % 2 else -1]:
                    loss = loss_of(activations[key], function.arity)
                    took, _ = seconds(jax.grad(loss), kernels, x)
                    for what in took if i > 0 else ():  # the first round warms up
                        samples = found.setdefault(what, {k: [] for k in activations})
                        samples[key].append(took[what])
            for what, samples in found.items():
                row = {"function": name, "what": what, "dtype": dtype}
                yield {**row, **summary(samples, ["ours"])}


def show(row: dict) -> str:
    return f"{row['function']:24} {row['what']:19} {row['dtype']:9} {shown(row)}"
