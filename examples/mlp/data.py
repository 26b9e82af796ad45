"""Handwritten digits, and which of them make up which batch."""

import chex
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

IMAGES, HELD_OUT = 1797, 360
PIXELS, CLASSES = 64, 10


def load_data():
    """Images in [0, 1] and one-hot classes: 1437 to train on, 360 held out."""
    images, classes = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[classes]
    train_x, test_x, train_y, test_y = train_test_split(
        images, targets, test_size=HELD_OUT, stratify=classes, random_state=0
    )
    chex.assert_shape([train_x, train_y], [(None, PIXELS), (None, CLASSES)])
    return (train_x, train_y), (test_x, test_y)


def rows_of(step, images, size, seed):
    """The rows of a step's batch; each epoch has an order of its own.

    The seed and the step say all there is to know about the random numbers and the
    position in the data, which is what makes a run easy to take up again.
    """
    epoch, index = divmod(step, images // size)
    order = np.random.default_rng([seed, epoch]).permutation(images)
    return order[index * size : (index + 1) * size]
