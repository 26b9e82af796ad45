"""`standardize`: rows of mean 0 and variance 1."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .._precision import widen
from .._public import compiled, number
from ._elementwise import as_floating, named
from ._rows import Axis, narrow_rows, only, row_axes, row_mask


@number("epsilon", lambda epsilon: epsilon >= 0, "0 or more")
@compiled("axis", "algorithm")
def standardize(
    x: jax.typing.ArrayLike,
    axis: Axis = -1,
    mean: jax.typing.ArrayLike | None = None,
    variance: jax.typing.ArrayLike | None = None,
    epsilon: jax.typing.ArrayLike = 1e-5,
    where: jax.typing.ArrayLike | None = None,
    *,
    algorithm: str = "fast",
) -> jax.Array:
    r"""Rows moved to mean 0 and scaled to variance 1, as `jax.nn.standardize`.

    .. math::
      \mathrm{standardize}(x) = \frac{x - \bar x}{\sqrt{v + \epsilon}}, \qquad
      v = \overline{(x - \bar x)^2}

    Args:
      x: an array.  float8, bfloat16 and float16 compute in float32 and round once, also
        in derivatives; integers, booleans and Python numbers promote to floating point.
      axis: the axis or axes of a row; ``None`` is all of them.
      mean: what to subtract instead of the row's mean.
      variance: what to divide by the root of, instead of the mean of
        ``(x - mean) ** 2``.
      epsilon: what is added to the variance.
      where: which elements make up mean and variance, an array that broadcasts to the
        shape of ``x``.  The others are moved and scaled alike, and have a gradient of
        0, whatever they hold.
      algorithm: ``"fast"`` or ``"stable"``, as `jax.nn.standardize` has it.  Here both
        are the stable one: the fast one's ``mean(x ** 2) - mean(x) ** 2`` cancels.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: those of the formula, with respect to all arrays.  A row's offset is
    taken off in two steps, so that the rounding of its mean does no harm either.

    Limits: a row that holds inf or NaN is NaN.  A constant row is 0 for a positive
    ``epsilon``.  So is one whose variance overflows, by deviations beyond 1e19 in
    float32 and bfloat16; of `jax.nn` it is NaN.

    Residual: the input (and the other arguments as they came).

    Accuracy: the errors observed, in units in the last place of a row's largest term,
    stay below 4, 4 and 7 in float32, in value, first and second derivative, also for
    rows with an offset of 1000 times their deviation, and below 0.51 in float16 and
    bfloat16.

    Raises:
      TypeError: an argument is complex.
      ValueError: ``axis`` is none of ``x``, ``where`` does not fit its shape, or
        ``algorithm`` is neither of the two, or ``epsilon`` is a number below 0.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.standardize(jnp.array([10001.0, 10002.0, 10003.0]))
      Array([-1.2247356,  0.       ,  1.2247356], dtype=float32)

    References:
      Chan, Golub and LeVeque, `Algorithms for Computing the Sample Variance
      <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983.
    """
    if algorithm not in ("fast", "stable"):
        raise ValueError(
            f"standardize expects algorithm to be 'fast' or 'stable', but got "
            f"{algorithm!r}. Both compute the stable formula."
        )
    x = as_floating("standardize", x)
    axes, mask = row_axes("standardize", x, axis), row_mask("standardize", where, x)
    given = {
        name: as_floating("standardize", value, name)
        for name, value in (
            ("mean", mean),
            ("variance", variance),
            ("epsilon", epsilon),
        )
        if value is not None
    }
    y = jax.checkpoint(functools.partial(_standardize, axes=axes))(x, mask, given)
    dtype = jnp.result_type(x, *given.values())
    return narrow_rows(y, x if x.dtype == dtype else jnp.zeros((), dtype))


def _standardize(x, mask, given, *, axes):
    x = named(x, "standardize")
    given = {name: value.astype(widen(x).dtype) for name, value in given.items()}

    def mean(x):
        return jnp.mean(x, axes, keepdims=True, where=mask)

    whole = lax.stop_gradient(widen(x))
    x = only(mask, widen(x), 0)
    if "mean" in given:
        x, whole = x - given["mean"], whole - given["mean"]
    else:
        shift = lax.stop_gradient(mean(x))
        x, whole = x - shift, whole - shift
        shift = mean(x)
        x, whole = x - shift, whole - shift
    variance = given["variance"] if "variance" in given else mean(x * x)
    root = jnp.sqrt(variance + given["epsilon"])
    if mask is None:
        return x / root
    return jnp.where(mask, only(mask, x, 0) / root, lax.stop_gradient(whole / root))
