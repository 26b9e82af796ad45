"""Digits seen by another camera, without labels: gradient reversal adapts a classifier.

One camera's images have labels.  The other one is lit unevenly, and nobody has labeled
what it saw.  A second classifier tries to tell the cameras apart by the features of the
first.  It learns to, while the reversed gradient teaches the features that it cannot:
what is left in them is the same for both cameras, and so is what the labels say of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import flax_stable as fs

STEPS, BATCH, LABELED = 400, 64, 900


def load_domains():
    """Images and labels of one camera, and of the other."""
    rng = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(pixels))
    pixels, labels = (pixels[order] / 16).astype(np.float32), labels[order]
    gain = rng.uniform(0.5, 1.5, 64).astype(np.float32)
    light = rng.uniform(0, 0.7, 64).astype(np.float32)
    other = gain * pixels[LABELED:] + light
    return (pixels[:LABELED], labels[:LABELED]), (other, labels[LABELED:])


class Classifier(nn.Module):
    """The digit, and whose camera's image it is, both from the same features."""

    @nn.compact
    def __call__(self, x, reversal):
        features = fs.linen.Tanh()(nn.Dense(128)(x - 0.5))
        digit = nn.Dense(10)(features)
        turned = fs.linen.GradientReversal()(features, reversal)
        camera = 3 * nn.Dense(1, name="camera")(turned)
        return digit, camera[:, 0]


def train(source, target, strength):
    """The share of the target's images whose digit is right, and the camera's loss."""
    model, optimizer = Classifier(), optax.adam(2e-3, b1=0.5)
    (images, labels), unlabeled = map(jnp.asarray, source), jnp.asarray(target[0])
    params = model.init(jax.random.key(0), images[:1], 0.0)

    def loss(params, a, b, progress):
        # The reversal sets in slowly, when there are features worth to be compared.
        reversal = strength * fs.tanh(5 * progress)
        digit, camera = model.apply(
            params, jnp.concatenate([images[a], unlabeled[b]]), reversal
        )
        is_source = jnp.arange(2 * BATCH) < BATCH
        by_digit = optax.softmax_cross_entropy_with_integer_labels(
            digit[:BATCH], labels[a]
        ).mean()
        by_camera = optax.sigmoid_binary_cross_entropy(camera, is_source).mean()
        # Two that play against each other come to rest if one of them is held back.
        decay = 1e-2 * jnp.sum(params["params"]["camera"]["kernel"] ** 2)
        return by_digit + by_camera + decay, by_camera

    def step(carry, i):
        params, state = carry
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
        a = jax.random.randint(keys[0], (BATCH,), 0, len(images))
        b = jax.random.randint(keys[1], (BATCH,), 0, len(unlabeled))
        gradient, by_camera = jax.grad(loss, has_aux=True)(params, a, b, i / STEPS)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), by_camera

    start = params, optimizer.init(params)
    (params, _), by_camera = jax.lax.scan(step, start, jnp.arange(STEPS))
    digit, _ = model.apply(params, unlabeled, 0.0)
    right = jnp.argmax(digit, -1) == jnp.asarray(target[1])
    return jnp.mean(right), jnp.mean(by_camera[-50:])


def main():
    source, target = load_domains()
    run = jax.jit(lambda strength: train(source, target, strength))
    found = {}
    for name, strength in (("without", 0.0), ("with", 0.3)):
        right, by_camera = found[name] = run(strength)
        print(
            f"{name:7} reversal: {right:.1%} of the other camera's digits are right; "
            f"loss of telling the cameras apart: {by_camera:.3f}"
        )
    print(f"A guess has a loss of {np.log(2):.3f}")
    assert found["with"][0] > found["without"][0] + 0.08
    assert found["with"][1] > 0.5 > found["without"][1]


if __name__ == "__main__":
    main()
