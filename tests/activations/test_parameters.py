"""Activations with parameters: every derivative, every way to broadcast, every mesh."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flax_stable as fs

# The plain formulas, of which autodiff in float64 is the reference.
PLAIN = {
    "leaky_relu": lambda x, p: jnp.where(x >= 0, x, p * x),
    "elu": lambda x, p: jnp.where(x > 0, x, p * jnp.expm1(jnp.where(x > 0, 0, x))),
    "celu": lambda x, p: jnp.where(x > 0, x, p * jnp.expm1(jnp.where(x > 0, 0, x) / p)),
    # This form of it does not cancel for negative x, which is what float32 meets.
    "squareplus": lambda x, p: 0.5 * p / (jnp.sqrt(x * x + p) - x),
    "softcap": lambda x, p: p * jnp.tanh(x / p),
    "snake": lambda x, p: x + jnp.sin(p * x) ** 2 / p,
    "softplus": lambda x, p: jnp.logaddexp(p * x, 0.0) / p,
}
# Whose parameter jax.nn has too; the others are promoted as their formula is.
IN_JAX = ("leaky_relu", "elu", "celu", "squareplus")
SHAPES = [((4, 8), ()), ((4, 8), (8,)), ((4, 8), (4, 1)), ((8,), (4, 1)), ((), (3,))]
NAMES = pytest.mark.parametrize("name", PLAIN)


def arguments(shape, parameter_shape, dtype="float32"):
    rng = np.random.default_rng(0)
    return (
        rng.uniform(-4, 4, shape).astype(dtype),
        rng.uniform(0.5, 3, parameter_shape).astype(dtype),
    )


def weighted_sum(f):
    """A scalar that weighs the elements differently, so that none cancels another."""

    def loss(x, p):
        y = f(x, p).ravel()
        return (jnp.asarray(np.cos(np.arange(y.size)), y.dtype) * y).sum()

    return loss


def of_each_element(name, x, p):
    """The derivatives of a plain formula by x and p, up to the third, in float64."""
    by_x, by_p = (jax.grad(PLAIN[name], i) for i in range(2))
    by_both, by_p_twice = jax.grad(by_x, 1), jax.grad(by_p, 1)
    every = [by_x, by_p, jax.grad(by_x), by_both, by_p_twice, jax.grad(by_p_twice, 1)]
    with jax.enable_x64(True):
        return jax.jit(jax.vmap(lambda x, p: [f(x, p) for f in every]))(x, p)


def spread(a, shape):
    """The matrix that broadcasts what is in the shape of ``a``, transposed."""
    units = np.eye(a.size).reshape(a.size, *a.shape)
    return np.stack([np.broadcast_to(unit, shape).ravel() for unit in units])


@NAMES
def test_gradient_and_hessian(name):
    @jax.jit
    def derivatives(args):
        f = weighted_sum(getattr(fs, name))
        every = [[jax.grad(f, (0, 1)), jax.hessian(f, (0, 1))] for _ in args]
        every[0] += [jax.jacfwd(f, (0, 1)), jax.jacfwd(jax.hessian(f, 1), 1)]
        return [[g(*a) for g in group] for group, a in zip(every, args, strict=True)]

    args = [arguments(*shapes) for shapes in SHAPES]
    elements = [np.broadcast_arrays(*a) for a in args]
    flat = (np.concatenate([*map(np.ravel, e)]) for e in zip(*elements, strict=True))
    every = of_each_element(name, *map(np.float64, flat))
    ends = np.cumsum([x.size for x, _ in elements])[:-1]
    pieces = np.split(np.stack(every), ends, axis=1)
    for (x, p), found, exact in zip(args, derivatives(args), pieces, strict=True):
        weights = np.cos(np.arange(exact.shape[1]))
        by_x, by_p, xx, xp, pp, ppp = exact * weights
        to_x, to_p = (spread(a, np.broadcast_shapes(x.shape, p.shape)) for a in (x, p))
        gradient = [to_x @ by_x, to_p @ by_p]
        mixed = to_x * xp @ to_p.T
        hessian = [to_x * xx @ to_x.T, mixed, mixed.T, to_p * pp @ to_p.T]
        expected = gradient + hessian
        if not p.shape:
            expected += [*gradient, to_p @ ppp]
        for a, b in zip(jax.tree.leaves(found), expected, strict=True):
            assert a.dtype == np.float32
            case = f"x {x.shape}, parameter {p.shape}"
            np.testing.assert_allclose(
                a.ravel(), b.ravel(), rtol=2e-6, atol=2e-6, err_msg=case
            )


@NAMES
def test_vmap(name):
    x, p = arguments((4, 8), (8,))
    gradient = jax.jit(jax.grad(weighted_sum(getattr(fs, name)), (0, 1)))
    for axes, args in [((0, None), (x, p)), ((1, 0), (x, p)), ((None, 0), (x[0], p))]:
        found = jax.vmap(gradient, axes)(*args)
        size = x.shape[axes[0]] if axes[0] is not None else 8
        rows = [
            gradient(
                *(
                    a if axis is None else np.take(a, i, axis)
                    for a, axis in zip(args, axes, strict=True)
                )
            )
            for i in range(size)
        ]
        for k in range(2):
            expected = np.stack([row[k] for row in rows])
            np.testing.assert_allclose(found[k], expected, rtol=1e-6, atol=1e-6)


@NAMES
def test_mesh(name):
    """On both kinds, with the parameter whole and in parts."""
    x, p = arguments((8, 4), (4,))

    @jax.jit
    def derivatives(x, p):
        def loss(x, p):
            return (getattr(fs, name)(x, p) ** 2).sum()

        return jax.grad(loss, (0, 1))(x, p), jax.jvp(loss, (x, p), (x, p))[1]

    expected = derivatives(x, p)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
        for spec in (PartitionSpec(), PartitionSpec("model")):
            with jax.set_mesh(mesh):
                placed = [
                    jax.device_put(a, NamedSharding(mesh, s))
                    for a, s in ((x, PartitionSpec("data", "model")), (p, spec))
                ]
                found = derivatives(*placed)
            for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
                np.testing.assert_allclose(a, b, 1e-5, err_msg=f"{kind} {spec}")


@NAMES
def test_shard_map(name):
    axis_types = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=axis_types)
    x, p = arguments((8, 4), (4,))

    def gradient(x, p):
        return jax.grad(lambda p: (getattr(fs, name)(x, p) ** 2).sum())(p)

    specs = PartitionSpec("data", "model"), PartitionSpec("model")
    found = jax.jit(
        jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs[1])
    )(x, p)
    np.testing.assert_allclose(found, gradient(x, p), rtol=1e-5)


@NAMES
def test_keeps_nothing_of_the_size_of_x_twice(name):
    x, p = arguments((4, 8), (8,))
    f = getattr(fs, name)
    kept = jax.tree.leaves(jax.vjp(lambda x: f(x, p), x)[1])
    big = [r.dtype for r in kept if r.shape == x.shape]
    assert big == [bool if name == "leaky_relu" else np.float32]
    both = [r for r in jax.tree.leaves(jax.vjp(f, x, p)[1]) if r.shape == x.shape]
    assert [r.dtype for r in both if r.dtype != bool] == [np.float32]


@pytest.mark.parametrize(
    ("x", "parameter", "dtype", "weak"),
    [
        (jnp.bfloat16, 0.5, "bfloat16", False),
        (jnp.bfloat16, 2, "bfloat16", False),
        (float, 0.5, "float32", True),
        (float, np.float32(0.5), "float32", False),
        (jnp.bfloat16, np.float32(0.5), "float32", False),
        (jnp.float32, np.float16(0.5), "float32", False),
    ],
)
@NAMES
def test_promotes_with_its_parameter(name, x, parameter, dtype, weak):
    x = x(-1.5)
    f = getattr(fs, name)
    with jax.numpy_dtype_promotion("standard"):
        model = getattr(jax.nn, name) if name in IN_JAX else PLAIN[name]
        found, expected = f(x, parameter), jax.eval_shape(model, x, parameter)
        args = x, jnp.asarray(parameter, float)
        gradients = jax.eval_shape(jax.grad(f, (0, 1)), *args)
    assert (found.dtype, found.weak_type) == (dtype, weak)
    assert (expected.dtype, expected.weak_type) == (dtype, weak)
    assert gradients[0].dtype == jnp.asarray(x).dtype
    np.testing.assert_allclose(
        np.float32(found), float(PLAIN[name](-1.5, float(parameter))), rtol=0.004
    )


def test_strict_promotion_refuses_what_it_refuses_in_jax():
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        fs.elu(jnp.bfloat16(1), np.float32(0.5))


@NAMES
def test_a_parameter_is_not_rounded_to_16_bits(name):
    x = jnp.linspace(-4, -0.1, 64, dtype=jnp.bfloat16)
    found = getattr(fs, name)(x, 0.3)
    exact = PLAIN[name](x.astype(np.float32), 0.3)
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


@NAMES
def test_errors(name):
    with pytest.raises(TypeError, match=f"{name} is defined for real.*complex64"):
        getattr(fs, name)(1.0, 1j)
    with pytest.raises(
        ValueError, match=rf"{name} broadcasts.*x \(4, 8\), \w+ \(3,\)\. Reshape"
    ):
        getattr(fs, name)(jnp.ones((4, 8)), jnp.ones(3))


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 0.3, 0.7, 3.0, 1e3, 1e30])
def test_celu_is_right_for_every_alpha(alpha):
    """Errors in ULP, where x / alpha is from a rounding to the end of exp."""
    alpha = np.float32(alpha)
    t = -np.float32(np.logspace(-10, np.log10(86), 300))
    x = t * alpha
    x = x[np.abs(x) > 1e-37]
    with mp.workdps(40):
        q = [mp.mpf(float(v)) / mp.mpf(float(alpha)) for v in x]
        value = np.float64([float(mp.mpf(float(alpha)) * mp.expm1(v)) for v in q])
        slope = np.float64([float(mp.exp(v)) for v in q])
        in_alpha = np.float64([float(mp.expm1(v) - v * mp.exp(v)) for v in q])

    def errors(found, exact):
        normal = np.abs(exact) > 1.2e-38
        error = np.abs(np.asarray(found, np.float64) - exact)
        return (error / np.spacing(np.abs(np.float32(exact))))[normal].max()

    found = jax.jit(jax.vmap(jax.value_and_grad(fs.celu, (0, 1)), (0, None)))(x, alpha)
    assert errors(found[0], value) <= 2
    assert errors(found[1][0], slope) <= 4
    assert errors(found[1][1], in_alpha) <= 8


def test_elu_with_a_large_alpha_lifts_what_exp_alone_would_lose():
    x = jnp.float32([-21, -88, -100, -130])
    found = jax.vmap(jax.grad(fs.elu), (0, None))(x, 1e25)
    exact = 1e25 * np.exp(np.float64(x))
    np.testing.assert_allclose(found, exact, rtol=4e-7)
    assert (exact > 1.2e-38).all()


# The functions and their derivatives by the parameter, for any size of it: x is taken
# in units of the number given.
EXACT = {
    "squareplus": (lambda x, b: (x + mp.sqrt(x * x + b)) / 2, np.sqrt),
    "softcap": (lambda x, cap: cap * mp.tanh(x / cap), lambda cap: cap),
    "snake": (lambda x, a: x + mp.sin(a * x) ** 2 / a, lambda a: 1 / a),
    "softplus": (lambda x, beta: mp.log1p(mp.exp(beta * x)) / beta, lambda b: 1 / b),
}


@pytest.mark.optimized
@pytest.mark.parametrize("name", EXACT)
def test_is_right_for_every_parameter(name):
    f = getattr(fs, name)
    slope = jax.grad(f)
    derivatives = f, slope, jax.grad(f, 1), jax.grad(slope)
    program = jax.jit(jax.vmap(lambda x, p: [g(x, p) for g in derivatives], (0, None)))
    for p in (1e-30, 1e-3, 0.3, 0.7, 1.7, 1e3, 1e30):
        assert_right(name, program, np.float32(p))


def assert_right(name, program, p):
    """Errors in ULP of value and derivatives, from a rounding to where they end."""
    exact, unit = EXACT[name]
    rng = np.random.default_rng(0)
    t = rng.choice([-1, 1], 200) * 10 ** rng.uniform(-4, 1.6, 200)
    x = np.float32(t * unit(np.float64(p)))
    with mp.workdps(250):
        q = mp.mpf(float(p))
        at = [mp.mpf(float(v)) for v in x]
        steps = [(0, 0), (1, 0), (0, 1), (2, 0)]
        expected = [
            np.array([float(_partial(exact, v, q, order)) for v in at])
            for order in steps
        ]
    for a, b, bound in zip(program(x, p), expected, (2, 4, None, 6), strict=True):
        normal = (np.abs(b) > 1.2e-38) & (np.abs(b) < 3.4e38)
        if not normal.any():  # by the parameter, of which the size is 1e-60 or 1e60
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            ulp = np.spacing(np.abs(np.float32(b)))
        if (
            bound is None
        ):  # it may have roots, about which it is right to an absolute ULP
            scale = np.abs(b) + (np.abs(b).max() if name == "snake" else 0)
            bound, ulp = 8, scale * np.finfo(np.float32).eps
        error = np.abs(np.float64(a) - b)[normal] / ulp[normal]
        worst = x[normal][error.argmax()]
        assert error.max() <= bound, (p, worst, error.max())


def _partial(f, x, p, order):
    return mp.diff(f, (x, p), order) if any(order) else f(x, p)


def test_softplus_compiles_to_the_same_with_the_usual_beta():
    x = jnp.ones(4)
    texts = {
        jax.jit(f).lower(x).as_text()
        for f in (lambda x: fs.softplus(x), lambda x: fs.softplus(x, 1))
    }
    assert len(texts) == 1
    np.testing.assert_allclose(
        fs.softplus(x, jnp.float32(1)), fs.softplus(x), rtol=2e-7
    )
