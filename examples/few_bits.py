"""Training with derivatives of few bits: a classifier of handwritten digits.

    python examples/few_bits.py [--activation gelu]

Of each activation the backward pass keeps its input, or of that a code of 1 to 4 bits,
from which the derivative comes back as a step function.  Ten networks with different
weights and batches are trained with each, side by side, and tested on digits that they
have not seen.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import flax_stable as fs

WIDTHS = (64, 128, 128, 10)
SEEDS, STEPS, BATCH = 10, 300, 32
ACTIVATIONS = {
    name: getattr(fs, name) for name in ("gelu", "silu", "mish", "softplus", "tanh")
}


def load_data() -> tuple:
    """Training images and classes, then those held out: one half each."""
    images, classes = load_digits(return_X_y=True)
    split = train_test_split(
        images.astype("float32") / 16, classes, test_size=0.5, random_state=0
    )
    train_x, test_x, train_y, test_y = map(jnp.asarray, split)
    return (train_x, train_y), (test_x, test_y)


def start(seed: int, images: int) -> tuple:
    """Parameters of a network, and for each step which images it sees."""
    rng = np.random.default_rng(seed)
    params = [
        (
            rng.normal(scale=(2 / n) ** 0.5, size=(n, m)).astype("float32"),
            np.zeros(m, "float32"),
        )
        for n, m in pairwise(WIDTHS)
    ]
    return params, rng.integers(0, images, (STEPS, BATCH))


def scores(params: list, x: jax.Array, activation: Callable) -> jax.Array:
    *hidden, (kernel, bias) = params
    for w, b in hidden:
        x = activation(x @ w + b)
    return x @ kernel + bias


def train(params: list, batches: jax.Array, data: tuple, activation: Callable) -> list:
    """The parameters after a step for each batch."""
    optimizer = optax.sgd(0.05, momentum=0.9)

    def loss(params, batch):
        images, classes = (array[batch] for array in data)
        logits = scores(params, images, activation)
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    def step(state, batch):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, batch), moments)
        return (optax.apply_updates(params, updates), moments), None

    state = params, optimizer.init(params)
    return jax.lax.scan(step, state, batches)[0][0]


def bytes_kept(activation: Callable) -> float:
    """Of the activations, for each image of a batch."""
    x = jnp.ones((BATCH, WIDTHS[1]))
    kept = jax.eval_shape(lambda x: jax.vjp(activation, x)[1], x)
    layer = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    return layer * len(WIDTHS[1:-1]) / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activation", choices=ACTIVATIONS, default="gelu")
    activation = ACTIVATIONS[parser.parse_args().activation]
    data, (images, classes) = load_data()
    starts = [start(seed, len(data[0])) for seed in range(SEEDS)]
    params, batches = jax.tree.map(lambda *arrays: np.stack(arrays), *starts)

    @partial(jax.jit, static_argnames="bits")
    def accuracies(params, batches, *, bits):
        """Of the networks, in percent."""

        def accuracy(params, batches):
            params = train(params, batches, data, partial(activation, bits=bits))
            found = scores(params, images, activation).argmax(-1)
            return 100 * (found == classes).mean()

        return jax.vmap(accuracy)(params, batches)

    print("   bits | accuracy, mean of ten | less than exact | bytes for an image")
    print("------- | --------------------- | --------------- | ------------------")
    exact = accuracies(params, batches, bits=None)
    for bits in (None, 4, 3, 2, 1):
        found = exact if bits is None else accuracies(params, batches, bits=bits)
        less, error = (exact - found).mean(), (exact - found).std() / (SEEDS - 1) ** 0.5
        kept = bytes_kept(partial(activation, bits=bits))
        print(
            f"{bits or 'exact':>7} | {found.mean():20.2f}% | {less:7.2f} ± {error:.2f} "
            f" | {kept:18.0f}"
        )


if __name__ == "__main__":
    main()
