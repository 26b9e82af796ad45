"""Gradients under several placements: what is measured, refused and said."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_stable as fs
from flax_stable.testing import Placement, assert_same_gradients

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def make_mesh(axis_type=AUTO, **shape):
    shape = shape or {"data": 4, "model": 2}
    n = int(np.prod(list(shape.values())))
    return jax.make_mesh(
        tuple(shape.values()),
        tuple(shape),
        (axis_type,) * len(shape),
        devices=jax.devices()[:n],
    )


X = np.arange(64, dtype=np.float32).reshape(8, 8) / 64


def loss(params, batch):
    hidden = jnp.tanh(batch @ params["hidden"])
    return jnp.mean((hidden * params["scale"]) ** 2)


PARAMS = {
    "hidden": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "scale": np.linspace(1, 2, 8, dtype=np.float32),
}
SPLIT = {"hidden": P(None, "model"), "scale": P("model")}


@pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT], ids=str)
def test_report(axis_type):
    mesh = make_mesh(axis_type)
    report = assert_same_gradients(
        loss,
        PARAMS,
        X,
        [
            Placement("one", make_mesh(axis_type, data=1, model=1)),
            Placement("data", mesh, batch=P("data")),
            Placement("both", mesh, SPLIT, P("data")),
        ],
        max_relative=1e-6,
        max_ulp=16,
    )
    one, data, both = report.rows
    assert one.leaves == {"hidden": (0.0, 0.0), "scale": (0.0, 0.0)}
    assert one.collectives == {}
    assert one.devices == tuple(jax.devices()[:1])
    assert (one.mesh, data.mesh) == ("1", "data=4,model=2")
    for row in (data, both):
        assert row.devices == tuple(jax.devices())
        assert row.collectives["all-reduce"].times >= 1
        assert row.relative == max(d.relative for d in row.leaves.values())
        assert row.leaves[row.worst].relative == row.relative
    # The gradient of 64 + 8 numbers is summed over 4 devices.
    assert data.collectives == {"all-reduce": (1, 2 * 72 * 4 * 3 // 4)}
    table = str(report).splitlines()
    assert len(table) == 5
    assert table[3].endswith("  8  1 all-reduce (432 B)")
    assert table[0].split()[0] == "placement"
    assert "reference" in table[2]
    assert f"{both.relative:.1e}" in table[4]


def test_measure():
    """A known difference, on the scale of the leaf's largest element."""

    def biased(params, batch):
        # The gradient is (3, 1e-6) on one device and (3, 1e-6 + 0.75 n) on n.
        n = jax.sharding.get_abstract_mesh().size
        tilt = np.float32(1e-6 if n == 1 else 0.75 * n)
        return jnp.sum(params * jnp.stack([np.float32(3), tilt]))

    placements = [
        Placement("one", make_mesh(data=1)),
        Placement("two", make_mesh(data=2)),
    ]
    params = np.ones(2, np.float32)
    report = assert_same_gradients(
        biased, params, X, placements, max_relative=0.5, max_ulp=2**23
    )
    relative, ulp = report.rows[1].leaves["the array"]
    assert relative == pytest.approx(0.5, rel=1e-6)
    # The floats next to 3 are 2^-22 apart.
    assert ulp == pytest.approx(1.5 * 2**22, rel=1e-6)
    with pytest.raises(AssertionError, match=r"5.0e-01 relative.*at most 0.1 rel"):
        assert_same_gradients(biased, params, X, placements, max_relative=0.1)
    with pytest.raises(AssertionError, match="at most 1 relative and 4 ULP"):
        assert_same_gradients(
            biased, params, X, placements, max_relative=1.0, max_ulp=4
        )


def test_loss_that_depends_on_its_place():
    mesh = make_mesh()

    def local(params, batch):
        # Each device weighs its part of the batch by where it happens to be.
        here = 1 + jax.lax.axis_index("data")
        part = jnp.sum((batch @ params["hidden"]) ** 2) * here.astype(np.float32)
        return jax.lax.psum(part, ("data", "model")) + jnp.sum(params["scale"])

    def wrong(params, batch):
        mesh = jax.sharding.get_abstract_mesh()
        return jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P(("data", "model"))), out_specs=P()
        )(params, batch)

    with pytest.raises(AssertionError) as e:
        assert_same_gradients(
            wrong,
            PARAMS,
            X,
            [
                Placement("one device", make_mesh(data=1, model=1)),
                Placement("tensor", make_mesh(data=1, model=2)),
                Placement("data", mesh, batch=P(("data", "model"))),
            ],
        )
    first, blank, *table = str(e.value).splitlines()
    assert first.startswith(
        "under 'data' the gradient of hidden differs from that under 'one device'"
    )
    assert first.endswith("expected at most 1e-05 relative")
    assert not blank
    assert len(table) == 5


def test_gradient_that_is_not_finite():
    def loss(params, batch):
        return jnp.sum(jnp.sqrt(params["w"]))

    with pytest.raises(
        AssertionError, match=r"under 'one' the gradient is not finite(?s:.*)w"
    ):
        assert_same_gradients(
            loss,
            {"w": np.zeros(2, np.float32)},
            X,
            [Placement("one", make_mesh(data=1))],
        )


def test_zero_gradient_stays_zero():
    def loss(params, batch):
        n = jax.sharding.get_abstract_mesh().size
        return jnp.sum(params) * np.float32(0 if n == 1 else 1e-20)

    one, two = make_mesh(data=1), make_mesh(data=2)
    params = np.ones(2, np.float32)
    same = [Placement("one", one), Placement("again", one)]
    report = assert_same_gradients(loss, params, X, same)
    assert report.rows[1].relative == report.rows[1].ulp == 0.0
    with pytest.raises(AssertionError, match="by inf relative"):
        assert_same_gradients(
            loss, params, X, [Placement("one", one), Placement("two", two)]
        )


def test_bfloat16_is_measured_in_its_own_ulp():
    def loss(params, batch):
        n = jax.sharding.get_abstract_mesh().size
        return jnp.sum(params) * jnp.bfloat16(1 if n == 1 else 1.0078125)

    report = assert_same_gradients(
        loss,
        jnp.ones(2, jnp.bfloat16),
        X,
        [
            Placement("one", make_mesh(data=1)),
            Placement("two", make_mesh(data=2)),
        ],
        max_relative=0.01,
    )
    assert report.rows[1].ulp == 1.0


def test_no_placements():
    with pytest.raises(ValueError, match="expects placements, the reference first"):
        assert_same_gradients(loss, PARAMS, X, [])


SPEC = P("data")


@pytest.mark.parametrize(
    "params, batch, complaint",
    [
        (
            {"hidden": P(None, "fsdp"), "scale": P()},
            SPEC,
            r"params hidden of shape \(8, 8\) has the spec P\(None, 'fsdp'\), but the "
            r"mesh has no axis 'fsdp'\. Name its own axes, or",
        ),
        (
            P(("data", "model")),
            P(None, ("data", "model")),
            r"batch of shape \(8, 8\) .* but 8, its size along dimension 1, does not "
            r"divide into 6 equal parts\. Take sizes that do, a smaller mesh, or None",
        ),
        ({"hidden": P(), "scale": P(None, None)}, SPEC, "scale .* has 2 entries"),
        (P(("data", "data")), SPEC, "names 'data' twice"),
        ({"hidden": "data", "scale": P()}, SPEC, "hidden .* is no PartitionSpec"),
        (
            {"hiden": P(), "scale": P()},
            SPEC,
            "the specs of params are no prefix of its pytree: they have hiden, which "
            "it has not; it has hidden, which no spec is for",
        ),
        ({"hidden": P(), "scale": None}, SPEC, "it has scale, which no spec is for"),
        ([P(), P()], SPEC, r"they have 0, 1, which it has not"),
    ],
)
def test_a_placement_that_does_not_fit(params, batch, complaint):
    def untraced(params, batch):
        pytest.fail("the loss was traced")

    mesh = make_mesh(data=2, model=3)
    placements = [
        Placement("one", make_mesh(data=1, model=1)),
        Placement("split", mesh, params, batch),
    ]
    with pytest.raises(ValueError, match=complaint) as e:
        assert_same_gradients(untraced, PARAMS, X, placements)
    assert "under 'split', whose mesh has data=2, model=3, " in str(e.value)


# The reference lives on one process, where the other one has no device.
PROCESS = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
import flax_stable as fs

jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))

def mesh(devices):
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)

print(fs.testing.assert_same_gradients(
    lambda params, batch: jnp.mean(jnp.tanh(batch @ params["w"])),
    {"w": jax.device_put(jnp.ones((4, 2)), jax.local_devices()[0])},
    jnp.arange(32.0).reshape(8, 4) / 32,
    [fs.testing.Placement("one", mesh(jax.devices()[:1])),
     fs.testing.Placement("own", mesh(jax.local_devices())),
     fs.testing.Placement("fsdp", mesh(jax.devices()), P("data"), P("data"))],
))
"""


def test_two_processes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    root = str(Path(fs.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROCESS, port, str(i)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        found = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], found
    tables = [out[out.index("placement") :].split("\n") for out, _ in found]
    assert tables[0] == tables[1]
    _, _, one, own, fsdp, *_ = tables[0]
    assert one.split()[-2:] == own.split()[-2:] == ["1", "none"]
    assert "data=2" in fsdp and "all-gather" in fsdp
