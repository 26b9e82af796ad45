"""The command line: its options, and what is wrong with them."""

import argparse
import math
from pathlib import Path

import jax
from jax.sharding import AxisType

from mlp.data import HELD_OUT, IMAGES
from mlp.meshes import AXES, LIMITS, misfit
from mlp.model import ACTIVATIONS
from mlp.processes import Stop


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Stop(message, 2)


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


def parse_options(argv, description):
    parser = Parser(
        prog="train_mlp.py",
        description=description,
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
    add("--plot", type=Path, metavar="FILE", help="picture of the loss curve to write")
    compare = "a new run's gradients on other meshes, the price of --reproducible"
    add("--compare", action=argparse.BooleanOptionalAction, default=True, help=compare)

    bits = "the same bits on every mesh, from groups of a batch, at some cost"
    add("--reproducible", action="store_true", help=bits)
    add("--groups", type=int, default=8, help="in a batch, for --reproducible")

    add("--cpu-devices", type=int, default=8, help="to make of CPUs, all in all")
    add("--spawn", type=int, default=1, help="local processes to start, on the CPU")
    where = "host:port of process 0, or auto on a TPU pod, on Slurm, under MPI"
    add("--coordinator", metavar="ADDRESS", help=where)
    add("--num-processes", type=int, help="that the coordinator waits for")
    add("--process-id", type=int, help="of this process, from 0")

    add("--checkpoint-dir", type=Path, metavar="DIR", help="where to save the run")
    add("--save-every", type=int, default=100, help="steps, and at the end")
    add("--resume", action="store_true", help="go on from the last checkpoint, if any")
    skip = "leave out a step whose loss or gradient is NaN or infinite, don't stop"
    add("--skip-nonfinite", action="store_true", help=skip)
    options = parser.parse_args(argv)
    options.axis_type = AxisType[options.axis_type.capitalize()]
    check_options(options, parser)
    return options


def check_options(options, parser):
    """Complains of what is wrong whatever devices there are."""

    def check(name, fits, expected):
        value = getattr(options, name)
        if value is not None and not fits(value):
            name = name.replace("_", "-")
            parser.error(f"argument --{name}: expected {expected}, but got {value}")

    positive = "steps batch_size learning_rate cpu_devices groups spawn save_every"
    for name in positive.split():
        check(name, lambda x: 0 < x < math.inf, "a number above 0")
    most, endings = IMAGES - HELD_OUT, (".png", ".svg", ".pdf")
    check("batch_size", lambda x: x <= most, f"at most the {most} training images")
    check("seed", lambda x: x >= 0, "0 or more")
    picture = "a file that ends in .png, .svg or .pdf"
    check("plot", lambda x: x.suffix in endings, picture)
    if options.plot and not options.plot.parent.is_dir():
        parser.error(f"argument --plot: there is no folder {options.plot.parent}")
    if options.reproducible:
        multiple = f"a multiple of --groups {options.groups}"
        check("batch_size", lambda x: x % options.groups == 0, multiple)
    if options.resume and not options.checkpoint_dir:
        parser.error("argument --resume: expected --checkpoint-dir too, but got none")
    check_processes(options, parser, check)


def check_processes(options, parser, check):
    address, n = options.coordinator, options.num_processes
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal()):
            parser.error(
                "argument --coordinator: expected host:port or auto, but got "
                f"{address!r}"
            )
        if n is None or options.process_id is None:
            parser.error(
                "argument --coordinator: expected --num-processes and --process-id "
                "with an address; without them only auto finds the processes"
            )
        check("num_processes", lambda x: x > 0, "a number above 0")
        check("process_id", lambda x: 0 <= x < n, f"a number from 0 to {n - 1}")
    elif n is not None or options.process_id is not None:
        parser.error(
            "argument --num-processes: expected with --coordinator host:port only"
        )
    if options.spawn > 1 and address:
        parser.error("argument --spawn: expected without --coordinator")
    count = max(options.spawn, n or 1)
    even = f"a multiple of the {count} processes"
    check("cpu_devices", lambda x: x % count == 0, even)


def choose_mesh(options):
    """The mesh to train on, which takes devices to know."""
    if options.mesh is None:
        groups = options.groups if options.reproducible else 0
        size = math.gcd(options.batch_size, len(jax.devices()), groups)
        options.mesh = {"data": size} if size > 1 else {}
    if problem := misfit(options.mesh, options):
        shape = ",".join(f"{axis}={size}" for axis, size in options.mesh.items())
        raise Stop(f"argument --mesh: {shape or 'one device'} {problem}", 2)
