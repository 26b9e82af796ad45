"""What is measured against what: functions of ours and the same ones of others."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special

import flax_stable as fs


class Function(NamedTuple):
    """A function of ours and its peers.

    Attributes:
      ours: a function of `arity` arrays.
      peers: the same function of others, by what they are called in tables.
      arity: how many arrays it takes.
      positive: whether it is defined for positive numbers alone.
    """

    ours: Callable
    peers: dict[str, Callable]
    arity: int = 1
    positive: bool = False


# Functions over the last axis, beside the elementwise ones.
ROWS = ("softmax", "log_softmax", "logsumexp", "logmeanexp", "standardize", "glu")
POSITIVE = ("inverse_softplus", "log1mexp")
# The functions that people train with, for the dearer measurements.
TRAINED = (
    *("relu", "tanh", "sigmoid", "silu", "gelu", "gelu(approximate=False)", "softplus"),
    *("log_sigmoid", "mish", "elu", "selu", "hard_silu", "softcap", "squareplus"),
    *("swiglu", "geglu", "glu", "softmax", "log_softmax", "logsumexp"),
)
GATED = {"swiglu": jax.nn.silu, "geglu": jax.nn.gelu, "reglu": jax.nn.relu}


def optional(module: str) -> Any:
    """A module that may be missing or too old for this JAX: then a word and None."""
    try:
        return importlib.import_module(module)
    except (ImportError, AttributeError) as e:
        print(f"{module} is skipped: {' '.join(str(e).split())[:120]}")
        return None


def stock(name: str) -> Callable | None:
    """JAX's own function of a name."""
    return getattr(jax.nn, name, None) or getattr(jax.scipy.special, name, None)


@functools.cache
def tfp_functions() -> dict[str, Callable]:
    """Those of TensorFlow Probability on JAX."""
    math = optional("tensorflow_probability.substrates.jax.math")
    if math is None:
        return {}
    return {
        "inverse_softplus": math.softplus_inverse,
        "log1mexp": math.log1mexp,
        "log_cosh": math.log_cosh,
        "logmeanexp": lambda x: math.reduce_logmeanexp(x, axis=-1),
    }


def over_last_axis(name: str, f: Callable) -> Callable:
    """Reductions take no axis to mean all of them."""
    return functools.partial(f, axis=-1) if name in ROWS else f


def functions() -> dict[str, Function]:
    """Every function that JAX or TensorFlow Probability has as well."""
    plain = [name for name in fs.testing.REFERENCES if "(" not in name]
    found = {}
    for name in [*plain, *ROWS]:
        peers = {}
        if peer := stock(name):
            peers["jax.nn"] = over_last_axis(name, peer)
        if peer := tfp_functions().get(name):
            peers["tfp"] = peer
        if peers:
            ours = over_last_axis(name, getattr(fs, name))
            found[name] = Function(ours, peers, positive=name in POSITIVE)
    found["gelu(approximate=False)"] = Function(
        functools.partial(fs.gelu, approximate=False),
        {"jax.nn": functools.partial(jax.nn.gelu, approximate=False)},
    )
    found["softcap"] = Function(
        functools.partial(fs.softcap, cap=30.0),
        {"jax.nn": lambda x: 30 * jnp.tanh(x / 30)},
    )
    for name, activation in GATED.items():
        if gated := getattr(fs, name, None):
            found[name] = Function(
                lambda value, gate, f=gated: f(value, gate=gate),
                {"jax.nn": lambda value, gate, f=activation: value * f(gate)},
                arity=2,
            )
    return found


def inputs(function: Function, shape: tuple[int, ...], dtype: str) -> list[jax.Array]:
    """What a layer sees: normal numbers, three times as wide to reach the tails."""
    keys = jax.random.split(jax.random.key(0), function.arity)
    args = [3 * jax.random.normal(key, shape) for key in keys]
    if function.positive:
        args = [jnp.abs(x) + 1e-3 for x in args]
    return [x.astype(dtype) for x in args]


def cotangent(f: Callable, args: list[jax.Array]) -> jax.Array:
    """What the layer above passes back."""
    out = jax.eval_shape(f, *args)
    return jax.random.normal(jax.random.key(1), out.shape).astype(out.dtype)


def with_gradient(f: Callable) -> Callable:
    """The value of f, and its gradient along a cotangent, the last argument."""

    def value_and_gradient(*args_and_cotangent: jax.Array) -> tuple:
        *args, g = args_and_cotangent
        y, pull = jax.vjp(f, *args)
        return y, pull(g)

    return value_and_gradient
