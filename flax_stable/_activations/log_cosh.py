"""`log_cosh`."""

import jax
import jax.numpy as jnp

from .._precision import coefficients, log1p, polynomial
from .._public import compiled
from ._elementwise import as_floating, elementwise
from .sigmoid import tanh


@compiled()
def log_cosh(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The logarithm of the hyperbolic cosine: a parabola that becomes straight.

    .. math::
      \log \cosh(x) = |x| - \log 2 + \log(1 + e^{-2|x|})

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`\tanh(x)`, the second :math:`1 / \cosh^2(x)`, each
    by the formula of `flax_stable.tanh`.

    Limits: inf in value, -1 and 1 in the first derivative, 0 in the second.  NaN gives
    NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.2, 1.6 and 2.4 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.log_cosh(jnp.array([-1.0, 0.0, 2.0]))
      Array([0.43378082, 0.        , 1.3250028 ], dtype=float32)
      >>> bool(fs.log_cosh(1e-4) > 0)  # log(cosh(1e-4)) would be zero
      True

    References:
      Chen et al., `Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder
      <https://openreview.net/forum?id=rkglvsC9Ym>`_, 2018.
    """
    return _log_cosh(as_floating("log_cosh", x))


def _log_cosh_value(x: jax.Array) -> jax.Array:
    """Up to 0.75 an even polynomial, then a - log(2) + log(1 + exp(-2 a)); a = |x|."""
    ln2_hi, ln2_lo = coefficients.LN2[x.dtype]
    a = jnp.abs(x)
    rest = a * a * polynomial(coefficients.LOG_COSH[x.dtype], a * a)
    near = a * (0.5 * a) + (a * a) * rest
    far = (a - ln2_hi) + (log1p(jnp.exp(-2 * a)) - ln2_lo)
    return jnp.where(a < 0.75, near, far)


_log_cosh = elementwise(_log_cosh_value, tanh, "log_cosh")
