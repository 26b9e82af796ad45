"""Rules beside plain references, and the ways to differentiate both."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_stable as fs


class Case(NamedTuple):
    rule: Callable
    reference: Callable
    args: tuple
    residuals: list  # shapes of what fwd keeps


def softplus_reference(x):
    return jnp.logaddexp(x, jnp.zeros_like(x))


@fs.custom_vjp
def softplus(x):
    return softplus_reference(x)


@fs.custom_vjp
def softplus_slope(y):
    return -jnp.expm1(-y)


softplus.defvjp(lambda x: (y := softplus(x), y), lambda y, g: (g * softplus_slope(y),))
softplus_slope.defvjp(lambda y: (softplus_slope(y), y), lambda y, g: (g * jnp.exp(-y),))


@fs.custom_vjp
def log_softmax(x):
    return jax.nn.log_softmax(x)


log_softmax.defvjp(
    lambda x: (y := log_softmax(x), y),
    lambda y, g: (g - jnp.exp(y) * jnp.sum(g, -1, keepdims=True),),
)


@fs.custom_vjp
def product(a, b):
    return a * b


product.defvjp(
    lambda a, b: (product(a, b), (a, b)),
    lambda residuals, g: (g * residuals[1], g * residuals[0]),
)


def polar_reference(point, scale=2):
    x, y = point["x"], point["y"]
    return {"r": scale * jnp.hypot(x, y), "angle": (jnp.arctan2(y, x),)}


@functools.partial(fs.custom_vjp, nondiff_argnames="scale")
def polar(point, scale=2):
    return polar_reference(point, scale)


def polar_fwd(point, scale):
    return polar(point, scale), point


def polar_bwd(scale, point, g):
    x, y = point["x"], point["y"]
    r, (t,) = g["r"] * scale / jnp.hypot(x, y), g["angle"]
    t = t / (x * x + y * y)
    return ({"x": r * x - t * y, "y": r * y + t * x},)


polar.defvjp(polar_fwd, polar_bwd)


@fs.custom_vjp
def held(x, weight):
    return jnp.sin(x) * weight


held.defvjp(
    lambda x, weight: (held(x, weight), (x, weight)),
    lambda r, g: (g * jnp.cos(r[0]) * jax.lax.stop_gradient(r[1]), None),
)


def held_reference(x, weight):
    return jnp.sin(x) * jax.lax.stop_gradient(weight)


# The last axis stays whole on a mesh, since log_softmax sums over it.
X = np.linspace(-2.9, 3.1, 32).reshape(8, 4)
Y = np.cos(3 * X) + 1.5
CASES = {
    "softplus": Case(softplus, softplus_reference, (X,), [X.shape]),
    "log_softmax": Case(log_softmax, jax.nn.log_softmax, (X,), [X.shape]),
    "product": Case(product, lambda a, b: a * b, (X, Y), [X.shape] * 2),
    "polar": Case(polar, polar_reference, ({"x": X, "y": Y},), [X.shape] * 2),
    "held": Case(held, held_reference, (X, Y), [X.shape] * 2),
}


def tangents(args):
    return jax.tree.map(lambda x: jnp.sin(7 * x).astype(x.dtype), args)


def total(f):
    """A scalar that weighs every output element differently."""

    def scalar(*args):
        leaves = jax.tree.leaves(f(*args))
        return sum(jnp.sum(y * jnp.sin(5 * y) + y) for y in leaves)

    return scalar


def every(f, args):
    return tuple(range(len(args)))


def grad(f, args):
    return jax.grad(total(f), every(f, args))


def jvp(f, args):
    return lambda *args: jax.jvp(f, args, tangents(args))


def vjp(f, args):
    def run(*args):
        out, pull_back = jax.vjp(f, *args)
        return out, pull_back(tangents(out))

    return run


def linearize(f, args):
    def run(*args):
        out, push_forward = jax.linearize(f, *args)
        return out, push_forward(*tangents(args))

    return run


def linear_transpose(f, args):
    def run(*args):
        out, push_forward = jax.linearize(f, *args)
        return jax.linear_transpose(push_forward, *args)(tangents(out))

    return run


def third(f, args):
    def along(*args):
        def g(t):
            moved = jax.tree.map(lambda x, v: x + t * v, args, tangents(args))
            return total(f)(*moved)

        return jax.jacfwd(jax.grad(jax.jacfwd(g)))(jnp.zeros((), X.dtype))

    return along


def rule(bwd=lambda x, g: (g * jnp.cos(x),), fwd=None):
    @fs.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(fwd or (lambda x: (jnp.sin(x), x)), bwd)
    return sine
