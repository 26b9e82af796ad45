"""Gated linear units, as NNX modules."""

import jax
from flax import nnx

from .._gated.units import geglu, glu, reglu, swiglu


class GLU(nnx.Module):
    """The activation `flax_stable.glu`, ``a sigmoid(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Args:
      axis: the axis to halve.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.GLU()(jnp.array([1.0, 2.0, 0.0, 100.0]))
      Array([0.5, 2. ], dtype=float32)
    """

    def __init__(self, axis: int = -1):
        self.axis = axis

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return glu(x, self.axis, gate=gate)


class GeGLU(nnx.Module):
    """The activation `flax_stable.geglu`, ``a gelu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Args:
      axis: the axis to halve.
      approximate: whether to take gelu in the form with tanh, as the function does by
        default.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.GeGLU()(jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    def __init__(self, axis: int = -1, approximate: bool = True):
        self.axis = axis
        self.approximate = approximate

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return geglu(x, self.axis, gate=gate, approximate=self.approximate)


class ReGLU(nnx.Module):
    """The activation `flax_stable.reglu`, ``a relu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Args:
      axis: the axis to halve.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.ReGLU()(jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    def __init__(self, axis: int = -1):
        self.axis = axis

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return reglu(x, self.axis, gate=gate)


class SwiGLU(nnx.Module):
    """The activation `flax_stable.swiglu`, ``a silu(b)`` of two halves.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.
    Calls take its ``gate`` too.

    Args:
      axis: the axis to halve.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SwiGLU()(jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
    """

    def __init__(self, axis: int = -1, *, bits: int | None = None):
        self.axis = axis
        self.bits = bits

    def __call__(
        self,
        x: jax.typing.ArrayLike,
        gate: jax.typing.ArrayLike | None = None,
    ) -> jax.Array:
        return swiglu(x, self.axis, gate=gate, bits=self.bits)
