"""Trains an MLP on handwritten digits, on any mesh, in either Flax API.

    python examples/train_mlp.py
    python examples/train_mlp.py --api nnx --mesh data=4,model=2 --axis-type explicit

The model is a Dense layer, an activation, and a layer with positive weights, which is
where the ten classes are scored:

    scores = activation(x @ kernel + bias) @ softplus(raw_kernel) + bias

Positive weights cost nothing there.  Softmax only sees differences between scores, so
whatever a hidden unit says in favor of a class may be said as less support for the
others: adding a constant to a unit's ten weights changes no probability, and with a
large enough constant all ten are positive.  What one gains is a layer that can be read:
a weight is how much evidence a unit gives for a class, and no two weights cancel.

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
ACTIVATIONS: dict[str, Callable] = {
    "softplus": fs.softplus,
    "sigmoid": fs.sigmoid,
    "log_sigmoid": fs.log_sigmoid,
    "tanh": fs.tanh,
    "gelu": fs.gelu,
    "silu": fs.silu,
    "mish": fs.mish,
}
AXES = ("data", "fsdp", "model")

# Both models name their layers and parameters alike, so one set of specs serves both.
PARAM_SPECS = {
    "hidden": {"kernel": P("fsdp", "model"), "bias": P("model")},
    "output": {"raw_kernel": P(("model", "fsdp"), None), "bias": P()},
}
COMPUTE_SPECS = {
    "hidden": {"kernel": P(None, "model"), "bias": P("model")},
    "output": {"raw_kernel": P("model", None), "bias": P()},
}
BATCH_SPEC = P(("data", "fsdp"))


class LinenMLP(nn.Module):
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(HIDDEN, dtype=self.dtype, name="hidden")(x)
        x = ACTIVATIONS[self.activation](x)
        return fs.linen.StableSoftplusDense(
            CLASSES, dtype=self.dtype, dot_general=sum_over_model, name="output"
        )(x)


class NnxMLP(nnx.Module):
    def __init__(self, activation, dtype, *, rngs):
        self.activation = activation
        self.hidden = nnx.Linear(PIXELS, HIDDEN, dtype=dtype, rngs=rngs)
        self.output = fs.nnx.StableSoftplusLinear(
            HIDDEN, CLASSES, dtype=dtype, dot_general=sum_over_model, rngs=rngs
        )

    def __call__(self, x):
        x = ACTIVATIONS[self.activation](self.hidden(x))
        return self.output(x)


def sum_over_model(lhs, rhs, dimension_numbers, **kwargs):
    """A matrix product that sums over features split between devices.

    With Auto axes the compiler finds out where the sum goes; with Explicit ones it has
    to be said.
    """
    sharding = jax.typeof(lhs).sharding
    if not sharding.mesh.empty and AxisType.Explicit in sharding.mesh.axis_types:
        kwargs["out_sharding"] = P(sharding.spec[0], None)
    return jax.lax.dot_general(lhs, rhs, dimension_numbers, **kwargs)


def make_model(options):
    """The initial parameters, a dict of dicts, and a function that applies them."""
    if options.api == "linen":
        linen = LinenMLP(options.activation, options.dtype)
        example = np.zeros((1, PIXELS), np.float32)
        variables = jax.jit(linen.init)(jax.random.key(options.seed), example)
        return variables["params"], lambda params, x: linen.apply({"params": params}, x)
    mlp = NnxMLP(options.activation, options.dtype, rngs=nnx.Rngs(options.seed))
    graph, state = nnx.split(mlp)
    return nnx.to_pure_dict(state), lambda params, x: nnx.merge(graph, params)(x)


def make_loss(apply):
    def loss(params, batch):
        images, targets = batch
        scores = apply(gather(params), images).astype(jnp.float32)
        chex.assert_equal_shape([scores, targets])
        return optax.losses.softmax_cross_entropy(scores, targets).mean()

    return loss


def gather(params):
    """Parameters as the model computes with them: whole along ``fsdp``.

    Their gradient is scattered on its way back.
    """
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return jax.tree.map(move, params, COMPUTE_SPECS)


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
            placements.append(fs.testing.Placement(name, mesh, PARAM_SPECS, BATCH_SPEC))
    limit = {"float32": 1e-5, "bfloat16": 2**-5}[options.dtype]
    # Only the order of sums is to differ, not the bits an accelerator rounds off.
    with jax.default_matmul_precision("highest"):
        return fs.testing.assert_same_gradients(
            loss, params, batch, placements, max_relative=limit
        )


def train(loss, params, data, mesh, options):
    """The trained parameters, and the loss of every step."""
    optimizer = optax.adam(options.learning_rate)
    params = place(params, PARAM_SPECS, mesh)
    # The moments are born where their parameters live; the step count is everywhere.
    state = optimizer.init(params)
    state = jax.tree.map(lambda x: x if x.ndim else place(x, P(), mesh), state)
    moments = optax.tree_utils.tree_get(state, "mu")
    fs.testing.assert_on_devices((params, state), mesh)
    fs.testing.assert_sharding((params, moments), (PARAM_SPECS, PARAM_SPECS), mesh)
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
    fs.testing.assert_sharding(params, PARAM_SPECS, mesh)
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
    steps = np.arange(1, len(losses) + 1)
    window = min(25, len(losses))
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
    dtypes = ["float32", "bfloat16"]
    add("--api", choices=["linen", "nnx"], default="linen", help="the Flax API")
    add("--activation", choices=ACTIVATIONS, default="softplus", help="of the MLP")
    add("--mesh", type=mesh_shape, help="such as data=4,model=2; None: data=all")
    add("--axis-type", choices=["auto", "explicit"], default="auto", help="of the mesh")
    add("--dtype", choices=dtypes, default="float32", help="to compute in")
    add("--steps", type=int, default=800, help="to train")
    add("--batch-size", type=int, default=128, help="images a step")
    add("--learning-rate", type=float, default=1e-2, help="of Adam")
    add("--seed", type=int, default=0, help="of parameters and batches")
    add("--cpu-devices", type=int, default=8, help="to make on a CPU machine")
    add("--plot", type=Path, metavar="FILE", help="picture of the loss curve to write")
    options = parser.parse_args(argv)
    options.axis_type = AxisType[options.axis_type.capitalize()]
    for name in ("steps", "batch_size", "learning_rate", "cpu_devices"):
        if not 0 < (value := getattr(options, name)) < math.inf:
            name = name.replace("_", "-")
            parser.error(
                f"argument --{name}: expected a number above 0, but got {value}"
            )
    if options.batch_size > IMAGES - HELD_OUT:
        parser.error(
            f"argument --batch-size: expected at most the {IMAGES - HELD_OUT} training "
            f"images, but got {options.batch_size}"
        )
    if options.seed < 0:
        parser.error(f"argument --seed: expected 0 or more, but got {options.seed}")
    if options.plot and options.plot.suffix not in (".png", ".svg", ".pdf"):
        parser.error(
            "argument --plot: expected a file that ends in .png, .svg or .pdf, but got "
            f"{options.plot}"
        )
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
    chex.assert_trees_all_equal_structs(params, PARAM_SPECS)
    loss = make_loss(apply)

    first = next(batches(train_data, options.batch_size, options.seed))
    print(f"The gradient of one batch on {available()}:\n", flush=True)
    print(f"{compare_meshes(loss, params, first, options)}\n", flush=True)

    mesh = make_mesh(options.mesh, options.axis_type)
    params, losses = train(loss, params, train_data, mesh, options)
    held_out = accuracy(apply, params, test_data, mesh)
    weights = fs.softplus(params["output"]["raw_kernel"])
    print(f"output weights: all positive, {weights.min():.1e} to {weights.max():.1e}")
    print(f"held-out accuracy: {held_out:.1%} of {HELD_OUT} images")
    if options.plot:
        title = f"{options.activation} MLP on digits: {held_out:.1%} held-out accuracy"
        plot(losses, title, options.plot)
        print(f"loss curve: {options.plot}")
    return held_out


if __name__ == "__main__":
    main()
