"""Which backward rules are linear, and which are refused."""

import chex
import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as sparse
import pytest
from _rules import rule

import flax_stable as fs

LINEAR = r"sine is not linear in the cotangent g: {}\. .*forward_mode=False"
NOT_ZERO = LINEAR.format("it is not zero where g is")
NOT_LINEAR = {
    "squares g": (
        rule(lambda x, g: (g * g,)),
        LINEAR.format("'mul' takes it twice"),
    ),
    "clips g": (
        rule(lambda x, g: (jnp.clip(g, -1, 1),)),
        LINEAR.format("'max' of it is not"),
    ),
    "branches on g": (
        rule(lambda x, g: (jnp.where(g > 0, g, jnp.zeros_like(g)),)),
        LINEAR.format("'gt' of it is not"),
    ),
    "sorts by g": (
        rule(lambda x, g: (jnp.sort(jnp.stack([g, 2 * g]))[0],)),
        LINEAR.format("'sort' of it is not"),
    ),
    "divides by g": (
        rule(lambda x, g: (x / g,)),
        LINEAR.format("'div' of it is not"),
    ),
    "scales g to 1, in a loop": (
        rule(lambda x, g: (jax.lax.fori_loop(0, 2, lambda i, c: c / abs(c), g),)),
        LINEAR.format("'abs' of it is not"),
    ),
}


@jax.custom_jvp
def add_one(x):
    return x + 1


add_one.defjvps(lambda t, y, x: t)

# Each is linear but for a constant, which transposition would drop without a word.
AFFINE = {
    "a number": lambda x, g: (g + 1,),
    # That it is not zero is seen outside of traces.
    "a residual, in a callee": lambda x, g: (jax.jit(lambda g: g * 2 + x)(g),),
    "a constant": lambda x, g: (jnp.ones_like(g),),
    "a selected constant": lambda x, g: (jnp.where(x > 5, g, 7.0),),
    "a padded constant": lambda x, g: (jnp.pad(g[None], 1, constant_values=3.0)[0],),
    "a joined constant": lambda x, g: (jnp.stack([g, jnp.ones_like(g)]).sum(),),
    "a part of a constant": lambda x, g: (jnp.full(2, 7.0)[0] + g,),
    "a branch": lambda x, g: (jax.lax.cond(x > 0, lambda g: g + 1, lambda g: g, g),),
    "a loop": lambda x, g: (
        jax.lax.scan(lambda c, _: (c + 1.0, None), g, length=3)[0],
    ),
    "a function with a rule": lambda x, g: (add_one(g),),
}
for name, bwd in AFFINE.items():
    NOT_LINEAR[f"adds {name}"] = (rule(bwd), NOT_ZERO)


@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize(("f", "text"), NOT_LINEAR.values(), ids=NOT_LINEAR)
def test_rules_that_are_not_linear(f, text, differentiate):
    with pytest.raises(TypeError, match=text):
        differentiate(f)(jnp.float32(1.0))


MATRIX = jnp.array([[4.0, 1.0, 0.0], [2.0, 3.0, 0.5], [0.25, 0.5, 2.0]])
SYMMETRIC = MATRIX @ MATRIX.T
ORDER, ZEROS = jnp.array([2, 0, 1]), jnp.zeros(3)


@jax.custom_vjp
def doubled(g):
    return 2 * g


doubled.defvjp(lambda g: (2 * g, None), lambda _, t: (2 * t,))


@fs.custom_vjp
def times(a, b):
    return a * b


times.defvjp(lambda a, b: (a * b, (a, b)), lambda r, g: (g * r[1], g * r[0]))

# Each with the matrix that bwd multiplies the cotangent by, from the left.
LINEAR_RULES = {
    "zeros added": (lambda x, g: 2 * g + jnp.zeros_like(x), 2 * jnp.eye(3)),
    "zeros added by a callee": (
        lambda x, g: jax.jit(jnp.add)(g, jnp.zeros_like(x)),
        jnp.eye(3),
    ),
    "zero times": (lambda x, g: 2 * g + 0 * x + jnp.zeros_like(x) * x, 2 * jnp.eye(3)),
    "zeros of the residuals": (
        lambda x, g: (x - x).at[ORDER].add(g),
        jnp.eye(3)[:, ORDER],
    ),
    "zeros closed over": (
        lambda x, g: ZEROS.at[ORDER].add(g),
        jnp.eye(3)[:, ORDER],
    ),
    "scatter": (lambda x, g: jnp.zeros(3).at[ORDER].set(g), jnp.eye(3)[:, ORDER]),
    "sort by a key": (
        lambda x, g: jax.lax.sort((ORDER, g), num_keys=1)[1],
        jnp.eye(3)[jnp.argsort(ORDER)],
    ),
    "cg": (lambda x, g: sparse.cg(SYMMETRIC.__matmul__, g)[0], "SYMMETRIC"),
    "gmres": (lambda x, g: sparse.gmres(MATRIX.__matmul__, g, tol=1e-9)[0], "MATRIX"),
    "bicgstab": (lambda x, g: sparse.bicgstab(MATRIX.__matmul__, g)[0], "MATRIX"),
    "solve": (lambda x, g: jnp.linalg.solve(MATRIX, g), "MATRIX"),
    "matmul": (lambda x, g: MATRIX @ g, MATRIX),
    "cumsum": (lambda x, g: jnp.cumsum(g), jnp.tri(3)),
    "fft": (lambda x, g: jnp.fft.fft(g).real[:1] * jnp.ones(3), jnp.ones((3, 3))),
    "loop": (
        lambda x, g: jax.lax.fori_loop(0, 3, lambda i, c: 2 * c, g),
        8 * jnp.eye(3),
    ),
    "scan": (
        lambda x, g: jax.lax.scan(
            lambda total, row: (total + row * g, 0), jnp.zeros(3), MATRIX
        )[0],
        jnp.diag(MATRIX.sum(0)),
    ),
    "scan that starts as a constant": (
        lambda x, g: jax.lax.scan(lambda c, r: (r * g, c[0] * g), x + 1, MATRIX)[0],
        jnp.diag(MATRIX[-1]),
    ),
    "cond": (
        lambda x, g: jax.lax.cond(x[0] > 9, lambda g: g - g, lambda g: 3 * g, g),
        3 * jnp.eye(3),
    ),
    "select": (
        lambda x, g: jnp.where(jnp.arange(3) > 0, 2 * g, 0),
        jnp.diag(jnp.array([0.0, 2.0, 2.0])),
    ),
    "a rule of jax.custom_vjp": (lambda x, g: doubled(g), 2 * jnp.eye(3)),
    "a rule": (lambda x, g: times(g, MATRIX[0]), jnp.diag(MATRIX[0])),
    "another dtype": (lambda x, g: (2 * g).astype(jnp.bfloat16), 2 * jnp.eye(3)),
    "zeros among the residuals": (
        lambda x, g: jnp.concatenate([x - x, x])[:3].at[ORDER].add(g),
        jnp.eye(3)[:, ORDER],
    ),
    "sort of a residual": (lambda x, g: g + 0 * jnp.sort(x), jnp.eye(3)),
}


def test_linear_rules():
    """In both modes, eager and jitted, and where the gradient is differentiated."""
    inverses = {"MATRIX": MATRIX, "SYMMETRIC": SYMMETRIC}
    x = jnp.array([0.5, -1.5, 1.0])

    def derivatives(f):
        def half_square(x):
            return jnp.vdot(f(x), f(x)) / 2

        return {
            "reverse": jax.jacrev(f),
            "forward": jax.jacfwd(f),
            "forward over reverse": jax.jacfwd(jax.grad(half_square)),
            "reverse over forward": jax.jacrev(jax.jacfwd(half_square)),
        }

    def with_rule(bwd, matrix):
        f = fs.custom_vjp(lambda x: x @ matrix)
        f.defvjp(lambda x: (f(x), x), lambda x, g: (bwd(x, g),))
        return f

    functions, expected = {}, {}
    for name, (bwd, matrix) in LINEAR_RULES.items():
        if isinstance(matrix, str):
            matrix = jnp.linalg.inv(inverses[matrix])
        f = with_rule(bwd, matrix)
        functions[name] = derivatives(f)
        expected[name] = derivatives(lambda x, matrix=matrix: x @ matrix)
        chex.assert_trees_all_close(
            jax.grad(lambda x, f=f: f(x)[0])(x), matrix[:, 0], atol=1e-4
        )

    @jax.jit
    def run(x):
        return [jax.tree.map(lambda d: d(x), t) for t in (functions, expected)]

    found, expected = run(x)
    for name in LINEAR_RULES:
        chex.assert_trees_all_close(
            found[name], expected[name], atol=2e-4, custom_message=name
        )


def fixed_point(decorate):
    """x -> y = tanh(x) + M y, whose backward pass iterates until it converges."""
    m = jnp.array([[0.3, 0.1], [0.2, 0.4]])

    @decorate
    def f(x):
        return jnp.linalg.solve(jnp.eye(2) - m, jnp.tanh(x))

    def bwd(x, g):
        def moves(state):
            return jnp.abs(state[1] - state[0]).max() > 1e-6

        def step(state):
            return state[1], g + m.T @ state[1]

        _, g = jax.lax.while_loop(moves, step, (jnp.zeros_like(g), g))
        return (g * (1 - jnp.tanh(x) ** 2),)

    f.defvjp(lambda x: (f(x), x), bwd)
    return f


def test_a_loop_without_a_transpose():
    """It serves reverse mode, wherever that is taken; all else is refused."""
    x = jnp.array([0.3, -0.7])

    def gradients(decorate):
        f = fixed_point(decorate)

        def gradient(x):
            return jax.grad(lambda x: (f(x) ** 2).sum())(x)

        def scanned(x):
            return jax.lax.scan(lambda c, _: (f(c), None), x, None, 3)[0].sum()

        return [
            gradient(x),
            jax.jit(gradient)(x),
            jax.vmap(gradient)(jnp.stack([x, 2 * x])),
            jax.grad(scanned)(x),
            jax.grad(lambda x: jax.checkpoint(f)(x).sum())(x),
        ]

    chex.assert_trees_all_close(*map(gradients, (jax.custom_vjp, fs.custom_vjp)))
    f = fixed_point(fs.custom_vjp)
    with pytest.raises(RuntimeError, match=r"must have a transpose, which is what f"):
        jax.block_until_ready(jax.jvp(f, (x,), (x,)))
    with pytest.raises(TypeError, match=r"f has no second derivative, because JAX can"):
        jax.grad(lambda x: jax.grad(lambda x: (f(x) ** 2).sum())(x).sum())(x)
