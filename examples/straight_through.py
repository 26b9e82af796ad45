"""A network whose weights are 1 and -1: it learns by a gradient that is not its own.

The sign of a weight has the slope 0 wherever it has one, and so nothing is learned.  A
straight-through estimator takes the sign forward and the slope of a straight line back.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import flax_stable as fs

STEPS, BATCH, HELD_OUT, HIDDEN = 200, 64, 360, 256


def load_data():
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = (pixels[order] / 8 - 1).astype(np.float32), labels[order]
    return (pixels[HELD_OUT:], labels[HELD_OUT:]), (
        pixels[:HELD_OUT],
        labels[:HELD_OUT],
    )


def scores(params, x, binary):
    """Two layers of binary weights; standardized sums in place of biases."""
    hidden = fs.tanh(fs.standardize(x @ binary(params["hidden"])))
    return hidden @ binary(params["output"]) / HIDDEN**0.5


def loss(params, x, y, binary):
    return optax.softmax_cross_entropy_with_integer_labels(
        scores(params, x, binary), y
    ).mean()


def train(params, data, binary):
    optimizer = optax.adam(1e-2)
    pixels, labels = map(jnp.asarray, data)

    def step(carry, key):
        params, state = carry
        batch = jax.random.randint(key, (BATCH,), 0, len(pixels))
        gradient = jax.grad(loss)(params, pixels[batch], labels[batch], binary)
        updates, state = optimizer.update(gradient, state)
        largest = jnp.max(jnp.abs(gradient["hidden"]))
        return (optax.apply_updates(params, updates), state), largest

    keys = jax.random.split(jax.random.key(1), STEPS)
    start = params, optimizer.init(params)
    (params, _), sizes = jax.lax.scan(step, start, keys)
    return params, sizes


def main():
    train_data, test_data = load_data()
    keys = jax.random.split(jax.random.key(0))
    start = {
        "hidden": jax.random.uniform(keys[0], (64, HIDDEN), minval=-0.5, maxval=0.5),
        "output": jax.random.uniform(keys[1], (HIDDEN, 10), minval=-0.5, maxval=0.5),
    }
    accuracy = {}
    for name, binary in (
        ("the sign itself", jnp.sign),
        ("straight through", fs.gradient.straight_through_sign),
    ):
        run = jax.jit(functools.partial(train, binary=binary))
        params, sizes = run(start, train_data)
        found = jnp.argmax(scores(params, test_data[0], binary), -1)
        accuracy[name] = float(jnp.mean(found == test_data[1]))
        print(
            f"{name:16}: largest gradient {sizes.max():.2g}, held-out accuracy "
            f"{accuracy[name]:.1%}"
        )
        if binary is jnp.sign:
            assert sizes.max() == 0
    weights = fs.gradient.straight_through_sign(params["hidden"])
    print(f"weights: {np.unique(weights)}")
    assert accuracy["the sign itself"] < 0.3
    assert accuracy["straight through"] > 0.9


if __name__ == "__main__":
    main()
