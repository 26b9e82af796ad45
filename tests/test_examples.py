"""The examples run, and print what they promise."""

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import flax_stable as fs

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    package_root = str(Path(fs.__file__).parents[1])
    path = os.pathsep.join([package_root, os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def softplus_page() -> str:
    return run("custom_vjp_softplus.py")


def after(page: str, label: str) -> str:
    """What stands behind a label, to the end of its line."""
    return page.partition(label)[2].splitlines()[0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


INPUTS = [-10.0, 0.0, 10.0, 80.0, 100.0]


def test_softplus_table(softplus_page):
    header, _, *rows = softplus_page.splitlines()[: 2 + len(INPUTS)]
    assert [cell.strip() for cell in header.split("|")] == [
        "Input",
        "Naive Grad",
        "Custom Grad",
    ]
    table = [[float(cell) for cell in row.split("|")] for row in rows]
    assert [x for x, _, _ in table] == INPUTS
    for x, naive, custom in table:
        assert custom == pytest.approx(sigmoid(x), abs=1e-7)
        if x < 88:
            assert naive == pytest.approx(sigmoid(x), abs=1e-7)
        else:
            assert math.isnan(naive)


@pytest.mark.parametrize(
    "label, expected, relative",
    [
        ("Jitted gradient:", [sigmoid(x) for x in INPUTS], 1e-6),
        ("jacfwd, diagonal:", [sigmoid(x) for x in INPUTS], 1e-6),
        ("hessian, diagonal:", [sigmoid(x) * sigmoid(-x) for x in INPUTS], 2e-6),
    ],
)
def test_softplus_arrays(softplus_page, label, expected, relative):
    printed = [float(x) for x in after(softplus_page, label).strip(" []").split()]
    # The smallest normal float32 is the floor below which zero is an answer.
    assert printed == pytest.approx(expected, rel=relative, abs=1.2e-38)


@pytest.mark.parametrize(
    "label, bound",
    [("from central differences:", 3e-5), ("from autodiff:", 5e-7)],
)
def test_softplus_references(softplus_page, label, bound):
    assert 0 <= float(after(softplus_page, label)) <= bound


def test_softplus_jvp(softplus_page):
    value = math.log1p(math.exp(2))
    printed = f"value {value:.6f}, slope {sigmoid(2):.6f}"
    assert after(softplus_page, "jvp at 2:").strip() == printed


def test_few_bits():
    """A network whose derivatives have 3 bits classifies as well, to half a point."""
    _, _, *rows = run("few_bits.py").splitlines()
    table = {}
    for row in rows:
        bits, accuracy, less, kept = (cell.strip() for cell in row.split("|"))
        table[bits] = (float(accuracy.rstrip("%")), *map(float, less.split("±")), kept)
    assert list(table) == ["exact", "4", "3", "2", "1"]
    assert [row[-1] for row in table.values()] == ["1024", "128", "96", "64", "32"]
    assert min(row[0] for row in table.values()) > 95
    for bits in "43":
        accuracy, less, error, _ = table[bits]
        assert less == pytest.approx(table["exact"][0] - accuracy, abs=0.011)
        assert less + 2 * error < 0.5


# The others assert what they show.
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("host_function.py", r"sigma     \|  0.800 \|  0.8.. ±0.0"),
        ("straight_through.py", r"the sign itself : largest gradient 0, .*\n.* 9.\..%"),
        ("domain_adaptation.py", r"without reversal: .*\nwith    reversal: .* right"),
        (
            "gradients_on_purpose.py",
            r"clip_gradient: .*\n  without: nan\n  with:    0.97",
        ),
    ],
)
def test_short_examples(name, text, capsys):
    with jax.numpy_dtype_promotion("standard"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(text, capsys.readouterr().out)
