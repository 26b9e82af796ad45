"""`silu`, which is also called `swish`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import LIFT, Root, exp_sum, faint_exp, polynomial
from ._elementwise import as_floating, elementwise
from ._few_bit import few_bit
from .sigmoid import sigmoid_slope, tanh


@functools.partial(jax.jit, static_argnames="bits")
def silu(x: jax.typing.ArrayLike, *, bits: int | None = None) -> jax.Array:
    r"""The sigmoid-weighted linear unit, as `jax.nn.silu` (or `swish`).

    .. math::
      \mathrm{silu}(x) = x\, \mathrm{sigmoid}(x) = \frac{x}{1 + e^{-x}}

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      bits: 1, 2, 3 or 4 keeps a code of so many bits for each element for the backward
        pass, and approximates the derivative; ``None`` keeps the input.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with :math:`e = e^{-|x|}`, the first is
    :math:`e (1 - |x| + e) / (1 + e)^2` for negative ``x`` and 1 minus that for
    positive, the second :math:`e (2 - |x| + (2 + |x|) e) / (1 + e)^3`.  Both keep their
    bits around their roots, -1.278 of the first and :math:`\pm 2.399` of the second.

    Limits: 0 (where that of `jax.nn` is NaN) and inf in value, 0 and 1 in the first
    derivative, 0 in the second.  NaN gives NaN.

    Residual: the input.  With ``bits`` it is a code of so many bits for each element,
    packed along the last axis; the first derivative, in forward mode too, is then a
    step function: of those of 2^bits steps the closest one for a standard normal input,
    off by 29, 14, 7.1 and 3.5% of the norm with 1 to 4 bits.  The second is 0.
    See docs/few_bits.md.

    Accuracy: in float32 errors observed stay below 1.3, 3.3 and 4.3 ULP in value,
    first and second derivative, in float16 and bfloat16 below 0.501 ULP over all
    inputs, in float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward
    mode.  Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``bits`` is none of these.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.silu(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.26894143,  0.        ,  0.7310586 ], dtype=float32)
      >>> bool(fs.silu(-90.0) < 0)  # exp(-90) alone would be zero
      True

    References:
      Elfwing et al., `Sigmoid-Weighted Linear Units for Neural Network Function
      Approximation in Reinforcement Learning
      <https://arxiv.org/abs/1702.03118>`_, 2017.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    return _silu_rule(bits)(as_floating("silu", x))


swish = silu


def gated(x: jax.Array, power: jax.Array, z: jax.Array) -> jax.Array:
    """``x / (1 + exp(-w))`` for w of the sign of x, ``exp(-|w|) LIFT = power (1 + z)``.

    It is h + h g, where h is exact and g small: of g's own errors little is left.  With
    s = power / LIFT, h is x s for negative x and x for positive; around 0 it is x / 2.
    The rest, g, is over 1 + s (1 + z) what that of h leaves, written out so that it
    does not cancel.
    """
    s = power / LIFT
    below = x < 0
    near = s > 0.3
    slope = jnp.where(below, jnp.where(near, 2 - s, -s * (2 + z)), -s)
    rest = (jnp.where(near, 1, 0) - s) + slope * z
    g = jnp.where(below & ~near, z, 0) + rest / ((1 + s) + s * z)
    h = jnp.maximum(x, -1e3) * jnp.where(below, power, 1)
    scale = jnp.where(below, 1 / LIFT, 1) * jnp.where(near, 0.5, 1).astype(x.dtype)
    # At infinity g is 0.
    return scale * (h + jnp.minimum(h, np.finfo(h.dtype).max) * g)


def _silu_value(x: jax.Array) -> jax.Array:
    return gated(x, *faint_exp(x)[1:])


# A number next to the root of silu' and what silu' is there; then the polynomial
# (silu'(x) - that) / (x - the number) on -1.52 <= x <= 0.02.  It was fitted as those of
# _precision.py; its error is below 2^-26.
_ROOT = Root(-1.2784645557403564, -2.8270396683554365e-09)
_PAST_ROOT = (
    0.2178117036819458,
    0.1466488093137741,
    0.018874650821089745,
    -0.015223460271954536,
    -0.0066011883318424225,
    0.00012907126802019775,
    0.0007428745157085359,
    0.00030642570345662534,
    -0.00014995707897469401,
    7.488397841370897e-06,
)

# Where 1 + y + exp(y) and, by dtype, (2 + y) + (2 - y) exp(y) vanish.
_SLOPE_ROOT = {
    np.dtype(np.float64): Root(-1.2784645427610737, 1.3995343912896686e-16),
}
_CURVATURE_ROOT = {
    np.dtype(np.float32): Root(-2.399357318878174, -5.0200708317466996e-08),
    np.dtype(np.float64): Root(-2.3993572805154675, 2.416278182818987e-16),
}


def _silu_slope(x: jax.Array) -> jax.Array:
    """e (1 + y + e) / (1 + e)^2 at y = -|x|; one minus that for positive x."""
    y, power, z = faint_exp(x)
    e = power / LIFT * (1 + z)
    b = power * exp_sum(y, e, ((1, 1), (1, 0)), _SLOPE_ROOT)
    slope = (b + b * z) / (1 + e * (2 + e)) / LIFT
    if x.dtype == np.float32:
        near = polynomial((_ROOT.value, *_PAST_ROOT), y - _ROOT.at)
        slope = jnp.where((y > -1.5) & (y < -0.25), near, slope)
    return jnp.where(x < 0, slope, 1 - slope)


def _silu_curvature(x: jax.Array) -> jax.Array:
    """e ((2 + y) + (2 - y) e) / (1 + e)^3 at y = -|x|."""
    y, power, z = faint_exp(x)
    e = power / LIFT * (1 + z)
    b = power * exp_sum(y, e, ((2, 1), (2, -1)), _CURVATURE_ROOT)
    return (b + b * z) / (1 + e * (3 + e * (3 + e))) / LIFT


def _third(x: jax.Array) -> jax.Array:
    """-sigmoid' (3 t - x t^2 + 2 x sigmoid'), t = tanh(x / 2)."""
    x = jnp.clip(x, -1e3, 1e3)
    slope, t = sigmoid_slope(x), tanh(0.5 * x)
    return -slope * (3 * t - x * t * t + 2 * x * slope)


_silu: Callable = elementwise(
    _silu_value,
    elementwise(_silu_slope, elementwise(_silu_curvature, _third)),
    "silu",
)
_silu_rule = few_bit(_silu, "silu")
