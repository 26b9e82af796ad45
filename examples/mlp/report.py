"""What a run says at its end."""

import hashlib

import jax
import numpy as np


def accuracy(apply, params, data):
    """The share of images whose class gets the highest score, on one device."""
    images, targets = data
    scores = jax.jit(apply)(params, images)
    return float(np.mean(np.argmax(scores, -1) == np.argmax(targets, -1)))


def sha256(params):
    """A digest of the parameters: their names, shapes and bits."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def plot(losses, title, file):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    steps, window = np.arange(1, len(losses) + 1), min(25, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    ax.plot(steps, losses, color="#9ecae1", linewidth=1, label="each batch")
    middle = steps[: len(mean)] + window // 2
    ax.plot(middle, mean, color="#08519c", label=f"mean of {window}")
    ax.set(title=title, xlabel="step", ylabel="cross-entropy", yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#eeeeee")
    ax.legend(frameon=False)
    fig.savefig(file, dpi=150)
    plt.close(fig)
