"""Norms of gradients by what raw parameters stand for."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .._parametrization import Parameters
from ._arguments import assert_names, assert_number, assert_params
from ._transforms import Chain, inverse, positive_options, read, slopes
from ._trees import mapped, widened


def global_norm(updates: Any, params: Any, *, parameters: Parameters = ()) -> jax.Array:
    r"""The norm of the gradient by the weights that raw parameters stand for.

    A gradient by a raw parameter :math:`r` is that by its weight :math:`f(r)` times
    :math:`f'(r)`, so small weights hide theirs.  This divides by the slope first and
    takes the root of the sum of squares: the number that `optax.global_norm` gives for
    the plain model.  For a transform that looks at whole arrays the transpose of the
    inverse's derivative takes the place of the division.

    Args:
      updates: gradients by ``params``, of the same structure.
      params: the parameters, raw ones and others.
      parameters: the transforms of raw ones, as for `add_decayed_weights`.

    Returns:
      The norm, for 16-bit gradients in float32.  Where the slope is below the smallest
      normal number, that number is taken for it.

    Raises:
      TypeError: ``parameters`` is of the wrong kind.
      ValueError: ``params`` have no names, or a raw one has no transform, or two.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> params = {"raw_kernel": jnp.array([-30.0, -30.0])}
      >>> weights = jnp.array([3.0, 4.0])
      >>> grads = jax.grad(lambda p: weights @ fs.softplus(p["raw_kernel"]))(params)
      >>> f"{fs.decay.global_norm(grads, params, parameters='kernel'):.4f}"
      '5.0000'
    """
    assert_names("global_norm", parameters)
    return _norm("global_norm", updates, params, parameters)


def clip_by_global_norm(
    max_norm: jax.typing.ArrayLike, *, parameters: Parameters = ()
) -> optax.GradientTransformation:
    """Scales gradients down if those by the weights have a norm above ``max_norm``.

    It takes the place of `optax.clip_by_global_norm`, at the start of a chain.  All
    gradients get one factor, ``max_norm / global_norm`` if that is below 1, with the
    `global_norm` of this module: that which would clip the plain model.

    Args:
      max_norm: the largest norm that remains.
      parameters: the transforms of raw parameters, as for `add_decayed_weights`.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: ``max_norm`` is not above 0; in ``update``: as for
        `add_decayed_weights`.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> tx = fs.decay.clip_by_global_norm(1.0, parameters="kernel")
      >>> params = {"raw_kernel": jnp.array([0.0, 0.0])}  # a slope of 0.5
      >>> grads = {"raw_kernel": jnp.array([3.0, 4.0])}  # by the weights 6, 8
      >>> tx.update(grads, tx.init(params), params)[0]["raw_kernel"]
      Array([0.3, 0.4], dtype=float32)
    """
    who = "clip_by_global_norm"
    assert_number(
        who,
        "max_norm",
        max_norm,
        lambda norm: norm > 0,
        "a number above 0",
        "For a schedule use optax.inject_hyperparams.",
    )
    assert_names(who, parameters)

    def update(updates, state, params=None):
        assert_params(who, params)
        norm = _norm(who, updates, params, parameters)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)

        def clipped(g):
            wide = widened(g)
            return (wide * factor.astype(wide.dtype)).astype(jnp.asarray(g).dtype)

        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _norm(who: str, updates: Any, params: Any, parameters: Parameters) -> jax.Array:
    by_weights = mapped(who, parameters, _by_weight, updates, params)
    squares = [jnp.sum(jnp.square(jnp.abs(g))) for g in jax.tree.leaves(by_weights)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros(())


def _by_weight(chain: Chain, x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient by the weight, from that by ``x``."""
    g = widened(g)
    if not chain:
        return g
    slope, diagonal = slopes(chain, x)
    divided = g / jnp.maximum(jnp.abs(slope), jnp.finfo(slope.dtype).tiny)
    if positive_options(chain):
        return divided
    _, pull = jax.vjp(lambda w: inverse(chain, w, w)[0], read(chain, x))
    return jnp.where(diagonal, divided, pull(g)[0])
