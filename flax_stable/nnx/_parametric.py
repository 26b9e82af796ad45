"""Activations with a number that may be learned, as NNX modules."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as _promote_dtype
from flax.typing import Dtype, PromoteDtypeFn

from .. import _learnable
from .._activations.elu import celu, elu
from .._activations.piecewise import leaky_relu
from .._activations.snake import snake
from .._activations.softcap import softcap
from .._activations.softplus import softplus
from .._activations.squareplus import squareplus


class CELU(nnx.Module):
    """The activation `flax_stable.celu`, ``alpha (exp(x / alpha) - 1)`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.CELU(2.0, learnable=True).alpha[...]
      Array(2., dtype=float32)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
    ):
        self.alpha = _number(self, "alpha", alpha, learnable, param_shape, param_dtype)

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return celu(x, _value(self.alpha, x))


class ELU(nnx.Module):
    """The activation `flax_stable.elu`, ``alpha (exp(x) - 1)`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.ELU(2.0, learnable=True).alpha[...]
      Array(2., dtype=float32)
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
        residual: str = "input",
    ):
        self.alpha = _number(self, "alpha", alpha, learnable, param_shape, param_dtype)
        self.residual = residual

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return elu(x, _value(self.alpha, x), residual=self.residual)


class LeakyReLU(nnx.Module):
    """The activation `flax_stable.leaky_relu`, ``negative_slope x`` below 0.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.LeakyReLU(0.5, learnable=True).negative_slope[...]
      Array(0.5, dtype=float32)
    """

    def __init__(
        self,
        negative_slope: float = 0.01,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
    ):
        self.negative_slope = _number(
            self, "negative_slope", negative_slope, learnable, param_shape, param_dtype
        )

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return leaky_relu(x, _value(self.negative_slope, x))


class PReLU(nnx.Module):
    """`LeakyReLU` with a learned slope, under the names of `flax.nnx.PReLU`.

    The parameter is ``negative_slope``, so that states of Flax's own fit.  The rest is
    as `flax_stable.leaky_relu`'s.

    Args:
      negative_slope_init: what the parameter starts as.
      dtype: the dtype of the computation; by default that of the inputs.
      param_dtype: the dtype of the parameter.
      promote_dtype: the function that brings ``(inputs, negative_slope)`` to ``dtype``.
      negative_slope_metadata: metadata of the parameter.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.nnx.PReLU(0.5)(jnp.array([-1.0, 0.0, 2.0]))
      Array([-0.5,  0. ,  2. ], dtype=float32)
    """

    def __init__(
        self,
        negative_slope_init: float = 0.01,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        negative_slope_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.negative_slope = nnx.Param(
            jnp.asarray(negative_slope_init, param_dtype), **negative_slope_metadata
        )
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

    def __call__(self, inputs: jax.typing.ArrayLike) -> jax.Array:
        slope = self.negative_slope[...]
        if self.dtype is not None:
            inputs, slope = self.promote_dtype((inputs, slope), dtype=self.dtype)
        return leaky_relu(inputs, _learnable.cast(slope, inputs))


class Snake(nnx.Module):
    """The activation `flax_stable.snake`, ``x + sin(a x)**2 / a``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.Snake(0.5, learnable=True).a[...]
      Array(0.5, dtype=float32)
    """

    def __init__(
        self,
        a: float = 1.0,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
    ):
        self.a = _number(self, "a", a, learnable, param_shape, param_dtype)

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return snake(x, _value(self.a, x))


class Softcap(nnx.Module):
    """The activation `flax_stable.softcap`, ``cap tanh(x / cap)``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.Softcap(30.0, learnable=True).cap[...]
      Array(30., dtype=float32)
    """

    def __init__(
        self,
        cap: float,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
    ):
        self.cap = _number(self, "cap", cap, learnable, param_shape, param_dtype)

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return softcap(x, _value(self.cap, x))


class Softplus(nnx.Module):
    """The activation `flax_stable.softplus`, ``log(1 + exp(beta x)) / beta``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.Softplus(2.0, learnable=True).beta[...]
      Array(2., dtype=float32)
    """

    def __init__(
        self,
        beta: float = 1.0,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
        bits: int | None = None,
    ):
        self.beta = _number(self, "beta", beta, learnable, param_shape, param_dtype)
        self.bits = bits

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return softplus(x, _value(self.beta, x), bits=self.bits)


class Squareplus(nnx.Module):
    """The activation `flax_stable.squareplus`, ``(x + sqrt(x**2 + b)) / 2``.

    Shapes, dtypes, derivatives, accuracy and errors are those of the function.

    Args:
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
      >>> import flax_stable as fs
      >>> fs.nnx.Squareplus(0.0, learnable=True).b[...]
      Array(0., dtype=float32)
    """

    def __init__(
        self,
        b: float = 4.0,
        *,
        learnable: bool = False,
        param_shape: Sequence[int] = (),
        param_dtype: Dtype = jnp.float32,
    ):
        self.b = _number(self, "b", b, learnable, param_shape, param_dtype)

    def __call__(self, x: jax.typing.ArrayLike) -> jax.Array:
        return squareplus(x, _value(self.b, x))


def _number(module: nnx.Module, name: str, number: float, learnable: bool, *param: Any):
    """The number for a field, or the parameter that starts there."""
    start = _learnable.start(type(module).__name__, name, number, learnable, *param)
    return nnx.Param(start) if learnable else start


def _value(number: Any, x: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    if isinstance(number, nnx.Variable):
        return _learnable.cast(number[...], x)
    return number
