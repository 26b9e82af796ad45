"""Activations over an axis, as Linen modules."""

import jax
from flax import linen as nn

from .._activations._rows import Axis
from .._activations.softmax import log_softmax, softmax
from .._activations.standardize import standardize


class LogSoftmax(nn.Module):
    """The activation `flax_stable.log_softmax`, the logarithm of `Softmax`.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Attributes:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.LogSoftmax().apply({}, jnp.array([0.0, 100.0]))
      Array([-100.,    0.], dtype=float32)
    """

    axis: Axis = -1

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return log_softmax(x, self.axis, where=where)


class Softmax(nn.Module):
    """The activation `flax_stable.softmax`, exponentials over their sum.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Attributes:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Softmax().apply({}, jnp.array([0.0, 100.0]))
      Array([0., 1.], dtype=float32)
    """

    axis: Axis = -1

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return softmax(x, self.axis, where=where)


class Standardize(nn.Module):
    """The activation `flax_stable.standardize`, rows of mean 0 and variance 1.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Attributes:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.
      epsilon: what is added to the variance.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Standardize().apply({}, jnp.array([1.0, 3.0])).round(4)
      Array([-1.,  1.], dtype=float32)
    """

    axis: Axis = -1
    epsilon: float = 1e-5

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return standardize(x, self.axis, epsilon=self.epsilon, where=where)
