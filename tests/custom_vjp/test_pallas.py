"""Elementwise functions and their gradients inside of Pallas kernels for TPU."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

import flax_stable as fs

# All of those that jax.nn has too, where it lowers: not what is made of expm1.
NAMES = """
    gelu hard_sigmoid hard_silu hard_tanh identity leaky_relu log_sigmoid mish relu
    relu6 sigmoid silu soft_sign softplus squareplus tanh
""".split()
# jax.nn does not lower these.
MORE = "celu elu log_cosh selu".split()


def with_gradient(f, x):
    y, pull_back = jax.vjp(f, x)
    return y + pull_back(x)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["f32", "bf16"])
def test_kernels(dtype):
    """All in one kernel, since what is lowered is what is tested."""
    x = jnp.ones((16, 128), dtype)
    functions = [functools.partial(with_gradient, getattr(fs, n)) for n in NAMES + MORE]
    functions += [fs.relu, fs.squareplus, lambda x: fs.leaky_relu(x, 0.2)]
    # Traced before, outside: the kernel must not get what JAX remembers of that.
    jax.make_jaxpr(lambda x: [with_gradient(f, x) for f in (fs.gelu, fs.relu)])(x)

    def kernel(x, *out):
        for f, y in zip(functions, out, strict=True):
            y[...] = f(x[...])

    run = pallas.pallas_call(kernel, [x] * len(functions))
    jax.jit(run).trace(x).lower(lowering_platforms=("tpu",))
    # And outside there is the checkpoint again.
    outside = jax.make_jaxpr(functools.partial(with_gradient, fs.gelu))(x)
    assert "prevent_cse=False" in str(outside)
