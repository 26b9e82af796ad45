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
import functools
import math
import os
import sys
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

PIXELS, HIDDEN, CLASSES = 64, 256, 10
ACTIVATIONS = {
    "softplus": fs.softplus,
    "sigmoid": fs.sigmoid,
    "log_sigmoid": fs.log_sigmoid,
    "tanh": fs.tanh,
}
AXES = ("data", "fsdp", "model")

# Both models name their layers and parameters alike, so one set of specs serves both.
PARAM_SPECS = {
    "hidden": {"kernel": P("fsdp", "model"), "bias": P("model")},
    "output": {"raw_kernel": P(("model", "fsdp"), None), "bias": P()},
}
BATCH_SPEC = P(("data", "fsdp"))


# --- The model, in both APIs ------------------------------------------------


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
        model = LinenMLP(options.activation, options.dtype)
        init = jax.jit(model.init)
        params = init(jax.random.key(options.seed), np.zeros((1, PIXELS), "float32"))
        return params["params"], lambda params, x: model.apply({"params": params}, x)
    model = NnxMLP(options.activation, options.dtype, rngs=nnx.Rngs(options.seed))
    graph, state = nnx.split(model)
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

    Again the compiler does it by itself with Auto axes, and has to be told with
    Explicit ones.  The gradient is scattered on its way back.
    """

    def gather_one(param):
        sharding = jax.typeof(param).sharding
        if sharding.mesh.empty or AxisType.Explicit not in sharding.mesh.axis_types:
            return param
        keep = [
            "model" if entry == "model" or "model" in (entry or ()) else None
            for entry in sharding.spec
        ]
        return jax.sharding.reshard(param, P(*keep))

    return jax.tree.map(gather_one, params)


# --- Data and devices -------------------------------------------------------


def load_data():
    """Images in [0, 1] and one-hot classes: 1437 to train on, 360 held out."""
    images, classes = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[classes]
    train_x, test_x, train_y, test_y = train_test_split(
        images, targets, test_size=360, stratify=classes, random_state=0
    )
    chex.assert_shape([train_x, test_x], (None, PIXELS))
    chex.assert_shape([train_y, test_y], (None, CLASSES))
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
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda spec: isinstance(spec, P),
    )
    return jax.device_put(tree, shardings)


def misfit(shape, batch_size):
    """Why a mesh of this shape cannot train this model, or None if it can."""
    data, fsdp, model = (shape.get(axis, 1) for axis in AXES)
    if data * fsdp * model > len(jax.devices()):
        return (
            f"needs {data * fsdp * model} devices, but there are {describe_devices()}"
        )
    if batch_size % (data * fsdp):
        return f"splits the batch in {data * fsdp}, which does not divide {batch_size}"
    if PIXELS % fsdp or HIDDEN % (fsdp * model):
        return f"splits layers of {PIXELS} and {HIDDEN} features into unequal parts"
    return None


def describe_devices():
    devices = jax.devices()
    return f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"


# --- Comparing meshes, training, testing ------------------------------------


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
        shapes["--mesh"] = options.mesh
    placements = [
        fs.testing.Placement(
            name, make_mesh(shape, options.axis_type), PARAM_SPECS, BATCH_SPEC
        )
        for name, shape in shapes.items()
        if not shape or math.prod(shape.values()) > 1
        if not misfit(shape, len(batch[0]))
    ]
    # Only the order of sums is to differ, not the bits an accelerator rounds off.
    with jax.default_matmul_precision("highest"):
        return fs.testing.assert_same_gradients(
            loss,
            params,
            batch,
            placements,
            max_relative=1e-5 if options.dtype == "float32" else 2**-6,
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
    @chex.assert_max_traces(1)
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
    ax.plot(steps[window - 1 :], mean, color="#08519c", label=f"mean of {window}")
    ax.set(title=title, xlabel="step", ylabel="cross-entropy", yscale="log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#eeeeee")
    ax.legend(frameon=False)
    fig.savefig(file, dpi=150)
    plt.close(fig)


# --- The command line -------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def mesh_shape(text):
    """'data=4,model=2' as a dict; axes of size 1 are dropped."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shape = {axis.strip(): int(size) for axis, size in pairs}
        if len(shape) < len(pairs) or not shape.keys() <= set(AXES):
            raise ValueError
        if min(shape.values()) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected sizes of the axes {', '.join(AXES)}, such as data=4,model=2, "
            f"but got {text!r}"
        ) from None
    return {axis: size for axis, size in shape.items() if size > 1}


def positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected more than 0, but got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def parse_options(argv):
    parser = Parser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--api", choices=["linen", "nnx"], default="linen", help="the Flax API")
    add("--activation", choices=ACTIVATIONS, default="softplus", help="between layers")
    add("--mesh", type=mesh_shape, help="such as data=4,model=2 (default: data=all)")
    add("--axis-type", choices=["auto", "explicit"], default="auto", help="of the mesh")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="to compute in",
    )
    add("--steps", type=positive(int), default=600, help="of training")
    add("--batch-size", type=positive(int), default=128, help="images a step")
    add("--learning-rate", type=positive(float), default=3e-3, help="of Adam")
    add("--seed", type=int, default=0, help="of parameters and batches")
    add("--cpu-devices", type=positive(int), default=8, help="to make on a CPU machine")
    add("--plot", type=Path, metavar="FILE", help="write a picture of the loss curve")
    options = parser.parse_args(argv)
    options.axis_type = AxisType[options.axis_type.capitalize()]

    make_cpu_devices(options.cpu_devices)
    if options.mesh is None:
        options.mesh = {"data": math.gcd(options.batch_size, len(jax.devices()))}
    problem = misfit(options.mesh, options.batch_size)
    if problem:
        shape = ",".join(f"{axis}={size}" for axis, size in options.mesh.items())
        parser.error(f"argument --mesh: {shape} {problem}")
    return options


def make_cpu_devices(n):
    """Makes the CPU look like several devices; a GPU or TPU machine does not notice."""
    try:
        if "xla_force_host_platform_device_count" not in os.environ.get(
            "XLA_FLAGS", ""
        ):
            jax.config.update("jax_num_cpu_devices", n)
    except RuntimeError:
        pass  # JAX has started already, in a notebook or a test: its devices are used.


def main(argv=None):
    options = parse_options(argv)
    train_data, test_data = load_data()
    params, apply = make_model(options)
    chex.assert_trees_all_equal_structs(params, PARAM_SPECS)
    loss = make_loss(apply)

    first = next(batches(train_data, options.batch_size, options.seed))
    print(f"The gradient of one batch on {describe_devices()}:\n")
    print(compare_meshes(loss, params, first, options), "\n")

    mesh = make_mesh(options.mesh, options.axis_type)
    params, losses = train(loss, params, train_data, mesh, options)
    held_out = accuracy(apply, params, test_data, mesh)
    print(f"held-out accuracy: {held_out:.1%} of {len(test_data[0])} images")
    if options.plot:
        title = f"{options.activation} MLP on digits: {held_out:.1%} held-out accuracy"
        plot(losses, title, options.plot)
        print(f"loss curve: {options.plot}")
    return held_out


if __name__ == "__main__":
    main(sys.argv[1:])
