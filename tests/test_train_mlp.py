"""The MLP example: both APIs, any mesh, and what it says when it cannot run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_stable as fs

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_mlp.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_mlp", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Optax promotes integers, as it may outside of the tests.
    with jax.numpy_dtype_promotion("standard"):
        yield module


def run(*arguments):
    """The example as a user starts it, with warnings as errors."""
    package_root = str(Path(fs.__file__).parents[1])
    path = os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def table(output):
    """The comparison's rows: the mesh and the largest relative difference, by name."""
    lines = output.partition("---\n")[2].partition("\n\n")[0].splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_defaults_train_to_more_than_95_percent(tmp_path):
    picture = tmp_path / "loss.png"
    result = run("--plot", str(picture))
    assert result.returncode == 0, result.stderr
    rows = table(result.stdout)
    assert list(rows) == [
        "one device",
        "data parallel",
        "tensor parallel",
        "fully sharded",
        "data x tensor",
    ]
    mesh, relative, devices, collectives = rows.pop("one device")
    assert (mesh, relative, devices, collectives) == ("1", "reference", "1", "none")
    for mesh, relative, _, leaf, devices, collectives in rows.values():
        assert mesh in ("data=8", "model=8", "fsdp=8", "data=4,model=2")
        assert float(relative) <= 1e-5
        assert leaf.split("/")[0] in ("hidden", "output")
        assert devices == "8"
        assert "all-reduce" in collectives
    assert "all-gather" in rows["fully sharded"][-1]
    accuracy = re.search(r"held-out accuracy: (\d+\.\d)% of 360", result.stdout)
    assert float(accuracy[1]) >= 95
    assert "100%" in result.stderr and "loss=" in result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


# With the defaults above, every pair of API, axis type and dtype occurs, and every
# activation.
@pytest.mark.parametrize(
    "api, axis_type, dtype, mesh, mlp, activation",
    [
        ("linen", "explicit", "bfloat16", "model=8", "gated", "sigmoid"),
        ("nnx", "auto", "bfloat16", "fsdp=4,model=2", "plain", "log_sigmoid"),
        ("nnx", "explicit", "float32", "data=2,fsdp=2,model=2", "gated", "tanh"),
    ],
)
def test_every_option_learns(
    example, capsys, api, axis_type, dtype, mesh, mlp, activation
):
    options = f"--api {api} --axis-type {axis_type} --dtype {dtype} --mesh {mesh}"
    accuracy = example.main(
        f"{options} --mlp {mlp} --activation {activation} --steps 60".split()
    )
    # A tenth is chance.
    assert accuracy > 0.8
    out = capsys.readouterr().out
    line = re.search(r"pass: ([\d,]+) bytes an image; jax.nn: ([\d,]+)\n", out)
    ours, theirs = (int(number.replace(",", "")) for number in line.groups())
    assert ours < theirs
    if (mlp, dtype) == ("gated", "float32"):
        # The pixels, value and gate, and what the scores are made of.
        assert ours == 4 * (64 + 2 * 256 + 64)
    rows = table(out)
    assert mesh in {row[0] for row in rows.values()}
    assert len(rows) == 5 + (mesh != "model=8")


def test_every_activation_is_offered(example):
    """A function of the library is offered under its own name."""
    for name, function in example.ACTIVATIONS.items():
        assert function is getattr(fs, name)


def test_meshes_train_alike(example):
    """The same losses, step by step, on one device and on eight."""
    options = example.parse_options(["--steps", "20"])
    params, apply = example.make_model(options)
    data, _ = example.load_data()
    one, eight = (
        example.train(
            example.make_loss(apply),
            params,
            data,
            example.make_mesh(shape, options.axis_type),
            options,
        )[1]
        for shape in ({}, {"data": 2, "fsdp": 2, "model": 2})
    )
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(one, eight, rtol=1e-5)


def test_a_positive_output_layer_costs_no_generality():
    """Softmax does not see a constant that is added to all weights of a unit."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5, 16)).astype(np.float32)
    kernel = rng.normal(size=(16, 10)).astype(np.float32)
    positive = kernel + (0.1 - kernel.min(axis=1, keepdims=True))
    np.testing.assert_allclose(
        jax.nn.softmax(hidden @ positive), jax.nn.softmax(hidden @ kernel), rtol=2e-5
    )


@pytest.mark.parametrize(
    "arguments, text",
    [
        ("--mesh data=16", "--mesh: data=16 needs 16 devices, but there are 8 cpu"),
        ("--mesh data=3", "--mesh: data=3 splits the batch in 3, which does not"),
        ("--mesh fsdp=6 --batch-size 60", "--mesh: fsdp=6 splits layers of 64 and 256"),
        ("--mesh rows=2", "--mesh: expected sizes of the axes data, fsdp, model, such"),
        ("--mesh data=2,data=2", "such as data=4,model=2, but got 'data=2,data=2'"),
        ("--mesh data=0", "such as data=4,model=2, but got 'data=0'"),
        ("--mesh data", "such as data=4,model=2, but got 'data'"),
        ("--activation swoosh", "--activation: invalid choice: 'swoosh'"),
        ("--mlp wide", "--mlp: invalid choice: 'wide' (choose from"),
        ("--api keras", "--api: invalid choice: 'keras'"),
        ("--steps 0", "--steps: expected a number above 0, but got 0"),
        ("--learning-rate nan", "--learning-rate: expected a number above 0, but got"),
        ("--learning-rate inf", "--learning-rate: expected a number above 0, but got"),
        ("--seed -1", "--seed: expected 0 or more, but got -1"),
        ("--plot loss.foo", "--plot: expected a file that ends in .png, .svg or .pdf"),
        ("--batch-size 1438", "--batch-size: expected at most the 1437 training"),
        ("--plot no/such/loss.png", "--plot: there is no folder no/such"),
    ],
)
def test_bad_options_are_one_line_and_status_2(example, capsys, arguments, text):
    with pytest.raises(SystemExit) as e:
        example.main(arguments.split())
    assert e.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert text in err


def test_too_few_devices():
    result = run("--cpu-devices", "2", "--mesh", "data=4")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "train_mlp.py: argument --mesh: data=4 needs 4 devices, but there are 2 cpu "
        "devices\n"
    )
