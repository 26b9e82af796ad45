"""The transform between raw parameters of any sign and positive ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._activations._parametric import with_parameters
from .._activations.softplus import inverse_softplus, softplus
from .._precision import falling_zero, narrow, widen


def positive(
    raw: jax.typing.ArrayLike,
    *,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""A positive parameter from a raw one of any sign.

    .. math::
      \mathrm{positive}(r) = \mathrm{floor} + \mathrm{softplus}(r, \beta)
      = \mathrm{floor} + \frac{\log(1 + e^{\beta r})}{\beta}

    Args:
      raw: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once; integers, booleans and Python numbers promote to floating point.
      beta: the steepness :math:`\beta` of the bend, above 0: a number, or an array that
        broadcasts against ``raw``, with which it promotes as a factor would.  A small
        one bends over a wide range: raw parameters go further down before the positive
        one underflows.
      floor: the smallest value, 0 or more: a number, or an array that broadcasts.

    Returns:
      An array of the broadcast shape and the promoted dtype of all three, the inverse
      of which is `inverse_positive`.

    Derivatives: :math:`\mathrm{sigmoid}(\beta r) = 1 - e^{-\beta (y - \mathrm{floor})}`
    for a result :math:`y`.  The gradient of a tiny parameter is therefore in proportion
    to it, about :math:`\beta (y - \mathrm{floor})`, and gone where softplus underflows:
    in float32 from a :math:`\beta r` of -88 on, without a floor, the parameter is 0 and
    cannot come back.  With a floor we hold the slope, under differentiation, from
    below: it is that of ``positive`` at ``2 * floor``, about :math:`\beta\,
    \mathrm{floor}`, wherever :math:`y` is less than that, and its own derivative is 0
    there.  So gradients reach every raw parameter, however low, and they are exact
    where :math:`y \ge 2\, \mathrm{floor}`.

    Limits: ``floor`` and inf in value, the held slope and 1 in the derivative.  NaN
    gives NaN.

    Residual: that of `flax_stable.softplus`; with a floor, in float32 for 16 bits, and
    a boolean for each element.

    Accuracy: that of `flax_stable.softplus`; the floor adds half a unit in the last
    place, and nothing in 16 bits.

    Raises:
      ValueError: ``beta`` is not above 0 or ``floor`` is below it (if they are known:
        under `jax.jit` an argument is not), or shapes do not broadcast.
      TypeError: ``raw`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> raw = jnp.array([-104.0, 0.0, 3.0])
      >>> fs.positive(raw, floor=1e-3)
      Array([1.0000000e-03, 6.9414717e-01, 3.0495872e+00], dtype=float32)
      >>> jax.grad(lambda r: fs.positive(r).sum())(raw)[0]
      Array(0., dtype=float32)
      >>> jax.grad(lambda r: fs.positive(r, floor=1e-3).sum())(raw)[0]
      Array(0.0009995, dtype=float32)
    """
    assert_parameters("positive", beta, floor)
    if _is_number(floor, 0):
        return softplus(raw, beta)
    # None stands for the usual number, which costs less if it is known.
    return _with_floor(raw, None if _is_number(beta, 1) else beta, floor)


def inverse_positive(
    value: jax.typing.ArrayLike,
    *,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""The raw parameter of a positive one: the inverse of `flax_stable.positive`.

    .. math::
      \mathrm{positive}^{-1}(y)
      = \frac{\mathrm{softplus}^{-1}(\beta (y - \mathrm{floor}))}{\beta}

    Args:
      value: an array of any shape, above ``floor``.  float8, bfloat16 and float16
        compute in float32 and round once; integers and Python numbers promote to
        floating point.
      beta: the steepness, above 0, as `flax_stable.positive` takes it.
      floor: the smallest value, 0 or more, likewise.

    Returns:
      An array of the broadcast shape and the promoted dtype of all three.

    Derivatives: :math:`1 / (1 - e^{-\beta (y - \mathrm{floor})})`.

    Limits: at ``floor`` -inf, at inf inf; below ``floor``, and for NaN, NaN.  These
    values are refused where they are known.

    Residual: that of `flax_stable.inverse_softplus`.

    Accuracy: that of `flax_stable.inverse_softplus`.  Raw parameters are rounded to
    half a unit in their last place, which moves what `flax_stable.positive` makes of
    them: there and back again, the relative error observed stays below
    ``2 + |beta raw|`` units of the dtype's rounding.

    Raises:
      ValueError: a value is not above ``floor``, ``beta`` not above 0, or ``floor``
        below it (if they are known), or shapes do not broadcast.
      TypeError: ``value`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> raw = fs.inverse_positive(jnp.array([0.011, 0.5]), beta=2.0, floor=0.01)
      >>> fs.positive(raw, beta=2.0, floor=0.01)
      Array([0.011, 0.5  ], dtype=float32)
    """
    assert_parameters("inverse_positive", beta, floor)
    if _known(value) and _known(floor):
        assert_above(
            floor,
            value,
            "inverse_positive takes",
            "Raise the value, or lower the floor.",
        )
    if _is_number(beta, 1) and _is_number(floor, 0):
        return inverse_softplus(value)
    return _inverse(value, beta, floor)


def assert_parameters(who: str, beta: Any, floor: Any) -> None:
    """Asserts that ``beta`` is above 0 and ``floor`` not below, if they are known."""
    if _known(beta) and not _all(lambda b: (b > 0) & (b < np.inf), beta):
        raise ValueError(
            f"{who} expects a finite beta above 0, but got {beta}. A beta of 1 is the "
            "usual softplus, a smaller one bends more widely."
        )
    if _known(floor) and not _all(lambda f: (f >= 0) & (f < np.inf), floor):
        raise ValueError(
            f"{who} expects a finite floor of 0 or more, but got {floor}. Take 0 for "
            "none, or a small number such as 1e-6."
        )


def assert_above(floor: Any, value: Any, who_takes: str, way_out: str) -> None:
    """Asserts that all values are above the floor, and none is NaN."""
    value = np.asarray(value).astype(np.float64)
    if not (value > np.asarray(floor, np.float64)).all():
        raise ValueError(
            f"{who_takes} values above {_shown(floor)}, but the smallest one is "
            f"{value.min()}. {way_out}"
        )


def _shown(floor: Any) -> str:
    floor = np.max(np.asarray(floor))
    return f"the floor of {floor}" if floor else "0"


def _known(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer)


def _all(holds, x: Any) -> bool:
    return bool(np.all(holds(x if isinstance(x, int | float) else np.asarray(x))))


def _is_number(x: Any, number: int) -> bool:
    return type(x) in (int, float) and x == number


@jax.jit
def _with_floor(raw, beta, floor):
    beta = 1.0 if beta is None else beta
    raw, steepness, floor = with_parameters("positive", raw, beta=beta, floor=floor)
    wide = widen(raw)
    beta = beta if _is_number(beta, 1) else steepness
    exact = softplus(wide, beta)
    held = softplus(jax.lax.stop_gradient(wide), beta) + _slope(wide, beta, floor)
    return narrow(jnp.where(exact < floor, held, exact) + floor, raw)


def _slope(raw, beta, floor):
    """Nothing, with the derivative that ``positive`` has at ``2 * floor``."""
    return jnp.expm1(-beta * floor) * falling_zero(raw)


@jax.jit
def _inverse(value, beta, floor):
    value, beta, floor = with_parameters(
        "inverse_positive", value, beta=beta, floor=floor
    )
    return narrow(inverse_softplus(beta * (widen(value) - floor)) / beta, value)
