"""Softmax and what is made of sums of exponentials."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen
from .._public import compiled
from ._elementwise import as_floating, named
from ._rows import (
    Axis,
    exp_sum,
    is_wide,
    narrow_rows,
    only,
    row_axes,
    row_mask,
)


@compiled("axis")
def softmax(
    x: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The normalized exponential, as `jax.nn.softmax`.

    .. math::
      \mathrm{softmax}(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}

    Args:
      x: an array.  float8, bfloat16 and float16 compute in float32 and round once, also
        in derivatives; integers, booleans and Python numbers promote to floating point.
      axis: the axis or axes of the sum; ``None`` is all of them.
      where: which elements take part, an array that broadcasts to the shape of ``x``.
        The others give 0 and have a gradient of 0, whatever they hold.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: :math:`p_i (g_i - \sum_j p_j g_j)` for the cotangent :math:`g`, from
    which its mean is taken first: where one :math:`p` is almost 1, nothing cancels.

    Limits: an element of -inf gives 0.  In a row that is -inf throughout, or of which
    nothing takes part, everything is 0, in value and derivative (`jax.nn.softmax`
    gives NaN for the former): the gradient of `logsumexp` is `softmax`, there too.
    A row with inf or NaN gives NaN, as in `jax.nn.softmax`.

    Residual: the output; in 16 bits and less, where it is too coarse for the
    derivative, the input and two float32 numbers a row.

    Accuracy: the errors observed, in units in the last place of a row's largest term,
    stay below 2.4, 5 and 7 in float32 and 0.51 in float16 and bfloat16, in value, first
    and second derivative, for rows of up to 4096 elements.  Where one element is almost
    everything, up to 24 units were seen in first derivatives: XLA's sums of many small
    products round each time.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``, or ``where`` does not fit its shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.softmax(jnp.array([0.0, 1.0, -jnp.inf]))
      Array([0.26894143, 0.7310586 , 0.        ], dtype=float32)

    References:
      Blanchard, Higham and Higham, `Accurately Computing the Log-Sum-Exp and Softmax
      Functions <https://doi.org/10.1093/imanum/draa038>`_, 2021.
    """
    x = as_floating("softmax", x)
    axes, mask = row_axes("softmax", x, axis), row_mask("softmax", where, x)
    kept = only(mask, x, -np.inf)
    return only(mask, narrow(_share(kept, *exp_sum(kept, axes), axes), x), 0)


@compiled("axis")
def log_softmax(
    x: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The logarithm of `softmax`, as `jax.nn.log_softmax`.

    .. math::
      \mathrm{log\_softmax}(x)_i = x_i - \log \sum_j e^{x_j}

    Args:
      x: an array.  float8, bfloat16 and float16 compute in float32 and round once, also
        in derivatives; integers, booleans and Python numbers promote to floating point.
      axis: the axis or axes of the sum; ``None`` is all of them.
      where: which elements take part, an array that broadcasts to the shape of ``x``.
        The others give -inf and have a gradient of 0, whatever they hold.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: :math:`g_i - p_i \sum_j g_j` for the cotangent :math:`g`, with
    :math:`p` the softmax.

    Limits: an element of -inf gives -inf, and so does everything in a row that is -inf
    throughout; the derivative there is that for :math:`p = 0`.  A row with inf or NaN
    gives NaN, as in `jax.nn.log_softmax`.

    Residual: the softmax; in 16 bits and less, where it is too coarse for the
    derivative, the input and two float32 numbers a row.

    Accuracy: the errors observed, in units in the last place of a row's largest term,
    stay below 1.9, 7 and 12 in float32 and 0.51 in float16 and bfloat16, in value,
    first and second derivative, for rows of up to 4096 elements.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``, or ``where`` does not fit its shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.log_softmax(jnp.array([0.0, 100.0]))
      Array([-100.,    0.], dtype=float32)

    References:
      Blanchard, Higham and Higham, `Accurately Computing the Log-Sum-Exp and Softmax
      Functions <https://doi.org/10.1093/imanum/draa038>`_, 2021.
    """
    x = as_floating("log_softmax", x)
    axes, mask = row_axes("log_softmax", x, axis), row_mask("log_softmax", where, x)
    kept = only(mask, x, -np.inf)
    y = narrow(_log_share(kept, *exp_sum(kept, axes, 1), axes), x)
    return only(mask, y, -np.inf)


@compiled("axis", "keepdims", "return_sign")
def logsumexp(
    a: jax.typing.ArrayLike,
    axis: Axis = None,
    b: jax.typing.ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    r"""The logarithm of a sum of exponentials, as `jax.nn.logsumexp`.

    .. math::
      \mathrm{logsumexp}(a) = \log \sum_i b_i e^{a_i}

    Args:
      a: an array.  float8, bfloat16 and float16 compute in float32 and round once, also
        in derivatives; integers, booleans and Python numbers promote to floating point.
      axis: the axis or axes of the sum; ``None`` is all of them.
      b: factors of the exponentials, of any sign, that broadcast with ``a``.  Where one
        is 0, an infinite or NaN ``a`` does not count.
      keepdims: whether the axes of the sum stay, with size 1.
      return_sign: whether to return the logarithm of the sum's absolute value, and
        its sign.
      where: which elements take part, an array that broadcasts to the shape of ``a``.
        The others have a gradient of 0, whatever they hold.

    Returns:
      An array of the (promoted) dtype of ``a`` and ``b``; with ``return_sign``, a pair
      of such arrays.  Without it, a negative sum gives NaN.

    Derivatives: the first is `softmax`; for ``b``, :math:`e^{a_i}` over the sum, where
    ``b`` is 0 too.

    Limits: a row of -inf, or of which nothing takes part, gives -inf with a gradient of
    0.  inf gives inf, with the gradient NaN of softmax.  NaN gives NaN.

    Residual: the softmax; in 16 bits and less, the input and two float32 numbers a row;
    with ``b``, the two inputs.

    Accuracy: the errors observed, in units in the last place of the largest term (the
    maximum and the logarithm in value), stay below 3.3, 3 and 8 in float32 and 0.51 in
    float16 and bfloat16, in value, first and second derivative, for rows of up to 4096
    elements.

    Raises:
      TypeError: ``a`` or ``b`` is complex.
      ValueError: ``axis`` is none of ``a``, or ``where`` does not fit its shape.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.logsumexp(jnp.array([1000.0, 999.0]))
      Array(1000.31323, dtype=float32)
      >>> jax.grad(fs.logsumexp)(jnp.array([-jnp.inf, -jnp.inf]))
      Array([0., 0.], dtype=float32)

    References:
      Blanchard, Higham and Higham, `Accurately Computing the Log-Sum-Exp and Softmax
      Functions <https://doi.org/10.1093/imanum/draa038>`_, 2021.
    """
    a = as_floating("logsumexp", a, "a")
    if b is None:
        axes, mask = row_axes("logsumexp", a, axis), row_mask("logsumexp", where, a)
        one = jnp.ones((), widen(a).dtype)
        out = _log_total(only(mask, a, -np.inf), one, axes, "logsumexp")
        sign = jnp.where(jnp.isnan(out), out, jnp.where(out == -np.inf, 0, 1))
    else:
        a, b = _together(a, as_floating("logsumexp", b, "b"))
        axes, mask = row_axes("logsumexp", a, axis), row_mask("logsumexp", where, a)
        kept = only(mask, a, -np.inf), only(mask, b, 0)
        out, sign = jax.checkpoint(_weighted, static_argnums=2)(*kept, axes)
        if not return_sign:
            out = jnp.where(sign < 0, np.nan, out)
    out, sign = (
        narrow_rows(y if keepdims else lax.squeeze(y, axes), a)
        for y in (out, lax.stop_gradient(sign))
    )
    return (out, sign) if return_sign else out


@compiled("axis", "keepdims")
def logmeanexp(
    x: jax.typing.ArrayLike,
    axis: Axis = None,
    where: jax.typing.ArrayLike | None = None,
    keepdims: bool = False,
) -> jax.Array:
    r"""The logarithm of a mean of exponentials, as `jax.nn.logmeanexp`.

    .. math::
      \mathrm{logmeanexp}(x) = \log \frac{1}{n} \sum_i e^{x_i}

    Args:
      x: an array.  float8, bfloat16 and float16 compute in float32 and round once, also
        in derivatives; integers, booleans and Python numbers promote to floating point.
      axis: the axis or axes of the mean; ``None`` is all of them.
      where: which elements take part, an array that broadcasts to the shape of ``x``.
        The others have a gradient of 0, whatever they hold.
      keepdims: whether the axes of the mean stay, with size 1.

    Returns:
      An array of the (promoted) dtype of ``x``.  It is the maximum of ``x`` and a
      logarithm between :math:`-\log n` and 0, not a difference of two that may cancel.

    Derivatives: those of `logsumexp`.

    Limits: those of `logsumexp`, but the mean of no elements is NaN.

    Residual: that of `logsumexp`.

    Accuracy: that of `logsumexp`.  The mean of nearly equal exponentials has the error
    of a logarithm of 1, about 6e-8 in float32.

    Raises:
      TypeError: ``x`` is complex.
      ValueError: ``axis`` is none of ``x``, or ``where`` does not fit its shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.logmeanexp(jnp.full(1000, 0.1, jnp.float32))
      Array(0.1, dtype=float32)
    """
    x = as_floating("logmeanexp", x)
    axes, mask = row_axes("logmeanexp", x, axis), row_mask("logmeanexp", where, x)
    if mask is None:
        count = jnp.asarray(math.prod(x.shape[i] for i in axes))
    else:
        count = jnp.sum(mask, axes, keepdims=True)
    count = count.astype(widen(x).dtype)
    out = _log_total(only(mask, x, -np.inf), count, axes, "logmeanexp")
    return narrow_rows(out if keepdims else lax.squeeze(out, axes), x)


def _together(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in one dtype and one shape."""
    dtype = jnp.result_type(a, b)
    a, b = jnp.broadcast_arrays(a.astype(dtype), b.astype(dtype))
    return a, b


# The next two take the input and its parts, but are functions of the input alone: their
# rules move the parts with it.  They return what is wide, for the caller to round.
#
# The softmax is what both of their derivatives are made of, and those of `_log_total`.
# Kept as it is, it need not be computed anew; in 16 bits and less it would be too large
# wide and too coarse narrow, so that the input is kept.


@functools.partial(custom_vjp, nondiff_argnums=(3,))
def _share(x, top, total, axes):
    e = _exp(x, top) if is_wide(x) else jnp.exp(widen(x) - top)
    # No total is below 1 but that of a row of -inf.
    return e / jnp.maximum(total, 1)


def _exp(x: jax.Array, top: jax.Array) -> jax.Array:
    """exp(x - top), with what the rounding of the difference loses far below the top.

    A gradient may consist of such small numbers alone.  In the sum they do not count.
    """
    e = jnp.exp(x - top)  # the one that was summed
    # All is finite now, and XLA cannot cancel x - (x - top).
    lowest = np.finfo(x.dtype).min
    x = jnp.maximum(x, lowest)
    d = jnp.maximum(x - top, lowest)
    moved = d - x
    return e + e * ((x - (d - moved)) - (top + moved))


def _keep(x, parts, axes):
    """What `_kept_share` needs."""
    return (_share(x, *parts, axes),) if is_wide(x) else (x, *parts)


def _kept_share(kept, axes):
    return kept[0] if len(kept) == 1 else _share(*kept, axes)


def _share_fwd(x, top, total, axes):
    kept = _keep(x, (top, total), axes)
    return _kept_share(kept, axes), kept


def _share_bwd(axes, kept, g):
    p = _kept_share(named(kept, "softmax"), axes)
    # Any constant may be taken from g.  Once its mean is, the element whose p is almost
    # 1 adds next to nothing to the sum, and the rest does not drown in it.
    mean = jnp.sum(lax.stop_gradient(p) * g, axes, keepdims=True)
    # Times 1: XLA must not contract a product in g to an FMA.  Without the rounding
    # that the mean has seen, the largest element would not cancel.
    g = g * jnp.minimum(1 + p, 1) - mean
    ct = p * (g - jnp.sum(p * g, axes, keepdims=True))
    return narrow(ct, kept[0]), None, None


_share.defvjp(_share_fwd, _share_bwd)
_share.barrier = True


@functools.partial(custom_vjp, nondiff_argnums=(3,))
def _log_share(x, top, excess, axes):
    # For a row of -inf any number does.
    return (widen(x) - top) - jnp.log1p(jnp.maximum(excess, -0.5))


def _log_share_fwd(x, top, excess, axes):
    return _log_share(x, top, excess, axes), _keep(x, (top, 1 + excess), axes)


def _log_share_bwd(axes, kept, g):
    share = _kept_share(named(kept, "log_softmax"), axes)
    ct = g - share * jnp.sum(g, axes, keepdims=True)
    return narrow(ct, kept[0]), None, None


_log_share.defvjp(_log_share_fwd, _log_share_bwd)
_log_share.barrier = True


@functools.partial(custom_vjp, nondiff_argnums=(2, 3))
def _log_total(x, count, axes, name):
    """log(sum(exp(x)) / count), wide, the axes kept."""
    return _log_total_of(*exp_sum(x, axes, 1), count)


def _log_total_of(top, excess, count):
    log = jnp.where(count == 1, jnp.log1p(excess), jnp.log((1 + excess) / count))
    return jnp.where(top == np.inf, top, top + log)


def _log_total_fwd(x, count, axes, name):
    top, excess = exp_sum(x, axes, 1)
    return _log_total_of(top, excess, count), _keep(x, (top, 1 + excess), axes)


def _log_total_bwd(axes, name, kept, g):
    return narrow(g * _kept_share(named(kept, name), axes), kept[0]), None


_log_total.defvjp(_log_total_fwd, _log_total_bwd)
_log_total.barrier = True


def _weighted(a, b, axes):
    """The logarithm and the sign of sum(b exp(a)), wide, the axes kept."""
    a, b = map(widen, named((a, b), "logsumexp"))
    counts = b != 0
    top = jnp.where(counts, lax.stop_gradient(a), -np.inf)
    top = jnp.max(top, axes, keepdims=True, initial=-np.inf)
    base = jnp.where(jnp.isfinite(top), top, 0)
    # A zero b has a derivative, but an exponential beside it must not overflow.
    beside = jnp.minimum(jnp.where(jnp.isfinite(a), a, -np.inf) - base, 80)
    total = jnp.sum(
        b * jnp.exp(jnp.where(counts, a - base, beside)), axes, keepdims=True
    )
    size = jnp.where(top == -np.inf, 1, jnp.abs(total))
    return jnp.where(top == -np.inf, top, base) + jnp.log(size), jnp.sign(total)
