"""The exponential linear units: `elu`, `celu`, `selu`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._precision import expm1, polynomial
from ._elementwise import as_floating, elementwise
from ._parametric import parametric, with_parameters


@jax.jit
def elu(x: jax.typing.ArrayLike, alpha: jax.typing.ArrayLike = 1.0) -> jax.Array:
    return _elu(*with_parameters("elu", x, alpha=alpha))


@jax.jit
def celu(x: jax.typing.ArrayLike, alpha: jax.typing.ArrayLike = 1.0) -> jax.Array:
    return _celu(*with_parameters("celu", x, alpha=alpha))


@jax.jit
def selu(x: jax.typing.ArrayLike) -> jax.Array:
    return _selu(as_floating("selu", x))


_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772


def _scaled_exp(scale: jax.typing.ArrayLike, x: jax.Array) -> jax.Array:
    """scale exp(x) for x <= 0 and 1 above.

    Where a large scale lifts exp(x) from below the normal numbers, part of the scale
    goes into the exponent.
    """
    shift = 64 if x.dtype == np.float32 else 512
    x = jnp.where(x > 0, 0, x)
    far = x < -shift
    scale = jnp.where(far, math.exp(-shift) * scale, scale)
    return scale * jnp.exp(jnp.where(far, x + shift, x))


def _elu_value(x: jax.Array, alpha: jax.typing.ArrayLike) -> jax.Array:
    return jnp.where(x > 0, x, alpha * expm1(jnp.minimum(x, 0)))


# Slopes are written with exp alone, whose own derivatives are good.
_elu_in_alpha = elementwise(
    lambda x: expm1(jnp.minimum(x, 0)),
    lambda x: jnp.where(x > 0, 0, _scaled_exp(1, x)),
)
_elu: Callable = parametric(
    _elu_value,
    lambda x, alpha: jnp.where(x > 0, 1, _scaled_exp(alpha, x)),
    lambda x, alpha: _elu_in_alpha(x),
)
_selu: Callable = elementwise(
    lambda x: jnp.where(
        x > 0, _SCALE * x, (_SCALE * _ALPHA) * expm1(jnp.minimum(x, 0))
    ),
    lambda x: jnp.where(x > 0, _SCALE, _scaled_exp(_SCALE * _ALPHA, x)),
)


def _quotient(x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x / alpha, rounded, and what the rounding left, which exp would magnify.

    The reciprocal belongs to the parameter and may cost something; its leading half
    times halves of x are exact.
    """
    reciprocal = _leading(1 / alpha)
    upper = _leading(alpha)
    rest = ((1 - upper * reciprocal) - (alpha - upper) * reciprocal) / alpha
    x = jnp.maximum(x, np.finfo(x.dtype).min)
    upper = _leading(x)
    high, low = upper * reciprocal, (x - upper) * reciprocal + x * rest
    t = high + low
    return t, jnp.where(jnp.abs(t) < 1e3, (high - t) + low, 0)


def _leading(x: jax.Array) -> jax.Array:
    """The number without the lower half of its bits."""
    integer, dropped = (np.int32, 12) if x.dtype == np.float32 else (np.int64, 27)
    bits = lax.bitcast_convert_type(x, integer) >> dropped << dropped
    return lax.bitcast_convert_type(bits, x.dtype)


def _celu_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """alpha expm1(t), t = x / alpha, for x < 0; x (1 + t / 2) where t is tiny."""
    x_below = jnp.minimum(x, 0)
    t = x_below / alpha
    tiny = jnp.abs(t) < 0.25 * math.sqrt(np.finfo(x.dtype).eps)
    y = jnp.where(tiny, x_below + 0.5 * t * x_below, alpha * expm1(t))
    return jnp.where(x > 0, x, y)


def _celu_slope_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    t, rest = _quotient(jnp.minimum(x, 0), alpha)
    e = jnp.exp(t)
    return jnp.where(x > 0, 1, e + e * rest)


# exp(x / alpha) for x <= 0, else 0, as a function of both.
_celu_exp: Callable = parametric(
    lambda x, alpha: jnp.where(x > 0, 0, _celu_slope_value(x, alpha)),
    lambda x, alpha: _celu_exp(x, alpha) / alpha,
    lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
)


def _exponent(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """x / alpha, held where its exponential is 0, so that their product is no NaN."""
    return jnp.clip(x / alpha, -1e3, 1e3)


def _celu_in_alpha_value(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """expm1(t) - t exp(t), by the series where that cancels."""
    t = jnp.where(x > 0, 0, jnp.maximum(x / alpha, -1e3))
    terms = 12 if x.dtype == np.float32 else 21
    series = [-(k - 1) / math.factorial(k) for k in range(2, terms)]
    near = t * t * polynomial(tuple(series), t)
    return jnp.where(jnp.abs(t) < 1, near, expm1(t) - t * jnp.exp(t))


_celu_in_alpha: Callable = parametric(
    _celu_in_alpha_value,
    lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
    lambda x, alpha: _celu_exp(x, alpha) * _exponent(x, alpha) ** 2 / alpha,
)
_celu: Callable = parametric(
    _celu_value,
    parametric(
        _celu_slope_value,
        lambda x, alpha: _celu_exp(x, alpha) / alpha,
        lambda x, alpha: -_celu_exp(x, alpha) * (_exponent(x, alpha) / alpha),
    ),
    _celu_in_alpha,
)
