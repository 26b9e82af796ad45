"""Decay of positive weights: closed forms, floors, training."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from _updates import applied, positive_x, raw_update
from flax import nnx

import flax_stable as fs

RAW = np.array([-1e4, -200.0, -90.0, -40.0, -5.0, -0.3, 0.0, 0.7, 5.0, 60.0, 1e4])


def exact(function, raw, *args):
    """A function of mpmath, of each element."""
    with mpmath.workdps(60):
        return np.array([float(function(mpmath.mpf(float(r)), *args)) for r in raw])


def weight_over_slope(r, beta):
    e = mpmath.exp(beta * r)
    return mpmath.log1p(e) / beta * (1 + e) / e


def shrinkage(r, beta, rate):
    """By the definition: through the weight and back."""
    beta, rate = mpmath.mpf(beta), mpmath.mpf(rate)
    with mpmath.workdps(10_000 if r > 500 else 200):
        weight = mpmath.log1p(mpmath.exp(beta * r)) / beta
        return r - mpmath.log(mpmath.expm1(beta * (1 - rate) * weight)) / beta


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(np.float32, 1e-6), (jnp.bfloat16, 2.0**-8), (np.float16, 2.0**-11)],
)
def test_closed_forms(dtype, tolerance):
    raw = jnp.asarray(RAW, dtype)

    @jax.jit
    def updates(beta, rate):
        added = fs.decay.add_decayed_weights(1.0, **positive_x(beta=beta))
        shrunk = fs.decay.shrink_weights(rate, **positive_x(beta=beta))
        return raw_update(added, raw), -raw_update(shrunk, raw)

    for beta in (1.0, 0.25, 8.0):
        for rate in (1e-6, 0.125, 0.5):
            added, shrunk = updates(beta, rate)
            assert added.dtype == shrunk.dtype == dtype
            np.testing.assert_allclose(
                np.float64(added), exact(weight_over_slope, raw, beta), tolerance
            )
            np.testing.assert_allclose(
                np.float64(shrunk),
                exact(shrinkage, raw, beta, rate),
                tolerance,
                atol=1e-7 * (dtype == np.float16),
            )


def test_weights_shrink_at_every_size():
    """A rate is the share of the weight that goes, whatever its size."""
    weights = jnp.array([1e-30, 1e-3, 1.0, 30.0])
    params = {"raw_x": fs.inverse_positive(weights), "x": weights}
    for tx, tolerance in (
        (fs.decay.shrink_weights(0.01, parameters="x"), 2e-5),
        (
            optax.chain(
                fs.decay.add_decayed_weights(0.1, parameters="x"),
                optax.scale_by_learning_rate(0.1),
            ),
            # To first order in the rate.
            1e-4,
        ),
    ):
        updated = optax.apply_updates(params, applied(tx, params))
        np.testing.assert_allclose(
            fs.positive(updated["raw_x"]), 0.99 * weights, tolerance
        )
        np.testing.assert_allclose(updated["x"], 0.99 * weights, 1e-6)


def test_a_weight_decays_to_its_floor_and_can_come_back():
    floor = 1e-2
    for decay in (
        fs.decay.shrink_weights(0.1, **positive_x(floor=floor)),
        optax.chain(
            fs.decay.add_decayed_weights(0.1, **positive_x(floor=floor)),
            optax.scale_by_learning_rate(1.0),
        ),
    ):
        step = jax.jit(
            lambda params, _, tx=decay: (
                optax.apply_updates(params, applied(tx, params)),
                None,
            )
        )
        params, _ = jax.lax.scan(step, {"raw_x": jnp.float32(1.0)}, length=1000)
        weight = fs.positive(params["raw_x"], floor=floor)
        assert floor < weight < 1.02 * floor
        # Decay that knows of no floor would take it to -100.
        assert params["raw_x"] > -12


def train(decay, steps=3000):
    """A positive layer on data in which half of the inputs mean nothing, in NNX."""
    x = jax.random.uniform(jax.random.key(0), (64, 4))
    y = x @ jnp.array([[2.0], [0.5], [0.0], [0.0]])
    init = nnx.initializers.constant(0.3)
    layer = fs.nnx.StableSoftplusLinear(
        4, 1, use_bias=False, kernel_init=init, rngs=nnx.Rngs(0)
    )
    tx = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(0.05))
    optimizer = nnx.Optimizer(layer, tx, wrt=nnx.Param)

    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry,), out_axes=nnx.Carry, length=steps)
    def run(carry):
        layer, optimizer = carry
        grads = nnx.grad(lambda layer: jnp.mean((layer(x) - y) ** 2))(layer)
        optimizer.update(layer, grads)
        return carry

    run((layer, optimizer))
    return layer.kernel[:, 0], float(jnp.mean((layer(x) - y) ** 2))


def test_plain_decay_of_raw_parameters_goes_wrong_in_training(promotion):
    decay = fs.decay.add_decayed_weights(0.1, parameters="kernel")
    ours, error = train(decay)
    plain, plain_error = train(optax.add_decayed_weights(0.1))
    none, _ = train(optax.identity())
    # Weights of inputs that mean nothing vanish, as they do not by themselves; decay of
    # raw parameters holds them up, against the data.
    assert ours[2:].max() < 1e-6 and none[2:].min() > 1e-3
    assert plain[2:].min() > 5 * none[2:].max()
    assert error < 0.1 * plain_error
    np.testing.assert_allclose(ours[:2], jnp.array([2.0, 0.5]), 0.01)
