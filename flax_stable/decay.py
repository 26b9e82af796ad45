"""Weight decay and clipping for raw parameters, as Optax has them for plain ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._activations.sigmoid import sigmoid
from ._activations.softplus import softplus
from ._parametrization import RAW
from ._positive.transform import assert_parameters
from ._precision import narrow, widen


def raw_mask(params: Any) -> Any:
    """Marks the raw parameters, those with names that start with ``raw_``.

    It is a mask for `optax.masked`, and tells the labels of `optax.multi_transform`.

    Args:
      params: parameters, or a tree of their structure such as gradients: nested dicts
        as those of `flax.linen`, with boxes or without, an `flax.nnx.State`, or what
        `flax.nnx.Optimizer` gives to Optax.

    Returns:
      The same tree of booleans.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.decay.raw_mask({"dense": {"raw_kernel": jnp.ones(3), "bias": jnp.ones(3)}})
      {'dense': {'bias': False, 'raw_kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_raw(path), params)


def _is_raw(path: tuple[Any, ...]) -> bool:
    keys = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    # Boxes of Linen and variables of NNX hold their array as `value`.
    names = [key for key in keys if isinstance(key, str) and key != "value"]
    return bool(names) and names[-1].startswith(RAW)


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    *,
    raw: Any = None,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformation:
    r"""Weight decay of the weights that raw parameters stand for, and of all others.

    It takes the place of `optax.add_decayed_weights`, before the learning rate.  For a
    plain parameter it adds :math:`\lambda w` to the update, as that does.  For a raw
    one, with the weight :math:`w = \mathrm{softplus}(\mathrm{raw}, \beta)`, it adds

    .. math::
      \lambda \frac{\mathrm{softplus}(\mathrm{raw}, \beta)}
      {\mathrm{sigmoid}(\beta\, \mathrm{raw})}

    which moves the weight by :math:`-\eta \lambda w` at a learning rate
    :math:`\eta`, to first order in that: towards 0, where
    :math:`\lambda\, \mathrm{raw}` would pull it to :math:`\log(2) / \beta`.  That
    term tends to :math:`\lambda\, \mathrm{raw}` for large weights and to
    :math:`\lambda / \beta` for small ones: weights of every size decay at the same
    relative rate.  `shrink_weights` does so exactly.

    A weight with a floor decays to its floor, and where it is within twice of that, the
    slope is held as `flax_stable.positive` holds it for gradients: the raw parameter
    comes to rest where gradients still reach it.  A penalty on weights, instead of
    decay, needs none of this: add ``0.5 * penalty * jnp.sum(fs.positive(raw) ** 2)`` to
    the loss.

    Args:
      weight_decay: the rate :math:`\lambda`, a number or a schedule.
      mask: which parameters decay, as in Optax: a tree of booleans, or a function that
        makes one of parameters.
      raw: which parameters are raw, likewise; by default those that `raw_mask` marks.
      beta: the steepness that the positive parameters have, as `flax_stable.positive`.
      floor: the floor that they have, likewise.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      ValueError: ``beta`` is not above 0 or ``floor`` below it; in ``update``,
        ``params`` are missing.

    Example:
      >>> import jax.numpy as jnp, optax, flax_stable as fs
      >>> tx = optax.chain(fs.decay.add_decayed_weights(0.5), optax.sgd(0.1))
      >>> params = {"raw_kernel": jnp.array([-100.0, 0.0, 100.0])}
      >>> no_gradient = {"raw_kernel": jnp.zeros(3)}
      >>> tx.update(no_gradient, tx.init(params), params)[0]["raw_kernel"]
      Array([-0.05      , -0.06931472, -5.        ], dtype=float32)

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.
    """
    assert_parameters("add_decayed_weights", beta, floor)
    inner = optax.add_decayed_weights(weight_decay, mask)

    def update(updates, state, params=None):
        if params is not None:
            params = _where(
                raw, lambda x: _weight_over_slope(x, beta, floor), lambda x: x, params
            )
        return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def shrink_weights(
    rate: jax.typing.ArrayLike,
    mask: Any = None,
    *,
    raw: Any = None,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformation:
    r"""Weight decay that multiplies weights by ``1 - rate``, raw parameters' exactly.

    It stands at the end of a chain, after the learning rate.  To the update of a plain
    parameter it adds :math:`-\rho w`, to that of a raw one, with :math:`q =
    \mathrm{softplus}(\beta\, \mathrm{raw})`,

    .. math::
      \frac{\mathrm{softplus}^{-1}((1 - \rho)\, q)}{\beta} - \mathrm{raw}
      = -\frac{1}{\beta} \left(\rho q - \log \left(1 - e^{-(1 - \rho) q}
      \frac{1 - e^{-\rho q}}{1 - e^{-q}}\right)\right)

    of which the second form keeps all digits however small :math:`\rho` is.  With a
    floor, what is above it shrinks so; within twice the floor a raw parameter moves by
    less, as in `add_decayed_weights`.

    Args:
      rate: the share :math:`\rho` of a weight that a step takes, 0 or more and below 1:
        the learning rate times what `add_decayed_weights` calls ``weight_decay``.  For
        a schedule, `optax.inject_hyperparams`.
      mask: which parameters decay, as for `add_decayed_weights`.
      raw: which parameters are raw, likewise.
      beta: the steepness that the positive parameters have, as `flax_stable.positive`.
      floor: the floor that they have, likewise.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      ValueError: ``rate`` is not in [0, 1), ``beta`` not above 0, or ``floor`` below
        it; in ``update``, ``params`` are missing.

    Example:
      >>> import jax.numpy as jnp, optax, flax_stable as fs
      >>> tx = optax.chain(optax.sgd(0.1), fs.decay.shrink_weights(0.5))
      >>> params = {"raw_kernel": fs.inverse_softplus(jnp.array([1e-6, 1.0, 50.0]))}
      >>> no_gradient = {"raw_kernel": jnp.zeros(3)}
      >>> updates, _ = tx.update(no_gradient, tx.init(params), params)
      >>> fs.softplus(optax.apply_updates(params, updates)["raw_kernel"])
      Array([5.0000006e-07, 5.0000000e-01, 2.5000000e+01], dtype=float32)
    """
    assert_parameters("shrink_weights", beta, floor)
    if not isinstance(rate, jax.core.Tracer) and not (0 <= np.asarray(rate) < 1):
        raise ValueError(
            f"shrink_weights expects a rate in [0, 1), but got {rate}. It is the "
            "learning rate times the weight decay."
        )
    inner = optax.add_decayed_weights(-1.0, mask)

    def update(updates, state, params=None):
        if params is not None:
            params = _where(
                raw,
                lambda x: _shrinkage(x, rate, beta, floor),
                lambda w: rate * w,
                params,
            )
        return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def global_norm(
    updates: Any,
    params: Any,
    *,
    raw: Any = None,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    r"""The norm of the gradient by the weights that raw parameters stand for.

    A gradient by a raw parameter is that by its weight times
    :math:`\mathrm{sigmoid}(\beta\, \mathrm{raw})`, so small weights hide theirs.  This
    divides by the slope first and takes the root of the sum of squares: the number that
    `optax.global_norm` gives for the plain model.

    Args:
      updates: gradients by ``params``, of the same structure.
      params: the parameters, raw ones and others.
      raw: which parameters are raw, as for `add_decayed_weights`.
      beta: the steepness that the positive parameters have, as `flax_stable.positive`.
      floor: the floor that they have, likewise.

    Returns:
      The norm, for 16-bit gradients in float32.  Where the slope is below the smallest
      normal number, that number is taken for it.

    Raises:
      ValueError: ``beta`` is not above 0 or ``floor`` below it.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> params = {"raw_kernel": jnp.array([-30.0, -30.0])}
      >>> weights = jnp.array([3.0, 4.0])
      >>> grads = jax.grad(lambda p: weights @ fs.softplus(p["raw_kernel"]))(params)
      >>> f"{fs.decay.global_norm(grads, params):.4f}"
      '5.0000'
    """
    assert_parameters("global_norm", beta, floor)
    return _norm(updates, params, raw, beta, floor)


def _norm(
    updates: Any,
    params: Any,
    raw: Any,
    beta: jax.typing.ArrayLike,
    floor: jax.typing.ArrayLike,
) -> jax.Array:
    by_weights = _where(
        raw,
        lambda x, g: widen(g) / _slope(x, beta, floor),
        lambda _, g: widen(jnp.abs(g)),
        params,
        updates,
    )
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(by_weights)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.zeros(())


def clip_by_global_norm(
    max_norm: jax.typing.ArrayLike,
    *,
    raw: Any = None,
    beta: jax.typing.ArrayLike = 1.0,
    floor: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformation:
    """Scales gradients down if those by the weights have a norm above ``max_norm``.

    It takes the place of `optax.clip_by_global_norm`, at the start of a chain.  All
    gradients get one factor, ``max_norm / global_norm`` if that is below 1, with the
    `global_norm` of this module: that which would clip the plain model.

    Args:
      max_norm: the largest norm that remains.
      raw: which parameters are raw, as for `add_decayed_weights`.
      beta: the steepness that the positive parameters have, as `flax_stable.positive`.
      floor: the floor that they have, likewise.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      ValueError: ``beta`` is not above 0 or ``floor`` below it; in ``update``,
        ``params`` are missing.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> tx = fs.decay.clip_by_global_norm(1.0)
      >>> params = {"raw_kernel": jnp.array([0.0, 0.0])}  # a slope of 0.5
      >>> grads = {"raw_kernel": jnp.array([3.0, 4.0])}  # by the weights 6, 8
      >>> tx.update(grads, tx.init(params), params)[0]["raw_kernel"]
      Array([0.3, 0.4], dtype=float32)
    """
    assert_parameters("clip_by_global_norm", beta, floor)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "clip_by_global_norm divides gradients by the slopes at params, but "
                "got none. Call update(updates, state, params)."
            )
        norm = _norm(updates, params, raw, beta, floor)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        clipped = jax.tree.map(
            lambda g: narrow(widen(g) * factor.astype(widen(g).dtype), g), updates
        )
        return clipped, state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _where(
    raw: Any, if_raw: Callable, if_plain: Callable, params: Any, *rest: Any
) -> Any:
    """Maps a function over the raw parameters and another one over all others."""

    def choose(is_raw, *trees):
        function = if_raw if is_raw else if_plain
        return jax.tree.map(
            lambda *xs: None if xs[-1] is None else function(*xs), *trees
        )

    mask = raw_mask if raw is None else raw
    return jax.tree.map(choose, mask(params) if callable(mask) else mask, params, *rest)


def _weight_over_slope(
    x: jax.Array, beta: jax.typing.ArrayLike, floor: jax.typing.ArrayLike
) -> jax.Array:
    s, beta, resting = _scaled(x, beta, floor)
    return narrow(resting * softplus(s) / sigmoid(s) / beta, x)


def _shrinkage(
    x: jax.Array,
    rate: jax.typing.ArrayLike,
    beta: jax.typing.ArrayLike,
    floor: jax.typing.ArrayLike,
) -> jax.Array:
    """What to take from a raw parameter, to take a share ``rate`` from the weight."""
    s, beta, resting = _scaled(x, beta, floor)
    rate = jnp.asarray(rate, s.dtype)
    q = softplus(s)
    lost = jnp.exp((rate - 1) * q) * (jnp.expm1(-rate * q) / jnp.expm1(-q))
    return narrow(resting * (rate * q - jnp.log1p(-lost)) / beta, x)


def _scaled(
    x: jax.Array, beta: jax.typing.ArrayLike, floor: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Beta times x and beta, wide, and the share of the slope in the held slope.

    Below -40 weight and slope are the same to all digits, before either vanishes.
    """
    x = widen(x)
    beta = jnp.asarray(beta, x.dtype)
    slope, held = sigmoid(beta * x), _held(beta, floor)
    share = jnp.where(slope < held, slope / jnp.where(held > 0, held, 1), 1)
    return jnp.maximum(beta * x, -40), beta, share


def _slope(
    x: jax.Array, beta: jax.typing.ArrayLike, floor: jax.typing.ArrayLike
) -> jax.Array:
    x = widen(x)
    beta = jnp.asarray(beta, x.dtype)
    slope = jnp.maximum(sigmoid(beta * x), _held(beta, floor))
    return jnp.maximum(slope, jnp.finfo(x.dtype).tiny)


def _held(beta: jax.Array, floor: jax.typing.ArrayLike) -> jax.Array:
    """The smallest slope of ``positive``, that at twice the floor."""
    return -jnp.expm1(-beta * jnp.asarray(floor, beta.dtype))
