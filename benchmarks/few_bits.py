"""Writes docs/few_bits.md: how far derivatives of few bits are from the exact ones.

    python benchmarks/few_bits.py [--check]

With --check nothing is written: the status is 1 where the file is not what it makes.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_stable as fs

PAGE = Path(__file__).parents[1] / "docs" / "few_bits.md"
BITS = (1, 2, 3, 4)
SCALES = (0.25, 0.5, 1, 2, 4)

HEAD = """\
<!-- Written by python benchmarks/few_bits.py: do not edit. -->

# Derivatives of few bits

`gelu`, `silu`, `mish`, `softplus`, `tanh` and `swiglu`, and their modules, take
`bits=1`, `2`, `3` or `4`. The value stays what it is, to the bit. For the backward pass
they keep a code of so many bits for each element, where they keep the input otherwise,
and the derivative becomes a step function of the input.

## The step function

The code says in which of 2^bits intervals the input is. In each interval the derivative
is replaced by its mean there, and the intervals are those with the least mean square
error, for an input that is a standard normal variable: least squares, as in Novikov et
al., [Few-Bit Backward](https://arxiv.org/abs/2202.00441), 2022. They are computed when
they are first needed, by dynamic programming over 600 places where an interval may end.
Intervals of `tanh`, whose derivative is even, are those of the magnitude of the input.

`swiglu` keeps the value as it is, the output and, in place of the gate, the code of the
gate. The derivative by the gate is the value times the step function for `silu`. The
derivative by the value, which is silu of the gate, is the output over the value: as
exact as the output is. Only where the value is 0 (or below the normal numbers) it is a
step function too, the mean of silu in the interval. The output is the input of the next
layer, whose matmul keeps it anyway; where nothing does, `bits` gains nothing here.

## How far it is off

The error of the gradient over the gradient, as a root of mean squares, for a standard
normal input (of `swiglu`: the gradient by the gate), and the bytes kept of a float32
element (of `swiglu`: of value and gate, beside the output):

"""

SCALED = """
The same with 3 bits for normal inputs of other standard deviations, and the largest
difference of the derivative anywhere:

"""

TAIL = """
## What to know

- **Biased.** Over standard normal inputs the error averages to zero in each interval,
  and so in sum. For one input it does not: of `gelu` with 2 bits every input below the
  lowest end has the same, negative derivative, also where the exact one is 0. There is
  no unbiased (stochastic) choice: it would need a key in each call.
- **Scaled.** Inputs of another scale have other errors: normalize what goes in, as
  layers in front of activations mostly do.
- **Forward mode** has the same step function, and second derivatives of the function
  are 0 (of `swiglu` the one by the gate, twice): a Hessian is that of a piecewise
  linear network.
- **Limits.** At -inf and inf the derivative is that of the outermost interval, at NaN
  that of the lowest one.
- **Packed** are the codes along the last axis: 8 elements in 1 byte for 1 bit, 4 in 1
  byte for 2, 8 in 3 bytes for 3, 2 in 1 byte for 4. A last axis of another size is
  padded to a multiple of 8, 4, 8 or 2; a scalar takes whole bytes, under `jax.vmap`
  also each one of many: map over rows.
- **Meshes.** What is split among devices is packed on each without communication: in
  `shard_map` and with Explicit axes always; with Auto axes, which a function does not
  see, if the last axis of a shard is such a multiple.
- **Where it pays.** In front of what does not need the input for itself: a matmul keeps
  the output of the activation, and beside that the code is small. `activation_dense`
  and `gated_dense` (and the blocks `MLP` and `GatedMLP`) keep the input alone and
  compute the output again: they need no code, and have exact derivatives.
- **Checkpoint policies** know the code by the name of the function.

How a network trains with it: [examples/few_bits.py](../examples/few_bits.py).
"""


def swiglu(gate: jax.Array, **options: Any) -> jax.Array:
    return fs.swiglu(jnp.ones_like(gate), gate=gate, **options)


FUNCTIONS: dict[str, Callable] = {
    "gelu": fs.gelu,
    "gelu(approximate=False)": lambda x, **bits: fs.gelu(x, False, **bits),
    "silu": fs.silu,
    "mish": fs.mish,
    "softplus": fs.softplus,
    "tanh": fs.tanh,
    "swiglu": swiglu,
}
INPUTS = np.linspace(-32, 32, 2**14, dtype=np.float32)


@cache
def exact(name: str) -> np.ndarray:
    """The derivative in float64."""
    reference = fs.testing.REFERENCES["silu" if name == "swiglu" else name][1]
    return reference(np.float64(INPUTS))


@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def derivatives() -> dict[str, dict[int, jax.Array]]:
    """Of each function those for each number of bits."""
    x = jnp.asarray(INPUTS)

    def derivative(f, bits):
        return jax.vjp(lambda x: f(x, bits=bits), x)[1](jnp.ones_like(x))[0]

    return {
        name: {bits: derivative(f, bits) for bits in BITS}
        for name, f in FUNCTIONS.items()
    }


def bytes_kept(name: str, bits: int | None) -> float:
    """For each element, without the output that swiglu keeps as the next layer does."""
    f = fs.swiglu if name == "swiglu" else FUNCTIONS[name]
    y, kept = jax.eval_shape(lambda x: jax.vjp(lambda x: f(x, bits=bits), x), INPUTS)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    return total / y.size - (4 if f is fs.swiglu and bits else 0)


def errors(scale: float) -> dict[str, dict[int, float]]:
    """The relative root mean square error for inputs of a standard deviation."""
    x = np.float64(INPUTS)
    weights = np.exp(-x * x / (2 * scale**2))

    def norm(y):
        return np.sqrt((weights * y**2).sum())

    return {
        name: {
            bits: norm(np.float64(found) - exact(name)) / norm(exact(name))
            for bits, found in row.items()
        }
        for name, row in derivatives().items()
    }


def farthest(bits: int) -> dict[str, float]:
    return {
        name: np.abs(row[bits] - exact(name)).max()
        for name, row in derivatives().items()
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    normal = errors(1)
    by_bits = [
        [f"`{name}`"]
        + [f"{normal[name][b]:.1%}" for b in BITS]
        + [" → ".join(f"{bytes_kept(name, b):g}" for b in (None, *BITS))]
        for name in FUNCTIONS
    ]
    far, scaled = farthest(3), [errors(scale) for scale in SCALES]
    by_scale = [
        [f"`{name}`"]
        + [f"{found[name][3]:.1%}" for found in scaled]
        + [f"{far[name]:.2f}"]
        for name in FUNCTIONS
    ]
    bits = ["", "1 bit", "2 bits", "3 bits", "4 bits", "bytes, exact → 1 → 2 → 3 → 4"]
    scales = ["", *map(str, SCALES), "largest"]
    return HEAD + table(bits, by_bits) + SCALED + table(scales, by_scale) + TAIL


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args(arguments).check:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
