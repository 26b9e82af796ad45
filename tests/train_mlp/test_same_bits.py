"""``--reproducible``: losses and parameters to the bit, whatever the mesh."""

import pytest
from _runs import trained

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize(
    "case, meshes",
    [
        (
            "--api linen",
            ["data=8", "fsdp=2,model=2 --axis-type explicit"],
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
