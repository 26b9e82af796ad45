"""Rules on meshes and inside shard_map."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from _rules import CASES, grad, jvp, linearize, third, vjp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_stable as fs

CASES_BY_NAME = pytest.mark.parametrize("name", CASES)
TRANSFORMS = (grad, jvp, vjp, linearize)
QUICK = {"xla_backend_optimization_level": 0}


def everything(f, args, transforms=TRANSFORMS):
    """All transformations of a function as one program, which is compiled but once."""

    def run(*args):
        return {t.__name__: t(f, args)(*args) for t in transforms}

    return jax.jit(run, compiler_options=QUICK)


@pytest.fixture(scope="module")
def expected():
    """Of each case its arguments, and what its reference makes of them."""
    with jax.enable_x64(True):
        args = {k: jax.tree.map(jnp.asarray, case.args) for k, case in CASES.items()}
        return {
            k: (
                args[k],
                everything(case.reference, args[k], (*TRANSFORMS, third))(*args[k]),
            )
            for k, case in CASES.items()
        }


def assert_close(found, expected):
    expected = {k: expected[k] for k in found}
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@CASES_BY_NAME
def test_meshes(x64, expected, name, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    args, results = expected[name]
    sharded = jax.device_put(args, NamedSharding(mesh, P("data")))
    # Of third derivatives, which take long to compile, the stricter mesh is enough.
    more = (third,) if axis_type is AxisType.Explicit else ()
    with jax.set_mesh(mesh):
        run = everything(CASES[name].rule, sharded, (*TRANSFORMS, *more))
        assert_close(run(*sharded), results)


@CASES_BY_NAME
def test_shard_map(x64, expected, name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    (args, results), rule = expected[name], CASES[name].rule
    specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P("data")}
    assert_close(everything(jax.shard_map(rule, **specs), args)(*args), results)
    inside = {t.__name__: jax.shard_map(t(rule, args), **specs) for t in TRANSFORMS}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(*args):
        return {name: f(*args) for name, f in inside.items()}

    assert_close(run(*args), results)


WRONG_AXES = {
    "w": (
        lambda x, w, g: (g * w, jnp.sum(g * x)),
        r"argument 'w', float32\[\], .*does not vary over 'data': .*jax.lax.psum\(",
    ),
    "x": (
        lambda x, w, g: (jax.lax.psum(g * w, "data"), None),
        r"argument 'x', float32\[1\]\{V:data\}, .* varies over 'data', .*leave out the "
        "psum",
    ),
}


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("argument", WRONG_AXES)
def test_a_cotangent_that_varies_over_other_axes(transform, argument):
    bwd, text = WRONG_AXES[argument]
    scaled = fs.custom_vjp(lambda x, w: x * w)
    scaled.defvjp(lambda x, w: (x * w, (x, w)), lambda r, g: bwd(*r, g))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    by = transform(lambda x, w: jnp.sum(scaled(x, w)), "xw".index(argument))
    run = jax.shard_map(by, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    with pytest.raises(ValueError, match=text):
        run(jnp.arange(8.0), jnp.ones(()))
