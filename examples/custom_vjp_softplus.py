"""A custom gradient in one page: softplus, log(1 + exp(x)), and why it needs a rule."""

import jax
import jax.numpy as jnp

import flax_stable as fs

# --- The problem ---------------------------------------------------------------------
# The formula as a textbook has it.  Its derivative is exp(x) / (1 + exp(x)), and so JAX
# computes it: above x = 88.7 the float32 exponential is inf, and inf / inf is NaN.


def naive_softplus(x):
    return jnp.log(1 + jnp.exp(x))


# --- The rule ------------------------------------------------------------------------
# Primal: the value, in a form whose exponential never exceeds 1.


@fs.custom_vjp
def softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


# Forward: the value, and what the backward pass shall keep: one array, the input.


def softplus_fwd(x):
    return softplus(x), x


# Backward: the cotangent times the slope, one cotangent for each argument.  The second
# order differentiates this line, so it calls a sigmoid whose own slope is stable too.


def softplus_bwd(x, g):
    return (g * fs.sigmoid(x),)


softplus.defvjp(softplus_fwd, softplus_bwd)


# --- The checks ----------------------------------------------------------------------


def central_difference(f, x, step=2.0**-6):
    """The slope of f at x from two values; a power of two leaves x + step exact."""
    return (f(x + step) - f(x - step)) / (2 * step)


def main():
    inputs = [-10.0, 0.0, 10.0, 80.0, 100.0]
    naive_grad, custom_grad = jax.grad(naive_softplus), jax.grad(softplus)
    print("  Input |   Naive Grad |  Custom Grad")
    print("------- | ------------ | ------------")
    for x in inputs:
        print(f"{x:7.1f} | {naive_grad(x):12.7f} | {custom_grad(x):12.7f}")

    points = jnp.array(inputs)
    jitted_grad = jax.jit(jax.vmap(custom_grad))
    print("\nJitted gradient:", jitted_grad(points))

    # A numerical reference, which needs values alone, and JAX's own derivative of a
    # form that is stable already.  Differences of float32 values are good to some 3e-5.
    near = jnp.arange(-5.0, 5.0, 2.0**-6)
    grads = jitted_grad(near)
    numerical = jax.vmap(lambda x: central_difference(softplus, x))(near)
    autodiff = jax.vmap(jax.grad(jax.nn.softplus))(near)
    print("\nLargest difference of the gradient on [-5, 5]")
    print(f"  from central differences: {jnp.max(jnp.abs(grads - numerical)):.1e}")
    print(f"  from autodiff:            {jnp.max(jnp.abs(grads - autodiff)):.1e}")

    # The same bwd, transposed, serves forward mode, where jax.custom_vjp raises.
    value, slope = jax.jvp(softplus, (2.0,), (1.0,))
    print("\nForward mode")
    print(f"  jvp at 2:          value {value:.6f}, slope {slope:.6f}")
    print("  jacfwd, diagonal: ", jnp.diag(jax.jacfwd(softplus)(points)))
    hessian = jax.hessian(lambda x: softplus(x).sum())(points)
    print("  hessian, diagonal:", jnp.diag(hessian))


if __name__ == "__main__":
    main()
