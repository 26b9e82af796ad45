"""The benchmarks run, keep what they measured, and show what is lost."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compiled
import compiled_gpu
import compiled_tpu
import flax_stable as fs
import halves
import models
import networks
import performance
import plots
import run
import sections
import targets
import timing

ROOT = Path(fs.__file__).parents[1]
SMALL = [
    *run.SECTIONS,
    *("--only", "softplus", "logsumexp", "--models", "mlp, gelu", "ppo"),
    *("--peers", "jax.nn", "jax.checkpoint", "--dtypes", "float32"),
    *(
        "--sizes",
        "2048",
        "--sides",
        "32",
        "--rounds",
        "2",
        "--scale",
        "2",
        "--side",
        "64",
        "--json",
    ),
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
    titles = ("Time over", "Memory of models", "compile", "Bytes", "eager", "copy")
    for title in (*titles, "as two programs", "Small networks"):
        assert title in page
    assert "nan" not in page


def test_figures_are_drawn(record, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "INTERVALS", 2)
    monkeypatch.setattr(plots, "SHOWN", ("softplus",))
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    version = record["environment"]["jax"]
    kept = tmp_path / f"compiled-h200-jax-{version}.json"
    kept.write_text(json.dumps(estimates()))
    old = tmp_path / "compiled-v5e-jax-0.1.json"
    old.write_text("of another JAX")
    plots.draw(record, tmp_path)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"errors", "bytes", "time", "h200"}


@pytest.mark.parametrize("name", models.models(8))
def test_models_are_alike_but_for_the_block(name):
    model = models.models(8)[name]
    layers = jax.eval_shape(lambda: models.parameters(model, "float32"))
    x = jax.ShapeDtypeStruct(model.x, "float32")
    for block in models.blocks(model.activation).values():
        gradient = jax.eval_shape(models.gradient(model, block, False), layers, x)
        assert jax.tree.map(jax.typeof, gradient) == jax.tree.map(jax.typeof, layers)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_are_alike_but_for_their_functions(name):
    network = networks.NETWORKS[name]
    args = networks.inputs(network, "bfloat16")
    params, rest = jax.eval_shape(lambda: networks.variables(network, "bfloat16"))
    for of in (networks.STOCK, networks.OURS):
        gradient = networks.gradient(network, of, "bfloat16")
        with jax.numpy_dtype_promotion("standard"):  # as Flax's norms promote
            loss, found = jax.eval_shape(gradient, params, rest, args)
        assert loss.shape == ()
        assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, params)


@pytest.mark.parametrize(
    "f, written",
    [
        (jnp.exp, 0),  # keeps its output
        (lambda x: x * x, 0),  # keeps its input
        (jnp.sin, 1),  # keeps the cosine
        (lambda x: jnp.sin(x) * jnp.sin(x), 2),  # the cosine and the sine, once each
        (fs.gelu, 0),
    ],
)
def test_halves_write_what_is_new_and_make_the_gradient(f, written):
    x = jax.random.normal(jax.random.key(0), (16,))
    new = halves.new_residuals(f, [x])
    assert len(new) == written
    made = halves.programs(f, [x], new, halves.compiled_call)
    forward, args = made["forward"]
    y, residuals = forward(*args)
    assert len(residuals) == written
    whole, args = made["value and gradient"]
    backward, kept = made["backward"]
    for one, other in zip((y, backward(*kept)), whole(*args), strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other
        )


SASS = """
.text.fusion:
.L_start:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/                   FADD R0, R4, R0 ;
        /*0030*/              @!P0 BRA `(.L_x_0) ;
        /*0040*/              @P1  EXIT ;
        /*0050*/                   STG.E [R6.64], R0 ;
        /*0060*/                   EXIT ;
.L_slow:
        /*0070*/                   MUFU.RCP R0, R0 ;
.text.other:
        /*0000*/                   EXIT ;
"""


def test_machine_code_is_counted():
    found = compiled_gpu.listed_kernels(SASS)
    assert found.keys() == {"fusion", "other"}
    kernel = found["fusion"]
    assert (kernel.once.total(), kernel.loaded) == (7, 16)
    assert kernel.again == {"LDG.E.128.CONSTANT": 1, "FADD": 1, "BRA": 1}
    # Sixteen lanes compute special functions; all that is issued shares 128.
    assert compiled_gpu.cycles(Counter({"MUFU.EX2": 2, "FADD": 3})) == 2 / 16
    assert compiled_gpu.cycles(Counter({"FADD": 3, "EXIT": 3})) == 6 / 128


def test_bytes_of_kernels_are_counted():
    hlo = """
ENTRY %main (x: bf16[8,16]) -> (bf16[8,16], f32[8]) {
  %x.1 = bf16[8,16]{1,0} parameter(0)
  %fusion.2 = f32[8]{0} fusion(%x.1), kind=kLoop
  ROOT %both = (bf16[8,16]{1,0}, f32[8]{0}, pred[]) fusion(%x.1, %fusion.2), kind=kLoop
}"""
    moved = compiled_gpu.traffic(hlo)
    assert moved["fusion_2"] == (256, 32)
    assert moved["both"] == (256 + 32, 256 + 32 + 1)


@pytest.mark.parametrize("module", [compiled_gpu, compiled_tpu])
def test_a_compiler_that_is_missing_is_named(module, capsys, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    assert module.device() is None
    assert "is not installed" in capsys.readouterr().out


def read_off(name, program, ours, stock):
    """A row of benchmarks/compiled.py."""
    counts = {"kernels": 1, "instructions": 30, "bytes": 4, "estimate": None}
    row = {key: {"ours": value, "jax.nn": value} for key, value in counts.items()}
    row["estimate"] = {"ours": ours, "jax.nn": stock}
    return {"function": name, "what": program, "dtype": "bfloat16", **row}


def estimates():
    """What benchmarks/compiled.py keeps."""
    environment = {"device": "a GPU", "machine": "x86_64", "platform": "h200"}
    rows = [read_off("gelu", what, 2.0, 1.0) for what in halves.PROGRAMS]
    bytes_ = {"jax.nn": 0, "ours": 0}
    mlp = {"model": "mlp", "dtype": "bfloat16", "form": "scanned", "bytes": bytes_}
    return {
        "environment": {**environment, "jax": "0.12.0"},
        "estimates": rows,
        "temporaries": [mlp],
    }


def test_estimates_are_called_so_and_held_to_their_targets():
    record = estimates()
    page = performance.performance_page([record])
    assert "| `gelu` | bfloat16 | **2.00** |" in page
    assert "an estimate from what the compiler made" in page
    assert "![Estimated times](h200.png)" in page
    assert "Noise" not in page
    assert "| mlp | bfloat16 | scanned | 0 | 1.00 |" in page
    other, whole, mean, temporaries = targets.aims(record)
    assert [len(aim.missed) for aim in (other, whole, mean)] == [3, 1, 1]
    assert not temporaries.missed
    assert "2.00" in compiled.show(record["estimates"][0])


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
    table = sections.time_section(rows)
    assert "| `gelu` | **1.60** |" in table
    assert "| `tanh` | 1.04 |" in table
    slow_softplus = sections.time_section([timed("softplus", 0.6)])
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
