"""The benchmarks run, keep what they measured, and show what is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import flax_stable as fs
import models
import performance
import plots
import run
import targets
import timing

ROOT = Path(fs.__file__).parents[1]
SMALL = [
    *("bytes", "eager", "time", "compile", "models", "bandwidth"),
    *("--only", "softplus", "logsumexp", "--models", "mlp, gelu"),
    *("--peers", "jax.nn", "jax.checkpoint", "--dtypes", "float32"),
    *("--sizes", "2048", "--rounds", "2", "--scale", "2", "--side", "64", "--json"),
]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """What a quick run kept of every section that measures."""
    file = tmp_path_factory.mktemp("results") / "results.json"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "error", run.__file__, *SMALL, str(file)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(file.read_text())


def test_every_section_is_kept(record):
    assert record["environment"].keys() >= {"device", "jax", "jaxlib", "flax"}
    assert all(record[section] for section in run.SECTIONS)
    kept = {row["function"]: row["bytes"] for row in record["bytes"]}
    assert kept["softplus"] == {"ours": 4.0, "jax.nn": 8.0, "jax.checkpoint": 4.0}
    for row in record["time"]:
        ours = row["ratios"]["ours"]
        assert ("jax.checkpoint" in ours) == (row["what"] == "value and gradient")
        assert all(found["low"] <= found["median"] for found in ours.values())


def test_every_section_is_written(record):
    page = performance.performance_page([record])
    for title in ("Time over", "Memory of models", "compile", "Bytes", "eager", "copy"):
        assert title in page
    assert "nan" not in page


def test_figures_are_drawn(record, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "INTERVALS", 2)
    monkeypatch.setattr(plots, "SHOWN", ("softplus",))
    plots.draw(record, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "errors.png",
        "bytes.png",
        "time.png",
    }


@pytest.mark.parametrize("name", models.models(8))
def test_models_are_alike_but_for_the_block(name):
    model = models.models(8)[name]
    layers = jax.eval_shape(lambda: models.parameters(model, "float32"))
    x = jax.ShapeDtypeStruct(model.x, "float32")
    for block in models.blocks(model.activation).values():
        gradient = jax.eval_shape(models.gradient(model, block, False), layers, x)
        assert jax.tree.map(jax.typeof, gradient) == jax.tree.map(jax.typeof, layers)


def test_sections_of_another_machine_are_not_kept(tmp_path, capsys):
    file = tmp_path / "results.json"
    argv = ["bytes", "--only", "relu", "--peers", "jax.nn", "--json", str(file)]
    for device, kept in (("another", []), (run.processor(), ["row"])):
        environment = {**run.environment(), "device": device}
        file.write_text(json.dumps({"environment": environment, "time": ["row"]}))
        assert run.main(argv) == 0
        assert json.loads(file.read_text()).get("time", []) == kept
    assert "starting anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["tim"], "sections are bytes, eager, time"),
        (["--only", "softpluss"], "only are sigmoid"),
        (["--models", "bert"], "models are mlp, gelu"),
        (["--rounds", "1"], "--rounds must be 2 or more, but got 1"),
    ],
)
def test_a_wrong_argument_is_named(argv, complaint, capsys):
    with pytest.raises(SystemExit):
        run.main(argv)
    assert complaint in capsys.readouterr().err


def test_contenders_take_turns():
    order = []
    runs = {name: lambda calls, name=name: order.append(name) for name in "ab"}
    samples = timing.interleaved(runs, rounds=3)
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 3, "b": 3}
    measured = "".join(order)[4:]  # two calls of each warm up
    assert measured == "bbaa" + "aabb" + "bbaa"  # one untimed, one timed


def test_ratios_are_taken_round_by_round():
    # The machine was ten times slower in the second round, for both.
    found = timing.compare([1.0, 10.0, 1.0], [2.0, 20.0, 4.0])
    assert found == {"median": 0.5, "low": 0.375, "high": 0.5, "min": 0.5}


def timed(function, median):
    found = {"low": median, "median": median, "high": median, "min": median}
    keys = {"function": function, "what": "value", "dtype": "float32", "size": 1024}
    return {**keys, "seconds": {}, "ratios": {"ours": {"jax.nn": found}}}


def test_what_misses_its_target_is_listed():
    rows = [timed("softplus", 0.45), timed("tanh", 1.04), timed("gelu", 1.6)]
    record = {"environment": {"jax": "0.12.0"}, "time": rows}
    fast, other, mean, _ = targets.aims(record)
    assert (fast.missed, len(other.missed)) == ([], 1)
    assert mean.found[0].value == pytest.approx((0.45 * 1.04 * 1.6) ** (1 / 3))
    assert "`gelu` (1 of 1: up to 1.60)." in performance.missed_list(record)
    assert "1.60 (`gelu`, value, float32, 1,024)" in performance.target_table(record)
    table = performance.time_section(rows)
    assert "| `gelu` | **1.60** |" in table
    assert "| `tanh` | 1.04 |" in table
    slow_softplus = performance.time_section([timed("softplus", 0.6)])
    assert "| `softplus` | **0.60** |" in slow_softplus


def test_memory_of_models_is_held_to_jax_checkpoint():
    row = {
        "model": "mlp, gelu",
        "dtype": "float32",
        "form": "scanned",
        "bytes": {"jax.nn": 100, "jax.checkpoint": 45, "ours": 49, "ours, fused": 29},
        "ratios": {},
    }
    record = {"environment": {"jax": "0.12.0"}, "models": [row]}
    found = targets.aims(record)
    missed = [aim.what for aim in found if aim.missed]
    peer = "`jax.checkpoint(activation)`"
    assert missed == [f"temporaries over those of {peer}, activation alone"]
    assert len(found) == 4


@pytest.mark.parametrize("version, judged", [("0.12.0.1", 2), ("0.10.2", 1)])
def test_an_unrolled_block_is_not_judged_on_the_oldest_jax(version, judged):
    sizes = {"jax.nn": 100, "jax.checkpoint": 45, "ours, fused": 50}
    row = {"model": "gpt", "dtype": "float32", "form": "unrolled", "bytes": sizes}
    rows = [{**row, "ratios": {}}, {**row, "ratios": {}, "form": "scanned"}]
    record = {"environment": {"jax": version}, "models": rows}
    *_, block = targets.aims(record)
    assert len(block.missed) == judged
