"""Feed-forward blocks, and their parameters, that the tests of these share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _layers import KEY
from flax import linen as nn
from flax import nnx

import flax_stable as fs
import flax_stable.linen
import flax_stable.nnx

BLOCKS = pytest.mark.parametrize("name", ["MLP", "GatedMLP"])


def cube_of_gate(x, *, gate):
    return x * gate**3


ACTIVATIONS = {"MLP": jnp.tanh, "GatedMLP": cube_of_gate}


def linen_block(name, *args, in_features=5, **options):
    """A Linen block, and parameters that no program had to be compiled for."""
    block = getattr(fs.linen, name)(
        *args, **{"activation": ACTIVATIONS[name], **options}
    )
    init = block.clone(dropout_rate=0.0).init
    shapes = jax.eval_shape(init, KEY, jnp.ones((1, in_features)))["params"]
    rng = np.random.default_rng(0)

    def draw(x):
        return jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype)

    return block, jax.tree.map(draw, shapes)


def nnx_block(name, *args, **options):
    options = {"activation": ACTIVATIONS[name], **options}
    return getattr(fs.nnx, name)(*args, rngs=nnx.Rngs(0), **options)


def nnx_graph(name, *args, **options):
    """What a block is besides its parameters: it takes those of the Linen block."""
    return nnx.split(nnx.eval_shape(lambda: nnx_block(name, *args, **options)))[0]


class Plain(nn.Module):
    """A block made of Flax's own layers, with Flax's own names for them."""

    block: str
    width: int
    features: int
    options: dict

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(self.width, **self.options)(x)
        if self.block == "MLP":
            hidden = jnp.tanh(hidden)
        else:
            hidden = cube_of_gate(hidden, gate=nn.Dense(self.width, **self.options)(x))
        return nn.Dense(self.features, **self.options)(hidden)


def plain_params(params):
    """The parameters of a block under the names that Flax gives by itself."""
    order = [name for name in ("up", "gate", "down") if name in params]
    return {f"Dense_{i}": params[name] for i, name in enumerate(order)}
