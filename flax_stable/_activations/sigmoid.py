"""The logistic family: `sigmoid`, `log_sigmoid`, `tanh`."""

import jax
import jax.numpy as jnp

from ._elementwise import as_floating, elementwise


@jax.jit
def sigmoid(x):
    return _sigmoid(as_floating("sigmoid", x))

_sigmoid = elementwise(jax.nn.sigmoid)

@jax.jit
def log_sigmoid(x):
    return _log_sigmoid(as_floating("log_sigmoid", x))

_log_sigmoid = elementwise(jax.nn.log_sigmoid)

@jax.jit
def tanh(x):
    return jnp.tanh(as_floating("tanh", x))
