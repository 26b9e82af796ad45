"""A run goes on where its last checkpoint stands, and touches no other's."""

import gc
import shutil
from pathlib import Path

import pytest
from _runs import trained

from mlp.processes import Stop

CASE = "--reproducible --batch-size 64"
STEPS = 24


@pytest.fixture(scope="module")
def whole():
    """The digest after a run that nothing interrupts."""
    return trained(f"{CASE} --steps {STEPS} --mesh data=1")[1]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A folder with the checkpoints of half a run."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    arguments = f"--steps {STEPS // 2} --save-every 6 --checkpoint-dir {folder}"
    trained(f"{CASE} {arguments} --mesh data=2")
    return folder


@pytest.fixture
def copy(half, tmp_path):
    return Path(shutil.copytree(half, tmp_path / "copy"))


def again(folder, mesh="data=1", more=""):
    arguments = f"--steps {STEPS} --resume --checkpoint-dir {folder} --mesh {mesh}"
    return trained(f"{CASE} {arguments} {more}")


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.optimized
def test_another_mesh_goes_on_to_the_same_bits(copy, whole):
    assert sorted(path.name for path in copy.iterdir()) == ["12", "6"]
    found, bits = again(copy, "fsdp=2,model=2 --axis-type explicit")
    assert len(found.losses) == STEPS // 2
    assert bits == whole
    # A run that is over has nothing to do.
    found, bits = again(copy)
    assert (found.losses, bits) == ([], whole)
    assert found.loss > 0


def largest(folder):
    """The file that holds most of the arrays."""
    files = (folder / "12").rglob("ocdbt*/d/*")
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder):
    largest(folder).write_bytes(largest(folder).read_bytes()[:1000])


def flip_a_bit(folder):
    """In the middle of an array, where Orbax takes any bits."""
    bits = bytearray(largest(folder).read_bytes())
    bits[len(bits) // 2] ^= 1
    largest(folder).write_bytes(bits)


def replace(folder):
    """Another program's checkpoint, of the same shape as far as folders go."""
    (folder / "12" / "run" / "metadata").write_text('{"step": 12}')


def add_a_file(folder):
    (folder / "thesis.tex").write_text("three years of work")


# Orbax leaves reads unfinished when one of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_not_its_own_is_refused_and_left(half, tmp_path):
    for i, (change, more, text) in enumerate(
        [
            (truncate, "", "cannot be read as a checkpoint of this program, and was"),
            (
                flip_a_bit,
                "",
                "12 does not hold the arrays that were saved, by the",
            ),
            (replace, "", "12 is no checkpoint of this program; it was left as it is"),
            (add_a_file, "", "holds 'thesis.tex', which is no checkpoint of this prog"),
            (None, "--seed 1", "argument --seed: /.*12 was trained with 0, but got 1;"),
            (None, "--groups 4", "argument --groups: .* was trained with 8, but got 4"),
            (None, "--steps 3", "12 has 12 steps already, but got 3; name more"),
        ]
    ):
        copy = Path(shutil.copytree(half, tmp_path / str(i)))
        if change:
            change(copy)
        before = contents(copy)
        with pytest.raises(Stop, match=text):
            again(copy, more=more)
        assert contents(copy) == before, text
    # Among all that the tests before have left this takes a second.
    gc.collect()


def test_a_folder_with_checkpoints_is_not_begun_anew(half):
    before = contents(half)
    with pytest.raises(Stop, match="is not empty; take its run up with --resume, or"):
        trained(f"{CASE} --checkpoint-dir {half} --mesh data=1")
    assert contents(half) == before


def test_without_a_checkpoint_it_starts_anew(tmp_path, capsys):
    """So that one command serves the first start and every other."""
    arguments = f"--steps 1 --resume --checkpoint-dir {tmp_path / 'run'} --mesh data=1"
    trained(f"{CASE} {arguments}")
    assert "run: training starts anew" in capsys.readouterr().out
    assert (tmp_path / "run" / "1").is_dir()
