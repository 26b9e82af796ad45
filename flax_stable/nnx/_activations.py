"""Elementwise activations without a number to learn, as NNX modules."""

import jax
from flax import nnx

from .._activations.elu import selu
from .._activations.erfcx import erfcx
from .._activations.gelu import gelu
from .._activations.hard import (
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    sparse_plus,
    sparse_sigmoid,
)
from .._activations.log1mexp import log1mexp
from .._activations.log_cosh import log_cosh
from .._activations.mish import mish
from .._activations.normal import log_ndtr
from .._activations.piecewise import identity, relu, relu6, relu_squared
from .._activations.sigmoid import sigmoid, tanh
from .._activations.silu import silu
from .._activations.soft_sign import soft_sign
from .._activations.softplus import inverse_softplus, log_sigmoid


class Erfcx(nnx.Module):
    """The activation `flax_stable.erfcx`, ``exp(x^2) erfc(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Erfcx()(jnp.array([0.0, 100.0])).round(4)
      Array([1.    , 0.0056], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return erfcx(x)


class GELU(nnx.Module):
    """The activation `flax_stable.gelu`, ``x ndtr(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
      approximate: whether to take the form with tanh, as the function does by default.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.GELU(approximate=False)(jnp.array([0.0, 1.0])).round(2)
      Array([0.  , 0.84], dtype=float32)
    """

    def __init__(self, approximate: bool = True, *, bits: int | None = None):
        self.approximate = approximate
        self.bits = bits

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return gelu(x, self.approximate, bits=self.bits)


class HardSigmoid(nnx.Module):
    """The activation `flax_stable.hard_sigmoid`, ``clip(x + 3, 0, 6) / 6``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.HardSigmoid()(jnp.array([-3.0, 0.0, 3.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_sigmoid(x)


class HardSiLU(nnx.Module):
    """The activation `flax_stable.hard_silu`, ``x clip(x + 3, 0, 6) / 6``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.HardSiLU()(jnp.array([-4.0, 0.0, 4.0]))
      Array([0., 0., 4.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_silu(x)


HardSwish = HardSiLU


class HardTanh(nnx.Module):
    """The activation `flax_stable.hard_tanh`, ``clip(x, -1, 1)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.HardTanh()(jnp.array([-1.0, 0.0, 2.0]))
      Array([-1.,  0.,  1.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_tanh(x)


class Identity(nnx.Module):
    """The activation `flax_stable.identity`, ``x``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Identity()(jnp.array([-1.0, 0.0, 2.0]))
      Array([-1.,  0.,  2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return identity(x)


class InverseSoftplus(nnx.Module):
    """The activation `flax_stable.inverse_softplus`, ``log(exp(y) - 1)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.InverseSoftplus()(jnp.array([0.0, 100.0]))
      Array([-inf, 100.], dtype=float32)
    """

    def __call__(self, y: jax.typing.ArrayLike) -> jax.Array:
        return inverse_softplus(y)


class Log1mExp(nnx.Module):
    """The activation `flax_stable.log1mexp`, ``log(1 - exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Log1mExp()(jnp.array([0.0, 100.0]))
      Array([-inf,   0.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log1mexp(x)


class LogCosh(nnx.Module):
    """The activation `flax_stable.log_cosh`, ``log(cosh(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.LogCosh()(jnp.array([0.0, 100.0])).round(2)
      Array([ 0.  , 99.31], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_cosh(x)


class LogNdtr(nnx.Module):
    """The activation `flax_stable.log_ndtr`, ``log(ndtr(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.LogNdtr()(jnp.array([0.0, 100.0])).round(2)
      Array([-0.69,  0.  ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_ndtr(x)


class LogSigmoid(nnx.Module):
    """The activation `flax_stable.log_sigmoid`, ``-log(1 + exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.LogSigmoid()(jnp.array([-100.0, 0.0])).round(2)
      Array([-100.  ,   -0.69], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_sigmoid(x)


class Mish(nnx.Module):
    """The activation `flax_stable.mish`, ``x tanh(softplus(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Mish()(jnp.array([-100.0, 0.0, 100.0]))
      Array([ -0.,   0., 100.], dtype=float32)
    """

    def __init__(self, *, bits: int | None = None):
        self.bits = bits

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return mish(x, bits=self.bits)


class ReLU(nnx.Module):
    """The activation `flax_stable.relu`, ``max(x, 0)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.ReLU()(jnp.array([-1.0, 0.0, 2.0]))
      Array([0., 0., 2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu(x)


class ReLU6(nnx.Module):
    """The activation `flax_stable.relu6`, ``clip(x, 0, 6)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.ReLU6()(jnp.array([-1.0, 2.0, 7.0]))
      Array([0., 2., 6.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu6(x)


class ReLUSquared(nnx.Module):
    """The activation `flax_stable.relu_squared`, ``max(x, 0) ** 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.ReLUSquared()(jnp.array([-1.0, 0.0, 2.0]))
      Array([0., 0., 4.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu_squared(x)


class SELU(nnx.Module):
    """The activation `flax_stable.selu`, ``1.0507 elu(x, 1.6733)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SELU()(jnp.array([-1.0, 0.0, 2.0])).round(2)
      Array([-1.11,  0.  ,  2.1 ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return selu(x)


class Sigmoid(nnx.Module):
    """The activation `flax_stable.sigmoid`, ``1 / (1 + exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Sigmoid()(jnp.array([-100.0, 0.0, 100.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def __init__(self, residual: str = "input"):
        self.residual = residual

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sigmoid(x, residual=self.residual)


class SiLU(nnx.Module):
    """The activation `flax_stable.silu`, ``x sigmoid(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SiLU()(jnp.array([-100.0, 0.0, 100.0]))
      Array([ -0.,   0., 100.], dtype=float32)
    """

    def __init__(self, *, bits: int | None = None):
        self.bits = bits

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return silu(x, bits=self.bits)


Swish = SiLU


class SoftSign(nnx.Module):
    """The activation `flax_stable.soft_sign`, ``x / (1 + |x|)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SoftSign()(jnp.array([-1.0, 0.0, 3.0]))
      Array([-0.5 ,  0.  ,  0.75], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return soft_sign(x)


class SparsePlus(nnx.Module):
    """The activation `flax_stable.sparse_plus`, ``(x + 1)**2 / 4`` between -1 and 1.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SparsePlus()(jnp.array([-1.0, 0.0, 2.0]))
      Array([0.  , 0.25, 2.  ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sparse_plus(x)


class SparseSigmoid(nnx.Module):
    """The activation `flax_stable.sparse_sigmoid`, ``clip(x + 1, 0, 2) / 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.SparseSigmoid()(jnp.array([-2.0, 0.0, 2.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sparse_sigmoid(x)


class Tanh(nnx.Module):
    """The activation `flax_stable.tanh`, ``tanh(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.Tanh()(jnp.array([-100.0, 0.0, 100.0]))
      Array([-1.,  0.,  1.], dtype=float32)
    """

    def __init__(self, residual: str = "input", *, bits: int | None = None):
        self.residual = residual
        self.bits = bits

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return tanh(x, residual=self.residual, bits=self.bits)
