"""Gated linear units."""

import functools

import jax
import jax.numpy as jnp

from ._activations._elementwise import as_floating
from ._activations.sigmoid import sigmoid
from ._precision import narrow, widen


@functools.partial(jax.jit, static_argnames="axis")
def glu(x: jax.typing.ArrayLike, axis: int = -1) -> jax.Array:
    r"""The gated linear unit, as `jax.nn.glu`.

    .. math::
      \mathrm{glu}(x) = a\, \mathrm{sigmoid}(b), \qquad (a, b) = x

    Args:
      x: an array whose halves along ``axis`` are the signal :math:`a` and the gate
        :math:`b`.  float8, bfloat16 and float16 compute in float32 and round once;
        integers, booleans and Python numbers promote to floating point.
      axis: the axis to halve.

    Returns:
      An array of half the size along ``axis``, of the (promoted) dtype of ``x``.

    Derivatives: those of the product, with the rule of `sigmoid`.

    Limits: those of the product: an infinite signal with a gate of -inf gives NaN.

    Residual: the signal, the gate and its sigmoid.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``, or its size is odd.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.glu(jnp.array([1.0, 2.0, 0.0, 100.0]))
      Array([0.5, 2. ], dtype=float32)

    References:
      Dauphin et al., `Language Modeling with Gated Convolutional Networks
      <https://arxiv.org/abs/1612.08083>`_, 2017.
    """
    x = as_floating("glu", x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"glu halves x along axis {axis}, but x has shape {x.shape}. Name one of "
            f"its {x.ndim} axes."
        )
    if x.shape[axis] % 2:
        raise ValueError(
            f"glu halves x along axis {axis}, which must have an even size, but x has "
            f"shape {x.shape}. Double the width of the layer before it."
        )
    signal, gate = jnp.split(x, 2, axis)
    return narrow(widen(signal) * sigmoid(widen(gate)), signal)
