"""Activations whose pieces are polynomials."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen
from ._elementwise import as_floating, elementwise
from ._parametric import pull_back, with_parameters


def _ramp(value: Callable, rises: Callable, slope: float = 1.0) -> Callable:
    """The function ``value``, flat but for where it ``rises``: all that its rule keeps.

    ``value`` is a function of one float32 or float64 array, ``rises`` of an array of
    any floating dtype.
    """

    @custom_vjp
    def f(x):
        return narrow(value(widen(x)), x)

    def fwd(x):
        return f(x), rises(x)

    def bwd(rising, g):
        return (jnp.where(rising, narrow(slope * widen(g), g), 0),)

    f.defvjp(fwd, bwd)
    return f


def _is_exact(x: jax.typing.ArrayLike) -> bool:
    return not jnp.issubdtype(jnp.asarray(x).dtype, np.inexact)


def _as_integer(x: jax.typing.ArrayLike) -> jax.Array:
    """``x``, a boolean as the integer that it counts as in sums."""
    x = jnp.asarray(x)
    return lax.convert_element_type(x, int) if x.dtype == bool else x


@jax.jit
def relu(x: jax.typing.ArrayLike) -> jax.Array:
    if _is_exact(x):
        return jnp.maximum(_as_integer(x), 0)
    return _relu(as_floating("relu", x))


@jax.jit
def relu6(x: jax.typing.ArrayLike) -> jax.Array:
    return _relu6(as_floating("relu6", x))


@jax.jit
def leaky_relu(
    x: jax.typing.ArrayLike, negative_slope: jax.typing.ArrayLike = 1e-2
) -> jax.Array:
    return _leaky_relu(*with_parameters("leaky_relu", x, negative_slope=negative_slope))


@jax.jit
def hard_tanh(x: jax.typing.ArrayLike) -> jax.Array:
    if _is_exact(x):
        return jnp.clip(_as_integer(x), -1, 1)
    return _hard_tanh(as_floating("hard_tanh", x))


@jax.jit
def hard_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    return _hard_sigmoid(as_floating("hard_sigmoid", x))


@jax.jit
def hard_silu(x: jax.typing.ArrayLike) -> jax.Array:
    return _hard_silu(as_floating("hard_silu", x))


hard_swish = hard_silu


@jax.jit
def relu_squared(x: jax.typing.ArrayLike) -> jax.Array:
    return _relu_squared(as_floating("relu_squared", x))


@jax.jit
def sparse_plus(x: jax.typing.ArrayLike) -> jax.Array:
    return _sparse_plus(as_floating("sparse_plus", x))


@jax.jit
def sparse_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    return _sparse_sigmoid(as_floating("sparse_sigmoid", x))


@jax.jit
def identity(x: jax.typing.ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    return x if _is_exact(x) else as_floating("identity", x)


_relu = _ramp(lambda x: jnp.maximum(x, 0), lambda x: x > 0)
_relu6 = _ramp(lambda x: jnp.clip(x, 0, 6), lambda x: (x > 0) & (x < 6))
_hard_tanh = _ramp(lambda x: jnp.clip(x, -1, 1), lambda x: jnp.abs(x) <= 1)
# x + 3 is exact near -3, and within one rounding elsewhere.
_hard_sigmoid = _ramp(
    lambda x: jnp.clip(x + 3, 0, 6) / 6, lambda x: jnp.abs(x) < 3, 1 / 6
)


@custom_vjp
def _leaky_relu(x, slope):
    wide = widen(x)
    return narrow(jnp.where(wide >= 0, wide, slope * wide), x)


def _leaky_relu_fwd(x, slope):
    # Unless the slope is differentiated the rule makes no use of x, and JAX drops it.
    return _leaky_relu(x, slope), (x >= 0, x, slope)


def _leaky_relu_bwd(kept, g):
    positive, x, slope = kept
    slopes = [jnp.where(positive, 1, slope), jnp.where(positive, 0, widen(x))]
    return pull_back(g, (x, slope), slopes)


_leaky_relu.defvjp(_leaky_relu_fwd, _leaky_relu_bwd)


def _hard_silu_value(x: jax.Array) -> jax.Array:
    """x (x + 3) / 6, of which the sum is exact below -1, x / 2 + x^2 / 6 above."""
    sixth = (1 / 6) * x
    y = jnp.where(x < -1, sixth * (x + 3), 0.5 * x + sixth * x)
    return jnp.where(jnp.abs(x) < 3, y, jnp.maximum(x, 0))


def _hard_silu_slope(x: jax.Array) -> jax.Array:
    """(2 x + 3) / 6 around 0; next to its root the sum is exact."""
    return jnp.where(x >= 3, 1, jnp.where(x <= -3, 0, (x + 1.5) / 3))


def _sparse_plus_value(x: jax.Array) -> jax.Array:
    half = 0.5 * (x + 1)
    return jnp.where(x >= 1, x, jnp.where(x <= -1, 0, half * half))


def _sparse_sigmoid_value(x: jax.Array) -> jax.Array:
    return jnp.where(x >= 1, 1, jnp.where(x <= -1, 0, 0.5 * (x + 1)))


def _sparse_sigmoid_slope(x: jax.Array) -> jax.Array:
    """1/2 inside, half of that at the kinks."""
    a = jnp.abs(x)
    return jnp.where(a < 1, 0.5, jnp.where(a > 1, 0, 0.25 * a))


_hard_silu = elementwise(_hard_silu_value, _hard_silu_slope)
_relu_squared = elementwise(lambda x: jnp.maximum(x, 0) ** 2, lambda x: 2 * _relu(x))
_sparse_plus = elementwise(_sparse_plus_value, _sparse_sigmoid_value)
_sparse_sigmoid = elementwise(
    _sparse_sigmoid_value, elementwise(_sparse_sigmoid_slope, jnp.zeros_like)
)
