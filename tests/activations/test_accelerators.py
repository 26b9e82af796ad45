"""An accelerator's exp may be off by some ULP of float32: 16 bits do not show it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _table import TABLE
from jax.extend.core import Literal

import flax_stable as fs
from flax_stable.testing import REFERENCES
from flax_stable.testing._ulp import derivative, patterns, sweep
from flax_stable.testing.references import find

INEXACT = {"cbrt", "cos", "div", "erf", "erfc", "exp", "exp2", "expm1", "log", "log1p"}
INEXACT |= {"logistic", "pow", "rsqrt", "sin", "sqrt", "tan", "tanh"}
LARGEST = 4  # units in the last place of float32


def evaluate(jaxpr, consts, args, random):
    """The program with every inexact operation off by a random part of `LARGEST`."""
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)
    for eqn in jaxpr.eqns:
        inputs = [x.val if isinstance(x, Literal) else values[x] for x in eqn.invars]
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if inner is not None:
            consts = getattr(inner, "consts", ())
            body = getattr(inner, "jaxpr", inner)
            results = evaluate(body, consts, inputs, random)
        else:
            results = eqn.primitive.bind(*inputs, **eqn.params)
            results = results if eqn.primitive.multiple_results else [results]
        if eqn.primitive.name in INEXACT:
            off = random.uniform(-LARGEST, LARGEST, results[0].shape) * 2.0**-23
            results = [results[0] * (1 + off).astype(results[0].dtype)]
        values |= zip(eqn.outvars, results, strict=True)
    return [values[x] for x in jaxpr.outvars]


def perturbed(f, seed):
    def compute(*args):
        program = jax.make_jaxpr(f)(*args)
        random = np.random.default_rng(seed)
        return evaluate(program.jaxpr, program.consts, args, random)[0]

    return compute


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", TABLE)
def test_inexact_operations(name, dtype):
    f, tiny = find(fs, name), float(jnp.finfo(dtype).tiny)
    (x,) = patterns(np.dtype(dtype))
    for order, exact in enumerate(REFERENCES[name]):
        with np.errstate(all="ignore"):
            size = np.abs(exact(x.astype(np.float64)))
        # Next to the smallest normal number any error may lead below it.
        judged = x[~((size >= tiny) & (size < tiny * (1 + 2.0**-16)))]
        compute = perturbed(derivative(f, order, "vjp"), order)
        (found,) = sweep([compute], exact, [judged])
        assert found.maximum <= 0.51, (order, found)


def test_what_cancels_is_seen():
    """The slope as autodiff has it, in float32 all the same."""

    def silu(x):
        return jax.nn.silu(x.astype(np.float32)).astype(x.dtype)

    compute = perturbed(derivative(silu, 1, "vjp"), 0)
    (found,) = sweep([compute], REFERENCES["silu"][1], patterns(np.dtype("float16")))
    assert found.maximum > 1
