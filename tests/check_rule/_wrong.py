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
own_wrong_dtype = vjp(
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
    "own wrong dtype": Wrong(own_wrong_dtype, (X,), "float16"),
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
    "leaking": Wrong(leaking, (X,), "keeps a tracer beyond its trace"),
    "wasteful": Wrong(
        wasteful, (X,), "keeps 12 bytes at the", {"max_residual_bytes": 4}
    ),
    "eager only": Wrong(eager_only, (X,), "in eager mode"),
    "local zeros": Wrong(local_zeros, (X, Y), "in shard_map"),
}
