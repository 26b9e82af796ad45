"""Gradients on purpose, as Linen modules."""

import jax
from flax import linen as nn

from ..gradient import reverse_gradient, straight_through_round, straight_through_sign


class GradientReversal(nn.Module):
    """The function `flax_stable.gradient.reverse_gradient`: ``x``, its gradient turned.

    Between features and a classifier of their domain it trains the features against it.

    Attributes:
      scale: what the gradient is multiplied by, besides -1.  A call may pass another
        one, traced too, such as the value of a schedule.

    Example:
      >>> import jax, flax_stable as fs
      >>> module = fs.linen.GradientReversal(0.5)
      >>> float(jax.grad(lambda x: module.apply({}, x) ** 2)(3.0))
      -3.0
    """

    scale: float = 1.0

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        scale: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return reverse_gradient(x, self.scale if scale is None else scale)


class StraightThroughRound(nn.Module):
    """The function `flax_stable.gradient.straight_through_round`, with the slope 1.

    Shapes, dtypes and derivatives are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.StraightThroughRound().apply({}, jnp.array([-0.6, 1.7]))
      Array([-1.,  2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return straight_through_round(x)


class StraightThroughSign(nn.Module):
    """The function `flax_stable.gradient.straight_through_sign`, 1 or -1.

    Shapes, dtypes and derivatives are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.StraightThroughSign().apply({}, jnp.array([-0.6, 0.0]))
      Array([-1.,  1.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return straight_through_sign(x)
