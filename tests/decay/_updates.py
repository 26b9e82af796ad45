"""What the tests of decay share."""

import jax
import jax.numpy as jnp

import flax_stable as fs

TANH = fs.Transform(fs.tanh, jnp.arctanh)
PLAIN = {"a": jnp.array([3.0, -4.0]), "b": {"c": jnp.array([12.0])}}
RAW_X = {"raw_x": jnp.ones(2)}


def applied(tx, params, grads=None):
    """The updates of one step, by default without gradients."""
    grads = jax.tree.map(jnp.zeros_like, params) if grads is None else grads
    return tx.update(grads, tx.init(params), params)[0]


def raw_update(tx, raw):
    return applied(tx, {"raw_x": raw})["raw_x"]


def positive_x(**options):
    """What tells that ``raw_x`` is read by `flax_stable.positive`."""
    return {"parameters": {"x": fs.positive_transform(**options)}}
