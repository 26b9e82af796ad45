"""Products with logarithms, and the sums of them that distributions are judged by."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._activations._elementwise import as_floating, elementwise
from .._activations._parametric import parametric, with_parameters
from .._activations._rows import Axis, narrow_rows, only, row_axes, row_mask
from .._activations.softplus import softplus
from .._custom_vjp import checkpoint
from .._precision import narrow, widen
from .._public import compiled
from ._rules import hold, inverse_power, limit_of, quotient


@compiled()
def xlogy(x: jax.typing.ArrayLike, y: jax.typing.ArrayLike) -> jax.Array:
    r"""``x log(y)``, 0 where ``x`` is 0, as in `jax.scipy.special`.

    .. math::
      \mathrm{xlogy}(x, y) = x \log(\max(y, \mathrm{tiny}))

    with the smallest normal number of the dtype, as in `flax_stable.safe.log`.

    Args:
      x: the factor.
      y: the argument of the logarithm, which broadcasts against ``x``; integers promote
        to floating point.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: by ``x`` the logarithm, which is -87.3 in float32 for ``y`` up to 0; by
    ``y`` the quotient ``x / y``, and 0 below the smallest normal number.

    Limits: those of the product; 0 times an infinite logarithm is 0.  The logarithm of
    inf is 2^104 as a derivative, in float64 2^832 and in float16 2^15.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> p = jnp.array([0.0, 0.5])
      >>> (-fs.safe.xlogy(p, p)).round(4)
      Array([0.    , 0.3466], dtype=float32)
      >>> def bernoulli_entropy(p):
      ...   return -fs.safe.xlogy(p, p) - fs.safe.xlogy(1 - p, 1 - p)
      >>> jax.vmap(jax.grad(bernoulli_entropy))(jnp.array([0.5, 1.0])).round(2)
      Array([  0.  , -88.34], dtype=float32)
    """
    x, y = with_parameters("safe.xlogy", x, y=y)
    return _xlog(0.0, float(jnp.finfo(x.dtype).tiny), limit_of(x.dtype))(x, y)


@compiled()
def xlog1py(x: jax.typing.ArrayLike, y: jax.typing.ArrayLike) -> jax.Array:
    r"""``x log(1 + y)``, 0 where ``x`` is 0, as in `jax.scipy.special`.

    .. math::
      \mathrm{xlog1py}(x, y) = x \log(\max(1 + y, \mathrm{tiny}))

    with the smallest normal number of the dtype; a small ``y`` keeps its digits.

    Args:
      x: the factor.
      y: 1 less than the argument of the logarithm, which broadcasts against ``x``;
        integers promote to floating point.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: by ``x`` the logarithm, which is -87.3 in float32 for ``y`` up to -1;
    by ``y`` the quotient ``x / (1 + y)``, and 0 up to -1.

    Limits: those of the product; 0 times an infinite logarithm is 0.  The logarithm of
    inf is 2^104 as a derivative, in float64 2^832 and in float16 2^15.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.xlog1py(jnp.array([0.0, 2.0]), jnp.array([0.5, 1e-8]))
      Array([0.e+00, 2.e-08], dtype=float32)
      >>> [float(d) for d in jax.grad(fs.safe.xlog1py, (0, 1))(0.0, -0.5)]
      [-0.6931471824645996, 0.0]
    """
    x, y = with_parameters("safe.xlog1py", x, y=y)
    return _xlog(1.0, float(jnp.finfo(x.dtype).tiny), limit_of(x.dtype))(x, y)


@functools.cache
def _xlog(shift: float, floor: float, limit: float) -> Callable:
    """``x log(shift + y)`` for a shift of 0 or 1."""
    log = jnp.log1p if shift else jnp.log

    def held(f, y, below):
        return jnp.where(
            y + shift < floor, below, f(jnp.where(y + shift < floor, 1, y))
        )

    def logarithm(y):
        return held(log, y, np.log(floor).astype(y.dtype))

    def value(x, y):
        found = logarithm(y)
        return jnp.where((x == 0) & jnp.isinf(found), 0, x * found)

    def by_y(x, y):
        return quotient(1, limit, limit)(x, held(lambda y: y + shift, y, 0))

    slope = elementwise(
        lambda y: hold(logarithm(y), limit), lambda y: by_y(jnp.ones_like(y), y)
    )
    return parametric(value, lambda x, y: slope(y), by_y)


@compiled()
def logaddexp(x1: jax.typing.ArrayLike, x2: jax.typing.ArrayLike) -> jax.Array:
    r"""The logarithm of a sum of exponentials, as in `jax.numpy`, for -inf too.

    .. math::
      \mathrm{logaddexp}(x_1, x_2) = \log(e^{x_1} + e^{x_2})

    Args:
      x1: the logarithm of one term; -inf is that of 0.
      x2: the logarithm of the other, which broadcasts against ``x1``; integers promote
        to floating point.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: the shares of the terms, :math:`1 / (1 + e^{x_2 - x_1})` by ``x1``; 0
    of every order for two infinities of one sign.

    Limits: -inf where both are, inf where one is.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.safe.logaddexp(jnp.array([0.0, -jnp.inf]), -jnp.inf)
      Array([  0., -inf], dtype=float32)
      >>> [float(d) for d in jax.grad(fs.safe.logaddexp, (0, 1))(-jnp.inf, -jnp.inf)]
      [0.0, 0.0]
    """
    x1, x2 = with_parameters("safe.logaddexp", x1, "x1", x2=x2)

    @checkpoint
    def run(x1, x2):
        a, b = jnp.broadcast_arrays(widen(x1), x2)
        infinite = jnp.isinf(a) & (a == b)
        ends = jnp.where(a > 0, np.inf, -np.inf)
        a, b = jnp.where(infinite, 0, a), jnp.where(infinite, 0, b)
        # At a tie either choice is the same function: its derivatives are right too.
        first = a > b
        large, small = jnp.where(first, a, b), jnp.where(first, b, a)
        return narrow(jnp.where(infinite, ends, large + softplus(small - large)), x1)

    return run(x1, x2)


@compiled("axis")
def entropy(
    p: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The entropy of probabilities, to which those up to 0 add nothing.

    .. math::
      \mathrm{entropy}(p) = -\sum_i p_i \log p_i

    Args:
      p: the probabilities, an array of any shape; they need not sum to 1.
      axis: the axis that is summed over, a tuple of axes, or ``None`` for all.
      where: which elements take part, an array that broadcasts to the shape of ``p``.

    Returns:
      An array of the sums, of the (promoted) dtype of ``p``.

    Derivatives: :math:`-1 - \log p_i` and :math:`-1 / p_i` for a positive
    :math:`p_i`, and 0 of every order up to and at 0, where the first is infinite.

    Residual: the input.

    Raises:
      TypeError: ``p`` is complex.
      ValueError: ``axis`` is none of ``p``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> p = jnp.array([0.5, 0.5, 0.0])
      >>> fs.safe.entropy(p).round(4)
      Array(0.6931, dtype=float32)
      >>> jax.grad(lambda p: -fs.safe.entropy(p))(p).round(4)
      Array([0.3069, 0.3069, 0.    ], dtype=float32)
    """
    p = as_floating("safe.entropy", p, "p")
    axes = row_axes("safe.entropy", p, axis)
    mask = row_mask("safe.entropy", where, p)
    plogp = _plogp(limit_of(p.dtype))

    @checkpoint
    def run(p):
        return narrow_rows(-jnp.sum(plogp(widen(p)), axes, where=mask), p)

    return run(p)


@functools.cache
def _plogp(limit: float) -> Callable:
    """``p log(p)``, with all derivatives 0 up to 0."""

    def above_0(f):
        return lambda p: jnp.where(p <= 0, 0, f(jnp.where(p <= 0, 1, p)))

    slope = elementwise(above_0(lambda p: 1 + jnp.log(p)), inverse_power(1, 1, limit))
    return elementwise(above_0(lambda p: p * jnp.log(p)), slope)


@compiled("axis")
def softmax_entropy(
    logits: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The entropy of the softmax of logits, where -inf masks an element.

    .. math::
      \mathrm{softmax\_entropy}(x) = -\sum_i p_i \log p_i
      = \log(1 + r) - \frac{\sum_i e^{d_i} d_i}{1 + r}, \quad
      p = \mathrm{softmax}(x), \ d = x - \max x

    with the sum :math:`1 + r` of :math:`e^{d_i}`.  Its first 1 is left out, and all
    terms are positive: the small entropy of a distribution next to certain keeps its
    digits.

    Args:
      logits: an array of any shape; integers promote to floating point.
      axis: the axis that is summed over, a tuple of axes, or ``None`` for all.
      where: which elements take part, an array that broadcasts to the shape of
        ``logits``; the others count as -inf.

    Returns:
      An array of the sums, of the (promoted) dtype of ``logits``; 0 where all elements
      are masked.

    Derivatives: the first is :math:`-p_i (\log p_i + \mathrm{entropy})`.  All are 0
    with respect to elements that are masked.

    Limits: a logit of inf gives NaN.

    Residual: the input.

    Raises:
      TypeError: ``logits`` is complex.
      ValueError: ``axis`` is none of ``logits``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> logits = jnp.array([0.0, 0.0, -jnp.inf])
      >>> fs.safe.softmax_entropy(logits).round(4)
      Array(0.6931, dtype=float32)
      >>> jax.grad(fs.safe.softmax_entropy)(logits)
      Array([0., 0., 0.], dtype=float32)
    """
    logits = as_floating("safe.softmax_entropy", logits, "logits")
    axes, mask = (
        row_axes("safe.softmax_entropy", logits, axis),
        row_mask("safe.softmax_entropy", where, logits),
    )

    @checkpoint
    def run(logits):
        x = only(mask, widen(logits), -np.inf)
        # The formula holds for every number in place of the maximum.
        top = lax.stop_gradient(jnp.max(x, axes, keepdims=True, initial=-np.inf))
        gone = x < jnp.maximum(top - 1e3, np.finfo(x.dtype).min)
        d = jnp.where(gone, 0, x - jnp.where(top == -np.inf, 0, top))
        first = ~gone & (x == top)
        e = jnp.where(gone, 0, jnp.exp(d))
        # The sum less 1, in which the elements at the top have no rounding.
        rest = jnp.sum(jnp.where(first, jnp.expm1(d), e), axes)
        rest += jnp.maximum(jnp.sum(first, axes, x.dtype) - 1, 0)
        y = jnp.log1p(rest) - jnp.sum(e * d, axes) / (1 + rest)
        return narrow_rows(y, logits)

    return run(logits)


@compiled("axis")
def kl_divergence(
    log_predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The Kullback-Leibler divergence, as in `optax.losses`, for targets of 0 too.

    .. math::
      \mathrm{kl\_divergence}(\log q, p) = \sum_i p_i (\log p_i - \log q_i)

    Args:
      log_predictions: the logarithms of the predicted probabilities; -inf is that of 0.
      targets: the probabilities :math:`p`, which broadcast against them.
      axis: the axis that is summed over, a tuple of axes, or ``None`` for all.
      where: which elements take part, an array that broadcasts to their shape.

    Returns:
      An array of the sums, of the promoted dtype of both.

    Derivatives: :math:`-p_i` by :math:`\log q_i` and :math:`1 + \log p_i - \log q_i` by
    :math:`p_i`.  A term whose target is 0 or less is 0, and so are all its derivatives.

    Limits: a logarithm below -2^104, in float64 -2^832 and in float16 -2^15, is held
    there, and its own derivative is 0: where something happens that is predicted not
    to, the divergence is very large, but finite.

    Residual: the inputs.

    Raises:
      TypeError: an argument is complex.
      ValueError: the shapes do not broadcast, or ``axis`` is none of theirs.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> log_q = jnp.log(jnp.array([0.25, 0.75, 0.0]))
      >>> p = jnp.array([1.0, 0.0, 0.0])
      >>> fs.safe.kl_divergence(log_q, p).round(4)
      Array(1.3863, dtype=float32)
      >>> jax.grad(fs.safe.kl_divergence)(log_q, p)
      Array([-1.,  0.,  0.], dtype=float32)
    """
    log_q, p = with_parameters(
        "safe.kl_divergence", log_predictions, "log_predictions", targets=targets
    )
    axes, mask = (
        row_axes("safe.kl_divergence", log_q, axis),
        row_mask("safe.kl_divergence", where, log_q),
    )
    limit = limit_of(log_q.dtype)

    @checkpoint
    def run(log_q, p):
        x, p = jnp.broadcast_arrays(widen(log_q), p)
        none = (p <= 0) & ~jnp.isnan(x)
        x, p = jnp.where(none, 0, x), jnp.where(none, 1, p)
        terms = _plogp(limit)(p) - p * jnp.where(x < -limit, -limit, x)
        return narrow_rows(jnp.sum(jnp.where(none, 0, terms), axes, where=mask), log_q)

    return run(log_q, p)
