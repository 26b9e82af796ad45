"""Weight decay, by a step of an optimizer and after it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._activations.sigmoid import sigmoid
from .._activations.softplus import softplus
from .._parametrization import Parameters
from .._positive.transform import assert_parameters
from ._arguments import assert_mask, assert_names, assert_number, assert_params
from ._transforms import Chain, inverse, positive_options, read, slopes
from ._trees import mapped, widened


def add_decayed_weights(
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    *,
    parameters: Parameters = (),
) -> optax.GradientTransformation:
    r"""Weight decay of the weights that raw parameters stand for, and of all others.

    It takes the place of `optax.add_decayed_weights`, before the learning rate.  For a
    plain parameter it adds :math:`\lambda w` to the update, as that does.  For a raw
    one :math:`r`, which is read as the weight :math:`w = f(r)`, it adds

    .. math::
      \lambda \frac{w}{f'(r)}

    which moves the weight by :math:`-\eta \lambda w` at a learning rate
    :math:`\eta`, to first order in that: towards 0, where :math:`\lambda r` would pull
    a positive one to :math:`\log(2) / \beta`.  `shrink_weights` does so exactly.

    For `flax_stable.positive` that is :math:`\lambda w / \mathrm{sigmoid}(\beta r)`,
    which without a floor tends to :math:`\lambda r` for large weights and to
    :math:`\lambda / \beta` for small ones.  Below twice a floor, what is above the
    floor decays, at the rate :math:`2 \lambda`, and by less where the slope is held as
    `flax_stable.positive` holds it for gradients: the raw parameter comes to rest where
    these reach it.

    For other transforms the derivative of the inverse is applied to the weight, which
    is right for those too that look at whole arrays.  Where one of single elements
    saturates, as tanh does near 1, the slope vanishes and a first-order step would jump
    over 0.  It is held to four times the way to half of the weight.  Where that half is
    outside of the range, nothing is added.

    A penalty on weights, instead of decay, needs none of this: add ``0.5 * penalty *
    jnp.sum(fs.positive(raw) ** 2)`` to the loss.

    Args:
      weight_decay: the rate :math:`\lambda`, 0 or more: a number or a schedule.
      mask: which parameters decay, as in Optax: a tree of booleans, or a function that
        makes one of parameters.
      parameters: the transforms of raw parameters, as `flax_stable.constrain` takes
        them: ``"kernel"`` for those that are read by ``flax_stable.positive``, without
        a beta and a floor of their own; else a dict, such as ``{"kernel":
        flax_stable.positive_transform(floor=1e-3)}``, or a function of paths and
        values, which `optax.inject_hyperparams` needs among its ``static_args``.  Every
        raw parameter that decays needs one; ``()`` instead of a transform says that it
        is read as it is.  A name that matches nothing is no error.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: ``weight_decay`` is below 0 or not finite; in ``update``: ``params``
        are missing or have no names, or a raw one has no transform, or two.

    Example:
      >>> import jax.numpy as jnp, optax, flax_stable as fs
      >>> decay = fs.decay.add_decayed_weights(0.5, parameters="kernel")
      >>> tx = optax.chain(decay, optax.sgd(0.1))
      >>> params = {"raw_kernel": jnp.array([-100.0, 0.0, 100.0])}
      >>> no_gradient = {"raw_kernel": jnp.zeros(3)}
      >>> tx.update(no_gradient, tx.init(params), params)[0]["raw_kernel"]
      Array([-0.05      , -0.06931472, -5.        ], dtype=float32)

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.
    """
    assert_number(
        "add_decayed_weights",
        "weight_decay",
        0.0 if callable(weight_decay) else weight_decay,
        lambda rate: 0 <= rate < np.inf,
        "a finite number of 0 or more, or a schedule of such numbers",
        "One below 0 would let weights grow.",
    )
    return _decay(
        "add_decayed_weights",
        lambda chain, x, rate: rate * _first_order(chain, x),
        weight_decay,
        mask,
        parameters,
    )


def shrink_weights(
    rate: optax.ScalarOrSchedule,
    mask: Any = None,
    *,
    parameters: Parameters = (),
) -> optax.GradientTransformation:
    r"""Weight decay that multiplies weights by ``1 - rate``, raw parameters' exactly.

    It stands at the end of a chain, after the learning rate.  To the update of a plain
    parameter it adds :math:`-\rho w`, to that of a raw one, read as :math:`w = f(r)`,

    .. math::
      f^{-1}((1 - \rho)\, w) - f^{-1}(w)

    to the rounding of the weight.  Where the next weight is outside of the range,
    nothing is added.  For `flax_stable.positive`, with :math:`q =
    \mathrm{softplus}(\beta r)` and the loss :math:`l = \rho \beta w`, it is

    .. math::
      -\frac{1}{\beta} \left(l - \log \left(1 - e^{l - q}
      \frac{1 - e^{-l}}{1 - e^{-q}}\right)\right)

    which keeps all digits however small :math:`\rho` is.  Where the next weight would
    be below twice the floor, what is above the floor is multiplied by :math:`(1 - \rho)
    / (1 + \rho)`, and moves by less where the slope is held, as in
    `add_decayed_weights`.

    Args:
      rate: the share :math:`\rho` of a weight that a step takes, 0 or more and below 1:
        the learning rate times what `add_decayed_weights` calls ``weight_decay``.  A
        number or a schedule.
      mask: which parameters decay, as for `add_decayed_weights`.
      parameters: the transforms of raw parameters, likewise.

    Returns:
      A gradient transformation, which needs ``params`` in ``update``.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: ``rate`` is not in [0, 1); in ``update``: as for
        `add_decayed_weights`.

    Example:
      >>> import jax.numpy as jnp, optax, flax_stable as fs
      >>> decay = fs.decay.shrink_weights(0.5, parameters="kernel")
      >>> tx = optax.chain(optax.sgd(0.1), decay)
      >>> params = {"raw_kernel": fs.inverse_softplus(jnp.array([1e-6, 1.0, 50.0]))}
      >>> no_gradient = {"raw_kernel": jnp.zeros(3)}
      >>> updates, _ = tx.update(no_gradient, tx.init(params), params)
      >>> fs.softplus(optax.apply_updates(params, updates)["raw_kernel"])
      Array([5.0000006e-07, 5.0000000e-01, 2.5000000e+01], dtype=float32)
    """
    assert_number(
        "shrink_weights",
        "rate",
        0.0 if callable(rate) else rate,
        lambda rate: 0 <= rate < 1,
        "a number in [0, 1), or a schedule of such numbers",
        "It is the learning rate times the weight decay.",
    )
    return _decay(
        "shrink_weights",
        lambda chain, x, rate: -_shrinkage(chain, x, rate),
        rate,
        mask,
        parameters,
    )


def _decay(
    who: str, step: Callable, rate: Any, mask: Any, parameters: Parameters
) -> optax.GradientTransformation:
    """Adds ``step(chain, x, rate)`` to updates; state and mask are as in Optax."""
    assert_names(who, parameters)
    assert_mask(who, mask)

    def update(updates, state, params=None):
        assert_params(who, params)
        now = rate
        if callable(rate):
            now = rate(state.count)
            state = state._replace(count=optax.safe_increment(state.count))

        def decayed(chain, x, g):
            change = step(chain, x, jnp.asarray(now, x.dtype))
            return (widened(g) + change).astype(g.dtype)

        return mapped(who, parameters, decayed, updates, params), state

    init = optax.add_decayed_weights(rate).init
    transformation = optax.GradientTransformation(init, update)
    return transformation if mask is None else optax.masked(transformation, mask)


def _first_order(chain: Chain, x: jax.Array) -> jax.Array:
    """What takes the whole weight from ``x``, if slopes stayed as they are."""
    if not chain:
        return x
    if options := positive_options(chain):
        s, beta, floor, share = _scaled(x, **options)
        q = softplus(s)
        return share * jnp.minimum(q + floor, 2 * q) / sigmoid(s) / beta
    weight = read(chain, x)
    _, step = inverse(chain, weight, weight)
    half, _ = inverse(chain, weight / 2, weight)
    limit = 4 * (x - half)
    # Single elements saturate one by one.
    _, diagonal = slopes(chain, x)
    step = jnp.where(diagonal & ~(jnp.abs(step) <= jnp.abs(limit)), limit, step)
    return jnp.where(jnp.isfinite(step), step, 0)


def _shrinkage(chain: Chain, x: jax.Array, rate: jax.Array) -> jax.Array:
    """What takes a share ``rate`` from the weight."""
    if not chain:
        return rate * x
    if options := positive_options(chain):
        s, beta, floor, share = _scaled(x, **options)
        q = softplus(s)
        loss = rate * jnp.minimum(q + floor, 2 * q / (1 + rate))
        lost = jnp.exp(loss - q) * (jnp.expm1(-loss) / jnp.expm1(-q))
        return share * (loss - jnp.log1p(-lost)) / beta
    weight = read(chain, x)
    # Not x itself: the errors of the inverse cancel.
    here, _ = inverse(chain, weight, weight)
    there, _ = inverse(chain, weight - rate * weight, weight)
    step = jnp.where(jnp.isfinite(here), here, x) - there
    return jnp.where(jnp.isfinite(step), step, 0)


def _scaled(
    x: jax.Array, beta: jax.typing.ArrayLike, floor: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Beta, x and floor times it, and the share of the slope in that of ``positive``.

    The latter is held from below, at twice the floor.  Below -40 weight and slope are
    the same to all digits, before either vanishes.
    """
    assert_parameters("positive_transform", beta, floor)
    beta = jnp.asarray(beta, x.dtype)
    floor = beta * jnp.asarray(floor, x.dtype)
    held = -jnp.expm1(-floor)
    slope = sigmoid(beta * x)
    share = jnp.where(slope < held, slope / jnp.where(held > 0, held, 1), 1)
    return jnp.maximum(beta * x, -40), beta, floor, share
