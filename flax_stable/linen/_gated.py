"""Gated linear units, as Linen modules."""

import jax
from flax import linen as nn

from .._gated.units import geglu, glu, reglu, swiglu


class GLU(nn.Module):
    """The activation `flax_stable.glu`, ``a sigmoid(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Attributes:
      axis: the axis to halve.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.GLU().apply({}, jnp.array([1.0, 2.0, 0.0, 100.0]))
      Array([0.5, 2. ], dtype=float32)
    """

    axis: int = -1

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return glu(x, self.axis, gate=gate)


class GeGLU(nn.Module):
    """The activation `flax_stable.geglu`, ``a gelu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Attributes:
      axis: the axis to halve.
      approximate: whether to take gelu in the form with tanh, as the function does by
        default.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.GeGLU().apply({}, jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    axis: int = -1
    approximate: bool = True

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return geglu(x, self.axis, gate=gate, approximate=self.approximate)


class ReGLU(nn.Module):
    """The activation `flax_stable.reglu`, ``a relu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Attributes:
      axis: the axis to halve.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.ReGLU().apply({}, jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    axis: int = -1

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return reglu(x, self.axis, gate=gate)


class SwiGLU(nn.Module):
    """The activation `flax_stable.swiglu`, ``a silu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Attributes:
      axis: the axis to halve.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SwiGLU().apply({}, jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    axis: int = -1
    bits: int | None = None

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return swiglu(x, self.axis, gate=gate, bits=self.bits)
