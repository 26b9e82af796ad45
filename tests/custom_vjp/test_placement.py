"""Rules on meshes and inside shard_map."""

import chex
import jax
import jax.numpy as jnp
import pytest
from _rules import CASES, grad, jvp, linearize, third, vjp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


MESHES = [
    (transform, axis_type)
    for axis_type in (AxisType.Auto, AxisType.Explicit)
    for transform in (grad, jvp, vjp, linearize)
]


# Of third derivatives, which take long to compile, the stricter mesh is enough.
@pytest.mark.parametrize(
    ("transform", "axis_type"), [*MESHES, (third, AxisType.Explicit)]
)
@cases
def test_meshes(x64, case, transform, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    args = jax.tree.map(jnp.asarray, case.args)
    expected = transform(case.reference, args)(*args)
    sharded = jax.device_put(args, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        got = jax.jit(transform(case.rule, sharded))(*sharded)
    chex.assert_trees_all_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("transform", [grad, jvp, vjp, linearize])
@cases
def test_shard_map(x64, case, transform):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    args = jax.tree.map(jnp.asarray, case.args)
    expected = transform(case.reference, args)(*args)
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}
    outside = transform(jax.shard_map(case.rule, **specs), args)
    chex.assert_trees_all_close(outside(*args), expected, rtol=1e-11, atol=1e-12)
    inside = jax.shard_map(transform(case.rule, args), **specs)
    chex.assert_trees_all_close(inside(*args), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
def test_a_cotangent_that_varies_where_the_argument_does_not(transform):
    @fs.custom_vjp
    def scaled(x, w):
        return x * w

    def bwd(residuals, g):
        x, w = residuals
        return g * w, jnp.sum(g * x)

    scaled.defvjp(lambda x, w: (x * w, (x, w)), bwd)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(
        lambda x, w: transform(lambda w: jnp.sum(scaled(x, w)))(w),
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=P(),
    )
    with pytest.raises(ValueError, match=r"argument 'w', float32\[\], .*jax.lax.psum"):
        run(jnp.arange(8.0), jnp.ones(()))
