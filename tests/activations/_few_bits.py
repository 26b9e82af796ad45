"""What the tests of derivatives of few bits share: the step functions they expect."""

import jax
import numpy as np

from flax_stable._activations._few_bit import Steps, optimal_steps
from flax_stable.testing import REFERENCES

BITS = (1, 2, 3, 4)
QUICK = {"xla_backend_optimization_level": 0}


def steps(name: str, bits: int) -> Steps:
    name = "silu" if name == "swiglu" else name
    return optimal_steps(bits, REFERENCES[name][1], even=name == "tanh")


def expected(name: str, bits: int, x: np.ndarray) -> np.ndarray:
    """The step function in the place of the derivative."""
    found = steps(name, bits)
    where = np.abs(x) if found.even else x
    return found.levels[0][np.searchsorted(found.ends, where)]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def quick(f, *args):
    """The result of a program that compiles fast."""
    return jax.jit(f, compiler_options=QUICK)(*args)


def residuals(f, *args):
    """What the backward pass of ``f`` keeps, without running anything."""
    return jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(f, *args)[1], *args))


def size(arrays):
    """In bytes."""
    return sum(a.size * a.dtype.itemsize for a in arrays)
