"""A step of training, and the loop around it."""

import functools
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import flax_stable as fs
from mlp import checkpoints
from mlp.data import rows_of
from mlp.meshes import feed, place
from mlp.model import specs_of
from mlp.processes import Stop, lead

# Steps in a row that may be left out, before training has come to nothing.
PATIENCE = 10


class Trained(NamedTuple):
    """What training leaves behind."""

    params: dict
    losses: list[float]  # of the steps of this run
    loss: float  # the last one, which an earlier run may have seen
    skipped: int
    step_seconds: dict[str, float]


def as_loss(value_and_grad):
    """A loss with this value and this gradient."""

    @functools.partial(fs.custom_vjp, forward_mode=False)
    def loss(params, batch):
        return value_and_grad(params, batch)[0]

    def bwd(gradient, g):
        return jax.tree.map(lambda x: g * x, gradient), None

    loss.defvjp(value_and_grad, bwd)
    return loss


def make_value_and_grad(loss, options, reproducible):
    if reproducible:
        return fs.reproducible_value_and_grad(loss, groups=options.groups)
    return jax.value_and_grad(loss)


def all_finite(tree):
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])


def make_step(value_and_grad, optimizer, layout, separate):
    """A function from parameters, state and batch to the next ones, and what it saw.

    That is the loss, and whether it, each leaf of the gradient and each leaf of the new
    parameters are finite.
    """
    everywhere = NamedSharding(jax.tree.leaves(layout)[0].mesh, P())

    def measure(params, batch):
        value, gradient = value_and_grad(params, batch)
        finite = all_finite((value, gradient))
        # The optimizer leaves out a step by its gradient.
        gradient = jax.tree.map(lambda x: jnp.where(finite[0], x, jnp.nan), gradient)
        return gradient, value, finite

    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, all_finite(params)

    if separate:
        outputs = layout[0], everywhere, everywhere
        measure = jax.jit(measure, out_shardings=outputs)
        outputs = *layout, everywhere
        update = jax.jit(update, donate_argnums=(0, 1), out_shardings=outputs)

    def step(params, state, batch):
        gradient, value, measured = measure(params, batch)
        params, state, updated = update(params, state, gradient)
        return params, state, value, measured, updated

    if separate:  # fused with the gradient, it would be rounded as the mesh has it
        return step
    # jit with shardings is what used to be called pjit.
    outputs = *layout, everywhere, everywhere, everywhere
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=outputs)


def train(loss, params, data, mesh, options):
    """Trains on a mesh, from the last checkpoint if there is one to go on from."""
    optimizer = optax.apply_if_finite(
        optax.adam(options.learning_rate), max_consecutive_errors=PATIENCE
    )
    specs = specs_of(params)
    params = place(params, specs, mesh)
    # The moments are born where their parameters live; counts are everywhere.
    state = optimizer.init(params)
    state = jax.tree.map(lambda x: x if x.ndim else place(x, P(), mesh), state)
    moments = optax.tree_utils.tree_get(state, "mu")
    fs.testing.assert_on_devices((params, state), mesh)
    fs.testing.assert_sharding((params, moments), (specs, specs), mesh)
    layout = jax.tree.map(lambda x: x.sharding, (params, state))

    def steps(reproducible):
        value_and_grad = make_value_and_grad(loss, options, reproducible)
        return make_step(value_and_grad, optimizer, layout, separate=reproducible)

    step = steps(options.reproducible)
    losses: list[float] = []
    with jax.set_mesh(mesh), checkpoints.opened(options) as manager:
        (params, state), done, last = checkpoints.resume(
            manager, (params, state), options
        )
        numbers = range(done, options.steps)
        off = not lead()
        with tqdm(numbers, "training", unit="step", disable=off) as bar:
            for number in bar:
                rows = rows_of(number, len(data[0]), options.batch_size, options.seed)
                batch = feed(data, rows, mesh)
                params, state, value, *finite = step(params, state, batch)
                last = float(value)
                judge(number, finite, params, state, manager, options)
                losses.append(last)
                bar.set_postfix(loss=f"{last:.4f}", refresh=False)
                if (number + 1) % options.save_every == 0:
                    checkpoints.save(
                        manager, number + 1, (params, state), last, options
                    )
        checkpoints.save(manager, options.steps, (params, state), last, options)
        fs.testing.assert_on_devices((params, state), mesh)
        fs.testing.assert_sharding(params, specs, mesh)
        seconds = {}
        if options.reproducible and options.compare:
            batch = feed(data, np.arange(options.batch_size), mesh)
            both = {"reproducible": step, "plain": steps(False)}
            seconds = step_seconds(both, params, state, batch)
    return Trained(params, losses, last, int(state.total_notfinite), seconds)


def judge(number, finite, params, state, manager, options):
    """Stops after a step that was not finite, unless it was left out."""
    measured, updated = map(np.asarray, finite)
    if measured.all() and updated.all():
        return
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    names = ["the loss", *(f"the gradient of {path}" for path in paths)]
    names += [f"the new {path}" for path in paths]
    first = names[int(np.argmin([*measured, *updated]))]
    text = f"step {number + 1}: {first} is not finite"
    if not options.skip_nonfinite:
        text += "; --skip-nonfinite leaves out such a gradient's step"
    elif int(state.notfinite_count) >= PATIENCE:
        text += f", nor was it in the {PATIENCE - 1} steps before, all left out"
    elif updated.all():
        return
    raise Stop(f"{text}. {checkpoints.last_good(manager)}")


def step_seconds(steps, params, state, batch, repeats=20):
    """The median time of each kind of step, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    params, state = jax.tree.map(jnp.copy, (params, state))
    for _ in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            params, state, *_ = jax.block_until_ready(step(params, state, batch))
            times[name].append(time.perf_counter() - start)
    # The first ones were compiled.
    return {name: statistics.median(seen[1:]) for name, seen in times.items()}
