"""Trains an MLP on handwritten digits, on any mesh, in either Flax API.

    python examples/train_mlp.py
    python examples/train_mlp.py --api nnx --mesh data=4,model=2 --axis-type explicit
    python examples/train_mlp.py --mlp gated --activation silu
    python examples/train_mlp.py --reproducible --spawn 4
    python examples/train_mlp.py --checkpoint-dir run --resume --steps 2000

The model is a Dense layer, an activation, and a layer with positive weights, which is
where the ten classes are scored:

    scores = activation(x @ kernel + bias) @ softplus(raw_kernel) + bias

Positive weights cost nothing there: softmax sees differences between scores, so adding
a constant to a unit's ten weights changes no probability.  What one gains is a layer
that can be read: a weight is how much evidence a unit gives for a class, and no two
weights cancel.  With ``--mlp gated`` what it reads is a block as transformers have it:

    (x @ up * activation(x @ gate)) @ down

A layout is a mesh and nothing else.  The batch is split over ``data`` and ``fsdp``, the
parameters over ``fsdp`` (stored in parts, gathered for use) and ``model`` (computed
with in parts: the first layer by columns, the second by rows, one sum between devices).
An axis that is left out has size 1 and splits nothing.

The parts are in ``mlp/``: model, data, meshes, training, checkpoints, processes, report
and options.
"""

import functools
import sys

import numpy as np

import flax_stable as fs
from mlp.data import HELD_OUT, load_data, rows_of
from mlp.meshes import available, compare_meshes, fetch, make_mesh
from mlp.model import apply_jax_nn, kept_bytes, make_loss, make_model
from mlp.options import choose_mesh, parse_options
from mlp.processes import ending_together, join, say, spawn
from mlp.report import accuracy, plot, sha256
from mlp.training import as_loss, make_value_and_grad, train


def main(argv=None):
    with ending_together():
        argv = sys.argv[1:] if argv is None else argv
        options = parse_options(argv, __doc__.split("\n")[0])
        if options.spawn > 1:
            if failure := spawn(__file__, argv, options.spawn):
                raise failure
            return None
        join(options)
        choose_mesh(options)
        return run(options)


def run(options):
    """Compares meshes, trains on one of them, and says how it went."""
    train_data, test_data = load_data()
    params, apply = make_model(options)
    loss = make_loss(apply)
    peer = functools.partial(apply_jax_nn, options)
    ours, theirs = kept_bytes(apply, params), kept_bytes(peer, params)
    if options.compare and not options.resume:
        rows = rows_of(0, len(train_data[0]), options.batch_size, options.seed)
        batch = tuple(part[rows] for part in train_data)
        judged = as_loss(make_value_and_grad(loss, options, options.reproducible))
        say(f"The gradient of one batch on {available()}:\n")
        say(f"{compare_meshes(judged, params, batch, options)}\n")

    mesh = make_mesh(options.mesh, options.axis_type)
    trained = train(loss, params, train_data, mesh, options)
    params = fetch(trained.params)
    held_out = accuracy(apply, params, test_data)
    weights = np.asarray(fs.softplus(params["output"]["raw_kernel"]))
    say(f"output weights: all positive, {weights.min():.1e} to {weights.max():.1e}")
    say(f"kept for the backward pass: {ours:,} bytes an image; jax.nn: {theirs:,}")
    if seconds := trained.step_seconds:
        ours, plain = seconds["reproducible"], seconds["plain"]
        say(
            f"a step: {ours * 1e3:.2f} ms reproducible, {plain * 1e3:.2f} ms plain "
            f"({ours / plain:.2f} times), medians of 20 on {available()}"
        )
    if options.skip_nonfinite:
        say(f"steps left out, not finite: {trained.skipped}")
    if options.plot and trained.losses:
        title = f"{options.activation} MLP on digits: {held_out:.1%} held-out accuracy"
        plot(trained.losses, title, options.plot)
        say(f"loss curve: {options.plot}")
    say(f"final loss: {trained.loss:.9g}")
    say(f"held-out accuracy: {held_out:.1%} of {HELD_OUT} images")
    say(f"SHA-256 of the parameters: {sha256(params)}")
    return held_out


if __name__ == "__main__":
    main()
