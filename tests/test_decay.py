"""Weight decay and clipping of raw parameters: closed forms, Optax, training."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import flax_stable as fs

RAW = np.array([-1e4, -200.0, -90.0, -40.0, -5.0, -0.3, 0.0, 0.7, 5.0, 60.0, 1e4])


@pytest.fixture
def promotion():
    """Optax promotes its counts to floating point."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def applied(tx, params, grads=None):
    """The updates of one step, by default without gradients."""
    grads = jax.tree.map(jnp.zeros_like, params) if grads is None else grads
    return tx.update(grads, tx.init(params), params)[0]


def raw_update(tx, raw):
    return applied(tx, {"raw_x": raw})["raw_x"]


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
        added = fs.decay.add_decayed_weights(1.0, beta=beta)
        shrunk = fs.decay.shrink_weights(rate, beta=beta)
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
        (fs.decay.shrink_weights(0.01), 2e-5),
        (
            optax.chain(
                fs.decay.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.1)
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
        fs.decay.shrink_weights(0.1, floor=floor),
        optax.chain(
            fs.decay.add_decayed_weights(0.1, floor=floor),
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
    # Above twice the floor it is as without one.
    high = {"raw_x": jnp.array([-4.0, 0.0, 3.0])}
    for transformation in (fs.decay.add_decayed_weights, fs.decay.shrink_weights):
        with_floor, without = (
            applied(transformation(0.1, floor=f), high) for f in (floor, 0.0)
        )
        np.testing.assert_array_equal(with_floor["raw_x"], without["raw_x"])


PLAIN = {"a": jnp.array([3.0, -4.0]), "b": {"c": jnp.array([12.0])}}


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
        norm = fs.decay.global_norm(grads, params, **options)
        np.testing.assert_allclose(norm, expected, 1e-4)
        for share in (0.5, 2.0):
            tx = fs.decay.clip_by_global_norm(share * norm, **options)
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
    assert (
        fs.decay.global_norm({"raw_x": jnp.zeros(1)}, {"raw_x": -1e4 * jnp.ones(1)})
        == 0
    )
    half = {"raw_x": jnp.full(4, 100.0, jnp.bfloat16)}
    norm = fs.decay.global_norm(half, half)
    assert norm == 200 and norm.dtype == jnp.float32
    update = applied(fs.decay.clip_by_global_norm(100.0), half, half)["raw_x"]
    assert update.dtype == jnp.bfloat16 and bool((update == 50).all())


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


def test_optax_puts_it_together(promotion):
    """Injected, masked, in a chain and by labels; with boxes and without."""
    raw = nn.Partitioned(jnp.array([-100.0, 1.0]), names=("model",))
    params = {"one": {"raw_x": raw, "x": jnp.ones(1)}, "two": {"raw_x": jnp.ones(1)}}
    decayed = raw_update(fs.decay.add_decayed_weights(0.5), raw.value)

    tx = optax.inject_hyperparams(fs.decay.add_decayed_weights)(
        weight_decay=lambda count: 0.5 * (count + 1)
    )
    state = tx.init(params)
    update = jax.jit(tx.update)
    grads = jax.tree.map(jnp.zeros_like, params)
    for factor in (1, 2):
        updates, state = update(grads, state, params)
        np.testing.assert_allclose(updates["one"]["raw_x"].value, factor * decayed)
        assert updates["one"]["raw_x"].names == ("model",)
        np.testing.assert_allclose(updates["one"]["x"], factor * 0.5)
    assert state.hyperparams.keys() == {"weight_decay", "beta", "floor"}
    injected = optax.inject_hyperparams(fs.decay.shrink_weights)(rate=0.5)
    np.testing.assert_array_equal(
        jax.jit(lambda p: applied(injected, p))(params)["two"]["raw_x"],
        applied(fs.decay.shrink_weights(0.5), params)["two"]["raw_x"],
    )

    only_raw = applied(
        optax.masked(fs.decay.add_decayed_weights(0.5), fs.decay.raw_mask), params
    )
    np.testing.assert_allclose(only_raw["one"]["raw_x"].value, decayed)
    assert only_raw["one"]["x"] == 0
    one = {"one": True, "two": False}
    updates = applied(fs.decay.add_decayed_weights(0.5, one), params)
    np.testing.assert_allclose(updates["one"]["raw_x"].value, decayed)
    assert updates["two"]["raw_x"] == 0
    # A tree may say what is raw: here `one` whole, and nothing else.
    updates = applied(fs.decay.add_decayed_weights(0.5, raw=one), params)
    np.testing.assert_allclose(updates["two"]["raw_x"], 0.5)
    np.testing.assert_allclose(
        updates["one"]["x"], 0.5 * fs.softplus(1.0) / fs.sigmoid(1.0), 1e-6
    )

    def labels(params):
        mask = fs.decay.raw_mask(params)
        return jax.tree.map(lambda is_raw: "raw" if is_raw else "plain", mask)

    parts = {
        "raw": optax.chain(
            fs.decay.clip_by_global_norm(1.0),
            optax.sgd(0.1),
            fs.decay.shrink_weights(0.5),
        ),
        "plain": optax.sgd(0.1),
    }
    updates = jax.jit(lambda p: applied(optax.multi_transform(parts, labels), p))(
        params
    )
    shrunk = fs.softplus(optax.apply_updates(params, updates)["two"]["raw_x"])
    np.testing.assert_allclose(shrunk, 0.5 * fs.softplus(1.0), 1e-5)
    assert updates["one"]["x"] == 0


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
    ours, error = train(fs.decay.add_decayed_weights(0.1))
    plain, plain_error = train(optax.add_decayed_weights(0.1))
    none, _ = train(optax.identity())
    # Weights of inputs that mean nothing vanish, as they do not by themselves; decay of
    # raw parameters holds them up, against the data.
    assert ours[2:].max() < 1e-6 and none[2:].min() > 1e-3
    assert plain[2:].min() > 5 * none[2:].max()
    assert error < 0.1 * plain_error
    np.testing.assert_allclose(ours[:2], jnp.array([2.0, 0.5]), 0.01)


@pytest.mark.parametrize(
    "call, text",
    [
        (
            lambda: fs.decay.shrink_weights(1.0),
            "shrink_weights expects a rate in [0, 1), but got 1.0. It is the learning "
            "rate times the weight decay.",
        ),
        (
            lambda: fs.decay.add_decayed_weights(0.1, beta=0.0),
            "add_decayed_weights expects a finite beta above 0, but got 0.0.",
        ),
        (
            lambda: fs.decay.shrink_weights(0.1, beta=-1.0),
            "shrink_weights expects a finite beta above 0, but got -1.0.",
        ),
        (
            lambda: fs.decay.clip_by_global_norm(0.1, floor=-1.0),
            "clip_by_global_norm expects a finite floor of 0 or more, but got -1.0.",
        ),
        (
            lambda: fs.decay.global_norm(PLAIN, PLAIN, beta=np.nan),
            "global_norm expects a finite beta above 0, but got nan.",
        ),
        (
            lambda: fs.decay.clip_by_global_norm(1.0).update(PLAIN, ()),
            "clip_by_global_norm divides gradients by the slopes at params, but got "
            "none. Call update(updates, state, params).",
        ),
        (
            lambda: fs.decay.add_decayed_weights(0.1).update(PLAIN, ()),
            "params",
        ),
    ],
)
def test_errors_say_what_to_do(call, text):
    with pytest.raises(ValueError) as e:
        call()
    assert text in str(e.value)
