"""`log_cosh`."""

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import LN2, log1p, polynomial
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


# (log(cosh(a)) / a^2 - 1/2) / a^2 in powers of a^2 on 0 <= a <= 0.76: in float32 fitted
# as in _precision/, in float64 from Chebyshev's.  The error, relative to
# log(cosh(a)), is below 2^-31 and 2^-55.
_LOG_COSH = {
    np.dtype(np.float32): (
        -0.083333320915699,
        0.022221773862838745,
        -0.006740724202245474,
        0.002157933544367552,
        -0.0006564573268406093,
        0.00013410774408839643,
    ),
    np.dtype(np.float64): (
        -0.08333333333333333,
        0.022222222222216596,
        -0.006746031745565618,
        0.0021869488384444156,
        -0.0007386027047679615,
        0.0002565780119607957,
        -9.097329107138928e-05,
        3.2709884935155605e-05,
        -1.1756913814864833e-05,
        4.016151949836443e-06,
        -1.1295768467020832e-06,
        1.834312239093077e-07,
    ),
}


def _log_cosh_value(x: jax.Array) -> jax.Array:
    """Up to 0.75 an even polynomial, then a - log(2) + log(1 + exp(-2 a)); a = |x|."""
    ln2_high, ln2_low = LN2[x.dtype]
    a = jnp.abs(x)
    rest = a * a * polynomial(_LOG_COSH[x.dtype], a * a)
    near = a * (0.5 * a) + (a * a) * rest
    far = (a - ln2_high) + (log1p(jnp.exp(-2 * a)) - ln2_low)
    return jnp.where(a < 0.75, near, far)


_log_cosh = elementwise(_log_cosh_value, tanh, "log_cosh")
