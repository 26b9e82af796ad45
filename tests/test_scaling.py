"""What the page of scaling says is what was compiled, and that is right by hand."""

import json

import jax
import pytest
from jax.sharding import AxisType

import scaling
import scaling_page
from models import Model

LAYERS, WIDTH, INNER, ROWS, FLOAT = 3, 8, 16, 4, 4
TINY = scaling.Study(
    "tiny",
    Model(scaling.added, "swiglu", LAYERS, (ROWS, WIDTH), scaling.gated(WIDTH, INNER)),
    "float32",
    ((2, 2, 2),),
)


@pytest.fixture(scope="module")
def rows():
    mesh = jax.make_mesh((2, 2, 2), scaling.AXES, (AxisType.Auto,) * 3)
    return {form: scaling.measure(TINY, form, mesh) for form in scaling.FORMS}


def test_a_row_by_hand(rows):
    fused, peer = rows["ours, fused"], rows["jax.nn"]
    # 8 devices: 4 parts of the batch, 2 of what is wide, 4 of a kernel.
    kernel = WIDTH * INNER * FLOAT
    stream, wide = (8 * ROWS * n * FLOAT for n in (WIDTH, INNER))
    assert fused["devices"] == 8
    assert fused["arguments"] == LAYERS * 3 * kernel // 4 + stream // 4
    # Of each layer what enters it, value and gate; at last what the loss squares.
    assert fused["residuals"] == LAYERS * (stream // 4 + 2 * wide // 8) + stream // 4
    # `jax.nn` keeps four arrays more: two for silu, its output, and the product.
    assert peer["residuals"] - fused["residuals"] == LAYERS * 4 * wide // 8
    assert peer["temporaries"] > fused["temporaries"] > fused["residuals"]
    # Forward and backward each of 3 kernels is gathered: of a half, a device has one.
    moved = {"times": LAYERS * 6, "bytes": LAYERS * 6 * kernel // 2 // 2}
    assert fused["moved"]["all-gather"] == moved
    assert fused["moved"] == peer["moved"]


def test_rows_over_a_split_axis():
    mesh = jax.make_mesh((1, 1, 8), scaling.AXES, (AxisType.Auto,) * 3)
    found = scaling.measure_rows(scaling.ROWS["logsumexp"][0], mesh)
    assert found.keys() == {"all-reduce"}


def test_the_page_is_what_was_compiled(capsys):
    assert scaling.main(["--check"]) == 0, capsys.readouterr().out


def test_what_was_compiled_is_complete():
    record = json.loads(scaling.RESULTS.read_text())
    assert {
        (row["study"], *row["mesh"].values(), row["form"]) for row in record["rows"]
    } == {
        (name, *shape, form)
        for name, study in scaling.STUDIES.items()
        for shape in study.meshes
        for form in scaling.FORMS
    }
    assert {row["devices"] for row in record["rows"]} == {*scaling.SLICES}


def test_a_form_that_moves_more_is_told(rows):
    both = list(rows.values())
    assert "moves the same bytes" in scaling_page.compared(both)
    more = json.loads(json.dumps(both))
    more[2]["moved"]["all-to-all"] = {"times": 1, "bytes": 10**6}
    assert "(`ours, fused` on data 2 x fsdp 2" in scaling_page.compared(more)
