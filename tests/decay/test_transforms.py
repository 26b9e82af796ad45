"""Decay and norms of what every transform reads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _updates import TANH, applied, raw_update

import flax_stable as fs


def test_the_norm_is_that_of_the_plain_model():
    kernel = jnp.array([[1e-12, 0.01], [1.0, 40.0]])
    x = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    bias = jnp.array([0.1, -0.2])

    def loss(kernel, bias):
        return jnp.sum(jnp.sin(x @ kernel + bias))

    expected = optax.tree.norm(jax.grad(loss, (0, 1))(kernel, bias))
    for options in ({}, {"beta": 4.0}, {"floor": 1e-13}, {"floor": 0.2}):
        floor = options.get("floor", 0.0)
        kernel = jnp.maximum(kernel, 1.5 * floor)
        expected = optax.tree.norm(jax.grad(loss, (0, 1))(kernel, bias))
        params = {"raw_kernel": fs.inverse_positive(kernel, **options), "bias": bias}
        grads = jax.grad(
            lambda p, o=options: loss(fs.positive(p["raw_kernel"], **o), p["bias"])
        )(params)
        told = {"parameters": {"kernel": fs.positive_transform(**options)}}
        norm = fs.decay.global_norm(grads, params, **told)
        np.testing.assert_allclose(norm, expected, 1e-4)
        for share in (0.5, 2.0):
            tx = fs.decay.clip_by_global_norm(share * norm, **told)
            clipped = jax.jit(lambda g, p, tx=tx: tx.update(g, tx.init(p), p)[0])(
                grads, params
            )
            jax.tree.map(
                lambda a, b, share=share: np.testing.assert_allclose(
                    a, min(share, 1.0) * b, 1e-6
                ),
                clipped,
                grads,
            )
    # Where the slope is not even a number, a gradient of zero counts as zero.
    params, grads = {"raw_x": -1e4 * jnp.ones(1)}, {"raw_x": jnp.zeros(1)}
    assert fs.decay.global_norm(grads, params, parameters="x") == 0
    half = {"raw_x": jnp.full(4, 100.0, jnp.bfloat16)}
    norm = fs.decay.global_norm(half, half, parameters="x")
    assert norm == 200 and norm.dtype == jnp.float32
    clip = fs.decay.clip_by_global_norm(100.0, parameters="x")
    update = applied(clip, half, half)["raw_x"]
    assert update.dtype == jnp.bfloat16 and bool((update == 50).all())


# Transforms of single elements, chains of them, and one that looks at whole rows.
TURN = jnp.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
SIGMOID = fs.Transform(fs.sigmoid, lambda w: jnp.log(w) - jnp.log1p(-w))
TRANSFORMS = {
    "sigmoid": SIGMOID,
    "falling": (TANH, fs.Transform(lambda w: -3 * w, lambda w: w / -3)),
    "low": fs.positive_transform(beta=2.0, floor=0.05),
    "floored": (
        fs.positive_transform(beta=2.0, floor=0.05),
        fs.Transform(jnp.square, jnp.sqrt),
    ),
    "rows": (
        fs.Transform(lambda w: w @ TURN, lambda w: w @ TURN.T),
        fs.Transform(fs.softplus, fs.inverse_softplus),
    ),
}
RAWS = {
    f"raw_{name}": jnp.array([[0.3, -0.5, 0.7], [0.1, 0.4, -0.2]])
    for name in TRANSFORMS
}


def test_every_transform_decays_as_the_plain_model():
    """Each step and norm against those of the weights that are read."""
    weights = fs.constrain(RAWS, TRANSFORMS)
    rate = 1e-3

    def loss(weights):
        return sum(jnp.sum(jnp.sin(3 * w + 1)) for w in weights.values())

    @jax.jit
    def results(raws):
        tell = {"parameters": TRANSFORMS}
        added = applied(fs.decay.add_decayed_weights(rate, **tell), raws)
        moved = optax.apply_updates(raws, jax.tree.map(jnp.negative, added))
        shrunk = applied(fs.decay.shrink_weights(0.25, **tell), raws)
        grads = jax.grad(lambda raws: loss(fs.constrain(raws, TRANSFORMS)))(raws)
        norms = {
            name: fs.decay.global_norm(
                {f"raw_{name}": grads[f"raw_{name}"]},
                {f"raw_{name}": raws[f"raw_{name}"]},
                parameters={name: chain},
            )
            for name, chain in TRANSFORMS.items()
        }
        shrunk = optax.apply_updates(raws, shrunk)
        return *(fs.constrain(r, TRANSFORMS) for r in (moved, shrunk)), norms

    moved, shrunk, norms = results(RAWS)
    for name, weight in weights.items():
        # To first order in the rate.
        np.testing.assert_allclose(
            (weight - moved[name]) / rate, weight, 0.01, err_msg=name
        )
        np.testing.assert_allclose(shrunk[name], 0.75 * weight, 1e-5, err_msg=name)
        expected = jnp.linalg.norm(jax.grad(lambda w: jnp.sin(3 * w + 1).sum())(weight))
        np.testing.assert_allclose(norms[name], expected, 1e-4, err_msg=name)


def test_saturated_weights_decay_without_a_jump():
    """A slope that vanishes hides neither decay nor gradient, and 0 is not crossed."""
    raw = jnp.array([-50.0, -10.0, -3.0, 0.0, 0.5, 4.0, 9.0, 20.0, 60.0])
    for transform in (TANH, SIGMOID, fs.Transform(jnp.exp, jnp.log)):
        tell = {"parameters": {"x": transform}}
        read = transform.forward
        for tx, factor in (
            (fs.decay.shrink_weights(0.05, **tell), 1),
            (fs.decay.add_decayed_weights(0.05, **tell), -1),
        ):

            def step(raw, _, tx=tx, factor=factor, read=read):
                raw = raw + factor * raw_update(tx, raw)
                return raw, read(raw)

            _, found = jax.lax.scan(step, raw, length=100)
            found = np.concatenate([read(raw)[None], found])
            sign, size = np.sign(found), np.abs(found)
            assert (sign == sign[0]).all() and np.isfinite(found).all()
            assert (np.diff(size, axis=0) <= 1e-6 * size[:-1]).all()
            assert (size[-1] <= 0.02 * np.maximum(size[0], 1e-30)).all()
    params, grads = {"raw_x": jnp.array([12.0])}, {"raw_x": jnp.array([0.0])}
    grads = jax.grad(lambda p: 3 * fs.tanh(p["raw_x"]).sum())(params)
    norm = fs.decay.global_norm(grads, params, parameters={"x": TANH})
    np.testing.assert_allclose(norm, 3, 1e-5)
