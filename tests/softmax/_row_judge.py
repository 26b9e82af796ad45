"""Exact rows in NumPy, and the errors of computed ones beside them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

AXIS = {"axis": -1, "keepdims": True}


def shares(x):
    e = np.exp(x - x.max(**AXIS))
    return e / e.sum(**AXIS)


def log_total(x):
    top = x.max(**AXIS)
    e = np.exp(x - top)
    # The first of the largest apart, or what is tiny beside it would be lost.
    np.put_along_axis(e, x.argmax(**AXIS), 0, -1)
    rest = np.log1p(e.sum(**AXIS))
    # The sum is at least 1, and rounded as that.
    return top + rest, np.maximum(np.abs(top), np.maximum(rest, 1))


def centered(p, g):
    """``g`` without its mean: twice, since the first one is rounded."""
    g = g - (p * g).sum(**AXIS)
    return g - (p * g).sum(**AXIS)


def partial(g):
    """The largest of a sum's partial sums, which bounds what its rounding costs."""
    return np.abs(np.cumsum(g, axis=-1)).max(**AXIS)


def others(p):
    """1 - p, also where p is almost 1."""
    small = np.where(p <= 0.5, p, 0)
    return np.where(p <= 0.5, 1 - p, small.sum(**AXIS))


def softmax(x, g, h):
    p = shares(x)
    first = p * centered(p, g), p * others(p) * np.abs(g)
    gh = centered(p, g) * centered(p, h)
    terms = np.maximum(np.abs(g * h) * others(p), np.abs(gh))
    terms = p * (terms + (p * terms).sum(**AXIS))
    return p, first, (p * (gh - (p * gh).sum(**AXIS)), terms)


def log_softmax(x, g, h):
    p, total = shares(x), g.sum(**AXIS)
    first = g - p * total, np.maximum(np.abs(g), p * partial(g))
    second = -p * centered(p, h) * total, p * others(p) * np.abs(h) * partial(g)
    y = x - log_total(x)[0]
    return (y, np.maximum(np.abs(y), 1)), first, second


def logsumexp(x, g, h):
    p = shares(x)
    second = p * centered(p, h) * g, p * others(p) * np.abs(h * g)
    return log_total(x), p * g, second


def logmeanexp(x, g, h):
    (total, _), *rest = logsumexp(x, g, h)
    size = np.log(x.shape[-1])
    return (total - size, np.maximum(np.abs(total), size)), *rest


def standardize(x, g, h):
    n = x.shape[-1]
    x = x - x.mean(**AXIS)
    scale = 1 / np.sqrt((x * x).mean(**AXIS) + 1e-5)
    y = x * scale

    def push(g):
        g = g - g.mean(**AXIS)
        return scale * (g - y * (g * y).mean(**AXIS))

    dg, dh = push(g), push(h)
    first = dg, scale * (np.abs(g) + np.abs(y) * partial(g * y) / n)
    sums = [(h * y, dg), (g * y, dh), (g * dh, y)]
    second = -scale * sum(v.mean(**AXIS) * w for v, w in sums)
    terms = scale * sum(partial(v) / n * np.abs(w) for v, w in sums)
    return y, first, (second, terms)


# name: of rows x and directions g and h the value, the first derivative applied to the
# cotangent g, and the derivative of that along h; each alone, or with the size of the
# terms that it is the difference of.
EXACT: dict[str, Callable] = {
    f.__name__: f for f in (softmax, log_softmax, logsumexp, logmeanexp, standardize)
}


def derivatives(f: Callable, order: int, mode: str = "vjp") -> Callable:
    """``f`` itself, its pullback, or the derivative of its pullback."""

    def first(x, g):
        return jax.vjp(f, x)[1](g)[0]

    def second(x, g, h):
        if mode == "jvp":
            return jax.jvp(lambda x: first(x, g), (x,), (h,))[1]
        return jax.vjp(lambda x: first(x, g), x)[1](h)[0]

    return (lambda x, g, h: f(x), lambda x, g, h: first(x, g), second)[order]


def row_errors(computed: jax.Array, exact, least: float = 0.0) -> np.ndarray:
    """Errors in units in the last place of the row's largest term, or of ``least``."""
    exact, terms = exact if isinstance(exact, tuple) else (exact, np.abs(exact))
    info = jnp.finfo(computed.dtype)
    terms = np.maximum(terms, np.abs(exact))
    least = max(least, float(info.smallest_normal))
    largest = np.clip(terms.max(**AXIS), least, float(info.max))
    unit = np.exp2(np.floor(np.log2(largest)) - info.nmant)
    errors = np.abs(np.asarray(computed, np.float64) - exact) / unit
    return np.where(np.isfinite(np.asarray(computed, np.float64)), errors, np.inf)


def kept(f: Callable, x: jax.Array) -> list[jax.Array]:
    """What the backward pass of ``f`` keeps."""
    return jax.tree.leaves(jax.vjp(f, x)[1])
