"""`sqrt`, `log`, `divide`, `power` and `arccos`, whose derivatives exist everywhere."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._activations._elementwise import as_floating
from .._activations._parametric import parametric, with_parameters
from ._rules import hold, inverse_power, limit_of, quotient


@jax.jit
def sqrt(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The square root, 0 below 0.

    .. math::
      \mathrm{sqrt}(x) = \sqrt{\max(x, 0)}

    Args:
      x: an array of any shape; integers promote to floating point.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: those of the root above 0, and 0 up to and at 0.

    Limits: inf in value, 0 in every derivative.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 0.6 and 2 ULP in value and first
    derivative, in float16 and bfloat16 below 0.51 ULP over all inputs.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.sqrt(jnp.array([-1.0, 0.0, 4.0]))
      Array([0., 0., 2.], dtype=float32)
      >>> jax.vmap(jax.grad(fs.safe.sqrt))(jnp.array([-1.0, 0.0, 4.0]))
      Array([0.  , 0.  , 0.25], dtype=float32)
    """
    x = as_floating("safe.sqrt", x)
    return inverse_power(-1, 2, limit_of(x.dtype))(x)


def log(
    x: jax.typing.ArrayLike, floor: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""The natural logarithm, constant below a floor.

    .. math::
      \mathrm{log}(x) = \log(\max(x, \mathrm{floor}))

    Args:
      x: an array of any shape; integers promote to floating point.
      floor: the smallest argument that counts, a positive number or an array that
        broadcasts against ``x``.  ``None`` is the smallest normal number of the dtype:
        in float32 and bfloat16 1.2e-38, whose logarithm is -87.3, in float16 6.1e-5
        (-9.7), in float64 2.2e-308 (-708.4).  It is not differentiated.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: 1 / x and so on from the floor on, and 0 below it.

    Limits: inf in value, 0 in every derivative.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.5 and 0.6 ULP in value and first
    derivative, in float16 and bfloat16 below 0.51 ULP over all inputs.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``floor`` does not broadcast, or is a number that is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.log(jnp.array([0.0, 1.0])).round(2)
      Array([-87.34,   0.  ], dtype=float32)
      >>> jax.vmap(jax.grad(fs.safe.log))(jnp.array([0.0, 2.0]))
      Array([0. , 0.5], dtype=float32)
    """
    if isinstance(floor, (int, float)) and not floor > 0:
        raise ValueError(
            f"safe.log expects a positive floor, but got {floor}. None is the smallest "
            "one."
        )
    return _compiled_log(x, floor)


@jax.jit
def _compiled_log(
    x: jax.typing.ArrayLike, floor: jax.typing.ArrayLike | None
) -> jax.Array:
    x = as_floating("safe.log", x)
    floor = float(jnp.finfo(x.dtype).tiny) if floor is None else floor
    x, floor = with_parameters("safe.log", x, floor=floor)
    return _log(limit_of(x.dtype))(x, lax.stop_gradient(floor))


@functools.cache
def _log(limit: float) -> Callable:
    def slope(x, floor):
        below = x < floor
        inverse = inverse_power(1, 1, limit)(jnp.where(below, 1, x))
        return jnp.where(below, 0, inverse)

    return parametric(
        lambda x, floor: jnp.where(
            x < floor, jnp.log(floor), jnp.log(jnp.where(x < floor, 1, x))
        ),
        slope,
        lambda x, floor: jnp.zeros_like(x),
    )


@jax.jit
def divide(x: jax.typing.ArrayLike, y: jax.typing.ArrayLike) -> jax.Array:
    r"""The quotient, 0 where the divisor is.

    .. math::
      \mathrm{divide}(x, y) = x / y \text{ for } y \ne 0, \quad 0 \text{ for } y = 0

    Args:
      x: the dividend.
      y: the divisor, which broadcasts against ``x``; integers promote to floating
        point.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: those of the quotient, and 0 with respect to both where the divisor is
    0.

    Limits: the quotient of two infinities is 0, and so are its derivatives.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.divide(jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, 2.0]))
      Array([0. , 0. , 0.5], dtype=float32)
      >>> [float(d) for d in jax.grad(fs.safe.divide, (0, 1))(1.0, 0.0)]
      [0.0, 0.0]
    """
    x, y = with_parameters("safe.divide", x, y=y)
    return quotient(1, None, limit_of(x.dtype))(x, y)


@jax.jit
def power(x: jax.typing.ArrayLike, y: jax.typing.ArrayLike) -> jax.Array:
    r"""A power, 0 where there is none.

    .. math::
      \mathrm{power}(x, y) = x^y

    That is 0 for a negative ``x`` and a ``y`` that is not whole, and for ``x = 0`` and
    a negative ``y``.  It is 1 for ``y = 0``.

    Args:
      x: the base.
      y: the exponent, which broadcasts against ``x``; integers promote to floating
        point.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: by ``x``, :math:`y x^{y - 1}` with the power as above: at 0 it is 1 for
    ``y = 1`` and 0 for every other ``y``, those between 0 and 1 included.  By ``y``,
    :math:`x^y \log x` for a positive ``x`` and 0 otherwise.

    Limits: those of the power in value.  Derivatives are held at 2^64 in float32 and
    bfloat16, 2^512 in float64 and 2^15 in float16, and an exponent beyond 2^16 counts
    as 2^16 in the factor :math:`y`.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.power(jnp.array([-2.0, -2.0, 0.0, 4.0]), jnp.array([3, 0.5, -1, 0.5]))
      Array([-8.,  0.,  0.,  2.], dtype=float32)
      >>> [float(d) for d in jax.grad(fs.safe.power, (0, 1))(0.0, 0.5)]
      [0.0, 0.0]
    """
    x, y = with_parameters("safe.power", x, y=y)
    # Half of the exponents are for factors of y, of which each order has one more.
    return _power(0, None, limit_of(x.dtype, 1 / 2))(x, y)


@functools.cache
def _power(logs: int, held: float | None, limit: float) -> Callable:
    """``x^y log(x)^logs``; with logarithms for a positive x, and 0 otherwise."""

    def value(x, y):
        zero = x == 0
        size = jnp.where(zero, 1, jnp.abs(x))
        found = jnp.power(size, y)
        if logs:
            found = found * hold(jnp.log(size), 1e3) ** logs
            return jnp.where(x <= 0, 0, hold(found, held))
        found = jnp.where((x < 0) & (jnp.abs(y % 2) == 1), -found, found)
        whole = (y == jnp.round(y)) | jnp.isnan(y)
        undefined = jnp.where(zero, (y != 0) & ~jnp.isnan(y), (x < 0) & ~whole)
        # At 0 the power 1 is the one that rises.
        return jnp.where(undefined, jnp.where(zero & (y == 1), x, 0), hold(found, held))

    def by_x(x, y):
        slope = hold(y, 2.0**16) * _power(logs, limit, limit)(x, y - 1)
        if logs:
            slope += logs * _power(logs - 1, limit, limit)(x, y - 1)
        return slope

    return parametric(value, by_x, lambda x, y: _power(logs + 1, limit, limit)(x, y))


@jax.jit
def arccos(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The angle whose cosine is ``x``, held between -1 and 1.

    .. math::
      \mathrm{arccos}(x) = 2 \arctan \sqrt{(1 - x) / (1 + x)}

    Args:
      x: an array of any shape; integers promote to floating point.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype: :math:`\pi` up to -1
      and 0 from 1 on.

    Derivatives: the first is :math:`-1 / \sqrt{(1 - x)(1 + x)}` between -1 and 1; all
    are 0 elsewhere, at both ends too.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 2.5 and 2 ULP in value and first
    derivative, in float16 and bfloat16 below 0.51 ULP over all inputs.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.arccos(jnp.array([-1.5, 0.0, 1.0])).round(4)
      Array([3.1416, 1.5708, 0.    ], dtype=float32)
      >>> jax.vmap(jax.grad(fs.safe.arccos))(jnp.array([-1.5, 0.0, 1.0]))
      Array([ 0., -1.,  0.], dtype=float32)
    """
    x = as_floating("safe.arccos", x)
    return _arccos(limit_of(x.dtype))(x)


@functools.cache
def _arccos(limit: float) -> Callable:
    def inside(x, f, ends):
        outside = jnp.abs(x) >= 1
        x = jnp.where(outside, 0, x)
        return jnp.where(outside, ends, f(1 - x, 1 + x))

    def value(x):
        ends = jnp.where(x > 0, 0.0, np.pi).astype(x.dtype)
        return inside(x, lambda a, b: 2 * jnp.arctan2(jnp.sqrt(a), jnp.sqrt(b)), ends)

    inverse = inverse_power(1, 2, limit)
    return parametric(value, lambda x: inside(x, lambda a, b: -inverse(a * b), 0))
