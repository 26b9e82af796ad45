"""Runs of the example: as a user starts it, and inside of this process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import flax_stable as fs
import train_mlp
from mlp.data import load_data
from mlp.meshes import fetch, make_mesh
from mlp.model import make_loss, make_model
from mlp.options import choose_mesh, parse_options
from mlp.processes import join
from mlp.report import sha256
from mlp.training import train

DATA, _ = load_data()
MODELS: dict[tuple, tuple] = {}


def start(*arguments):
    """The example as a user starts it, with warnings as errors."""
    package_root = str(Path(fs.__file__).parents[1])
    path = os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "error", train_mlp.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments):
    """Its standard output, once it has ended well."""
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def trained(arguments, data=DATA):
    """What is left of training in this process, and the digest of its parameters."""
    options = parse_options([*arguments.split(), "--no-compare"], "")
    join(options)
    choose_mesh(options)
    model = options.api, options.mlp, options.activation, options.dtype, options.seed
    params, apply = MODELS.get(model) or MODELS.setdefault(model, make_model(options))
    mesh = make_mesh(options.mesh, options.axis_type)
    found = train(make_loss(apply), params, data, mesh, options)
    return found, sha256(fetch(found.params))


def table(output):
    """The comparison's rows: the mesh and the largest relative difference, by name."""
    lines = output.partition("---\n")[2].partition("\n\n")[0].splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    return {row[0]: row[1:] for row in rows}


def digest(output):
    """The SHA-256 that a run's last line tells."""
    return re.search(r"SHA-256 of the parameters: (\w{64})\n\Z", output)[1]
