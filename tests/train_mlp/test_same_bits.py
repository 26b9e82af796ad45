"""``--reproducible``: losses and parameters to the bit, whatever the mesh."""

import re

import pytest
from _runs import digest, table, trained

import train_mlp


@pytest.mark.parametrize(
    "case, meshes",
    [
        (
            "--api linen",
            ["data=1", "fsdp=2,model=2 --axis-type explicit", "data=8"],
        ),
        (
            "--api nnx --mlp gated --dtype bfloat16",
            ["data=1", "data=2,fsdp=2,model=2"],
        ),
    ],
)
def test_training_ends_with_the_same_bits(case, meshes):
    runs = [
        trained(f"{case} --reproducible --steps 12 --mesh {mesh}") for mesh in meshes
    ]
    losses, digests = ([x.losses for x, _ in runs], {digest for _, digest in runs})
    assert losses[0][-1] < losses[0][0]
    assert losses.count(losses[0]) == len(meshes)
    assert len(digests) == 1


def test_the_table_is_all_zeros_and_the_price_is_told(capsys):
    options = "--reproducible --steps 5 --batch-size 64 --api nnx --groups 4"
    train_mlp.main([*options.split(), "--mesh", "fsdp=2"])
    out = capsys.readouterr().out
    rows = table(out)
    # On eight devices no placement has a multiple of a group for each.
    assert list(rows) == ["one device", "as trained"]
    assert float(rows["as trained"][1]) == 0
    price = re.search(
        r"a step: ([\d.]+) ms reproducible, ([\d.]+) ms plain \(([\d.]+) times\)", out
    )
    ours, plain, times = map(float, price.groups())
    assert ours / plain == pytest.approx(times, rel=0.05)
    assert digest(out)
