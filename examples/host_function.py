"""A function that JAX lacks, from SciPy, in a model that is fitted through it.

A spectral line seen through an instrument is a Voigt profile: a Lorentzian, as wide as
the line, blurred by a Gaussian, as wide as the instrument is coarse.  It is the real
part of the Faddeeva function, which SciPy computes and JAX does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import flax_stable as fs

# --- The function --------------------------------------------------------------------
# w(x + iy), its real and its imaginary part, computed outside JAX.  Its derivative is
# w' = -2 z w + 2i / sqrt(pi): the slopes of both parts are made of both parts, written
# in JAX.  So they have derivatives of every order, in reverse and forward mode.


def slope(x, y):
    """w' as its real and its imaginary part."""
    a, b = real_w(x, y), imag_w(x, y)
    return 2 * (y * b - x * a), 2 / jnp.sqrt(jnp.pi) - 2 * (x * b + y * a)


real_w = fs.host_function(
    lambda x, y: special.wofz(x + 1j * y).real,
    derivative=(lambda x, y: slope(x, y)[0], lambda x, y: -slope(x, y)[1]),
)
imag_w = fs.host_function(
    lambda x, y: special.wofz(x + 1j * y).imag,
    derivative=(lambda x, y: slope(x, y)[1], lambda x, y: slope(x, y)[0]),
)


def voigt(x, sigma, gamma):
    """The profile of area 1: widths sigma of the Gaussian, gamma of the Lorentzian."""
    scale = sigma * jnp.sqrt(2.0)
    return real_w(x / scale, gamma / scale) / (scale * jnp.sqrt(jnp.pi))


# --- The fit -------------------------------------------------------------------------


def spectrum(params, x):
    """A line on a level; what must be positive is the softplus of a parameter."""
    sigma, gamma, area = fs.softplus(params[1:4])
    return area * voigt(x - params[0], sigma, gamma) + params[4]


def fit(params, x, y, steps=30):
    """Levenberg and Marquardt's method, whose Jacobian is taken in forward mode."""

    def residuals(params):
        return spectrum(params, x) - y

    def step(state, _):
        params, damping = state
        r, jac = residuals(params), jax.jacfwd(residuals)(params)
        curvature = jac.T @ jac
        damped = curvature + damping * jnp.diag(jnp.diag(curvature))
        moved = params - jnp.linalg.solve(damped, jac.T @ r)
        better = jnp.sum(residuals(moved) ** 2) < jnp.sum(r**2)
        state = (
            jnp.where(better, moved, params),
            jnp.where(better, damping / 3, damping * 5),
        )
        return state, jnp.sum(r**2)

    (params, _), losses = jax.lax.scan(step, (params, 1e-2), None, steps)
    return params, losses


def main():
    noise = 0.02
    x = jnp.linspace(-6, 6, 240)
    truth = jnp.array([0.7, *fs.inverse_softplus(jnp.array([0.8, 0.5, 3.0])), 0.3])
    y = spectrum(truth, x) + noise * jax.random.normal(jax.random.key(0), x.shape)

    exact = special.voigt_profile(np.float64(x), 0.8, 0.5)
    error = np.max(np.abs(voigt(x, 0.8, 0.5) - exact))
    print(f"Largest difference from SciPy's own profile: {error:.1e}")
    assert error < 1e-6

    start = jnp.array([0.0, 1.0, 1.0, 1.0, 0.0])
    params, losses = jax.jit(fit)(start, x, y)
    print(f"Squared residuals: {losses[0]:.2f} at first, {losses[-1]:.4f} at last")
    assert losses[-1] < 1.2 * noise**2 * len(x)

    # The curvature of the loss at the fit, forward over reverse mode: how sure it is.
    loss = jax.jit(lambda p: jnp.sum((spectrum(p, x) - y) ** 2) / (2 * noise**2))
    spread = jnp.sqrt(jnp.diag(jnp.linalg.inv(jax.jit(jax.hessian(loss))(params))))
    print("\nParameter |  Truth |          Fit")
    print("--------- | ------ | ------------")
    names = ("center", "sigma", "gamma", "area", "level")
    for name, t, p, s in zip(names, truth, params, spread, strict=True):
        if name in ("sigma", "gamma", "area"):
            s = s * jax.grad(fs.softplus)(p)
            t, p = fs.softplus(t), fs.softplus(p)
        print(f"{name:9} | {t:6.3f} | {p:6.3f} ±{s:.3f}")
        assert abs(p - t) < 4 * s


if __name__ == "__main__":
    main()
