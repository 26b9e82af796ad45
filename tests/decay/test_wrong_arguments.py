"""Wrong arguments, and trees that do not say enough."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _updates import PLAIN, RAW_X, applied, positive_x

import flax_stable as fs


def updated(tx, params=RAW_X):
    return tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda: fs.decay.add_decayed_weights(-1.0),
            ValueError,
            "add_decayed_weights expects weight_decay to be a finite number of 0 or "
            "more, or a schedule of such numbers, but got -1.0. One below 0 would let "
            "weights grow.",
        ),
        (
            lambda: fs.decay.add_decayed_weights(np.float32("nan")),
            ValueError,
            "a finite number of 0 or more, or a schedule of such numbers, but got nan",
        ),
        *(
            (
                lambda wrong=wrong: fs.decay.add_decayed_weights(wrong),
                TypeError,
                "add_decayed_weights expects weight_decay to be a finite number of 0 "
                f"or more, or a schedule of such numbers, but got {wrong}.",
            )
            for wrong in ("kernel", None, True, 1j, [0.1], jnp.ones(2), PLAIN)
        ),
        (
            lambda: fs.decay.add_decayed_weights(jax.random.key(0)),
            TypeError,
            "add_decayed_weights expects weight_decay to be",
        ),
        (
            lambda: fs.decay.shrink_weights(1.0),
            ValueError,
            "shrink_weights expects rate to be a number in [0, 1), or a schedule of "
            "such numbers, but got 1.0. It is the learning rate times the weight",
        ),
        (
            lambda: fs.decay.clip_by_global_norm(0),
            ValueError,
            "clip_by_global_norm expects max_norm to be a number above 0, but got 0.",
        ),
        (
            lambda: fs.decay.clip_by_global_norm(optax.constant_schedule(1.0)),
            TypeError,
            "For a schedule use optax.inject_hyperparams.",
        ),
        (
            lambda: fs.decay.shrink_weights(0.1, "kernel"),
            TypeError,
            "shrink_weights expects mask to be a tree of booleans, or a function that "
            "makes one of parameters, but it holds 'kernel'. Write True where weights",
        ),
        (
            lambda: fs.decay.clip_by_global_norm(1.0, parameters=3),
            TypeError,
            "clip_by_global_norm expects parameters to be names of raw parameters, a "
            "dict from names to transforms, or a function of paths and values, but got "
            "3. Write them as for flax_stable.constrain.",
        ),
        (
            lambda: updated(fs.decay.shrink_weights(0.1, parameters={"x": fs.tanh})),
            TypeError,
            "shrink_weights expects parameters to give 'x' a Transform or a sequence "
            "of them, but got <",
        ),
        (
            lambda: updated(fs.decay.shrink_weights(0.1, parameters=("x", ".*"))),
            ValueError,
            "expects one name in parameters for 'x', but got ['x', '.*']. Give one",
        ),
        (
            lambda: updated(fs.decay.add_decayed_weights(0.1, **positive_x(beta=0.0))),
            ValueError,
            "positive_transform expects a finite beta above 0, but got 0.0.",
        ),
        (
            lambda: updated(
                fs.decay.add_decayed_weights(0.1, parameters="kernel"),
                {"a": {"raw_kernel": jnp.ones(2)}, "b": RAW_X},
            ),
            ValueError,
            "add_decayed_weights expects parameters to tell how raw ones are read, but "
            "they say nothing of ['b/x']. Add 'b/x' if it is read by flax_stable."
            "positive as it is, {'b/x': flax_stable.positive_transform(beta=..., "
            "floor=...)} or another Transform if by that, {'b/x': ()} if by none.",
        ),
        (
            lambda: fs.decay.global_norm(RAW_X, RAW_X),
            ValueError,
            "global_norm expects parameters to tell how raw ones are read, but they "
            "say nothing of ['x'].",
        ),
        (
            lambda: updated(
                optax.flatten(fs.decay.shrink_weights(0.1, parameters="x"))
            ),
            ValueError,
            "shrink_weights knows raw parameters by their names, but params hold "
            "arrays that have none. Put it outside of optax.flatten, which takes",
        ),
        *(
            (
                lambda tx=tx: tx.update(PLAIN, tx.init(PLAIN)),
                ValueError,
                "acts on what params are read as, but got None for them. Call update("
                "updates, state, params).",
            )
            for tx in (
                fs.decay.add_decayed_weights(0.1),
                fs.decay.shrink_weights(0.1),
                fs.decay.clip_by_global_norm(1.0),
            )
        ),
    ],
)
def test_errors_say_what_to_do(call, error, text):
    with pytest.raises(error) as e:
        call()
    assert text in str(e.value)


def test_raw_parameters_may_be_told_not_to_be():
    tell = {"parameters": lambda path, value: () if value.ndim else None}
    update = applied(fs.decay.add_decayed_weights(0.5, **tell), RAW_X)
    np.testing.assert_array_equal(update["raw_x"], 0.5 * jnp.ones(2))
