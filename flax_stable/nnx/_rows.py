"""Activations over an axis, as NNX modules."""

import jax
from flax import nnx

from .._activations._rows import Axis
from .._activations.softmax import log_softmax, softmax
from .._activations.standardize import standardize


class LogSoftmax(nnx.Module):
    """The activation `flax_stable.log_softmax`, the logarithm of `Softmax`.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Args:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.LogSoftmax()(jnp.array([0.0, 100.0]))
      Array([-100.,    0.], dtype=float32)
    """

    def __init__(self, axis: Axis = -1):
        self.axis = axis

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return log_softmax(x, self.axis, where=where)


class Softmax(nnx.Module):
    """The activation `flax_stable.softmax`, exponentials over their sum.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Args:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Softmax()(jnp.array([0.0, 100.0]))
      Array([0., 1.], dtype=float32)
    """

    def __init__(self, axis: Axis = -1):
        self.axis = axis

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return softmax(x, self.axis, where=where)


class Standardize(nnx.Module):
    """The activation `flax_stable.standardize`, rows of mean 0 and variance 1.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``where`` too.

    Args:
      axis: the axis of a row, a tuple of axes, or ``None`` for all.
      epsilon: what is added to the variance.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Standardize()(jnp.array([1.0, 3.0])).round(4)
      Array([-1.,  1.], dtype=float32)
    """

    def __init__(self, axis: Axis = -1, epsilon: float = 1e-5):
        self.axis = axis
        self.epsilon = epsilon

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        where: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return standardize(x, self.axis, epsilon=self.epsilon, where=where)
