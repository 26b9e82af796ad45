"""Right rules, none of which a checker may reject."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_stable as fs
from flax_stable.testing import REFERENCES


class Right(NamedTuple):
    rule: Callable
    args: tuple
    options: Mapping[str, Any] = MappingProxyType({})


X = np.float32(0.5)
Y = np.float32(-1.25)
ROW = np.array([0.5, -1.25, 2.0], np.float32)
SQUARE = np.array([[0.5, -1.25], [2.0, 0.75]], np.float32)
# What takes longest to compile.
PLACES = ("Auto mesh", "Explicit mesh", "shard_map")
QUICK = {"skip": (*PLACES, "bfloat16", "float16", "eager")}
POSITIVE = {"domain": (0, np.inf)}


def with_rule(fn: Callable, fwd: Callable, bwd: Callable, decorator=fs.custom_vjp):
    rule = decorator(fn)
    rule.defvjp(fwd, bwd)
    return rule


# Of one number.
sine = with_rule(
    lambda x: jnp.sin(x),
    lambda x: (jnp.sin(x), x),
    lambda x, g: (g * jnp.cos(x),),
)
reverse_sine = with_rule(
    lambda x: jnp.sin(x),
    lambda x: (jnp.sin(x), jnp.cos(x)),
    lambda c, g: (g * c,),
    jax.custom_vjp,
)


def stable_softplus(x):
    return jnp.logaddexp(x, jnp.zeros_like(x))


@fs.custom_vjp
def softplus(x):
    return stable_softplus(x)


@fs.custom_vjp
def slope_from_output(y):
    return -jnp.expm1(-y)


softplus.defvjp(
    lambda x: (y := softplus(x), y), lambda y, g: (g * slope_from_output(y),)
)
slope_from_output.defvjp(
    lambda y: (slope_from_output(y), y), lambda y, g: (g * jnp.exp(-y),)
)


@jax.custom_jvp
def logarithm(x):
    return jnp.log(x)


logarithm.defjvps(lambda dx, y, x: dx / x)


@jax.custom_jvp
def huber(x):
    return jnp.where(jnp.abs(x) < 1, x * x / 2, jnp.abs(x) - 0.5)


@huber.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return huber(x), jnp.clip(x, -1, 1) * dx


absolute = with_rule(
    lambda x: jnp.abs(x),
    lambda x: (jnp.abs(x), jnp.sign(x)),
    lambda sign, g: (g * sign,),
)
identity = with_rule(lambda x: x, lambda x: (x, None), lambda _, g: (g,))
reciprocal = with_rule(
    lambda x: 1 / x, lambda x: (1 / x, 1 / x), lambda y, g: (-g * y * y,)
)
step = with_rule(
    lambda x: jnp.sign(x), lambda x: (jnp.sign(x), None), lambda _, g: (0 * g,)
)


def scaled(factor: float) -> Callable:
    """What is not differentiated is closed over."""
    return with_rule(
        lambda x: factor * jnp.tanh(x) ** 3,
        lambda x: (factor * jnp.tanh(x) ** 3, x),
        lambda x, g: (3 * factor * g * jnp.tanh(x) ** 2 / jnp.cosh(x) ** 2,),
    )


# Of several numbers, arrays and integers.
product = with_rule(
    lambda x, y: x * y, lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], g * r[0])
)


counts = with_rule(
    lambda x, n: x * n.astype(x.dtype),
    lambda x, n: (x * n.astype(x.dtype), n),
    lambda n, g: (g * n.astype(g.dtype), None),
)


@jax.custom_vjp
def pick(x, index):
    return x[index]


def pick_bwd(residuals, g):
    like, index = residuals
    zero = np.zeros(index.shape, jax.dtypes.float0)
    return jnp.zeros_like(like).at[index].add(g), zero


pick.defvjp(lambda x, index: (x[index], (x, index)), pick_bwd)

masked = with_rule(
    lambda x, mask: jnp.where(mask, x, 0),
    lambda x, mask: (jnp.where(mask, x, 0), mask),
    lambda mask, g: (jnp.where(mask, g, 0), None),
)
matmul = with_rule(
    lambda x, w: x @ w,
    lambda x, w: (x @ w, (x, w)),
    lambda r, g: (g @ r[1].T, r[0].T @ g),
)


def affine(params, x):
    return {"y": x @ params["w"] + params["b"]}


PARAMS = {"w": SQUARE, "b": np.array([0.5, -1.5], np.float32)}
affine_rule = with_rule(
    affine,
    lambda p, x: (affine(p, x), (p, x)),
    lambda r, g: (
        {"w": r[1].T @ g["y"], "b": jnp.sum(g["y"], 0)},
        g["y"] @ r[0]["w"].T,
    ),
)
both = with_rule(
    lambda x: (jnp.sin(x), jnp.cos(x)),
    lambda x: ((jnp.sin(x), jnp.cos(x)), x),
    lambda x, g: (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),),
)
counted = with_rule(
    lambda x: (2 * x, jnp.sum(x > 0)),
    lambda x: ((2 * x, jnp.sum(x > 0)), None),
    lambda _, g: (2 * g[0],),
)
softmax = with_rule(
    lambda x: jax.nn.softmax(x),
    lambda x: (y := jax.nn.softmax(x), y),
    lambda y, g: (y * (g - jnp.sum(y * g, -1, keepdims=True)),),
)
running_sum = with_rule(
    lambda x: jnp.cumsum(x),
    lambda x: (jnp.cumsum(x), None),
    lambda _, g: (jnp.cumsum(g[::-1])[::-1],),
)


def norm(x):
    return jnp.sqrt(jnp.sum(x * x))


norm_rule = with_rule(norm, lambda x: (norm(x), x), lambda x, g: (g * x / norm(x),))

# Of several arguments, outputs and shapes.
COLUMN = np.array([[0.5], [-1.25]], np.float32)


def times_sine(decorator):
    """A cotangent of zero times NaN is NaN."""
    return with_rule(
        lambda x, y: x * jnp.sin(y),
        lambda x, y: (x * jnp.sin(y), (x, y)),
        lambda r, g: (g * jnp.sin(r[1]), g * r[0] * jnp.cos(r[1])),
        decorator,
    )


def rosenbrock(p):
    return (1 - p[0]) ** 2 + 4 * (p[1] - p[0] ** 2) ** 2


def rosenbrock_bwd(p, g):
    x, y = p
    off = y - x**2
    return (g * jnp.stack([-2 * (1 - x) - 16 * x * off, 8 * off]),)


# It raises an error at other shapes, which is honest.
of_two = with_rule(rosenbrock, lambda p: (rosenbrock(p), (p[0], p[1])), rosenbrock_bwd)
shifted = with_rule(
    lambda x, shift: x + shift,
    lambda x, shift: (x + shift, None),
    lambda _, g: (jnp.sum(g, 1, keepdims=True), jnp.sum(g, 0)),
)
scaled_rows = with_rule(
    lambda x, scale: x * scale,
    lambda x, scale: (x * scale, (x, scale)),
    lambda r, g: (g * r[1], jnp.sum(g * r[0])),
)
powers = with_rule(
    lambda x: jnp.stack([x, x * x, x * x * x]),
    lambda x: (jnp.stack([x, x * x, x * x * x]), x),
    lambda x, g: (g[0] + 2 * x * g[1] + 3 * x * x * g[2],),
)
gather = with_rule(
    lambda x, index: x[index],
    lambda x, index: (x[index], (x, index)),
    lambda r, g: (jnp.zeros_like(r[0]).at[r[1]].add(g), None),
)
permute = with_rule(
    lambda x, order: x[order],
    lambda x, order: (x[order], order),
    lambda order, g: (g[jnp.argsort(order)], None),
)


def join_bwd(kept, g):
    x, y = kept
    along, across = g["sum"], g["parts"][0]
    return {"x": along + across * y, "n": None}, (along + across * x, None)


join = with_rule(
    lambda a, b: {"sum": a["x"] + b[0], "parts": (a["x"] * b[0], a["n"] + b[1])},
    lambda a, b: (join(a, b), (a["x"], b[0])),
    join_bwd,
)


def logsumexp(x):
    return jax.nn.logsumexp(x)


logsumexp_rule = with_rule(
    logsumexp,
    lambda x: (y := logsumexp_rule(x), (x, y)),
    lambda r, g: (g * jnp.exp(r[0] - r[1]),),
)


def along_axis(axis: int, decorator=fs.custom_vjp) -> Callable:
    """A static argument."""
    rule = decorator(lambda axis, x: jnp.mean(x * x, axis), nondiff_argnums=(0,))
    rule.defvjp(
        lambda axis, x: (jnp.mean(x * x, axis), x),
        lambda axis, x, g: (jnp.expand_dims(g, axis) * 2 * x / x.shape[axis],),
    )
    return functools.partial(rule, axis)


quadratic_form = with_rule(
    lambda a, w, b: a @ w @ b,
    lambda a, w, b: (a @ w @ b, (a, w, b)),
    lambda r, g: (g * (r[1] @ r[2]), g * jnp.outer(r[0], r[2]), g * (r[0] @ r[1])),
    jax.custom_vjp,
)
sorted_rule = with_rule(
    lambda x: jnp.sort(x),
    lambda x: (jnp.sort(x), jnp.argsort(x)),
    lambda order, g: (jnp.zeros_like(g).at[order].set(g),),
)
moments = jax.custom_vjp(lambda x, y: (jnp.sum(x * y), jnp.sum(x)))


def moments_bwd(kept, g):
    """What is not asked for is not computed."""
    x, y = kept
    zero = jax.custom_derivatives.SymbolicZero
    dx = dy = jnp.zeros_like(x)
    if not isinstance(g[0], zero):
        dx, dy = g[0] * y, g[0] * x
    if not isinstance(g[1], zero):
        dx = dx + g[1]
    return dx, dy


moments.defvjp(
    lambda x, y: (
        (jnp.sum(x.value * y.value), jnp.sum(x.value)),
        (x.value, y.value),
    ),
    moments_bwd,
    symbolic_zeros=True,
)

RIGHT = {
    # A rule, or none, of JAX itself.
    "jax.nn.relu": Right(jax.nn.relu, (X,)),
    "jax.nn.silu": Right(jax.nn.silu, (X,)),
    "jax.nn.hard_swish": Right(jax.nn.hard_swish, (X,), {"skip": PLACES}),
    "jax.nn.softplus": Right(jax.nn.softplus, (1.0,)),
    # One number.
    "sine": Right(sine, (X,)),
    "sine beside its reference": Right(sine, (X,), {"reference": jnp.sin}),
    "sine to the bit": Right(
        sine, (X,), {"exact": (np.sin, np.cos, lambda x: -np.sin(x)), "max_ulp": 4}
    ),
    "sine in reverse mode only": Right(reverse_sine, (X,)),
    "sine in bfloat16": Right(sine, (jnp.bfloat16(0.5),), {"reference": jnp.sin}),
    "softplus": Right(softplus, (X,), {"reference": stable_softplus}),
    "logarithm": Right(logarithm, (X,), POSITIVE),
    "huber": Right(huber, (X,)),
    "absolute": Right(absolute, (X,)),
    "identity": Right(identity, (X,)),
    "reciprocal": Right(reciprocal, (X,), {"domain": (1e-12, 1e12)}),
    "step": Right(step, (X,)),
    "rounding": Right(lambda x: jnp.round(x), (X,), {"skip": PLACES}),
    "in float32": Right(
        lambda x: jnp.sin(x.astype(jnp.float32)), (X,), {"skip": PLACES}
    ),
    "scaled": Right(scaled(0.5), (X,), {"domain": (-20, 20)}),
    "negated": Right(
        functools.partial(product, np.float32(-1)), (X,), {"skip": ("shard_map",)}
    ),
    # Several.
    "product": Right(product, (X, Y)),
    "counts": Right(counts, (X, np.int32(3))),
    "pick": Right(pick, (ROW, np.int32(1))),
    "masked": Right(masked, (ROW, np.array([True, False, True]))),
    "matmul": Right(matmul, (SQUARE, SQUARE), {"skip": PLACES}),
    "affine": Right(affine_rule, (PARAMS, SQUARE), {"skip": PLACES}),
    "both": Right(both, (X,)),
    "counted": Right(counted, (ROW,)),
    "softmax": Right(
        softmax, (ROW,), {"reference": lambda x: jax.nn.softmax(x), "skip": PLACES}
    ),
    "running sum": Right(running_sum, (ROW,)),
    "norm": Right(norm_rule, (ROW,), {"domain": (0.1, 1e6)}),
    # Of several arguments, outputs and shapes.
    "x sin(y)": Right(times_sine(fs.custom_vjp), (X, Y)),
    "x sin(y) in reverse mode": Right(times_sine(jax.custom_vjp), (X, Y), QUICK),
    "x sin(y) beside its reference": Right(
        times_sine(fs.custom_vjp),
        (X, Y),
        {"reference": lambda x, y: x * jnp.sin(y)} | QUICK,
    ),
    "of two": Right(of_two, (ROW[:2],), QUICK),
    "shifted": Right(shifted, (COLUMN, ROW), QUICK),
    "scaled rows": Right(scaled_rows, (SQUARE, X), QUICK),
    "powers": Right(powers, (X,), QUICK),
    "gather": Right(gather, (ROW, np.array([2, 0, 2, 1])), QUICK),
    "permute": Right(permute, (ROW, np.array([2, 0, 1])), QUICK),
    "join": Right(join, ({"x": X, "n": np.int32(2)}, (Y, np.int32(3))), QUICK),
    "logsumexp": Right(logsumexp_rule, (ROW,), QUICK),
    "along an axis": Right(along_axis(0), (SQUARE,), QUICK),
    "along another in reverse mode": Right(
        along_axis(1, jax.custom_vjp), (SQUARE,), QUICK
    ),
    "quadratic form": Right(quadratic_form, (ROW[:2], SQUARE, ROW[1:]), QUICK),
    "sorted": Right(sorted_rule, (ROW,), {"domain": (2.5, 9)} | QUICK),
    "moments": Right(moments, (ROW[:2], ROW[1:]), QUICK),
    # The library.
    "fs.softplus": Right(
        fs.softplus, (X,), {"exact": REFERENCES["softplus"], "max_ulp": 3}
    ),
    "fs.gelu": Right(fs.gelu, (X,), {"max_residual_bytes": 4, "skip": PLACES}),
    "fs.logsumexp": Right(fs.logsumexp, (ROW,), {"skip": PLACES}),
    "fs.swiglu": Right(
        lambda x, gate: fs.swiglu(x, gate=gate), (X, Y), {"skip": PLACES}
    ),
}
