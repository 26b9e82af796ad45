"""The regression of fuel economy: what each model promises, and the picture of it."""

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "monotone_regression.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("monotone_regression", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Optax promotes integers, as it may outside of the tests.
    with jax.numpy_dtype_promotion("standard"):
        yield module


def test_the_mean_rises_in_the_free_model_alone(example, tmp_path, capsys):
    picture = tmp_path / "cars.png"
    options = ["--splits", "2", "--steps", "150", "--plot", str(picture)]
    scores = {k: np.array(v) for k, v in example.main(options).items()}
    free, error, share, rise = scores["free"]
    assert (share > 0.05).all() and (rise > 0.1).all()
    monotone, error, share, rise = scores["monotone"]
    assert (share == 0).all() and (rise < 1e-4).all()
    # Without any input the likelihood is -3.47 and the error 7.8 miles per gallon.
    assert (free > -2.7).all() and (monotone > -2.7).all() and (error < 4).all()
    assert np.mean(monotone - free) > -0.1
    out = capsys.readouterr().out
    assert re.search(
        r"^monotone  -2\.\d{3} ± 0\.\d{3}  .*  0\.0%  .* 0\.00 mpg$", out, re.M
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_cars_and_splits(example):
    cars = example.load_cars()
    assert cars.x.shape == (392, 3) and cars.y.shape == (392,)
    np.testing.assert_allclose(cars.x_mean, [2977.584, 104.469, 1976.051], 1e-5)
    # Heavier, stronger and older cars go less far.
    assert (np.sign(cars.x.T @ cars.y) == [-1, -1, 1]).all()
    splits = example.make_splits(392, 3, seed=0)
    assert splits.shape == (3, 3, 392)
    assert (splits.sum(axis=1) == 1).all()
    assert (splits.sum(axis=2) == [235, 78, 79]).all()
    assert (splits[0] != splits[1]).any()


@pytest.mark.parametrize(
    "arguments, text",
    [
        ("--splits 1", "argument --splits: expected 2 or more, but got 1"),
        ("--steps 0", "argument --steps: expected 1 or more, but got 0"),
        ("--seed -1", "argument --seed: expected 0 or more, but got -1"),
        ("--plot cars.foo", "--plot: expected a file that ends in .png, .svg or .pdf"),
        ("--plot no/such/cars.png", "argument --plot: there is no folder no/such"),
    ],
)
def test_bad_options(example, capsys, arguments, text):
    with pytest.raises(SystemExit) as e:
        example.main(arguments.split())
    assert e.value.code == 2
    assert text in capsys.readouterr().err
