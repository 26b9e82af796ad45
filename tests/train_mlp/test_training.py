"""Training learns, on any mesh, in both APIs."""

import re

import jax
import numpy as np
import pytest
from _runs import digest, run, table, trained

import train_mlp


def test_defaults_train_to_more_than_95_percent(tmp_path):
    picture = tmp_path / "loss.png"
    out = run("--steps", "300", "--plot", str(picture))
    rows = table(out)
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
    accuracy = re.search(r"held-out accuracy: (\d+\.\d)% of 360", out)
    assert float(accuracy[1]) >= 95
    assert float(re.search(r"final loss: (\S+)\n", out)[1]) < 0.5
    assert digest(out)
    assert picture.read_bytes().startswith(b"\x89PNG")


# With the defaults above, every pair of API, axis type and dtype occurs, and every
# activation.
@pytest.mark.parametrize(
    "api, axis_type, dtype, mesh, mlp, activation, more",
    [
        ("linen", "explicit", "bfloat16", "model=8", "gated", "sigmoid", ""),
        ("nnx", "auto", "bfloat16", "fsdp=4,model=2", "plain", "log_sigmoid", "no-"),
        ("nnx", "explicit", "float32", "data=2,fsdp=2,model=2", "gated", "tanh", "no-"),
    ],
)
def test_every_option_learns(
    capsys, api, axis_type, dtype, mesh, mlp, activation, more
):
    options = f"--api {api} --axis-type {axis_type} --dtype {dtype} --mesh {mesh}"
    options += f" --mlp {mlp} --activation {activation} --{more}compare --steps 60"
    accuracy = train_mlp.main(options.split())
    # A tenth is chance.
    assert accuracy > 0.8
    out, err = capsys.readouterr()
    assert "100%" in err and "loss=" in err
    line = re.search(r"pass: ([\d,]+) bytes an image; jax.nn: ([\d,]+)\n", out)
    ours, theirs = (int(number.replace(",", "")) for number in line.groups())
    assert ours < theirs
    if (mlp, dtype) == ("gated", "float32"):
        # The pixels, value and gate, and what the scores are made of.
        assert ours == 4 * (64 + 2 * 256 + 64)
    assert len(table(out)) == (0 if more else 5)


def test_meshes_train_alike():
    """The same losses, step by step, on one device and on eight."""
    one, eight = (
        trained(f"--steps 20 --mesh {mesh}")[0].losses
        for mesh in ("data=1", "data=2,fsdp=2,model=2")
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
