"""What the example says when it cannot run."""

import pytest

import flax_stable as fs
import train_mlp
from mlp.model import ACTIVATIONS


def test_every_activation_is_offered():
    """A function of the library is offered under its own name."""
    for name, function in ACTIVATIONS.items():
        assert function is getattr(fs, name)


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
        ("--save-every 0", "--save-every: expected a number above 0, but got 0"),
        ("--resume", "--resume: expected --checkpoint-dir too, but got none"),
        ("--reproducible --groups 6", "expected a multiple of --groups 6, but got 128"),
        (
            "--reproducible --groups 4 --mesh data=8",
            "--mesh: data=8 has 8 devices, which do not divide --groups 4",
        ),
        ("--coordinator host", "expected host:port or auto, but got 'host'"),
        ("--coordinator host:1", "expected --num-processes and --process-id with"),
        ("--num-processes 2", "--num-processes: expected with --coordinator host:port"),
        (
            "--coordinator h:1 --num-processes 2 --process-id 2",
            "--process-id: expected a number from 0 to 1, but got 2",
        ),
        ("--spawn 3", "--cpu-devices: expected a multiple of the 3 processes, but got"),
        (
            "--spawn 2 --coordinator auto",
            "--spawn: expected without --coordinator",
        ),
    ],
)
def test_bad_options_are_one_line_and_status_2(capsys, arguments, text):
    with pytest.raises(SystemExit) as e:
        train_mlp.main(arguments.split())
    assert e.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("train_mlp.py: argument --")
    assert text in err
