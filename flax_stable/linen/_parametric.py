"""Activations with a number that may be learned, as Linen modules."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from .. import _learnable
from .._activations.elu import celu, elu
from .._activations.piecewise import leaky_relu
from .._activations.snake import snake
from .._activations.softcap import softcap
from .._activations.softplus import softplus
from .._activations.squareplus import squareplus


class CELU(nn.Module):
    """The activation `flax_stable.celu`, ``alpha (exp(x / alpha) - 1)`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      alpha: the depth and width of the negative part, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.CELU(2.0, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'alpha': Array(2., dtype=float32)}}
    """

    alpha: float = 1.0
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return celu(x, _number(self, "alpha", x))


class ELU(nn.Module):
    """The activation `flax_stable.elu`, ``alpha (exp(x) - 1)`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      alpha: the depth of the negative part, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.
      residual: what the backward pass keeps, ``"input"`` or ``"output"``.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.ELU(2.0, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'alpha': Array(2., dtype=float32)}}
    """

    alpha: float = 1.0
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32
    residual: str = "input"

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return elu(x, _number(self, "alpha", x), residual=self.residual)


class LeakyReLU(nn.Module):
    """The activation `flax_stable.leaky_relu`, ``negative_slope x`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      negative_slope: the slope below 0, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.LeakyReLU(0.5, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'negative_slope': Array(0.5, dtype=float32)}}
    """

    negative_slope: float = 0.01
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return leaky_relu(x, _number(self, "negative_slope", x))


class PReLU(nn.Module):
    """`LeakyReLU` with a learned slope, under the names of `flax.linen.PReLU`.

    The parameter is ``negative_slope``, so that parameters of Flax's own fit.  The rest
    is as `flax_stable.leaky_relu`'s.

    Attributes:
      param_dtype: the dtype of the parameter.
      negative_slope_init: what the parameter starts as.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.linen.PReLU().init(jax.random.key(0), jnp.ones(3))
      {'params': {'negative_slope': Array(0.01, dtype=float32)}}
    """

    param_dtype: Dtype = jnp.float32
    negative_slope_init: float = 0.01

    @nn.compact
    def __call__(self, inputs: jax.typing.ArrayLike) -> jax.Array:
        slope = self.param(
            "negative_slope",
            lambda key: jnp.asarray(self.negative_slope_init, self.param_dtype),
        )
        return leaky_relu(inputs, _learnable.cast(slope, inputs))


class Snake(nn.Module):
    """The activation `flax_stable.snake`, ``x + sin(a x)**2 / a``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      a: the frequency, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.Snake(0.5, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'a': Array(0.5, dtype=float32)}}
    """

    a: float = 1.0
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return snake(x, _number(self, "a", x))


class Softcap(nn.Module):
    """The activation `flax_stable.softcap`, ``cap tanh(x / cap)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      cap: the bound of the absolute value, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.Softcap(30.0, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'cap': Array(30., dtype=float32)}}
    """

    cap: float
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return softcap(x, _number(self, "cap", x))


class Softplus(nn.Module):
    """The activation `flax_stable.softplus`, ``log(1 + exp(beta x)) / beta``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      beta: the sharpness of the bend, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.
      bits: of how many bits of an element the backward pass keeps a code, if it
        approximates the derivative: 1, 2, 3 or 4, with the
        number 1 for ``beta`` alone.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.Softplus(2.0, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'beta': Array(2., dtype=float32)}}
    """

    beta: float = 1.0
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32
    bits: int | None = None

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return softplus(x, _number(self, "beta", x), bits=self.bits)


class Squareplus(nn.Module):
    """The activation `flax_stable.squareplus`, ``(x + sqrt(x**2 + b)) / 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Attributes:
      b: the width of the bend, a finite number.
      learnable: whether that number is where a parameter of the same name starts.  The
        parameter is cast to the dtype of the inputs, as that of Flax's ``PReLU`` is.
      param_shape: the shape of the parameter, such as ``(features,)``, which broadcasts
        against the inputs.
      param_dtype: the dtype of the parameter, a real floating one.

    Raises:
      ValueError: the number is not finite, or has a shape without being learnable.
      TypeError: it is no real number, or ``param_dtype`` is not real floating.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> activation = fs.linen.Squareplus(0.0, learnable=True)
      >>> activation.init(jax.random.key(0), jnp.ones(3))
      {'params': {'b': Array(0., dtype=float32)}}
    """

    b: float = 4.0
    learnable: bool = False
    param_shape: Sequence[int] = ()
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return squareplus(x, _number(self, "b", x))


def _number(module: Any, name: str, x: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """The number in a field, or the parameter of the same name that starts there."""
    start = _learnable.start(
        type(module).__name__,
        name,
        getattr(module, name),
        module.learnable,
        module.param_shape,
        module.param_dtype,
    )
    if not module.learnable:
        return start
    return _learnable.cast(module.param(name, lambda key: start), x)
