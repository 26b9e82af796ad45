"""Placement assertions: what they pass, what they refuse, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_stable.testing import assert_on_devices, assert_sharding

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
