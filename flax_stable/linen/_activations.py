"""Elementwise activations without a number to learn, as Linen modules."""

import jax
from flax import linen as nn

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


class Erfcx(nn.Module):
    """The activation `flax_stable.erfcx`, ``exp(x^2) erfc(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Erfcx().apply({}, jnp.array([0.0, 100.0])).round(4)
      Array([1.    , 0.0056], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return erfcx(x)


class GELU(nn.Module):
    """The activation `flax_stable.gelu`, ``x ndtr(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      approximate: whether to take the form with tanh, as the function does by default.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.GELU(approximate=False).apply({}, jnp.array([0.0, 1.0])).round(2)
      Array([0.  , 0.84], dtype=float32)
    """

    approximate: bool = True
    bits: int | None = None

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return gelu(x, self.approximate, bits=self.bits)


class HardSigmoid(nn.Module):
    """The activation `flax_stable.hard_sigmoid`, ``clip(x + 3, 0, 6) / 6``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.HardSigmoid().apply({}, jnp.array([-3.0, 0.0, 3.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_sigmoid(x)


class HardSiLU(nn.Module):
    """The activation `flax_stable.hard_silu`, ``x clip(x + 3, 0, 6) / 6``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.HardSiLU().apply({}, jnp.array([-4.0, 0.0, 4.0]))
      Array([0., 0., 4.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_silu(x)


HardSwish = HardSiLU


class HardTanh(nn.Module):
    """The activation `flax_stable.hard_tanh`, ``clip(x, -1, 1)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.HardTanh().apply({}, jnp.array([-1.0, 0.0, 2.0]))
      Array([-1.,  0.,  1.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return hard_tanh(x)


class Identity(nn.Module):
    """The activation `flax_stable.identity`, ``x``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Identity().apply({}, jnp.array([-1.0, 0.0, 2.0]))
      Array([-1.,  0.,  2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return identity(x)


class InverseSoftplus(nn.Module):
    """The activation `flax_stable.inverse_softplus`, ``log(exp(y) - 1)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.InverseSoftplus().apply({}, jnp.array([0.0, 100.0]))
      Array([-inf, 100.], dtype=float32)
    """

    def __call__(self, y: jax.typing.ArrayLike) -> jax.Array:
        return inverse_softplus(y)


class Log1mExp(nn.Module):
    """The activation `flax_stable.log1mexp`, ``log(1 - exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Log1mExp().apply({}, jnp.array([0.0, 100.0]))
      Array([-inf,   0.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log1mexp(x)


class LogCosh(nn.Module):
    """The activation `flax_stable.log_cosh`, ``log(cosh(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.LogCosh().apply({}, jnp.array([0.0, 100.0])).round(2)
      Array([ 0.  , 99.31], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_cosh(x)


class LogNdtr(nn.Module):
    """The activation `flax_stable.log_ndtr`, ``log(ndtr(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.LogNdtr().apply({}, jnp.array([0.0, 100.0])).round(2)
      Array([-0.69,  0.  ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_ndtr(x)


class LogSigmoid(nn.Module):
    """The activation `flax_stable.log_sigmoid`, ``-log(1 + exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.LogSigmoid().apply({}, jnp.array([-100.0, 0.0])).round(2)
      Array([-100.  ,   -0.69], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return log_sigmoid(x)


class Mish(nn.Module):
    """The activation `flax_stable.mish`, ``x tanh(softplus(x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Mish().apply({}, jnp.array([-100.0, 0.0, 100.0]))
      Array([ -0.,   0., 100.], dtype=float32)
    """

    bits: int | None = None

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return mish(x, bits=self.bits)


class ReLU(nn.Module):
    """The activation `flax_stable.relu`, ``max(x, 0)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.ReLU().apply({}, jnp.array([-1.0, 0.0, 2.0]))
      Array([0., 0., 2.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu(x)


class ReLU6(nn.Module):
    """The activation `flax_stable.relu6`, ``clip(x, 0, 6)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.ReLU6().apply({}, jnp.array([-1.0, 2.0, 7.0]))
      Array([0., 2., 6.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu6(x)


class ReLUSquared(nn.Module):
    """The activation `flax_stable.relu_squared`, ``max(x, 0) ** 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.ReLUSquared().apply({}, jnp.array([-1.0, 0.0, 2.0]))
      Array([0., 0., 4.], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return relu_squared(x)


class SELU(nn.Module):
    """The activation `flax_stable.selu`, ``1.0507 elu(x, 1.6733)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SELU().apply({}, jnp.array([-1.0, 0.0, 2.0])).round(2)
      Array([-1.11,  0.  ,  2.1 ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return selu(x)


class Sigmoid(nn.Module):
    """The activation `flax_stable.sigmoid`, ``1 / (1 + exp(-x))``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Sigmoid().apply({}, jnp.array([-100.0, 0.0, 100.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    residual: str = "input"

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sigmoid(x, residual=self.residual)


class SiLU(nn.Module):
    """The activation `flax_stable.silu`, ``x sigmoid(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SiLU().apply({}, jnp.array([-100.0, 0.0, 100.0]))
      Array([ -0.,   0., 100.], dtype=float32)
    """

    bits: int | None = None

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return silu(x, bits=self.bits)


Swish = SiLU


class SoftSign(nn.Module):
    """The activation `flax_stable.soft_sign`, ``x / (1 + |x|)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SoftSign().apply({}, jnp.array([-1.0, 0.0, 3.0]))
      Array([-0.5 ,  0.  ,  0.75], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return soft_sign(x)


class SparsePlus(nn.Module):
    """The activation `flax_stable.sparse_plus`, ``(x + 1)**2 / 4`` between -1 and 1.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SparsePlus().apply({}, jnp.array([-1.0, 0.0, 2.0]))
      Array([0.  , 0.25, 2.  ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sparse_plus(x)


class SparseSigmoid(nn.Module):
    """The activation `flax_stable.sparse_sigmoid`, ``clip(x + 1, 0, 2) / 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.SparseSigmoid().apply({}, jnp.array([-2.0, 0.0, 2.0]))
      Array([0. , 0.5, 1. ], dtype=float32)
    """

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return sparse_sigmoid(x)


class Tanh(nn.Module):
    """The activation `flax_stable.tanh`, ``tanh(x)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.Tanh().apply({}, jnp.array([-100.0, 0.0, 100.0]))
      Array([-1.,  0.,  1.], dtype=float32)
    """

    residual: str = "input"
    bits: int | None = None

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return tanh(x, residual=self.residual, bits=self.bits)
