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
from ._rows import Axis, is_wide, narrow_rows, only, row_axes, row_mask


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
    derivative, the input.

    Accuracy: the errors observed, in units in the last place of a row's largest term,
    stay below 3.6, 15 and 11 in float32 and 0.51 in float16 and bfloat16, in value,
    first and second derivative, for rows of up to 4096 elements.  Each ``x`` far below
    the maximum adds half of the units of its distance: where a derivative is made of
    such terms alone, up to 60 were seen (`jax.nn` has no digit right there).

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
    return only(mask, _softmax(only(mask, x, -np.inf), axes), 0)


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

    Residual: the input and two wide numbers a row.

    Accuracy: the errors observed, in units in the last place of a row's largest term
    or of 1, stay below 1.4, 5.9 and 17 in float32 and 0.51 in float16 and bfloat16, in
    value, first and second derivative, for rows of up to 4096 elements; far below the
    maximum as for `softmax`.

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
    return only(mask, _log_softmax(only(mask, x, -np.inf), axes), -np.inf)


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

    Residual: the input and two wide numbers a row; with ``b``, the two inputs.

    Accuracy: the errors observed, in units in the last place of the largest term (in
    value the maximum, the logarithm and 1), stay below 1.3, 3.1 and 16 in float32 and
    0.51 in float16 and bfloat16, in value, first and second derivative, for rows of up
    to 4096 elements; far below the maximum as for `softmax`.

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
        out = _log_mean(only(mask, a, -np.inf), 1, axes, "logsumexp")
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
    out = _log_mean(only(mask, x, -np.inf), count, axes, "logmeanexp")
    return narrow_rows(out if keepdims else lax.squeeze(out, axes), x)


def _together(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in one dtype and one shape."""
    dtype = jnp.result_type(a, b)
    a, b = jnp.broadcast_arrays(a.astype(dtype), b.astype(dtype))
    return a, b


def _parts(x, axes):
    """Of each row the maximum, and the sum of exponentials after its subtraction.

    Both are wide.  The second moves with ``x`` as if the first did not: what is made of
    the two does not depend on what was subtracted.
    """
    # The lowest finite number can be subtracted where everything is -inf.
    lowest = jnp.finfo(x.dtype).min
    top = jnp.max(lax.stop_gradient(x), axes, keepdims=True, initial=lowest)
    top = widen(top)
    return top, jnp.sum(jnp.exp(widen(x) - top), axes, keepdims=True)


def _positive(total):
    """The sum, or 1 in a row of -inf: no other one is below 1."""
    return jnp.where(total == 0, 1, total)


@functools.partial(custom_vjp, nondiff_argnums=(3,))
def _share(x, top, total, axes):
    """The softmax, wide, from the input and its parts: a function of the input alone.

    Its rule has the parts move with ``x``, and so has the formula: `_parts` do.
    """
    return jnp.exp(widen(x) - top) / _positive(total)


def _share_fwd(x, top, total, axes):
    return _share(x, top, total, axes), (x, top, total)


def _share_bwd(axes, kept, g):
    x, top, total = kept
    e = jnp.exp(widen(x) - top)
    return _pull_back(e, _positive(total), x, axes, g), None, None


_share.defvjp(_share_fwd, _share_bwd)
# Only second derivatives pass here.  A cotangent is often a product: computed anew in
# each loop, here fused and there rounded, it would not cancel.
_share.rule.barrier = True


def _pull_back(e, total, x, axes, g):
    """The cotangent of the softmax ``e / total``.

    Any constant may be taken from ``g``.  Once its mean is, the element whose share is
    almost 1 adds next to nothing to the sum, and the rest does not drown in it.
    """
    # Times 1: XLA on CPU must not contract a product in g to an FMA.  Without the
    # rounding that its mean has seen, the largest element would not cancel.
    one = jnp.minimum(1 + e, 1) if is_wide(x) else 1.0
    g, scale = widen(g) * one, 1 / total
    # On a GPU sums of e g fuse with those that made e, but sums of e g / total do not.
    g = g - jnp.sum(lax.stop_gradient(e) * g, axes, keepdims=True) * scale
    mean = jnp.sum(e * g, axes, keepdims=True) * scale
    return narrow(e * ((g - mean) * scale), x)


@functools.partial(custom_vjp, nondiff_argnums=(4,))
def _pulled_back(x, top, total, g, axes):
    """`_pull_back` from the input and its parts, with the derivatives of the softmax.

    Those of the exponential and of the total, taken apart, would cancel.
    """
    return _pull_back(jnp.exp(widen(x) - top), _positive(total), x, axes, g)


def _pulled_back_fwd(*args):
    return _pulled_back(*args), args[:4]


def _pulled_back_bwd(axes, kept, h):
    def formula(x, g):
        return _pull_back(_share(x, *parts, axes), 1.0, x, axes, g)

    x, *parts, g = kept
    x_bar, g_bar = jax.vjp(formula, x, g)[1](h)
    return x_bar, None, None, g_bar


_pulled_back.defvjp(_pulled_back_fwd, _pulled_back_bwd)


# A barrier keeps the backward pass a program of its own: merged with the forward pass
# XLA for GPUs writes and reads what is between.
#
# float32 and float64 keep the output.  In 16 bits and less that is too coarse for the
# derivative: the input is kept, from which everything is one loop.
@functools.partial(custom_vjp, nondiff_argnums=(1,))
def _softmax(x, axes):
    return narrow(_share(x, *_parts(x, axes), axes), x)


def _softmax_fwd(x, axes):
    p = _softmax(x, axes)
    return p, p if is_wide(x) else x


def _softmax_bwd(axes, kept, g):
    kept = named(kept, "softmax")
    if is_wide(kept):
        return (_pull_back(kept, 1.0, kept, axes, g),)
    return (_pulled_back(kept, *_parts(kept, axes), g, axes),)


_softmax.defvjp(_softmax_fwd, _softmax_bwd)
_softmax.rule.barrier = True


# The logarithms keep the input and its parts: to divide the cotangent of a row by its
# sum is all that is left to do.
@functools.partial(custom_vjp, nondiff_argnums=(1,))
def _log_softmax(x, axes):
    top, total = _parts(x, axes)
    return narrow((widen(x) - top) - jnp.log(_positive(total)), x)


def _log_softmax_fwd(x, axes):
    return _log_softmax(x, axes), (x, *_parts(x, axes))


def _log_softmax_bwd(axes, kept, g):
    p = _share(*named(kept, "log_softmax"), axes)
    g = widen(g)
    return (narrow(g - p * jnp.sum(g, axes, keepdims=True), kept[0]),)


_log_softmax.defvjp(_log_softmax_fwd, _log_softmax_bwd)


@functools.partial(custom_vjp, nondiff_argnums=(2, 3))
def _log_mean(x, count, axes, name):
    """log(sum(exp(x)) / count), wide, the axes kept."""
    top, total = _parts(x, axes)
    log = jnp.where(total == 0, -np.inf, jnp.log(_positive(total) / count))
    log = jnp.where(count == 0, np.nan, log)  # no mean
    return jnp.where(top == np.inf, top, top + log)


def _log_mean_fwd(x, count, axes, name):
    return _log_mean(x, count, axes, name), (x, *_parts(x, axes))


def _log_mean_bwd(axes, name, kept, g):
    return narrow(g * _share(*named(kept, name), axes), kept[0]), None


_log_mean.defvjp(_log_mean_fwd, _log_mean_bwd)


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
