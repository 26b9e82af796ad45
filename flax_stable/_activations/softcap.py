"""`softcap`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import expm1, polynomial, quotient
from ._logistic import logistic_slope, twice_odds
from ._parametric import parametric, with_parameters
from .sigmoid import _TANH, _tanh_value, tanh


@jax.jit
def softcap(x: jax.typing.ArrayLike, cap: jax.typing.ArrayLike) -> jax.Array:
    return _softcap(*with_parameters("softcap", x, cap=cap))


def _softcap_value(x: jax.Array, cap: jax.Array) -> jax.Array:
    """a (1 + t^2 P(t^2)) for t = a / c < 0.6, c - 2 c e / (1 + e) beyond, e = exp(-2 t).

    Leading with a and c, both exact, it rounds no more often than tanh.
    """
    a, c = jnp.abs(x), jnp.abs(cap)
    t, rest = quotient(a, c)
    near = jnp.where(t < 0.6, a / c, 0)
    if x.dtype == np.float64:
        m = expm1(-2 * near)
        # A subnormal number would be read as zero.
        near = jnp.where(near < 1e-9, a, c * (-m / (2 + m)))
    else:
        near = a + a * (near * near * polynomial(_TANH, near * near))
    far = c - c * twice_odds(2 * t, 2 * rest)
    return jnp.sign(x) * jnp.where(t < 0.6, near, far)


def _slope_value(x: jax.Array, cap: jax.Array) -> jax.Array:
    """1 / cosh(t)^2 = 4 sigmoid'(2 t)."""
    t, rest = quotient(x, cap)
    return logistic_slope(4, 2 * t, 2 * rest)


def _curvature_value(x: jax.Array, cap: jax.Array) -> jax.Array:
    """-2 tanh(t) / cosh(t)^2 / cap."""
    t, rest = quotient(x, cap)
    return -(_softcap_value(x, cap) / cap) * logistic_slope(8 / cap, 2 * t, 2 * rest)


def _in_cap_value(x: jax.Array, cap: jax.Array) -> jax.Array:
    """tanh(t) - t / cosh(t)^2; where that cancels, (sinh(2 t) / 2 - t) / cosh(t)^2."""
    t, rest = quotient(x, cap)
    s = logistic_slope(4, 2 * t, 2 * rest)
    z = 4 * jnp.minimum(t * t, 2)
    terms, series = 9 if x.dtype == np.float32 else 16, []
    for k in range(terms):
        previous = series[-1] / ((2 * k + 2) * (2 * k + 3)) if series else 2 / 3
        series.append(previous)
    near = t * (t * t) * polynomial(tuple(series), z) * s
    return jnp.where(jnp.abs(t) < 1.25, near, _tanh_value(t) - t * s)


def _t(x: jax.Array, cap: jax.Array) -> jax.Array:
    """x / cap, held where its derivatives are 0, so that products are no NaN."""
    return jnp.clip(x / cap, -1e3, 1e3)


def _third(x: jax.Array, cap: jax.Array) -> jax.Array:
    t = tanh(_t(x, cap))
    return _slope(x, cap) * (6 * t * t - 2) / cap / cap


_curvature: Callable = parametric(
    _curvature_value,
    _third,
    lambda x, cap: -_curvature(x, cap) / cap - _t(x, cap) * _third(x, cap),
)
_slope: Callable = parametric(
    _slope_value, _curvature, lambda x, cap: -_t(x, cap) * _curvature(x, cap)
)
_in_cap: Callable = parametric(
    _in_cap_value,
    lambda x, cap: -_t(x, cap) * _curvature(x, cap),
    lambda x, cap: _t(x, cap) ** 2 * _curvature(x, cap),
)
_softcap = parametric(_softcap_value, _slope, _in_cap)
