"""Trains an MLP on handwritten digits, on any mesh, in either Flax API.

    python examples/train_mlp.py
    python examples/train_mlp.py --api nnx --mesh data=4,model=2 --axis-type explicit
    python examples/train_mlp.py --mlp gated --activation silu

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
"""

import argparse
import contextlib
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import flax_stable as fs

IMAGES, HELD_OUT = 1797, 360
PIXELS, HIDDEN, CLASSES = 64, 256, 10
NAMES = "softplus", "sigmoid", "log_sigmoid", "tanh", "gelu", "silu", "mish"
ACTIVATIONS: dict[str, Callable] = {name: getattr(fs, name) for name in NAMES}
LIMITS = {"float32": 1e-5, "bfloat16": 2**-5}  # of gradients on one mesh and another
AXES = ("data", "fsdp", "model")
BATCH_SPEC = P(("data", "fsdp"))


class LinenMLP(nn.Module):
    hidden: nn.Module
    after: Callable
    output: nn.Module

    def __call__(self, x):
        return self.output(self.after(self.hidden(x)))


class NnxMLP(nnx.Module):
    def __init__(self, hidden, after, output):
        self.hidden, self.after, self.output = hidden, after, output

    def __call__(self, x):
        return self.output(self.after(self.hidden(x)))


def make_model(options):
    """The initial parameters, a dict of dicts, and a function that applies them."""
    hidden: Any
    activation, gated = ACTIVATIONS[options.activation], options.mlp == "gated"
    after = fs.identity if gated else activation

    def unit(value, gate):
        return value * activation(gate)

    if options.api == "linen":
        hidden = nn.Dense(HIDDEN, dtype=options.dtype)
        if gated:
            hidden = fs.linen.GatedMLP(HIDDEN, activation=unit, dtype=options.dtype)
        output = fs.linen.StableSoftplusDense(CLASSES, dtype=options.dtype)
        linen = LinenMLP(hidden, after, output)
        key, example = jax.random.key(options.seed), np.zeros((1, PIXELS), np.float32)
        params = jax.jit(linen.init)(key, example)["params"]
        return params, lambda params, x: linen.apply({"params": params}, x)
    make = {"dtype": options.dtype, "rngs": nnx.Rngs(options.seed)}
    hidden = nnx.Linear(PIXELS, HIDDEN, **make)
    if gated:
        hidden = fs.nnx.GatedMLP(PIXELS, HIDDEN, activation=unit, **make)
    last = fs.nnx.StableSoftplusLinear(PIXELS if gated else HIDDEN, CLASSES, **make)
    graph, state = nnx.split(NnxMLP(hidden, after, last))
    return nnx.to_pure_dict(state), lambda params, x: nnx.merge(graph, params)(x)


def apply_jax_nn(options, params, x):
    """The same model of the functions of `jax.nn`, to compare with."""
    activation = getattr(jax.nn, options.activation)
    x, params = jax.tree.map(lambda a: a.astype(options.dtype), (x, params))
    hidden, output = params["hidden"], params["output"]
    if options.mlp == "gated":
        value, gate = (x @ hidden[name]["kernel"] for name in ("up", "gate"))
        x = (value * activation(gate)) @ hidden["down"]["kernel"]
    else:
        x = activation(x @ hidden["kernel"] + hidden["bias"])
    return x @ jax.nn.softplus(output["raw_kernel"]) + output["bias"]


def kept_bytes(apply, params):
    """What the backward pass keeps of an image: the difference that one more makes."""

    def vjp(params, x):
        return jax.vjp(lambda params: apply(params, x), params)[1]

    kept = [jax.eval_shape(vjp, params, np.zeros((n, PIXELS), "f")) for n in (1, 2)]
    one, two = (
        sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(t)) for t in kept
    )
    return two - one


def make_loss(apply):
    def loss(params, batch):
        images, targets = batch
        scores = apply(gather(params), images).astype(jnp.float32)
        chex.assert_equal_shape([scores, targets])
        return optax.losses.softmax_cross_entropy(scores, targets).mean()

    return loss


def gather(params):
    """Parameters whole along ``fsdp``, to compute with; gradients are scattered."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return jax.tree.map(move, params, specs_of(params, fsdp=()))


def specs_of(params, fsdp=("fsdp",)):
    """Where parameters live; both APIs name layers and parameters alike."""
    up, down = P(fsdp, "model"), P(("model", *fsdp), None)
    hidden: Any = {"kernel": up, "bias": P("model")}
    if gated := "up" in params["hidden"]:
        hidden = {"up": up, "gate": up, "down": down}
        hidden = {name: {"kernel": spec} for name, spec in hidden.items()}
    raw_kernel = P(fsdp, None) if gated else down
    return {"hidden": hidden, "output": {"raw_kernel": raw_kernel, "bias": P()}}


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


def batches(data, size, seed):
    """Batches without end, each epoch in an order of its own."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(data[0]))
        for start in range(0, len(order) - size + 1, size):
            yield tuple(part[order[start : start + size]] for part in data)


def make_mesh(shape, axis_type):
    sizes = [shape.get(axis, 1) for axis in AXES]
    devices = jax.devices()[: math.prod(sizes)]
    return jax.make_mesh(sizes, AXES, (axis_type,) * len(AXES), devices=devices)


def place(tree, specs, mesh):
    """Puts arrays on a mesh.

    The one place to change for several processes, each of which would hand in its part
    to `jax.make_array_from_process_local_data`.
    """
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    # Training donates what it is given, which must not be the caller's own arrays.
    return jax.device_put(tree, shardings, may_alias=False)


def misfit(shape, batch_size):
    """Why a mesh of this shape cannot train this model, or None if it can."""
    data, fsdp, model = (shape.get(axis, 1) for axis in AXES)
    if data * fsdp * model > len(jax.devices()):
        return f"needs {data * fsdp * model} devices, but there are {available()}"
    if batch_size % (data * fsdp):
        return f"splits the batch in {data * fsdp}, which does not divide {batch_size}"
    if PIXELS % fsdp or HIDDEN % (fsdp * model):
        return f"splits layers of {PIXELS} and {HIDDEN} features into unequal parts"
    return None


def available():
    devices = jax.devices()
    return f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"


def compare_meshes(loss, params, batch, options):
    """The gradient of one batch on every kind of mesh that fits the devices."""
    n = len(jax.devices())
    shapes = {
        "one device": {},
        "data parallel": {"data": n},
        "tensor parallel": {"model": n},
        "fully sharded": {"fsdp": n},
        "data x tensor": {"data": n // 2, "model": 2},
    }
    if options.mesh not in shapes.values():
        shapes["as trained"] = options.mesh
    placements = []
    for name, shape in shapes.items():
        if min(shape.values(), default=2) > 1 and not misfit(shape, options.batch_size):
            mesh = make_mesh(shape, options.axis_type)
            placements.append(
                fs.testing.Placement(name, mesh, specs_of(params), BATCH_SPEC)
            )
    # Only the order of sums is to differ, not the bits an accelerator rounds off.
    with jax.default_matmul_precision("highest"):
        return fs.testing.assert_same_gradients(
            loss, params, batch, placements, max_relative=LIMITS[options.dtype]
        )


def train(loss, params, data, mesh, options):
    """The trained parameters, and the loss of every step."""
    optimizer = optax.adam(options.learning_rate)
    specs = specs_of(params)
    params = place(params, specs, mesh)
    # The moments are born where their parameters live; the step count is everywhere.
    state = optimizer.init(params)
    state = jax.tree.map(lambda x: x if x.ndim else place(x, P(), mesh), state)
    moments = optax.tree_utils.tree_get(state, "mu")
    fs.testing.assert_on_devices((params, state), mesh)
    fs.testing.assert_sharding((params, moments), (specs, specs), mesh)
    kept = jax.tree.map(lambda x: x.sharding, (params, state))

    # jit with shardings is what used to be called pjit.
    @functools.partial(jax.jit, donate_argnums=(0, 1), out_shardings=(*kept, None))
    def step(params, state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    source = batches(data, options.batch_size, options.seed)
    with jax.set_mesh(mesh), tqdm(range(options.steps), "training", unit="step") as bar:
        for _ in bar:
            batch = place(next(source), BATCH_SPEC, mesh)
            params, state, value = step(params, state, batch)
            losses.append(float(value))
            bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
    fs.testing.assert_on_devices((params, state, batch), mesh)
    fs.testing.assert_sharding(params, specs, mesh)
    chex.assert_tree_all_finite(params)
    return params, losses


def accuracy(apply, params, data, mesh):
    """The share of images whose class gets the highest score."""
    with jax.set_mesh(mesh):
        images = place(data[0], P(), mesh)
        scores = jax.jit(lambda params, x: apply(gather(params), x))(params, images)
    return float(np.mean(np.argmax(scores, -1) == np.argmax(data[1], -1)))


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


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def mesh_shape(text):
    """'data=4,model=2' as a dict; axes of size 1 are dropped."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shape = {axis.strip(): int(size) for axis, size in pairs}
        if len(shape) < len(pairs) or {*shape} - {*AXES} or min(shape.values()) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected sizes of the axes {', '.join(AXES)}, such as data=4,model=2, "
            f"but got {text!r}"
        ) from None
    return {axis: size for axis, size in shape.items() if size > 1}


def parse_options(argv):
    parser = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--api", choices=["linen", "nnx"], default="linen", help="the Flax API")
    add("--mlp", choices=["plain", "gated"], default="plain", help="the hidden layers")
    add("--activation", choices=ACTIVATIONS, default="softplus", help="of the MLP")
    add("--mesh", type=mesh_shape, help="such as data=4,model=2; None: data=all")
    add("--axis-type", choices=["auto", "explicit"], default="auto", help="of the mesh")
    add("--dtype", choices=LIMITS, default="float32", help="to compute in")
    add("--steps", type=int, default=800, help="to train")
    add("--batch-size", type=int, default=128, help="images a step")
    add("--learning-rate", type=float, default=1e-2, help="of Adam")
    add("--seed", type=int, default=0, help="of parameters and batches")
    add("--cpu-devices", type=int, default=8, help="to make on a CPU machine")
    add("--plot", type=Path, metavar="FILE", help="picture of the loss curve to write")
    options = parser.parse_args(argv)
    options.axis_type = AxisType[options.axis_type.capitalize()]

    def check(name, fits, expected):
        if not fits(value := getattr(options, name)):
            name = name.replace("_", "-")
            parser.error(f"argument --{name}: expected {expected}, but got {value}")

    for name in ("steps", "batch_size", "learning_rate", "cpu_devices"):
        check(name, lambda x: 0 < x < math.inf, "a number above 0")
    most, endings = IMAGES - HELD_OUT, (".png", ".svg", ".pdf")
    check("batch_size", lambda x: x <= most, f"at most the {most} training images")
    check("seed", lambda x: x >= 0, "0 or more")
    picture = "a file that ends in .png, .svg or .pdf"
    check("plot", lambda x: not x or x.suffix in endings, picture)
    if options.plot and not options.plot.parent.is_dir():
        parser.error(f"argument --plot: there is no folder {options.plot.parent}")

    make_cpu_devices(options.cpu_devices)
    if options.mesh is None:
        options.mesh = {"data": math.gcd(options.batch_size, len(jax.devices()))}
    if problem := misfit(options.mesh, options.batch_size):
        shape = ",".join(f"{axis}={size}" for axis, size in options.mesh.items())
        parser.error(f"argument --mesh: {shape} {problem}")
    return options


def make_cpu_devices(n):
    """Makes the CPU look like several devices; a GPU or TPU machine does not notice."""
    # JAX may have started already, in a notebook or a test: its devices are used then.
    with contextlib.suppress(RuntimeError):
        if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", n)


def main(argv=None):
    options = parse_options(argv)
    train_data, test_data = load_data()
    params, apply = make_model(options)
    loss = make_loss(apply)
    peer = functools.partial(apply_jax_nn, options)
    ours, theirs = kept_bytes(apply, params), kept_bytes(peer, params)
    first = next(batches(train_data, options.batch_size, options.seed))
    print(f"The gradient of one batch on {available()}:\n", flush=True)
    print(f"{compare_meshes(loss, params, first, options)}\n", flush=True)

    mesh = make_mesh(options.mesh, options.axis_type)
    params, losses = train(loss, params, train_data, mesh, options)
    held_out = accuracy(apply, params, test_data, mesh)
    weights = fs.softplus(params["output"]["raw_kernel"])
    print(f"output weights: all positive, {weights.min():.1e} to {weights.max():.1e}")
    print(f"kept for the backward pass: {ours:,} bytes an image; jax.nn: {theirs:,}")
    print(f"held-out accuracy: {held_out:.1%} of {HELD_OUT} images")
    if options.plot:
        title = f"{options.activation} MLP on digits: {held_out:.1%} held-out accuracy"
        plot(losses, title, options.plot)
        print(f"loss curve: {options.plot}")
    return held_out


if __name__ == "__main__":
    main()
