"""What safe functions share: where derivatives are held, powers and quotients.

Each family of rules is closed under differentiation, and held where it is a slope.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._activations._parametric import parametric


def limit_of(dtype: np.dtype, share: float = 13 / 16) -> float:
    """Where derivatives are held: this share of the exponents of the formulas' dtype.

    The rest is for what rules multiply by.
    """
    wide = np.float64 if dtype == np.float64 else np.float32
    return 2.0 ** min(jnp.finfo(dtype).maxexp - 1, int(np.finfo(wide).maxexp * share))


def hold(x: jax.Array, limit: float | None) -> jax.Array:
    return x if limit is None else jnp.clip(x, -limit, limit)


@functools.cache
def inverse_power(n: int, d: int, limit: float) -> Callable:
    """``x^(-n/d)`` for a positive x and 0 otherwise; d is 1 or 2, n -1 or positive."""

    def value(x):
        positive = ~(x <= 0)
        x = jnp.where(positive, x, 1)
        if n < 0:
            return jnp.where(positive, jnp.sqrt(x), 0)
        y = 1 / (x if d == 1 else jnp.sqrt(x))
        for _ in range((n - 1) // d):
            y = y / x
        return jnp.where(positive, hold(y, limit), 0)

    return parametric(value, lambda x: -n / d * inverse_power(n + d, d, limit)(x))


@functools.cache
def quotient(n: int, held: float | None, limit: float) -> Callable:
    """``x / y^n``, 0 where y is 0 or both are infinite."""

    def value(x, y):
        undefined = (y == 0) | (jnp.isinf(x) & jnp.isinf(y))
        q, y = x, jnp.where(undefined, 1, y)
        for i in range(n):
            # Without a bound XLA divides by a power of y, which may be 0.
            q = (hold(q, float(np.finfo(x.dtype).max)) if i else q) / y
        return jnp.where(undefined & ~jnp.isnan(x), 0, hold(q, held))

    return parametric(
        value,
        lambda x, y: quotient(n, limit, limit)(jnp.ones_like(x), y),
        lambda x, y: n * quotient(n + 1, limit, limit)(-x, y),
    )
