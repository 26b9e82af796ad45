"""Gradients with the same bits on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

pytestmark = pytest.mark.optimized

AXES = ("data", "fsdp", "model")
SPECS = {
    "up": P("fsdp", "model"),
    "bias": P("model"),
    "raw_down": P(("model", "fsdp"), None),
}
BATCH_SPEC = P(("data", "fsdp"))
# Sizes along data, fsdp and model, and the kind of axes.
MESHES = [
    ((1, 1, 1), AxisType.Auto),
    ((2, 1, 1), AxisType.Auto),
    ((1, 2, 2), AxisType.Explicit),
    ((8, 1, 1), AxisType.Explicit),
    ((2, 2, 2), AxisType.Auto),
]


def make_mesh(sizes, axis_type=AxisType.Auto):
    devices = jax.devices()[: np.prod(sizes)]
    return jax.make_mesh(sizes, AXES, (axis_type,) * 3, devices=devices)


def place(tree, specs, mesh):
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    return jax.device_put(tree, shardings)


def loss(params, batch):
    """Of one softplus layer and one positive layer; a product meets a sum in both."""
    x, y = batch
    dtype = params["up"].dtype
    hidden = fs.softplus(x.astype(dtype) @ params["up"] + params["bias"])
    scores = hidden @ fs.softplus(params["raw_down"])
    return jnp.mean(jnp.square(scores.astype(jnp.float32) - y))


def example(dtype=jnp.float32, rows=8):
    rng = np.random.default_rng(0)
    shapes = {"up": (12, 20), "bias": (20,), "raw_down": (20, 3)}
    params = {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}
    batch = rng.random((rows, 12), np.float32), rng.random((rows, 3), np.float32)
    return params, batch


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


# With one example a group, `jax.lax.map` over one group and over two differ.
@pytest.mark.parametrize(
    "dtype, rows, meshes",
    [(jnp.float32, 8, MESHES), (jnp.bfloat16, 24, MESHES[2:4])],
)
def test_every_mesh_gives_the_same_bits(dtype, rows, meshes):
    params, batch = example(dtype, rows)
    value_and_grad = fs.reproducible_value_and_grad(loss)
    expected = value_and_grad(params, batch)
    for sizes, axis_type in meshes:
        mesh = make_mesh(sizes, axis_type)
        here = place(params, SPECS, mesh)
        with jax.set_mesh(mesh):
            found = value_and_grad(here, place(batch, BATCH_SPEC, mesh))
        assert bits(found) == bits(expected), (sizes, axis_type)
        assert found[1]["up"].dtype == dtype
        fs.testing.assert_sharding(found[1], SPECS, mesh)
    value, gradient = jax.value_and_grad(loss)(params, batch)
    largest = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient))
    tolerance = largest * 4 * float(jnp.finfo(dtype).eps)
    assert float(expected[0]) == pytest.approx(float(value), rel=tolerance)
    for ours, plain in zip(
        jax.tree.leaves(expected[1]), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(
            ours.astype(jnp.float32), plain.astype(jnp.float32), atol=tolerance
        )


def test_steps_of_an_optimizer_give_the_same_bits():
    """On parts of parameters of every shape."""
    optimizer = optax.adamw(1e-2)
    value_and_grad = fs.reproducible_value_and_grad(loss)

    @jax.jit
    def update(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    found = []
    params, batch = example()
    with jax.numpy_dtype_promotion("standard"):
        for sizes, axis_type in (MESHES[0], MESHES[-1]):
            mesh = make_mesh(sizes, axis_type)
            with jax.set_mesh(mesh):
                here = place(params, SPECS, mesh)
                state = jax.jit(optimizer.init)(here)
                for _ in range(4):
                    _, gradient = value_and_grad(here, batch)
                    here, state = update(here, state, gradient)
            fs.testing.assert_sharding(here, SPECS, mesh)
            found.append(bits((here, state)))
    assert found[0] == found[1]


def test_groups_of_any_number():
    """Trees that are not binary, on a mesh that is passed."""
    params, batch = example(rows=18)
    value_and_grad = fs.reproducible_value_and_grad(loss, groups=6)
    expected = value_and_grad(params, batch)
    for n in (2, 3):
        mesh = make_mesh((n, 1, 1))
        found = fs.reproducible_value_and_grad(loss, groups=6, mesh=mesh)
        assert bits(found(params, batch)) == bits(expected)


def test_arguments_and_more_outputs_are_those_of_jax():
    """Several arguments by number, and what groups give besides, one after another."""
    params, batch = example()

    def scored(scale, params, shift, batch):
        error = loss(params, batch) * scale + shift["by"]
        return error, {"rows": batch[0].sum(1), "count": 3, "scale": [scale > 1]}

    args = jnp.float32(2), params, {"by": jnp.float32(0.5)}
    expected, by = jax.value_and_grad(scored, (2, 1), has_aux=True)(*args, batch)
    value_and_grad = fs.reproducible_value_and_grad(scored, (2, 1), True, groups=4)
    found = [value_and_grad(*args, batch)]
    for sizes, axis_type in MESHES[1:3]:
        mesh = make_mesh(sizes, axis_type)
        with jax.set_mesh(mesh):
            there = place(args, (P(), SPECS, {"by": P()}), mesh)
            found.append(value_and_grad(*there, place(batch, BATCH_SPEC, mesh)))
        fs.testing.assert_sharding(found[-1][1], ({"by": P()}, SPECS), mesh)
    assert bits(found[0]) == bits(found[1]) == bits(found[2])
    (value, aux), gradient = found[0]
    np.testing.assert_allclose(value, expected[0], 1e-5)
    np.testing.assert_allclose(aux["rows"].ravel(), expected[1]["rows"], 1e-5)
    assert aux["count"].tolist() == [3] * 4 and aux["scale"][0].tolist() == [True] * 4
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), gradient, by
    )


def whole_mesh_inside():
    mesh = make_mesh((2, 1, 1))
    params, batch = example()
    inside = jax.shard_map(
        lambda: fs.reproducible_value_and_grad(loss)(params, batch)[0],
        mesh=mesh,
        in_specs=(),
        out_specs=P(),
    )
    return inside()


def called(groups=8, rows=8, sizes=None, batch=None):
    params, full = example(rows=rows)
    mesh = sizes and make_mesh(sizes)
    value_and_grad = fs.reproducible_value_and_grad(loss, groups=groups, mesh=mesh)
    return value_and_grad(params, full if batch is None else batch)


def sharded_without_a_mesh():
    params, batch = example()
    params = place(params, SPECS, make_mesh((2, 2, 2)))
    return fs.reproducible_value_and_grad(loss)(params, batch)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: called(groups=0), "to be 1 or more, but got 0"),
        (lambda: called(rows=12), r"groups=8, in batch, but batch\[0\] has shape (12,"),
        (lambda: called(groups=6, rows=12, sizes=(4, 1, 1)), "groups=6, but the mesh"),
        (lambda: called(batch=()), "expects a batch of arrays, but got ()"),
        (lambda: called(batch={"x": np.ones(8), "y": 1.0}), "batch['x'] has shape (8,"),
        (lambda: called(rows=0), "batch[0] has shape (0, 12)"),
        (
            sharded_without_a_mesh,
            "a mesh for params on 8 devices, but got none",
        ),
        (whole_mesh_inside, "inside of jax.shard_map"),
        (
            lambda: fs.reproducible_value_and_grad(loss, 1)(*example()),
            "which is the batch and has no gradient here, but got 1 for 2 arguments",
        ),
        (
            lambda: fs.reproducible_value_and_grad(loss, (0, -1))(*example()),
            "but got (0, -1) for 2 arguments",
        ),
        (
            lambda: fs.reproducible_value_and_grad(loss, "params"),
            "expects argnums, an integer or a sequence of them, to count from 0",
        ),
    ],
)
def test_what_cannot_work_is_refused(call, text):
    with pytest.raises((ValueError, TypeError)) as e:
        call()
    assert text.replace("\\", "") in str(e.value)
