"""`gelu`, in both forms."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import constant_parts, nearest_parts, exp_parts, head, polynomial, product_parts
from ._elementwise import as_floating, elementwise
from .normal import INVERSE_SQRT_2PI, density_parts, far, mills_parts

def _unlift(x):
    return np.array(2.0 ** -(np.finfo(x.dtype).maxexp // 2), x.dtype)


def _exact_value(x: jax.Array) -> jax.Array:
    """max(x, 0) - |x| Q(|x|); x / 2 where parts of numbers would be flushed."""
    a = far(x)
    power, density = density_parts(a)
    tail = power * product_parts(mills_parts(a, a), density) * _unlift(x)
    return jnp.where(a < 1e-20, 0.5 * x, jnp.maximum(x, 0) - tail)


def _series(root: float, count: int) -> tuple[float, ...]:
    """f'(root + d) / d in powers of d: the integral of phi(x) (2 - x^2)."""
    e = [math.exp(-root * root / 2) / math.sqrt(2 * math.pi)]
    e.append(-root * e[0])
    for k in range(1, count):
        e.append(-(root * e[k] + e[k - 1]) / (k + 1))
    b = (2 - root * root, -2 * root, -1)
    return tuple(
        sum(b[i] * e[k - i] for i in range(min(k, 2) + 1)) / (k + 1)
        for k in range(count)
    )


_ROOT = -0.7517915246935645, 1.4956759177e-17
_NEAR = {
    np.dtype(np.float32): _series(_ROOT[0], 10),
    np.dtype(np.float64): _series(_ROOT[0], 24),
}


def _exact_slope(x: jax.Array) -> jax.Array:
    """Q(a) - a phi(a), a = |x|, or 1 minus that; a series about the root."""
    a = far(x)
    power, density = density_parts(a)
    m, m_rest = mills_parts(jnp.ones_like(a), a)
    c, c_rest = constant_parts(*INVERSE_SQRT_2PI, x.dtype)
    b = head(a)
    # The difference of two exact products, and what these lack.
    y, y_rest = m - c * b, m_rest - (c * (a - b) + c_rest * a)
    y, y_rest = head(y), (y - head(y)) + y_rest
    tail = power * product_parts((y, y_rest), density) * _unlift(x)
    root, root_rest = nearest_parts(*_ROOT, x.dtype)
    d = x - root
    series = polynomial(_NEAR[x.dtype], jnp.clip(d, -0.5, 0.5))
    near = d * series - root_rest * series
    return jnp.where(jnp.abs(d) < 0.4, near, jnp.where(x < 0, tail, 1 - tail))


def _exact_curvature(x: jax.Array) -> jax.Array:
    """phi(x) (2 - x^2): next to the root each of the three products is exact."""
    a = far(x)
    power, (high, rest) = density_parts(a)
    b = head(a)
    bend = ((2 - b * b) - 2 * b * (a - b)) - (a - b) * (a - b)
    y = (high + rest) * (np.array(INVERSE_SQRT_2PI[0], x.dtype) * bend)
    return power * y * _unlift(x)


_phi: Callable = elementwise(
    lambda x: _exact_curvature(x) * 0, lambda x: -_clipped(x) * _phi(x)
)
_curvature: Callable = elementwise(_exact_curvature, lambda x: x)
_slope: Callable = elementwise(_exact_slope, _curvature)
_exact: Callable = elementwise(_exact_value, _slope)
