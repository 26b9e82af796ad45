"""Gradients on purpose, as NNX modules."""

import jax
from flax import nnx

from ..gradient import reverse_gradient, straight_through_round, straight_through_sign


class GradientReversal(nnx.Module):
    """The function `flax_stable.gradient.reverse_gradient`: ``x``, its gradient turned.

    Between features and a classifier of their domain it trains the features against it.

    Args:
      scale: what the gradient is multiplied by, besides -1.  A call may pass another
        one, traced too, such as the value of a schedule.

    Example:
      >>> import jax, flax_stable as fs
      >>> module = fs.nnx.GradientReversal(0.5)
      >>> float(jax.grad(lambda x: module(x) ** 2)(3.0))
      -3.0
    """

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        scale: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return reverse_gradient(x, self.scale if scale is None else scale)


class StraightThroughRound(nnx.Module):
    """The function `flax_stable.gradient.straight_through_round`, with the slope 1.

    Shapes, dtypes and derivatives are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.StraightThroughRound()(jnp.array([-0.6, 1.7]))
      Array([-1.,  2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return straight_through_round(x)


class StraightThroughSign(nnx.Module):
    """The function `flax_stable.gradient.straight_through_sign`, 1 or -1.

    Shapes, dtypes and derivatives are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.StraightThroughSign()(jnp.array([-0.6, 0.0]))
      Array([-1.,  1.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return straight_through_sign(x)
