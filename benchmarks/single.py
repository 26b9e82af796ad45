"""One function at a time: what it keeps, what a call costs, how fast it is."""

import argparse
from collections.abc import Callable, Iterator

import jax

import torch_peers
from contenders import Function, cotangent, functions, inputs, with_gradient
from timing import Run, interleaved, repeat, shown, summary

# Functions over an axis see rows of this length.
ROW = 1024


def chosen(options: argparse.Namespace) -> dict[str, Function]:
    return {k: f for k, f in functions().items() if k in (options.only or [k])}


def contenders(
    function: Function, args: list[jax.Array], options: argparse.Namespace
) -> dict[str, Callable]:
    """Ours, then the peers in JAX that were asked for and take such arguments."""
    peers = dict(function.peers)
    if "jax.nn" in peers:
        peers["jax.checkpoint"] = jax.checkpoint(peers["jax.nn"])
    found = {"ours": function.ours}
    for peer in [peer for peer in peers if peer in options.peers]:
        try:
            jax.eval_shape(peers[peer], *args)
        except (TypeError, ValueError) as e:
            print(f"{peer} is skipped: {e}")
        else:
            found[peer] = peers[peer]
    return found


def load_torch(options: argparse.Namespace) -> object:
    wanted = {"torch", "torch.compile"} & set(options.peers)
    return torch_peers.load() if wanted else None


def kept_bytes(options: argparse.Namespace) -> Iterator[dict]:
    """Bytes that the backward pass keeps for an element of the (first) input."""
    torch = load_torch(options)
    for name, function in chosen(options).items():
        for dtype in options.dtypes:
            args = inputs(function, (4, ROW), dtype)
            kept = {}
            for peer, f in contenders(function, args, options).items():
                residuals = {id(x): x for x in jax.tree.leaves(jax.vjp(f, *args)[1])}
                kept[peer] = sum(x.nbytes for x in residuals.values()) / args[0].size
            in_torch = torch_peers.kept_bytes(torch, name, args)
            if in_torch is not None:
                kept["torch"] = in_torch
            yield {"function": name, "dtype": dtype, "bytes": kept}


def show_bytes(row: dict) -> str:
    kept = "  ".join(f"{peer} {size:g}" for peer, size in row["bytes"].items())
    return f"{row['function']:24} {row['dtype']:9} {kept}"


def eager(options: argparse.Namespace) -> Iterator[dict]:
    """Calls and gradients of 16 numbers, not compiled as a whole: what a call costs."""
    for name, function in chosen(options).items():
        args = inputs(function, (16,), "float32")
        g = cotangent(function.ours, args)
        for what in ("value", "value and gradient"):
            runs = {}
            for peer, f in contenders(function, args, options).items():
                if peer != "jax.checkpoint":
                    runs[peer] = (
                        repeat(f, *args)
                        if what == "value"
                        else repeat(with_gradient(f), *args, g)
                    )
            samples = interleaved(runs, options.rounds)
            yield {"function": name, "what": what, **summary(samples, ["ours"])}


def show_eager(row: dict) -> str:
    return f"{row['function']:24} {row['what']:19} {shown(row)}"


def time_runs(
    name: str, function: Function, what: str, args: list, torch: object, options
) -> dict[str, Run]:
    """Everything that computes the same thing."""
    g = cotangent(function.ours, args) if what == "value and gradient" else None
    runs = {}
    for peer, f in contenders(function, args, options).items():
        if g is not None:
            runs[peer] = repeat(jax.jit(with_gradient(f)), *args, g)
        elif peer != "jax.checkpoint":  # its value is that of the function within
            runs[peer] = repeat(jax.jit(f), *args)
    return runs | torch_peers.runs(torch, name, args, g, options.peers)


def times(options: argparse.Namespace) -> Iterator[dict]:
    """The time of ours over that of each peer."""
    torch = load_torch(options)
    for name, function in chosen(options).items():
        for dtype in options.dtypes:
            for size in options.sizes:
                args = inputs(function, (size // ROW, ROW), dtype)
                # PyTorch's threads spin for one another: of few elements on a busy
                # machine, that alone would be measured.
                peer = torch if size == max(options.sizes) else None
                for what in ("value", "value and gradient"):
                    runs = time_runs(name, function, what, args, peer, options)
                    samples = interleaved(runs, options.rounds)
                    yield {
                        "function": name,
                        "what": what,
                        "dtype": dtype,
                        "size": size,
                        **summary(samples, ["ours"]),
                    }


def show_time(row: dict) -> str:
    return (
        f"{row['function']:24} {row['what']:19} {row['dtype']:9} {row['size']:9} "
        f"{shown(row)}"
    )
