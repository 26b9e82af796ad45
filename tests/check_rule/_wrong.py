"""Wrong rules, and what a checker must say of each."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_stable as fs


class Wrong(NamedTuple):
    rule: Callable
    args: tuple
    fault: str  # stands in the first line of the message
    options: Mapping[str, Any] = MappingProxyType({})


X = np.float32(0.5)
Y = np.float32(-1.25)
ROW = np.array([0.5, -1.25, 2.0], np.float32)
SQUARE = np.array([[0.5, -1.25], [2.0, 0.75]], np.float32)


def vjp(fwd: Callable, bwd: Callable, decorator: Callable = fs.custom_vjp) -> Callable:
    """A decorator that gives a function a rule."""

    def decorate(fn):
        rule = decorator(fn)
        rule.defvjp(fwd, bwd)
        return rule

    return decorate


def slope(derivative: Callable, decorator: Callable = fs.custom_vjp) -> Callable:
    """The decorator for a function of one argument, which it keeps."""

    def decorate(fn):
        rule = decorator(fn)
        rule.defvjp(lambda x: (fn(x), x), lambda x, g: (g * derivative(x),))
        return rule

    return decorate


def jvp(derivative: Callable) -> Callable:
    """The same for forward mode; the derivative applies itself to the tangent."""

    def decorate(fn):
        rule = jax.custom_jvp(fn)

        @rule.defjvp
        def _(primals, tangents):
            return rule(*primals), derivative(primals, tangents)

        return rule

    return decorate


def softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def elu(x):
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


def right_softplus(x):
    return jax.nn.softplus(x)


# What jax.test_util.check_grads passes.
zero_below = slope(lambda x: jnp.where(x < -6, 0.0, jax.nn.sigmoid(x)))(softplus)
all_nan = slope(lambda x: x * jnp.asarray(np.nan, x.dtype))(softplus)
too_fast = jvp(lambda x, t: 1.1 * jax.nn.sigmoid(x[0]) * t[0])(softplus)

# The tails.
elu_from_output = vjp(
    lambda x: (y := elu(x), y), lambda y, g: (g * jnp.where(y > 0, 1.0, y + 1),)
)(elu)
overflowing_slope = slope(lambda x: jnp.exp(x) / (1 + jnp.exp(x)))(softplus)
nan_at_infinity = slope(lambda x: jax.nn.sigmoid(x) + 0 * x)(softplus)
lost_value = slope(jax.nn.sigmoid)(lambda x: jnp.log(1 + jnp.exp(x)))
shifted_log = slope(lambda x: 1 / (x + 1e-6))(jnp.log)

rounded_slope = slope(lambda x: jnp.cos(x).astype(jnp.bfloat16).astype(x.dtype))(
    jnp.sin
)

# Kinks and pieces.
steep_at_kink = slope(lambda x: jnp.where(x > 0, 1.0, jnp.where(x == 0, 2.0, 0.0)))(
    jax.nn.relu
)
flat_abs = slope(lambda x: jnp.where(x > 0, 1.0, 0.0))(jnp.abs)
forgotten_piece = slope(lambda x: jnp.where(x > 0, 1.0, 0.0))(
    lambda x: jnp.clip(x, 0, 6)
)
straight_through = slope(jnp.ones_like)(lambda x: jnp.round(x))

# Factors and signs.
reversed_identity = slope(lambda x: -jnp.ones_like(x))(lambda x: x)
doubled_square = slope(lambda x: x)(lambda x: x * x)


# The cotangent.
ones_only = vjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x),), jax.custom_vjp)(
    jnp.sin
)
clipping = vjp(
    lambda x: (jnp.sin(x), x),
    lambda x, g: (jnp.clip(g, -1, 1) * jnp.cos(x),),
    jax.custom_vjp,
)(jnp.sin)
positive_only = vjp(
    lambda x: (jnp.sin(x), x),
    lambda x, g: (jnp.maximum(g, 0) * jnp.cos(x),),
    jax.custom_vjp,
)(jnp.sin)
never_zero = vjp(
    lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) + 1e-3,), jax.custom_vjp
)(jnp.sin)
nonlinear = vjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * g * jnp.cos(x),))(jnp.sin)
nonlinear_tangent = jvp(lambda x, t: jnp.abs(t[0]) * jnp.cos(x[0]))(jnp.sin)
branching = vjp(
    lambda x: (jnp.sin(x), x),
    lambda x, g: (g * jnp.cos(x) if x > 0 else g,),
    jax.custom_vjp,
)(jnp.sin)

# Types.
wrong_dtype = slope(lambda x: jnp.cos(x), jax.custom_vjp)(jnp.sin)
wrong_dtype.defvjp(
    lambda x: (jnp.sin(x), x), lambda x, g: ((g * jnp.cos(x)).astype(jnp.float16),)
)
rounded_cotangent = vjp(
    lambda x: (jnp.sin(x), x), lambda x, g: ((g * jnp.cos(x)).astype(jnp.float16),)
)(jnp.sin)
wrong_tangent = jvp(lambda x, t: (jnp.cos(x[0]) * t[0]).astype(jnp.float16))(jnp.sin)
always_float32 = vjp(
    lambda x: (jnp.sin(x), x),
    lambda x, g: (g.astype(jnp.float32) * jnp.cos(x.astype(jnp.float32)),),
    jax.custom_vjp,
)(jnp.sin)
summed_shape = vjp(
    lambda x: (jnp.sin(x), x), lambda x, g: (jnp.sum(g * jnp.cos(x)),), jax.custom_vjp
)(jnp.sin)
float32_value = slope(lambda x: jnp.cos(x).astype(jnp.float32))(
    lambda x: jnp.sin(x).astype(jnp.float32)
)
overflow_in_float16 = slope(lambda x: (jnp.cos(x) * 300 * 300) / 300 / 300)(jnp.sin)

# Several arguments.
dropped_term = vjp(
    lambda x, y: (x * y + jnp.sin(x), (x, y)), lambda r, g: (g * r[1], g * r[0])
)(lambda x, y: x * y + jnp.sin(x))
swapped = vjp(lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[0], g * r[1]))(
    lambda x, y: x * y
)
forgotten_argument = vjp(lambda x, y: (x * y, y), lambda y, g: (g * y, None))(
    lambda x, y: x * y
)
untransposed = vjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1], r[0].T @ g))(
    lambda x, w: x @ w
)


@jax.custom_jvp
def one_at_a_time(x, y):
    return x * y


def one_at_a_time_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    if isinstance(dx, zero) or isinstance(dy, zero):
        return x * y, jnp.zeros_like(x)
    return x * y, dx * y + x * dy


one_at_a_time.defjvp(one_at_a_time_jvp, symbolic_zeros=True)


def affine(params, x):
    return {"y": x @ params["w"] + params["b"]}


PARAMS = {"w": SQUARE, "b": np.array([0.5, -1.5], np.float32)}

averaged_bias = vjp(
    lambda p, x: (affine(p, x), (p, x)),
    lambda r, g: (
        {"w": r[1].T @ g["y"], "b": jnp.mean(g["y"], 0)},
        g["y"] @ r[0]["w"].T,
    ),
)(affine)

# Over an axis.
unnormalized = vjp(lambda x: (y := jax.nn.softmax(x), y), lambda y, g: (y * g,))(
    lambda x: jax.nn.softmax(x)
)


# Values.
other_value = vjp(lambda x: (jnp.tan(x), x), lambda x, g: (g * jnp.cos(x),))(jnp.sin)
hides_nan = slope(lambda x: jnp.where(x > 0, 1.0, 0.0))(
    lambda x: jnp.where(x > 0, x, 0.0)
)

# Higher orders.
frozen_slope = slope(lambda x: jax.lax.stop_gradient(jnp.cos(x)))(jnp.sin)

stopped_residual = vjp(
    lambda x: (jnp.sin(x), jax.lax.stop_gradient(x)), lambda x, g: (g * jnp.cos(x),)
)(jnp.sin)


# What is returned as the value.
def cube_slope(x, g):
    return (3 * x**2 * g,)


def cube(x):
    return x**3


stopped_value = vjp(lambda x: (jax.lax.stop_gradient(x**3), x), cube_slope)(cube)
stopped_in_reverse = vjp(
    lambda x: (jax.lax.stop_gradient(x**3), x), cube_slope, jax.custom_vjp
)(cube)
through_bfloat16 = vjp(
    lambda x: (jnp.sin(x).astype(jnp.bfloat16).astype(x.dtype), x),
    lambda x, g: (g * jnp.cos(x),),
)(jnp.sin)
rounded_value = vjp(
    lambda x: (jnp.round(1e5 * jnp.sin(x)) / 1e5, x), lambda x, g: (g * jnp.cos(x),)
)(jnp.sin)
moves_as_another = vjp(
    lambda x: (x + jax.lax.stop_gradient(jnp.sin(x) - x), x),
    lambda x, g: (g * jnp.cos(x),),
)(jnp.sin)


@jax.custom_jvp
def stopped_in_forward(x):
    return jnp.sin(x)


@stopped_in_forward.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return jax.lax.stop_gradient(jnp.sin(x)), jnp.cos(x) * dx


def logsumexp(x):
    largest = jnp.max(x)
    return largest + jnp.log(jnp.sum(jnp.exp(x - largest)))


def logsumexp_fwd(x):
    y = jax.lax.stop_gradient(logsumexp(x))
    return y, (x, y)


stopped_logsumexp = vjp(logsumexp_fwd, lambda kept, g: (g * jax.nn.softmax(kept[0]),))(
    logsumexp
)
second_value_stopped = vjp(
    lambda x: ((jnp.sin(x), jax.lax.stop_gradient(jnp.cos(x))), x),
    lambda x, g: (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),),
)(lambda x: (jnp.sin(x), jnp.cos(x)))

# The second of two outputs.
second_doubled = vjp(
    lambda x: ((jnp.sin(x), jnp.cos(x)), x),
    lambda x, g: (g[0] * jnp.cos(x) - 2 * g[1] * jnp.sin(x),),
)(lambda x: (jnp.sin(x), jnp.cos(x)))
both_or_none = jax.custom_vjp(lambda x: (jnp.sin(x), jnp.cos(x)))


def both_or_none_bwd(x, g):
    if any(isinstance(ct, jax.custom_derivatives.SymbolicZero) for ct in g):
        return (jnp.zeros_like(x),)
    return (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),)


both_or_none.defvjp(
    lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value),
    both_or_none_bwd,
    symbolic_zeros=True,
)

# The cotangent, again: its derivative, its size, its digits, NaN, many at once.
product = jax.custom_vjp(lambda g, slope: g * slope)
product.defvjp(
    lambda g, slope: (g * slope, (g, slope)), lambda r, t: (2 * t * r[1], t * r[0])
)


def sine_by(bwd):
    return vjp(lambda x: (jnp.sin(x), x), bwd, jax.custom_vjp)(jnp.sin)


moving_cotangent = sine_by(lambda x, g: (product(g, jnp.cos(x)),))
clips_at_100 = sine_by(lambda x, g: (jnp.clip(g, -100, 100) * jnp.cos(x),))
drops_small = sine_by(lambda x, g: (jnp.where(jnp.abs(g) < 1e-3, 0, g) * jnp.cos(x),))
coarse_cotangent = sine_by(
    lambda x, g: (g.astype(jnp.bfloat16).astype(g.dtype) * jnp.cos(x),)
)
hides_nan_cotangent = sine_by(lambda x, g: (jnp.nan_to_num(g) * jnp.cos(x),))


def scaled_where(wrong):
    """A product that is doubled where its factors are batched in such a way."""

    @jax.custom_batching.custom_vmap
    def times(g, slope):
        return g * slope * (2 if wrong == [False, False] else 1)

    @times.def_vmap
    def _(size, batched, g, slope):
        if list(batched) != [True, True]:
            g, slope = (
                a if b else jnp.broadcast_to(a, (size, *jnp.shape(a)))
                for a, b in zip((g, slope), batched, strict=True)
            )
        return g * slope * (2 if wrong == list(batched) else 1), True

    return sine_by(lambda x, g: (times(g, jnp.cos(x)),))


many_cotangents = scaled_where([True, False])
never_batched = scaled_where([False, False])

# Residuals of few bits.
coarse_residual = vjp(
    lambda x: (x**3, x.astype(jnp.float16)),
    lambda x, g: cube_slope(x.astype(g.dtype), g),
    jax.custom_vjp,
)(cube)

# Right for the shape of the example alone.
a_third = vjp(lambda x: (jnp.mean(x), x), lambda x, g: (jnp.full_like(x, g / 3),))(
    lambda x: jnp.mean(x)
)
other_axis = vjp(
    lambda x: (jnp.mean(x, 0), x),
    lambda x, g: (jnp.broadcast_to(g / x.shape[1], x.shape),),
)(lambda x: jnp.mean(x, 0))
summed_cotangent = sine_by(lambda x, g: (jnp.sum(g) * jnp.cos(x),))
batch_of_one = sine_by(
    lambda x, g: (g * jnp.cos(x) if x.shape[0] > 1 else jnp.zeros_like(g),)
)

# What a rule does beside computing.
KEPT = []


def leak(x):
    KEPT.append(x)
    return jnp.sin(x), x


leaking = vjp(leak, lambda x, g: (g * jnp.cos(x),))(jnp.sin)
wasteful = vjp(
    lambda x: (x * jnp.sin(x), (x, jnp.sin(x), jnp.cos(x))),
    lambda r, g: (g * (r[1] + r[0] * r[2]),),
)(lambda x: x * jnp.sin(x))


def by_trace(x, g):
    return (g * (jnp.cos(x) if isinstance(g, jax.core.Tracer) else jnp.sin(x)),)


eager_only = vjp(lambda x: (jnp.sin(x), x), by_trace, jax.custom_vjp)(jnp.sin)
local_zeros = vjp(
    lambda x, y: (x + 0 * y, None),
    lambda _, g: (g, jnp.zeros(g.shape, g.dtype)),
    jax.custom_vjp,
)(lambda x, y: x + 0 * y)

# What jax.custom_batching.custom_vmap can be differentiated: once.
FIRST = {"second_order": False}
RETURNED = "the derivative of the value that reverse"

WRONG = {
    "zero below -6": Wrong(zero_below, (X,), "in reverse mode vanishes at x = -6."),
    "all NaN": Wrong(all_nan, (X,), "in reverse mode is NaN"),
    "10% in forward mode": Wrong(too_fast, (X,), "is 1.1 times what it should be"),
    "elu from its output": Wrong(elu_from_output, (X,), "in reverse mode vanishes"),
    "elu of a row": Wrong(elu_from_output, (ROW,), "in reverse mode of output["),
    "overflowing slope": Wrong(overflowing_slope, (X,), "in reverse mode is NaN"),
    "NaN at infinity": Wrong(
        nan_at_infinity,
        (X,),
        "in reverse mode is NaN at x = inf: expected 1, got nan",
        {"reference": right_softplus},
    ),
    "lost value": Wrong(lost_value, (X,), "the value vanishes", {"domain": (-30, 30)}),
    "shifted log": Wrong(shifted_log, (X,), "reverse mode", {"domain": (0, 100)}),
    "rounded slope": Wrong(rounded_slope, (X,), "in reverse mode is wrong"),
    "steep at the kink": Wrong(steep_at_kink, (X,), "at x = 0: expected 0.5, got 2"),
    "flat abs": Wrong(flat_abs, (X,), "vanishes"),
    "forgotten piece": Wrong(forgotten_piece, (X,), "should be zero"),
    "straight-through": Wrong(straight_through, (X,), "should be zero"),
    "reversed": Wrong(reversed_identity, (X,), "has the wrong sign"),
    "doubled": Wrong(doubled_square, (X,), "is 0.5 times what it should be"),
    "right for ones": Wrong(ones_only, (X,), "not linear in the cotangent"),
    "clipping": Wrong(clipping, (X,), "not linear in the cotangent"),
    "positive only": Wrong(positive_only, (X,), "not linear in the cotangent"),
    "never zero": Wrong(never_zero, (X,), "reverse mode"),
    "nonlinear": Wrong(nonlinear, (X,), "not linear in the cotangent"),
    "nonlinear tangent": Wrong(nonlinear_tangent, (X,), "reverse mode raises"),
    "branching": Wrong(branching, (X,), "TracerBoolConversionError"),
    "wrong dtype": Wrong(wrong_dtype, (X,), "cotangent is float16[], expected float32"),
    # fs.custom_vjp casts a cotangent: what is wrong is its rounding.
    "rounded cotangent": Wrong(rounded_cotangent, (X,), "reverse mode is wrong at x"),
    "wrong tangent": Wrong(wrong_tangent, (X,), "float16"),
    "always float32": Wrong(
        always_float32,
        (X,),
        "mode in bfloat16 the cotangent is float32[], expected bfloat",
    ),
    "float32 value": Wrong(
        float32_value, (X,), "expected bfloat16[]", {"reference": jnp.sin}
    ),
    "summed shape": Wrong(summed_shape, (ROW,), "shapes do not match"),
    "overflow in float16": Wrong(
        overflow_in_float16, (X,), "the derivative in float16 is infinite"
    ),
    "dropped term": Wrong(dropped_term, (X, Y), "in reverse mode by x"),
    "swapped": Wrong(swapped, (X, Y), "in reverse mode by"),
    "forgotten argument": Wrong(
        forgotten_argument, (X, Y), "in reverse mode by y vanishes"
    ),
    "untransposed": Wrong(untransposed, (SQUARE, SQUARE), "in reverse mode of output["),
    "one at a time": Wrong(one_at_a_time, (X, Y), "with respect to one argument alone"),
    "averaged bias": Wrong(
        averaged_bias, (PARAMS, SQUARE), "in reverse mode of output['y'][0"
    ),
    "unnormalized": Wrong(unnormalized, (ROW,), "in reverse mode of output["),
    "other value": Wrong(
        other_value, (X,), "the value that reverse mode returns", {"domain": (-1, 1)}
    ),
    "hides NaN": Wrong(hides_nan, (X,), "hides the NaN"),
    "frozen slope": Wrong(frozen_slope, (X,), "the second derivative, reverse over"),
    "stopped residual": Wrong(stopped_residual, (X,), "the second derivative, reverse"),
    "stopped value": Wrong(
        stopped_value, (X,), RETURNED + " mode returns, reverse over"
    ),
    "stopped in reverse": Wrong(stopped_in_reverse, (X,), RETURNED),
    "stopped in forward": Wrong(stopped_in_forward, (X,), RETURNED),
    "stopped logsumexp": Wrong(stopped_logsumexp, (ROW,), RETURNED),
    "second value stopped": Wrong(second_value_stopped, (X,), RETURNED),
    "moves as another": Wrong(
        moves_as_another, (X,), RETURNED, {"domain": (-2, 2), "max_ulp": 64}
    ),
    "through bfloat16": Wrong(
        through_bfloat16, (X,), "value that reverse mode returns"
    ),
    "rounded value": Wrong(rounded_value, (X,), "value that reverse mode returns"),
    "second doubled": Wrong(second_doubled, (X,), "in reverse mode of output[1] is 2 "),
    "both or none": Wrong(both_or_none, (X,), "of one output alone"),
    "moving cotangent": Wrong(
        moving_cotangent,
        (X,),
        "reverse mode by the cotangent, reverse over reverse, is 2",
    ),
    "clips at 100": Wrong(clips_at_100, (X,), "not linear in the cotangent"),
    "drops small ones": Wrong(drops_small, (X,), "not linear in the cotangent"),
    "coarse cotangent": Wrong(coarse_cotangent, (X,), "not linear in the cotangent"),
    "hides a NaN cotangent": Wrong(
        hides_nan_cotangent, (X,), "for a cotangent of nan hides the NaN"
    ),
    "many cotangents": Wrong(
        many_cotangents,
        (X,),
        "under jax.vmap of the cotangent is 2 times",
        FIRST,
    ),
    "never batched": Wrong(
        never_batched, (X,), "within jax.lax.scan is 2 times", FIRST
    ),
    "coarse residual": Wrong(coarse_residual, (X,), "in reverse mode"),
    "a third": Wrong(a_third, (ROW,), "the derivative for shape ("),
    "other axis": Wrong(other_axis, (SQUARE,), "the derivative for shape (3, 4)"),
    "summed cotangent": Wrong(summed_cotangent, (X,), "the derivative for shape (3,)"),
    "batch of one": Wrong(batch_of_one, (ROW,), "the derivative for shape (1,)"),
    "leaking": Wrong(leaking, (X,), "keeps a tracer beyond its trace"),
    "wasteful": Wrong(
        wasteful, (X,), "keeps 12 bytes at the", {"max_residual_bytes": 4}
    ),
    "eager only": Wrong(eager_only, (X,), "in eager mode"),
    "local zeros": Wrong(local_zeros, (X, Y), "in shard_map"),
}
