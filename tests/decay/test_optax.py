"""Decay in place of Optax's own, in all that Optax wraps around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _updates import PLAIN, TANH
from flax import linen as nn
from flax import nnx

import flax_stable as fs


def test_raw_parameters_are_known_by_name():
    layer = fs.nnx.StableSoftplusLinear(2, 3, rngs=nnx.Rngs(0))
    model = nnx.List([layer])
    linen = fs.linen.StableSoftplusDense(
        3, kernel_init=nn.with_partitioning(fs.near_permutation(), ("a", "b"))
    )
    params = jax.eval_shape(linen.init, jax.random.key(0), jnp.ones((1, 2)))
    for tree in (
        params,
        nnx.state(model),
        nnx.to_pure_dict(nnx.state(model)),
        model,
        fs.linen.Parametrized(nn.Dense(3))
        and {"params": {"raw_kernel": 1.0, "bias": 1.0}},
        {"raw_kernel": [1.0, {"raw": 2.0}][:1], "raw_block": {"bias": 1.0}},
    ):
        mask = fs.decay.raw_mask(tree)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        assert sorted(jax.tree.leaves(mask)) == [False, True]


def test_plain_parameters_are_treated_as_by_optax(promotion):
    for ours, theirs in (
        (fs.decay.add_decayed_weights(0.1), optax.add_decayed_weights(0.1)),
        (
            fs.decay.add_decayed_weights(
                lambda count: 0.1 * (count + 1), {"a": True, "b": False}
            ),
            optax.add_decayed_weights(
                lambda count: 0.1 * (count + 1), {"a": True, "b": False}
            ),
        ),
        (fs.decay.clip_by_global_norm(6.5), optax.clip_by_global_norm(6.5)),
        (fs.decay.clip_by_global_norm(14.0), optax.clip_by_global_norm(14.0)),
    ):
        states = ours.init(PLAIN), theirs.init(PLAIN)
        for _ in range(2):
            (update, first), (expected, second) = (
                tx.update(PLAIN, state, PLAIN)
                for tx, state in zip((ours, theirs), states, strict=True)
            )
            states = first, second
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, 1e-6), update, expected
            )
    assert fs.decay.global_norm(PLAIN, PLAIN) == 13
    assert fs.decay.global_norm({}, {}) == 0
    some = {"a": PLAIN["a"], "b": {"c": None}}
    assert fs.decay.global_norm(some, PLAIN) == 5


NAMES = {"kernel": TANH, "scale": fs.positive_transform(beta=2.0, floor=1e-3)}
MODEL = {
    "layer": {
        "kernel": nn.Partitioned(jnp.array([0.5, -0.8]), names=("model",)),
        "bias": jnp.array([1.0, 2.0]),
    },
    "norm": {"scale": jnp.array([0.01, 3.0])},
}


def has(name, yes=True, no=False):
    """A function that makes a mask or labels by names."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: yes if name in jax.tree_util.keystr(path) else no, params
    )


WRAPPERS = {
    "chain": lambda make: optax.chain(optax.identity(), make(), optax.scale(0.5)),
    "mask": lambda make: make(mask=has("kernel")),
    "mask of what is plain": lambda make: make(mask=has("bias")),
    "masked": lambda make: optax.masked(make(), has("kernel")),
    "multi_transform": lambda make: optax.multi_transform(
        {"a": make(), "b": optax.sgd(0.1), "c": make()},
        lambda params: {"layer": has("bias", "b", "a")(params["layer"]), "norm": "c"},
    ),
    "MultiSteps": lambda make: optax.MultiSteps(make(), 2),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(
        lambda mask: make(mask=mask), static_args="mask"
    )(mask=has("kernel")),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(), 2),
    "lookahead": lambda make: optax.lookahead(make(), 2, 0.5),
    "schedule_free": lambda make: optax.contrib.schedule_free(make(), 1.0),
    "schedule": lambda make: make(lambda count: 1e-4 * (count + 1)),
}


def trained(tx, params, lookahead):
    """Parameters after four steps without gradients."""
    grads = jax.tree.map(jnp.zeros_like, params)
    if lookahead:
        params = optax.LookaheadParams.init_synced(params)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=4)
        return params

    params = run(params)
    return params.fast if lookahead else params


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("exactly", [False, True], ids=["first order", "exact"])
def test_whatever_optax_wraps_decays_as_the_plain_model(name, exactly, promotion):
    """Where parameters of one kind are left out, too."""
    ours = fs.decay.shrink_weights if exactly else fs.decay.add_decayed_weights

    def make_ours(rate=1e-3, mask=None):
        tx = ours(rate, mask, parameters=NAMES)
        return tx if exactly else optax.chain(tx, optax.scale(-1.0))

    def make_plain(rate=1e-3, mask=None):
        return optax.chain(optax.add_decayed_weights(rate, mask), optax.scale(-1.0))

    plain, raw = (
        trained(WRAPPERS[name](make), params, name == "lookahead")
        for make, params in (
            (make_plain, MODEL),
            (make_ours, fs.unconstrain(MODEL, NAMES)),
        )
    )
    found = fs.constrain(raw, NAMES)
    for a, b, start in zip(*map(jax.tree.leaves, (found, plain, MODEL)), strict=True):
        np.testing.assert_allclose(a - start, b - start, 0.01, 1e-6)
