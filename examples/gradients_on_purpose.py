"""Three small runs that fail with the true gradient and work with another one."""

import jax
import jax.numpy as jnp

import flax_stable as fs


def descend(loss, params, rate, steps):
    """Plain gradient descent: the parameters and the losses on the way."""

    def step(params, _):
        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient), value

    return jax.jit(lambda p: jax.lax.scan(step, p, None, steps))(params)


def report(title, before, after):
    print(f"{title}\n  without: {before}\n  with:    {after}")


# --- clip_gradient -------------------------------------------------------------------
# A recurrence of 60 steps, to be taught to forget slowly.  While its factor is above 1
# the gradient grows by that factor with every step, and one step of descent throws it
# out of reach.  Clipped, it is a direction alone until it is small.


def clipping():
    def loss(factor, clip):
        factor = clip(factor)
        state = jax.lax.scan(lambda state, _: (factor * state, None), 1.0, None, 60)[0]
        return 0.5 * (state - 0.2) ** 2

    def final(clip):
        factor, _ = descend(lambda f: loss(f, clip), 1.3, 2e-3, 500)
        return float(factor)

    without = final(lambda x: x)
    clipped = final(lambda x: fs.gradient.clip_gradient(x, value=1.0))
    target = 0.2 ** (1 / 60)
    report(
        f"clip_gradient: a factor that should become {target:.4f}",
        f"{without:.4f}",
        f"{clipped:.4f}",
    )
    assert not abs(without - target) < 0.1
    assert abs(clipped - target) < 1e-3


# --- scale_gradient ------------------------------------------------------------------
# Two weights, one of a feature a hundred times larger.  The rate that suits the one
# lets the other explode; the rate that the other bears leaves the one where it was.


def scaling():
    features = jax.random.normal(jax.random.key(0), (64, 2)) * jnp.array([1.0, 100.0])
    targets = features @ jnp.array([2.0, -0.5])

    def loss(weights, scale):
        weights = fs.gradient.scale_gradient(weights, jnp.array(scale))
        return jnp.mean((features @ weights - targets) ** 2)

    start = jnp.zeros(2)
    fast = descend(lambda w: loss(w, [1.0, 1.0]), start, 0.1, 100)[1][-1]
    slow = descend(lambda w: loss(w, [1.0, 1.0]), start, 1e-5, 100)[1][-1]
    scaled = descend(lambda w: loss(w, [1.0, 1e-4]), start, 0.1, 100)[1][-1]
    report(
        "scale_gradient: the loss of two weights of different scale",
        f"{fast:.1e} at a rate of 0.1, {slow:.1e} at 1e-5",
        f"{scaled:.1e} at 0.1, of which the second takes 1e-4",
    )
    assert not fast < 1
    assert slow > 1
    assert scaled < 1e-6


# --- stop_gradient_where -------------------------------------------------------------
# A line through points of which a fifth are wrong.  What is too far off is left out of
# the gradient, though not of the loss, which says what the line is worth on all.


def stopping():
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(keys[0], (100,), minval=-1.0, maxval=1.0)
    wrong = jax.random.uniform(keys[1], (100,)) < 0.2
    y = 2 * x + 0.1 * jax.random.normal(keys[2], (100,)) + jnp.where(wrong, 8 * x, 0)

    def loss(slope, stop):
        errors = slope * x - y
        return jnp.mean(stop(errors) ** 2)

    def trimmed(errors):
        size = jnp.abs(errors)
        return fs.gradient.stop_gradient_where(
            size > 2 * jnp.median(size) + 0.5, errors
        )

    plain, _ = descend(lambda s: loss(s, lambda e: e), 0.0, 0.3, 200)
    robust, losses = descend(lambda s: loss(s, trimmed), 0.0, 0.3, 200)
    report(
        "stop_gradient_where: a slope of 2, and a fifth of the points wrong",
        f"{plain:.3f}",
        f"{robust:.3f}, with a loss of {losses[-1]:.2f} on all points",
    )
    assert abs(plain - 2) > 0.5
    assert abs(robust - 2) < 0.1


if __name__ == "__main__":
    clipping()
    scaling()
    stopping()
