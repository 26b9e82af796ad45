"""What host functions refuse, and what they say of errors outside JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_stable as fs


def struct(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def rule(fn=np.sin, vjp=lambda args, out, g: (g * np.cos(args[0]),), **options):
    return fs.host_function(fn, vjp, lambda x: x, **options)


def fail(*args):
    raise OSError("the C library says no")


def forward(f):
    return lambda x: jax.jvp(f, (x,), (x,))[1]


def reverse(f):
    return jax.grad(lambda x: f(x).sum())


def run_vmapped(f):
    return lambda x: jax.vmap(f)(jnp.stack([x, x]))


RUNTIME = jax.errors.JaxRuntimeError
FAILURES = {
    "fn raises": (
        rule(fail),
        RUNTIME,
        "host function fail raised OSError: the C library says no",
    ),
    "vjp raises": (
        reverse(rule(vjp=fail)),
        RUNTIME,
        "vjp of host function sin raised OSError: the C library says no",
    ),
    "jvp raises": (
        forward(rule(jvp=fail)),
        RUNTIME,
        "jvp of host function sin raised OSError: the C library says no",
    ),
    "a dtype": (
        rule(lambda x: np.float64(x)),
        RUNTIME,
        r"must return float32\[3\], as result_shape_dtypes declares, but it returned "
        r"float64\[3\]. Cast it with astype",
    ),
    "a shape": (
        rule(np.sum),
        RUNTIME,
        r"function sum must return float32\[3\], .* returned float32\[\]. Reshape it",
    ),
    "a structure": (
        rule(lambda x: (x, x)),
        RUNTIME,
        r"must return the structure .*\(\*\), as .* returned PyTreeDef\(\(\*, \*",
    ),
    "a shape under vmap": (
        run_vmapped(
            rule(lambda x: x[0] * np.ones(3, x.dtype), vmap_method="vectorized")
        ),
        RUNTIME,
        r"must return float32\[2,3\], .* float32\[3\]. By vmap_method='vectorized' "
        r"the axes \(2,\) before its own",
    ),
    "a shape of an elementwise function": (
        fs.host_function(np.sum),
        RUNTIME,
        r"must return float32\[3\], as its arguments are, but it returned float32\[\]",
    ),
    "no tuple of cotangents": (
        reverse(rule(vjp=lambda args, out, g: g)),
        RUNTIME,
        "vjp of host function sin must return a tuple of 1 cotangents, one for each "
        "argument, but it returned a ndarray",
    ),
    "a cotangent of another dtype": (
        reverse(rule(vjp=lambda args, out, g: (np.float64(g),))),
        RUNTIME,
        r"vjp of host function sin must return float32\[3\], as argument 0 is, but it",
    ),
    "a cotangent of another structure": (
        reverse(rule(vjp=lambda args, out, g: ([g],))),
        RUNTIME,
        r"vjp of host function sin must return the structure .*, as argument 0 is",
    ),
    "a tangent of another shape": (
        forward(rule(jvp=lambda args, out, t: t[0].sum())),
        RUNTIME,
        r"jvp of host function sin must return float32\[3\], as the output is",
    ),
    "a vjp that clips": (
        forward(rule(vjp=lambda args, out, g: (np.clip(g, -1, 1),))),
        RUNTIME,
        r"vjp or jvp of host function sin is not linear .* forward_mode=False",
    ),
    "a vjp that adds": (
        forward(rule(vjp=lambda args, out, g: (g + 1,))),
        RUNTIME,
        "is not linear in what it multiplies",
    ),
    "a second derivative": (
        jax.hessian(lambda x: rule()(x).sum()),
        TypeError,
        "host function sin has no second derivative: its vjp and jvp run outside JAX. "
        "Give the adjoint of a linear function, the derivative of an elementwise one, "
        "or .*custom_vjp",
    ),
    "a second derivative of a clipped one": (
        reverse(reverse(rule(forward_mode=False))),
        TypeError,
        "host function sin has no second derivative",
    ),
    "no derivative": (
        reverse(fs.host_function(np.sin)),
        TypeError,
        "host function sin has no derivative. Give host_function one by derivative, "
        "adjoint, vjp or jvp, or use jax.lax.stop_gradient",
    ),
    "no derivative, of a declared type": (
        forward(fs.host_function(np.sin, None, lambda x: x)),
        TypeError,
        "host function sin has no derivative",
    ),
    "no derivative by an argument": (
        lambda x: jax.grad(
            lambda y: fs.host_function(np.power, derivative=(lambda x, y: y, None))(
                x, y
            ).sum()
        )(x),
        TypeError,
        "host function power has no derivative by argument 1",
    ),
    "a derivative of another shape": (
        reverse(fs.host_function(np.sin, derivative=lambda x: x[:2])),
        ValueError,
        r"derivative of host function sin must return an array of shape \(3,\), as its "
        r"arguments are, but it returned one of shape \(2,\)",
    ),
    "adjoint raises": (
        reverse(fs.host_function(np.cumsum, None, lambda x: x, adjoint=fail)),
        RUNTIME,
        "adjoint of host function cumsum raised OSError: the C library says no",
    ),
    "an adjoint of another shape": (
        reverse(fs.host_function(np.cumsum, None, lambda x: x, adjoint=np.sum)),
        RUNTIME,
        r"adjoint of host function cumsum must return float32\[3\], as the arguments",
    ),
    "an adjoint by integers": (
        lambda x: fs.host_function(
            np.multiply, None, lambda x, n: x, adjoint=lambda g: (g, g)
        )(x, 3),
        TypeError,
        "adjoint of multiply, which makes it linear, but it takes float32, int32 and "
        "returns float32. Fix arguments of other dtypes by functools.partial, or give "
        "a vjp",
    ),
    "derivatives of other arguments": (
        lambda x: fs.host_function(np.hypot, derivative=jnp.cos)(x, x),
        TypeError,
        "takes the arguments that derivative has slopes for, 1, but got 2",
    ),
}


@pytest.mark.parametrize(("run", "error", "text"), FAILURES.values(), ids=FAILURES)
def test_failures(run, error, text):
    x = jnp.ones(3)
    with pytest.raises(error, match=f"(?s){text}"):
        jax.block_until_ready(run(x))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"fn": 3}, TypeError, "expects fn to be a function, but got 3"),
        ({"vjp": "x"}, TypeError, "expects vjp to be a function, but got 'x'"),
        (
            {"derivative": (jnp.cos, 1)},
            TypeError,
            "expects derivative to be a function, but got 1",
        ),
        (
            {"derivative": jnp.cos, "vjp": jnp.cos},
            TypeError,
            "got a derivative of sin, which makes it elementwise, and vjp, jvp or",
        ),
        (
            {"adjoint": np.cos, "vjp": np.cos},
            TypeError,
            "got an adjoint of sin, which makes it linear, and derivative, vjp or jvp",
        ),
        ({"adjoint": np.cos}, TypeError, "not what it returns: set result_shape"),
        ({"vjp": jnp.cos}, TypeError, "not what it returns: set result_shape_dtypes"),
        (
            {"jvp": jnp.cos, "result_shape_dtypes": struct, "forward_mode": False},
            TypeError,
            "forward_mode=False for sin, which takes a vjp and no jvp",
        ),
        (
            {"vmap_method": "expand_dims"},
            ValueError,
            "vmap_method to be 'sequential' or 'vectorized', but got 'expand_dims'",
        ),
    ],
)
def test_options_that_cannot_be(options, error, text):
    with pytest.raises(error, match=text):
        fs.host_function(**{"fn": np.sin} | options)
