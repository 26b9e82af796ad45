"""The share of a GPU's copy bandwidth that an activation and its gradient reach.

Copying is measured in the same rounds, as the negation of an array.  A value moves two
arrays, a gradient three, a gated value three, its gradient five.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import flax_stable as fs
import torch_peers
from contenders import GATED, Function, cotangent, inputs, optional
from single import chosen, contenders, load_torch
from timing import Run, interleaved, repeat, rounded, shown, summary

NAMES = ("relu", "silu", "gelu", "gelu(approximate=False)", "tanh", "softplus", "mish")


def gradient_alone(f: Callable) -> Callable:
    """The cotangents of the inputs, from the inputs and the cotangent of the output."""

    def pull(*args_and_cotangent: jax.Array) -> tuple:
        *args, g = args_and_cotangent
        return jax.vjp(f, *args)[1](g)

    return pull


def torch_gradient_alone(torch: Any, f: Callable, tensors: list, g: Any) -> Run:
    """The gradient of a graph that is built once and kept."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    y = f(*leaves)

    def run(calls: int) -> None:
        for _ in range(calls):
            torch.autograd.grad(y, leaves, g, retain_graph=True)
        if g.is_cuda:
            torch.cuda.synchronize()

    return run


@functools.cache
def liger_functions() -> dict[str, Callable]:
    """Liger's Triton kernels, which take the gate first."""
    swiglu, geglu = map(optional, ("liger_kernel.ops.swiglu", "liger_kernel.ops.geglu"))
    found = {}
    if swiglu:
        found["swiglu"] = lambda value, gate: swiglu.LigerSiLUMulFunction.apply(
            gate, value
        )
    if geglu:
        found["geglu"] = lambda value, gate: geglu.LigerGELUMulFunction.apply(
            gate, value
        )
    return found


def torch_runs(
    torch: Any, name: str, what: str, args: list[jax.Array], g: jax.Array, peers: list
) -> dict[str, Run]:
    """PyTorch's contenders and Liger's."""
    if torch is None:
        return {}
    candidates = {}
    if name in torch_peers.FUNCTIONS:
        if "torch" in peers:
            candidates["torch"] = torch_peers.FUNCTIONS[name](torch.nn.functional)
        if "torch.compile" in peers:
            candidates["torch.compile"] = torch_peers.compiled(torch, name)
    if "liger" in peers and name in liger_functions():
        candidates["liger"] = liger_functions()[name]
    tensors = [torch_peers.from_jax(torch, x) for x in args]
    if what == "value":
        return {
            k: torch_peers.repeat(torch, f, tensors, None)
            for k, f in candidates.items()
        }
    pulled = torch_peers.from_jax(torch, g)
    return {
        k: torch_gradient_alone(torch, f, tensors, pulled)
        for k, f in candidates.items()
    }


def elementwise(
    name: str, function: Function, dtype: str, torch: Any, options: argparse.Namespace
) -> Iterator[dict]:
    args = inputs(function, (options.side, options.side), dtype)
    g = cotangent(function.ours, args)
    for what in ("value", "gradient"):
        arrays = function.arity + 1 if what == "value" else 2 * function.arity + 1
        runs = {"copy": repeat(jax.jit(jnp.negative), args[0])}
        for peer, f in contenders(function, args, options).items():
            if what == "gradient":
                runs[peer] = repeat(jax.jit(gradient_alone(f)), *args, g)
            elif peer != "jax.checkpoint":
                runs[peer] = repeat(jax.jit(f), *args)
        runs |= torch_runs(torch, name, what, args, g, options.peers)
        found = summary(interleaved(runs, options.rounds), ["ours"])
        copy = found["seconds"].pop("copy") / 2
        del found["ratios"]["ours"]["copy"]
        shares = {
            peer: rounded(arrays * copy / took)
            for peer, took in found["seconds"].items()
        }
        yield {
            "function": name,
            "what": what,
            "dtype": dtype,
            "side": options.side,
            "copy": rounded(args[0].nbytes / copy),
            "shares": shares,
            **found,
        }


def gated_layer(dtype: str, options: argparse.Namespace) -> Iterator[dict]:
    """Two products and swiglu between them, as tokamax fuses it."""
    tokamax = optional("tokamax") if "tokamax" in options.peers else None
    if tokamax is None or not hasattr(fs, "swiglu"):
        return
    keys = jax.random.split(jax.random.key(0), 3)
    side = options.side // 2
    x, up, gate = (jax.random.normal(k, (side, side), dtype) / side**0.5 for k in keys)
    layers = {
        "ours": lambda x, up, gate: fs.swiglu(x @ up, gate=x @ gate),
        "jax.nn": lambda x, up, gate: (x @ up) * jax.nn.silu(x @ gate),
        "tokamax": lambda x, up, gate: tokamax.gated_linear_unit(
            x, (gate, up), activation=jax.nn.silu
        ),
    }
    for what in ("value", "gradient"):
        runs = {
            peer: repeat(jax.jit(f), x, up, gate)
            if what == "value"
            else repeat(jax.jit(gradient_alone(f)), x, up, gate, x)
            for peer, f in layers.items()
        }
        found = summary(interleaved(runs, options.rounds), ["ours"])
        yield {"function": "swiglu layer", "what": what, "dtype": dtype, **found}


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """Shares of the copy bandwidth; only on a GPU, unless the section is named."""
    if jax.default_backend() != "gpu" and "bandwidth" not in options.sections:
        print("skipped: there is no GPU")
        return
    torch = load_torch(options)
    for dtype in options.dtypes:
        for name, function in chosen(options).items():
            if name in (*NAMES, *GATED):
                yield from elementwise(name, function, dtype, torch, options)
        yield from gated_layer(dtype, options)


def show(row: dict) -> str:
    head = f"{row['function']:24} {row['what']:9} {row['dtype']:9}"
    if "shares" not in row:
        return f"{head} time: {shown(row)}"
    shares = "  ".join(f"{peer} {share:.0%}" for peer, share in row["shares"].items())
    return f"{head} of {row['copy'] / 1e9:,.0f} GB/s: {shares}"
