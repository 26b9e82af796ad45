"""`squareplus`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import leading
from ._parametric import parametric, with_parameters


@jax.jit
def squareplus(x: jax.typing.ArrayLike, b: jax.typing.ArrayLike = 4) -> jax.Array:
    return _squareplus(*with_parameters("squareplus", x, b=b))


def _parts(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """Where x^2 overflows or vanishes, a power of two by which |x| is scaled; its
    reciprocal; q = x^2 + b; r, its root; what q - r^2 is, exactly."""
    up = 2.0**70 if x.dtype == np.float32 else 2.0**560
    far, near = (62, 40) if x.dtype == np.float32 else (500, 80)
    a = jnp.abs(x)
    large, small = a > 2.0**far, (a < 2.0**-near) & (b < 2.0 ** (-2 * near - 10))
    scale = jnp.where(large, 1 / up, jnp.where(small, up, 1)).astype(x.dtype)
    back = jnp.where(large, up, jnp.where(small, 1 / up, 1)).astype(x.dtype)
    square, b = (scale * a) ** 2, scale * b * scale
    q = square + b
    r = jnp.maximum(jnp.sqrt(q), 2.0**-100)
    upper = leading(r)
    lower = r - upper
    lost = jnp.minimum(square, b) - (q - jnp.maximum(square, b))
    lost += ((q - upper * upper) - 2 * (upper * lower)) - lower * lower
    return scale, back, q, r, lost


def _negative_part(x: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """y = (b / 4) / p, p = (|x| + r) / 2, and r; by how much y is too large, and y / r,
    relative to them."""
    scale, back, _, r, lost = _parts(x, b)
    a = scale * jnp.abs(x)
    p = a + r
    inverse = 1 / (2 * r * p)
    excess = (2 * r * (a - (p - r)) + lost) * inverse
    excess_of_ratio = excess + 2 * lost * (p * inverse) ** 2
    y = 0.25 * (b / (0.5 * p * back))
    finite = a < np.inf
    return (
        y,
        r * back,
        jnp.where(finite, excess, 0),
        jnp.where(finite, excess_of_ratio, 0),
    )


def _squareplus_value(x: jax.Array, b: jax.Array) -> jax.Array:
    y, _, excess, _ = _negative_part(x, b)
    return (y - y * excess) + jnp.maximum(x, 0)


def _squareplus_slope(x: jax.Array, b: jax.Array) -> jax.Array:
    y, r, _, excess = _negative_part(x, b)
    w = (y - y * excess) / r
    return jnp.where(x > 0, 1 - w, w)


def _curvature_value(x: jax.Array, b: jax.Array) -> jax.Array:
    """b / (2 r^3), in an order in which nothing vanishes that lasts."""
    scale, _, q, r, _ = _parts(x, b)
    return 0.5 * (scale * (scale * (scale * b / q / r)))


def _reciprocal_value(x: jax.Array, b: jax.Array) -> jax.Array:
    scale, _, _, r, _ = _parts(x, b)
    return scale / r


_reciprocal: Callable = parametric(
    _reciprocal_value,
    lambda x, b: -x * _reciprocal(x, b) ** 3,
    lambda x, b: -0.5 * _reciprocal(x, b) ** 3,
)


def _curvature_in_b(x: jax.Array, b: jax.Array) -> jax.Array:
    q = _reciprocal(x, b)
    return 0.25 * q * q * q * (2 - 3 * (b * q * q))


_curvature: Callable = parametric(
    _curvature_value,
    lambda x, b: -3 * (x * _reciprocal(x, b)) * _reciprocal(x, b) * _curvature(x, b),
    _curvature_in_b,
)
_squareplus = parametric(
    _squareplus_value,
    parametric(
        _squareplus_slope, _curvature, lambda x, b: -0.25 * x * _reciprocal(x, b) ** 3
    ),
    lambda x, b: 0.25 * _reciprocal(x, b),
)
