"""Polynomial pieces in place of `tanh`, `sigmoid`, `silu` and `softplus`."""

import jax
import jax.numpy as jnp
from jax import lax

from .._precision import widen
from ._elementwise import as_floating, elementwise
from .piecewise import as_integer, is_exact, ramp


@jax.jit
def hard_tanh(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The identity, held at -1 and 1, as `jax.nn.hard_tanh`.

    .. math::
      \mathrm{hard\_tanh}(x) = \min(\max(x, -1), 1)

    Args:
      x: an array of any shape and any real dtype.  Integers stay integers, as in
        `jax.nn`.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is 1 from -1 to 1, at both kinks too, and 0 elsewhere; the
    second is 0.

    Limits: -1 and 1 in value, 0 in every derivative.  NaN gives NaN in value and the
    derivative 0, since a boolean cannot say NaN.

    Residual: a boolean for each element, which says where the slope is 1.

    Accuracy: value and derivatives are exact.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.hard_tanh(jnp.array([-2.0, 0.5, 2.0]))
      Array([-1. ,  0.5,  1. ], dtype=float32)

    References:
      Gulcehre et al., `Noisy Activation Functions
      <https://arxiv.org/abs/1603.00391>`_, 2016.
    """
    if is_exact(x):
        return jnp.clip(as_integer(x), -1, 1)
    return _hard_tanh(as_floating("hard_tanh", x))


@jax.jit
def hard_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    r"""A line in place of the logistic function, as `jax.nn.hard_sigmoid`.

    .. math::
      \mathrm{hard\_sigmoid}(x) = \frac{\min(\max(x + 3, 0), 6)}{6}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is 1/6 between -3 and 3 and 0 elsewhere, at both kinks too;
    the second is 0.

    Limits: 0 and 1 in value, 0 in every derivative.  NaN gives NaN in value and the
    derivative 0, since a boolean cannot say NaN.

    Residual: a boolean for each element, which says where the slope is 1/6.

    Accuracy: in float32 errors observed stay below 1.4, 0.5 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.hard_sigmoid(jnp.array([-4.0, 0.0, 1.5]))
      Array([0.  , 0.5 , 0.75], dtype=float32)

    References:
      Howard et al., `Searching for MobileNetV3
      <https://arxiv.org/abs/1905.02244>`_, 2019.
    """
    return _hard_sigmoid(as_floating("hard_sigmoid", x))


@jax.jit
def hard_silu(x: jax.typing.ArrayLike) -> jax.Array:
    r"""A parabola in place of silu, as `jax.nn.hard_silu` (or `hard_swish`).

    .. math::
      \mathrm{hard\_silu}(x) = x \frac{\min(\max(x + 3, 0), 6)}{6}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: between -3 and 3 the first is :math:`(2 x + 3) / 6`, good to its last
    bits around its root at -1.5, and the second 1/3.  At -3 the first is 0, at 3 it is
    1; outside and at both kinks the second is 0.

    Limits: 0 and inf in value (`jax.nn` gives NaN at -inf), 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN in value and first derivative.

    Residual: the input, since a boolean cannot tell a slope that varies.

    Accuracy: in float32 errors observed stay below 1.5, 1.4 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.hard_silu(jnp.array([-4.0, -1.5, 4.0]))
      Array([ 0.   , -0.375,  4.   ], dtype=float32)
      >>> float(jax.grad(fs.hard_silu)(-1.5))
      0.0

    References:
      Howard et al., `Searching for MobileNetV3
      <https://arxiv.org/abs/1905.02244>`_, 2019.
    """
    return _hard_silu(as_floating("hard_silu", x))


hard_swish = hard_silu


@jax.jit
def sparse_plus(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The integral of `flax_stable.sparse_sigmoid`, as `jax.nn.sparse_plus`.

    .. math::
      \mathrm{sparse\_plus}(x) = 0 \text{ for } x \le -1, \quad
      \frac{(x + 1)^2}{4} \text{ between}, \quad x \text{ for } x \ge 1

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`\mathrm{sparse\_sigmoid}(x)`, the second 1/2
    between -1 and 1 and 0 elsewhere, at both kinks too.

    Limits: 0 and inf in value, 0 and 1 in the first derivative (where that of `jax.nn`
    is NaN), 0 in the second.  NaN gives NaN in value and first derivative.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 2, 0.6 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.sparse_plus(jnp.array([-2.0, 0.0, 3.0]))
      Array([0.  , 0.25, 3.  ], dtype=float32)

    References:
      Martins and Astudillo, `From Softmax to Sparsemax
      <https://arxiv.org/abs/1602.02068>`_, 2016: the binary case is the sparse sigmoid.
    """
    return _sparse_plus(as_floating("sparse_plus", x))


@jax.jit
def sparse_sigmoid(x: jax.typing.ArrayLike) -> jax.Array:
    r"""A line in place of the logistic function, as `jax.nn.sparse_sigmoid`.

    .. math::
      \mathrm{sparse\_sigmoid}(x) = \frac{\min(\max(x + 1, 0), 2)}{2}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is 1/2 between -1 and 1, 1/4 at both kinks and 0 outside; the
    second is 0.

    Limits: 0 and 1 in value, 0 in every derivative.  NaN gives NaN in value and first
    derivative.

    Residual: the input, since a boolean has no third state for the kinks.

    Accuracy: in float32 errors observed stay below 0.6, 0.5 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.sparse_sigmoid(jnp.array([-2.0, 0.0, 0.5]))
      Array([0.  , 0.5 , 0.75], dtype=float32)
      >>> float(jax.grad(fs.sparse_sigmoid)(1.0))
      0.25

    References:
      Martins and Astudillo, `From Softmax to Sparsemax
      <https://arxiv.org/abs/1602.02068>`_, 2016: the binary case is the sparse sigmoid.
    """
    return _sparse_sigmoid(as_floating("sparse_sigmoid", x))


_hard_tanh = ramp(
    "hard_tanh",
    lambda x: jnp.where(x > 1, 1, jnp.where(x < -1, -1, x)),
    lambda x: jnp.abs(x) <= 1,
)
# x + 3 is exact near -3, and within one rounding elsewhere.
_hard_sigmoid = ramp(
    "hard_sigmoid",
    lambda x: jnp.where(x >= 3, 1, jnp.where(x <= -3, 0, (widen(x) + 3) / 6)),
    lambda x: jnp.abs(x) < 3,
    1 / 6,
)


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
    return jnp.clip(0.5 * (x + 1), 0, 1)


def _sparse_sigmoid_slope(x: jax.Array) -> jax.Array:
    """1/2 inside, half of that at the kinks."""
    a = jnp.abs(x)
    return jnp.where(a < 1, 0.5, jnp.where(a > 1, 0, 0.25 * lax.stop_gradient(a)))


_hard_silu = elementwise(_hard_silu_value, _hard_silu_slope, "hard_silu")
_sparse_plus = elementwise(_sparse_plus_value, _sparse_sigmoid_value, "sparse_plus")
_sparse_sigmoid = elementwise(
    _sparse_sigmoid_value,
    elementwise(_sparse_sigmoid_slope, jnp.zeros_like),
    "sparse_sigmoid",
)
