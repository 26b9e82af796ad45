"""The normal distribution: the tail that `gelu` needs, and `log_ndtr`.

With phi the density and Q(a) the probability of the tail beyond a >= 0, the hazard
phi(a) / Q(a) is a + q(a), where q falls from sqrt(2 / pi) to 1 / a.  That and a density
with the square of its argument exact are all there is to it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._precision import (
    Parts,
    constant_parts,
    head,
    lifted_exp_parts,
    log_product,
    nearest_parts,
    polynomial,
    product_parts,
    quotient_parts,
    square_parts,
    sum_parts,
    unlift,
)
from .._public import compiled
from ._elementwise import as_floating, elementwise

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)

# q(a) as a quotient of polynomials.  They were interpolated on Chebyshev nodes in
# a / (a + 4) and, for float32, rounded and fitted again.  All coefficients are positive
# and nothing cancels; the relative error is below 2^-25 and 2^-58.
_Q = {
    _F32: (
        (
            0.7978845834732056,
            0.7002655267715454,
            0.30744263529777527,
            0.08056574314832687,
            0.012577664107084274,
            0.0009735000785440207,
        ),
        (
            1.0,
            1.3330824375152588,
            0.8558284044265747,
            0.33258751034736633,
            0.0825129821896553,
            0.012577660381793976,
            0.0009735000785440207,
        ),
    ),
    _F64: (
        (
            0.7978845608028654,
            1.2147714497204853,
            0.9343424128025949,
            0.47057370493835743,
            0.17069197093977453,
            0.04654961100879645,
            0.009710630232434417,
            0.0015486853837423933,
            0.00018535555876678252,
            1.5921307890867538e-05,
            8.899788850251624e-07,
            2.4855666284877447e-08,
        ),
        (
            1.0,
            1.9779198080545646,
            1.9352079632496288,
            1.2248786193383965,
            0.5550392388076862,
            0.18903847649962305,
            0.04955249788373914,
            0.010076001476358324,
            0.0015803788655299386,
            0.00018713551653680804,
            1.5971019223437383e-05,
            8.899788850251623e-07,
            2.4855666284877447e-08,
        ),
    ),
}

# ((a + k) Q(a) / phi(a) - 1) / (a sqrt(2 pi)), k = sqrt(2 / pi), likewise: the error
# times a is below 2^-28 and 2^-58.
_MILLS = {
    _F32: (
        (
            0.18169012665748596,
            0.10977271944284439,
            0.03077300637960434,
            0.003803815459832549,
            2.889414218998354e-08,
        ),
        (
            1.0,
            1.702042579650879,
            1.2459683418273926,
            0.49838489294052124,
            0.11153287440538406,
            0.011955215595662594,
        ),
    ),
    _F64: (
        (
            0.18169011381620934,
            0.2535424218200135,
            0.17551331420589508,
            0.07757920163059726,
            0.02391101622633894,
            0.005308472150570599,
            0.0008488143791201228,
            9.458849274781787e-05,
            6.718703694667217e-06,
            2.3547301394722908e-07,
        ),
        (
            1.0,
            2.493330828550094,
            2.911353522536976,
            2.1060094334568973,
            1.0513161087922336,
            0.3814237895855249,
            0.10299917325233172,
            0.020795074764197778,
            0.003093854101251182,
            0.00032551452763206364,
            2.2034582199126748e-05,
            7.397602907365116e-07,
        ),
    ),
}

# 1 - q (a + q), which the second derivative of log_ndtr lacks of -1: the error is below
# 2^-26.  float64 does without.
_LACK = (
    (
        0.36338022351264954,
        0.22098864614963531,
        0.06897738575935364,
        0.01228182204067707,
        0.0011094189248979092,
    ),
    (
        1.0,
        1.208106517791748,
        0.7567244172096252,
        0.2949473261833191,
        0.07562657445669174,
        0.012281929142773151,
        0.001109414268285036,
    ),
)

# 1 - q (a + 2 q), negated, which makes the third derivative: relative error 2^-24.
_BEND = (
    (
        0.2732395436308837,
        0.15738175124694564,
        0.046258312155970586,
        0.00790037742769881,
        0.0007275962177386029,
    ),
    (
        1.0,
        1.9003067880519795,
        1.7760635374762557,
        1.056290397887221,
        0.437559984645777,
        0.1300901415161813,
        0.027857610979493092,
        0.003950195749115204,
        0.0003637980972917539,
    ),
)


SQRT_2_OVER_PI = 0.7978845608028654, -4.98465440455546e-17
INVERSE_SQRT_2PI = 0.3989422804014327, -2.49232720227773e-17


def far(x: jax.Array) -> jax.Array:
    """``|x|``, held where the density times any small power is zero."""
    return jnp.minimum(jnp.abs(x), 16 if x.dtype == np.float32 else 42)


def density_parts(a: jax.Array) -> tuple[jax.Array, Parts]:
    """``exp(-a^2 / 2)`` as `lifted_exp_parts` gives it."""
    square, rest = square_parts(a)
    return lifted_exp_parts(-0.5 * square, 0.5 * rest)


def mills_parts(x: jax.Array, a: jax.Array) -> Parts:
    """``x Q(a) exp(a^2 / 2)``: near 1 / (a + sqrt(2 / pi)) times 0.4."""
    k, k_rest = constant_parts(*SQRT_2_OVER_PI, a.dtype)
    c, c_rest = constant_parts(*INVERSE_SQRT_2PI, a.dtype)
    high, low = sum_parts(jnp.maximum(a, k), jnp.minimum(a, k))
    t, t_rest = quotient_parts(x, (high, low + k_rest))
    p, q = _MILLS[a.dtype]
    more = c_rest + a * polynomial(p, a) / polynomial(q, a)
    y = c * t
    return head(y), (y - head(y)) + (c * t_rest + more * (t + t_rest))


def excess(a: jax.Array) -> jax.Array:
    """The hazard less ``a``, for any ``a >= 0``."""
    far = 2.0**14 if a.dtype == np.float32 else 2.0**28
    p, q = _Q[a.dtype]
    b = jnp.minimum(a, far)
    return jnp.where(a < far, polynomial(p, b) / polynomial(q, b), 1 / a)


def _density_value(x: jax.Array) -> jax.Array:
    power, (high, rest) = density_parts(far(x))
    return power * (INVERSE_SQRT_2PI[0] * (high + rest)) * unlift(x)


density: Callable = elementwise(
    _density_value, lambda x: -jnp.clip(x, -45, 45) * density(x)
)


# log(2 pi) / 2 and where the logarithm of a sum is taken from the tail alone.
_HALF_LOG_2PI = 0.9189385332046728, -3.87829415806724e-17
_BELOW = -0.42


def _log_ndtr_value(x: jax.Array) -> jax.Array:
    """log(phi / hazard) far below 0, the logarithm of 1 - Q or of Q from there on.

    The first is a sum of terms of one sign, whose roundings are taken along; the second
    starts from twice the tail less 1 where that is exact.
    """
    # Beyond, half the square overflows, and its parts would say NaN.
    a = jnp.minimum(jnp.abs(x), 3e19 if x.dtype == np.float32 else 2e154)
    q = excess(a)
    large, small = jnp.maximum(a, q), jnp.minimum(a, q)
    hazard = large + small
    rest = ((large - hazard) + small) / hazard
    h = head(a)
    half_square, low = (0.5 * h) * h, (0.5 * (a - h)) * (a + h)
    constant, constant_rest = nearest_parts(*_HALF_LOG_2PI, x.dtype)
    first = jnp.maximum(half_square, constant)
    total = half_square + constant
    lost = jnp.where(a < 1e4, (first - total) + jnp.minimum(half_square, constant), 0)
    log = jnp.log(hazard)
    below = -(total + (log + (rest + low + lost + constant_rest)))

    b = far(x)
    power, density = density_parts(b)
    scale = power * unlift(x)
    high, low = mills_parts(jnp.ones_like(b), b)
    y = scale * (high * density[0])
    y_rest = scale * (high * density[1] + low * (density[0] + density[1]))
    tail = power * product_parts((high, low), density) * unlift(x)
    half = tail > 0.3
    f = jnp.where(half, jnp.where(x < 0, 1, -1) * ((2 * y - 1) + 2 * y_rest), -tail)
    # What a tail that counts has lost in rounding, over the logarithm's argument.
    lost = jnp.where(half | (tail < 1e-6), 0, ((y - tail) + y_rest) / (1 - tail))
    k = jnp.where(half, -1, 0).astype(x.dtype)
    above = log_product(k, jnp.clip(f, -0.35, 0.5), lost)
    return jnp.where(x < _BELOW, below, above)


def _ratio(x: jax.Array) -> jax.Array:
    """phi(x) / (1 - Q(x)) for x >= 0, before `unlift`."""
    b = far(x)
    power, density = density_parts(b)
    tail = power * product_parts(mills_parts(jnp.ones_like(b), b), density) * unlift(x)
    phi = product_parts(constant_parts(*INVERSE_SQRT_2PI, x.dtype), density)
    rest = head(1 - tail)
    return power * sum(quotient_parts(phi, (rest, (1 - rest) - tail)))


def _log_ndtr_slope(x: jax.Array) -> jax.Array:
    """The hazard at -x below 0, phi(x) / (1 - Q(x)) above."""
    a = jnp.abs(x)
    return jnp.where(x < 0, a + excess(a), _ratio(x) * unlift(x))


def _log_ndtr_curvature(x: jax.Array) -> jax.Array:
    """-h q with the hazard h = a + q below 0, -r (x + r), r = phi / (1 - Q), above."""
    a = jnp.minimum(jnp.abs(x), 1e4 if x.dtype == np.float32 else 1e9)
    r = _ratio(x)
    above = r * (a + r * unlift(x)) * unlift(x)
    if x.dtype == np.float32:
        below = 1 - polynomial(_LACK[0], a) / polynomial(_LACK[1], a)
    else:
        below = (a + excess(a)) * excess(a)
    return -jnp.where(x < 0, below, above)


def _log_ndtr_third(x: jax.Array) -> jax.Array:
    """h (q (a + 2 q) - 1) below 0, 2 / a^3 far below, r ((x + r) (x + 2 r) - 1) up."""
    a, b = jnp.clip(-x, 0, 1e3), jnp.maximum(-x, 1e3)
    near = _slope(-a) * (polynomial(_BEND[0], a) / polynomial(_BEND[1], a))
    x_above = jnp.clip(x, 0, 45)
    r = _slope(x_above)
    above = r * ((x_above + r) * (x_above + 2 * r) - 1)
    return jnp.where(x < 0, jnp.where(x > -1e3, near, 2 / b / b / b), above)


_curvature: Callable = elementwise(_log_ndtr_curvature, _log_ndtr_third)
_slope: Callable = elementwise(_log_ndtr_slope, _curvature)
_log_ndtr: Callable = elementwise(_log_ndtr_value, _slope, "log_ndtr")


@compiled()
def log_ndtr(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The logarithm of the normal distribution function, as in `jax.scipy.special`.

    .. math::
      \mathrm{log\_ndtr}(x) = \log \Phi(x) = \log \int_{-\infty}^x
      \frac{e^{-t^2 / 2}}{\sqrt{2 \pi}} \, dt

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: with the density :math:`\varphi`, the first is
    :math:`r = \varphi(x) / \Phi(x)` and the second :math:`-r (x + r)`.  For negative
    ``x`` neither is a difference: :math:`x + r` falls as :math:`1 / |x|` and keeps its
    bits.

    Limits: -inf and 0 in value, inf and 0 in the first derivative, -1 and 0 in the
    second.  NaN gives NaN.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 1.8, 2.7 and 3.8 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.log_ndtr(jnp.array([-10.0, 0.0, 3.0]))
      Array([-5.3231285e+01, -6.9314718e-01, -1.3508099e-03], dtype=float32)
      >>> jax.grad(fs.log_ndtr)(-1e10)
      Array(1.e+10, dtype=float32, weak_type=True)

    References:
      Gordon, `Values of Mills' Ratio of Area to Bounding Ordinate
      <https://doi.org/10.1214/aoms/1177731721>`_, 1941: the bounds between which the
      hazard lies.
    """
    return _log_ndtr(as_floating("log_ndtr", x))
