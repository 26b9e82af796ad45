"""Placement assertions: what they pass, what they refuse, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_stable.testing import (
    Placement,
    assert_on_devices,
    assert_same_gradients,
    assert_sharding,
)

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


def put(x, mesh, spec):
    return jax.device_put(x, NamedSharding(mesh, spec))


X = np.arange(64, dtype=np.float32).reshape(8, 8) / 64


class TestOnDevices:
    @pytest.mark.parametrize("spec", [P(), P("data"), P("data", "model")], ids=str)
    def test_replicated_and_sharded_arrays_live_on_the_whole_mesh(self, spec):
        mesh = make_mesh()
        tree = {"a": put(X, mesh, spec)}
        assert_on_devices(tree, mesh)
        assert_on_devices(tree, jax.devices())
        assert_on_devices(tree, "cpu")
        with pytest.raises(
            AssertionError, match=r"^a: expected cpu:0, got the 8 devices cpu:0, cpu:1"
        ):
            assert_on_devices(tree, jax.devices()[0])

    def test_one_device(self):
        second = jax.devices()[1]
        x = jax.device_put(X, second)
        assert_on_devices(x, second)
        assert_on_devices(x, [second])
        with pytest.raises(AssertionError, match="the array: expected the 8 devices"):
            assert_on_devices(x, jax.devices())

    def test_names_every_leaf_that_fails_and_no_other(self):
        mesh = make_mesh()
        tree = {"good": put(X, mesh, P()), "bad": {"w": jnp.ones(2), "b": jnp.ones(2)}}
        with pytest.raises(AssertionError) as e:
            assert_on_devices(tree, mesh)
        assert [line.split(":")[0] for line in str(e.value).splitlines()] == [
            "bad/b",
            "bad/w",
        ]

    @pytest.mark.parametrize("name", ["gpu", "cuda", "tpu"])
    def test_other_platform(self, name):
        with pytest.raises(
            AssertionError, match=f"expected only devices of platform '{name}', got"
        ):
            assert_on_devices(jnp.ones(2), name)

    @pytest.mark.parametrize(
        ("leaf", "kind"), [(X, "numpy.ndarray"), (1.0, "builtins.float")]
    )
    def test_host_memory_is_no_device(self, leaf, kind):
        with pytest.raises(
            AssertionError, match=f"got a {kind} in host memory: jax.device_put"
        ):
            assert_on_devices({"x": leaf}, "cpu")

    def test_tracer_says_what_cannot_be_known(self):
        @jax.jit
        def f(x):
            assert_on_devices({"x": x}, "cpu")
            return x

        with pytest.raises(
            AssertionError,
            match=r"x: .* got a tracer, whose devices are known only when",
        ):
            f(X)

    def test_empty_tree(self):
        with pytest.raises(AssertionError, match="got one without leaves"):
            assert_on_devices({}, "cpu")

    @pytest.mark.parametrize("devices", [[], [0, 1]])
    def test_no_devices(self, devices):
        with pytest.raises(TypeError, match="must be a platform's name, a device"):
            assert_on_devices(jnp.ones(2), devices)


class TestSharding:
    @pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT], ids=str)
    @pytest.mark.parametrize(
        ("actual", "asserted"),
        [
            (P("data"), P("data", None)),
            (P("data", None), P("data")),
            (P(), P(None, None)),
            (P("data"), P("data", "one")),
            (P("one"), P()),
            (P(("data", "one")), P("data")),
            (P(("data", "model")), P(("data", "model"))),
        ],
        ids=str,
    )
    def test_spellings_of_one_layout(self, axis_type, actual, asserted):
        mesh = make_mesh(axis_type, data=4, model=2, one=1)
        x = put(X, mesh, actual)
        assert_sharding(x, asserted, mesh)

        # Under jit the first compilation judges Auto axes, the trace Explicit ones.
        @jax.jit
        def f(x):
            assert_sharding(x, asserted, mesh)
            return x * 2

        f(x).block_until_ready()

    @pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT], ids=str)
    @pytest.mark.parametrize(
        ("actual", "asserted", "got"),
        [
            (P(), P("data"), "replicated"),
            (P("data"), P(), "parts of shape (2, 8)"),
            (P("data"), P(None, "data"), "parts of shape (2, 8)"),
            (P("data"), P("model"), "parts of shape (2, 8)"),
            (P("data"), P("data", "model"), "parts of shape (2, 8)"),
            (P(("data", "model")), P(("model", "data")), "parts of shape (1, 8)"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("traced", [False, True], ids=["concrete", "traced"])
    def test_another_layout(self, axis_type, actual, asserted, got, traced):
        mesh = make_mesh(axis_type)

        def f(x):
            assert_sharding({"w": x}, asserted, mesh)
            return x * 2

        # What the compiler decides, it reports in an error of its own kind.
        late = traced and axis_type is AUTO
        with pytest.raises(jax.errors.JaxRuntimeError if late else AssertionError) as e:
            (jax.jit(f) if traced else f)(put(X, mesh, actual))
        assert "w: expected P(" in str(e.value)
        assert ", got P(" in str(e.value)
        assert got in str(e.value).split(", got ")[1]

    def test_prefix_of_specs(self):
        mesh = make_mesh()
        tree = {
            "hidden": {
                "kernel": put(X, mesh, P("data")),
                "bias": put(X, mesh, P("data")),
            },
            "output": put(X, mesh, P(None, "model")),
        }
        assert_sharding(tree, {"hidden": P("data"), "output": P(None, "model")}, mesh)
        with pytest.raises(AssertionError) as e:
            assert_sharding(tree, P("data"), mesh)
        assert str(e.value).startswith("output: expected P('data',)")
        assert len(str(e.value).splitlines()) == 1
        with pytest.raises(AssertionError, match="that is a prefix of the tree"):
            assert_sharding(tree, {"hidden": P("data")}, mesh)

    def test_single_device_array_is_not_on_the_mesh(self):
        with pytest.raises(AssertionError, match=r"got whole on cpu:0$"):
            assert_sharding(jnp.ones((8, 8)), P(), make_mesh())

    def test_order_of_devices_is_part_of_the_layout(self):
        mesh = make_mesh(data=8)
        backwards = jax.sharding.Mesh(mesh.devices[::-1], ("data",))
        x = put(X, mesh, P("data"))
        with pytest.raises(AssertionError, match="in another order"):
            assert_sharding(x, P("data"), backwards)

    @pytest.mark.parametrize(
        ("leaf", "spec", "text"),
        [
            (X, P(), "got a numpy.ndarray in host memory"),
            (jnp.ones(8), P("rows"), "names 'rows', but the mesh has the axes 'data'"),
            (jnp.ones(8), P("data", None), r"has 2 entries, but the array has shape"),
            (jnp.ones(8), "data", "expected a PartitionSpec in specs, got 'data'"),
        ],
    )
    def test_question_without_an_answer(self, leaf, spec, text):
        with pytest.raises(AssertionError, match=text):
            assert_sharding({"x": leaf}, {"x": spec}, make_mesh())

    def test_empty_tree(self):
        with pytest.raises(AssertionError, match="got one without leaves"):
            assert_sharding([], P(), make_mesh())

    def test_explicit_tracer_of_another_mesh(self):
        @jax.jit
        def f(x):
            assert_sharding(x, P("data"), make_mesh(EXPLICIT, data=8))
            return x

        with pytest.raises(AssertionError, match=r"data=8 .* got .*data=4,model=2"):
            f(put(X, make_mesh(EXPLICIT), P("data")))

    def test_intermediate_values(self):
        mesh = make_mesh(EXPLICIT)

        @jax.jit
        def f(x):
            y = x.T
            assert_sharding(y, P(None, "data"), mesh)
            return y

        f(put(X, mesh, P("data")))

    @pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT], ids=str)
    def test_in_a_loss(self, axis_type):
        """Under every transformation, and with no trace in what is compiled."""
        mesh = make_mesh(axis_type)
        w = put(X, mesh, P(None, "model"))
        x = put(X, mesh, P("data"))

        def loss(w, x):
            h = x @ w
            assert_sharding((w, h), (P(None, "model"), P("data", "model")), mesh)
            return jnp.mean(h**2)

        def descend(w, x):
            step = jax.grad(jax.checkpoint(loss))
            return jax.lax.scan(lambda w, _: (w - step(w, x), None), w, length=2)[0]

        assert_sharding(jax.jit(jax.grad(loss))(w, x), P(None, "model"), mesh)
        assert_sharding(jax.jit(descend)(w, x), P(None, "model"), mesh)
        text = jax.jit(loss).lower(w, x).compile().as_text()
        assert "custom-call" not in text

    def test_inside_of_shard_map(self):
        mesh = make_mesh()

        def f(x):
            assert_sharding(x, P("data"), mesh)
            return x

        with pytest.raises(AssertionError, match="inside shard_map an array is one"):
            jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(X)


def loss(params, batch):
    hidden = jnp.tanh(batch @ params["hidden"])
    return jnp.mean((hidden * params["scale"]) ** 2)


PARAMS = {
    "hidden": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "scale": np.linspace(1, 2, 8, dtype=np.float32),
}
SPLIT = {"hidden": P(None, "model"), "scale": P("model")}


class TestSameGradients:
    @pytest.mark.parametrize("axis_type", [AUTO, EXPLICIT], ids=str)
    def test_report(self, axis_type):
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
            assert row.collectives["all-reduce"] >= 1
            assert row.relative == max(d.relative for d in row.leaves.values())
            assert row.leaves[row.worst].relative == row.relative
        table = str(report).splitlines()
        assert len(table) == 5
        assert table[0].split()[0] == "placement"
        assert "reference" in table[2]
        assert f"{both.relative:.1e}" in table[4]

    def test_measure(self):
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

    def test_loss_that_depends_on_its_place(self):
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

    def test_gradient_that_is_not_finite(self):
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

    def test_zero_gradient_stays_zero(self):
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

    def test_bfloat16_is_measured_in_its_own_ulp(self):
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

    def test_no_placements(self):
        with pytest.raises(ValueError, match="expects placements, the reference first"):
            assert_same_gradients(loss, PARAMS, X, [])
