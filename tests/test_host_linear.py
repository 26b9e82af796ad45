"""Linear operators of NumPy with their adjoint: every order, and their transpose."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

import flax_stable as fs

QUICK = {"xla_backend_optimization_level": 0}
close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=1e-5)


def convolved(xp, tree, y):
    """Linear in a tree and an array of another shape, to a tuple."""
    x = tree["x"]
    return xp.cumsum(x) + xp.sum(y), 2 * y - x[0]


def convolved_adjoint(g):
    g, h = g
    by_x = np.cumsum(g[::-1])[::-1] - np.eye(1, g.size, dtype=g.dtype)[0] * np.sum(h)
    return {"x": by_x}, 2 * h + np.sum(g)


def test_linear_operators():
    """Second derivatives in all nestings, batched, and transposes of transposes."""
    args = {"x": jnp.array([0.5, -1.25, 2.0])}, jnp.array([1.5, -0.75])
    plain = functools.partial(convolved, jnp)
    linear = fs.host_function(
        functools.partial(convolved, np),
        adjoint=convolved_adjoint,
        result_shape_dtypes=lambda tree, y: (tree["x"], y),
    )

    def orders(f):
        def cubes(*args):
            return sum(jnp.sum(y**3) for y in jax.tree.leaves(f(*args)))

        def transpose(*g):
            return jax.linear_transpose(lambda t: f(*t), args)(g)[0]

        modes = jax.grad(cubes, (0, 1)), jax.jacfwd(cubes, (0, 1))
        cotangents = plain(*args)
        batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), args)
        return (
            [[h(m, (0, 1))(*args) for h in (jax.jacfwd, jax.jacrev)] for m in modes],
            jax.vmap(modes[0])(*batch),
            jax.vmap(jax.hessian(cubes))(*batch),
            transpose(*cotangents),
            jax.linear_transpose(lambda g: transpose(*g), cotangents)(args),
        )

    run = jax.jit(orders, static_argnums=0, compiler_options=QUICK)
    close(run(linear), run(plain))


def test_the_adjoint_of_complex_numbers():
    matrix = np.complex64([[1 + 2j, 0.5j], [3, 1 - 1j]])
    linear = fs.host_function(
        lambda x: matrix @ x,
        adjoint=lambda g: matrix.conj().T @ g,
        result_shape_dtypes=lambda x: x,
    )
    x = jnp.array([1 - 1j, 2j])
    (found,) = jax.linear_transpose(linear, x)(x)
    close(found, matrix.T @ x)
