"""A step in two halves: forward with residuals written, backward from them.

A layer that is scanned, checkpointed or pipelined runs so: as two programs, between
which the residuals lie in memory.  Beside them the value alone, and value and gradient
in one program, where the compiler may fuse both and compute again what it likes.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from contenders import TRAINED, cotangent, functions, inputs, with_gradient
from single import contenders
from timing import interleaved, repeat, shown, summary

WHOLE = "value and gradient"
PROGRAMS = ("value", WHOLE, "forward", "backward")


def new_residuals(f: Callable, args: Sequence[jax.Array]) -> list[int]:
    """Which leaves of the pullback the forward half must write.

    Not those that are an argument, the output or another leaf: these are there already.
    Leaves are compared by value, for inputs of which no two arrays agree by chance.
    """
    y, pull = jax.jit(lambda *args: jax.vjp(f, *args))(*args)
    there, new = [*args, y], []
    for i, leaf in enumerate(jax.tree.leaves(pull)):
        if not any(same(leaf, other) for other in there):
            new.append(i)
        there.append(leaf)
    return new


def same(a: jax.Array, b: jax.Array) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and bool((a == b).all())


def programs(
    f: Callable, args: Sequence[Any], new: Sequence[int], evaluate: Callable
) -> dict[str, tuple[Callable, list]]:
    """The four programs of a function, each with its arguments.

    Args:
      f: a function of arrays.
      args: its arguments, arrays or their types.
      new: see `new_residuals`.
      evaluate: how to call a function of them: `jax.eval_shape` where they are types.
    """
    y, pull = evaluate(lambda *args: jax.vjp(f, *args), *args)
    residuals, tree = jax.tree.flatten(pull)
    g = cotangent(f, args) if isinstance(y, jax.Array) else y

    def forward(*args: jax.Array) -> tuple:
        y, pull = jax.vjp(f, *args)
        leaves = jax.tree.leaves(pull)
        return y, [leaves[i] for i in new]

    def backward(g: jax.Array, *residuals: jax.Array) -> tuple:
        return jax.tree.unflatten(tree, residuals)(g)

    return {
        "value": (f, [*args]),
        WHOLE: (with_gradient(f), [*args, g]),
        "forward": (forward, [*args]),
        "backward": (backward, [g, *residuals]),
    }


def compiled_call(f: Callable, *args: jax.Array) -> Any:
    return jax.jit(f)(*args)


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """The time of ours over that of each peer, of the programs and of both halves."""
    for name, function in functions().items():
        if name not in TRAINED or name not in (options.only or [name]):
            continue
        for dtype in options.dtypes:
            for side in options.sides:
                args = inputs(function, (side, side), dtype)
                runs = {}
                for peer, f in contenders(function, args, options).items():
                    new = new_residuals(f, args)
                    for what, (g, own) in programs(f, args, new, compiled_call).items():
                        runs[what, peer] = repeat(jax.jit(g), *own)
                samples = interleaved(runs, options.rounds)
                peers = dict.fromkeys(peer for _, peer in runs)
                for peer in peers:
                    samples["halves", peer] = [
                        forward + backward
                        for forward, backward in zip(
                            samples["forward", peer],
                            samples["backward", peer],
                            strict=True,
                        )
                    ]
                for what in (*PROGRAMS, "halves"):
                    yield {
                        "function": name,
                        "what": what,
                        "dtype": dtype,
                        "side": side,
                        **summary({p: samples[what, p] for p in peers}, ["ours"]),
                    }


def show(row: dict) -> str:
    return (
        f"{row['function']:24} {row['what']:19} {row['dtype']:9} {row['side']:5} "
        f"{shown(row)}"
    )
