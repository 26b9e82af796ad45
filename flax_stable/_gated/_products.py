"""Products with an activation of a gate, good where the latter underflows."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._activations._elementwise import named
from .._activations._few_bit import assert_bits, optimal_steps
from .._activations.gelu import cubic_log2, cubic_words, slope_of_cubic
from .._activations.silu import one_plus_half_scaled, slope_of_exp
from .._custom_vjp import custom_vjp
from .._precision import (
    Exp,
    coefficients,
    exp2_reduced,
    exp_reduced,
    exp_reduced_short,
    half_scaled,
    hi_word,
    narrow,
    polynomial,
    power_of_two,
    square_words,
    widen,
)


def gated(
    activation: Callable,
    *products: Callable,
    name: str | None = None,
    half: tuple[Callable, ...] = (),
) -> Callable:
    """``x activation(gate)``, whose rule keeps both and computes the rest anew.

    The first of ``products`` multiplies x by the activation of the gate, the second by
    its derivative, which makes the derivative by the gate, and so on; each also gets
    the function it stands for.  ``name`` is what checkpoint policies call x and the
    gate.  Inputs of 16 bits or less take ``half`` in place of the first of these: the
    activation, its product and that of its derivative.
    """
    exact = _chain(activation, products)
    plain = _chain(half[0], half[1:] + products[2:]) if half else exact

    @custom_vjp
    def unit(x, gate):
        wide = widen(x), widen(gate)
        product, *_ = exact if wide[0].dtype == x.dtype else plain
        return narrow(product(*wide), x)

    def fwd(x, gate):
        return unit(x, gate), (x, gate)

    def bwd(kept, g):
        x, gate = map(widen, named(kept, name))
        _, activation, times_slope = exact if x.dtype == kept[0].dtype else plain
        factor, rate = activation(gate), times_slope(x, gate)

        def push_forward(x_dot, gate_dot):
            return (factor * widen(x_dot) + rate * widen(gate_dot)).astype(g.dtype)

        # Transposed, it sums over axes of a mesh that only one of the two varies over.
        cotangents = jax.linear_transpose(push_forward, *kept)(g)
        return tuple(map(narrow, cotangents, kept))

    unit.defvjp(fwd, bwd)
    # Value and gradients share too much for XLA to compute it twice without being told.
    unit.rule.barrier = True
    return unit


def _chain(activation: Callable, products: tuple[Callable, ...]) -> tuple:
    """x times the activation of a gate, the activation, x times its derivative."""
    product, *others = products

    def slope(gate):
        return jax.jvp(activation, (gate,), (jnp.ones_like(gate),))[1]

    def plain(x, gate):
        return x * slope(gate)

    times_slope = gated(slope, *others) if others else plain
    return functools.partial(product, activation), activation, times_slope


def few_bit_gated(exact: Callable, name: str, *activation: Callable) -> Callable:
    """The rules of a unit by the number of bits: ``exact`` for ``None``.

    The others keep a code of the gate, for a step function in place of the derivative
    of the ``activation``, which comes as NumPy functions: it and its derivative.  The
    activation itself is what the output is over the value; where that is 0 it is a step
    function as well.
    """

    @functools.cache
    def rule(bits: int | None) -> Callable:
        if bits is None:
            return exact
        assert_bits(name, bits)
        value, derivative = activation
        steps = optimal_steps(bits, derivative, value)

        @custom_vjp
        def unit(x, gate):
            return exact(x, gate)

        def fwd(x, gate):
            y = unit(x, gate)
            return y, (x, y, steps.pack(gate), jax.typeof(gate))

        def bwd(kept, g):
            *arrays, gate_type = kept
            x, y, packed = named(arrays, name)
            wide = widen(x)
            slope, level = steps.values(packed, wide)
            zero = jnp.abs(wide) < jnp.finfo(x.dtype).tiny
            factor = jnp.where(zero, level, widen(y) / jnp.where(zero, 1, wide))

            def push_forward(x_dot, gate_dot):
                tangent = factor * widen(x_dot) + wide * slope * widen(gate_dot)
                return tangent.astype(g.dtype)

            # As in `gated`.
            cotangents = jax.linear_transpose(push_forward, x, gate_type)(g)
            return tuple(narrow(ct, x) for ct in cotangents)

        unit.defvjp(fwd, bwd)
        return unit

    return rule


def times(plain: Callable, even: bool = False) -> Callable:
    """The product with one of the plain forms, which is 0 at -inf, or at both ends."""

    def product(activation, x, gate):
        end = -jnp.abs(gate) if even else gate
        return plain(gate, times=jnp.where(end == -jnp.inf, 0 * x, x))

    return product


def sigmoid_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x sigmoid(gate)``."""
    y, scale = _one_plus_exp(gate)
    return x / y * scale * scale


def sigmoid_slope_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x sigmoid'(gate)``."""
    e, scale = _exp_abs_scaled(gate)
    return x * (e.whole / (1 + e.whole * (2 + e.whole))) * scale * scale


def silu_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x silu(gate)``."""
    held = jnp.maximum(gate, -_END[gate.dtype])
    y, scale = _one_plus_exp(gate)
    return _over(x, held, y, scale)


def gelu_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x gelu(gate)`` in the form with tanh."""
    held = jnp.maximum(gate, -_CUBIC_END[gate.dtype])
    exponent = cubic_log2(-jnp.minimum(held, 9))
    y, scale = one_plus_half_scaled(*exp2_reduced(*exponent))
    return _over(x, held, y, jnp.where(gate == -jnp.inf, 0, scale))


def gelu_slope_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x gelu'(gate)`` in the form with tanh."""
    a = jnp.abs(gate)
    y = -jnp.minimum(a, _CUBIC_END[gate.dtype])
    e, scale = half_scaled(y, *exp2_reduced(*cubic_log2(y)))
    scale = jnp.where(gate < 0, jnp.where(a == jnp.inf, 0, scale), 1)
    return x * slope_of_cubic(gate, e) * scale * scale


def _over(x: jax.Array, gate: jax.Array, y: jax.Array, scale: jax.Array) -> jax.Array:
    """``x gate / y`` times the square of the scale."""
    # Half of the smallest number is none, and twice the largest one is none.
    near = jnp.abs(gate) < 0.5
    quotient, other = jnp.where(near, x, gate) / y, jnp.where(near, gate, x)
    return quotient * other * scale * scale


def silu_slope_product(_: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """``x silu'(gate)``."""
    e, scale = _exp_abs_scaled(gate)
    scale = jnp.where(gate < 0, scale, 1)
    return x * slope_of_exp(gate, e) * scale * scale


# Beyond, the product of an exponential with the largest number is zero.
_END = {np.dtype(np.float32): 190.0, np.dtype(np.float64): 1485.0}
_CUBIC_END = {np.dtype(np.float32): 13.3, np.dtype(np.float64): 27.2}


def _exp_abs_scaled(gate: jax.Array) -> tuple[Exp, jax.Array]:
    """``exp(-|gate|)`` as `half_scaled` gives it, and zero at infinity alone."""
    y = -jnp.minimum(jnp.abs(gate), _END[gate.dtype])
    e, scale = half_scaled(y, *exp_reduced_short(y))
    return e, jnp.where(jnp.abs(gate) == jnp.inf, 0, scale)


def _one_plus_exp(gate: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``1 + exp(-gate)`` likewise; where that is 1, the gate is held."""
    y = jnp.minimum(-gate, _END[gate.dtype])
    total, scale = one_plus_half_scaled(*exp_reduced_short(jnp.maximum(y, -60)))
    return total, jnp.where(gate == -jnp.inf, 0, scale)


def fading(
    exponent: Callable,
    reach: tuple[float, float],
    ratio: Callable,
    rise: float = 0.0,
) -> Callable:
    """How to multiply by a factor that may be too small to be a number.

    Far out it is ``exp(y - low) ratio(gate)``, where ``exponent(gate)`` is ``y, low``.
    Beyond the reach, in float32 and float64, even its product with the largest number
    is zero.  Where the factor vanishes at 0 it is ``rise gate`` next to that.
    """

    def product(activation, x, gate):
        factor, info = activation(gate), np.finfo(x.dtype)
        # Within reach it lifts every factor above zero, also for an infinite x.
        lift = 5 * info.maxexp // 8
        unlift = np.array(2.0**-lift, x.dtype)
        end = reach[0] if x.dtype == np.float32 else reach[1]
        held = jnp.clip(gate, -end, end)
        n, hi, lo = exp_reduced(*exponent(held))
        lifted = power_of_two(n + 2 * lift) * (1 + (hi + lo)) * ratio(held)
        small = x * unlift * lifted * unlift
        if rise:
            small = jnp.where(jnp.abs(gate) < 1, (x * rise) * gate, small)
        faint = (jnp.abs(factor) < info.tiny) & (jnp.abs(gate) < jnp.inf)
        return jnp.where(faint, small, x * factor)

    return product


def flat(activation: Callable, x: jax.Array, gate: jax.Array) -> jax.Array:
    """Off 0 a factor of zero stays that: so does its product, also with infinity."""
    factor = activation(gate)
    zero = (factor == 0) & (gate != 0) & jnp.isinf(x)
    return jnp.where(zero, 0, x * factor)


def _distance(gate: jax.Array) -> tuple:
    return -jnp.abs(gate), 0.0


def _half_square(gate: jax.Array) -> tuple:
    square, rest = square_words(gate)
    return -0.5 * square, 0.5 * rest


def _cubic(gate: jax.Array) -> tuple:
    """That of gelu in the form with tanh."""
    a = jnp.abs(gate)
    w, rest = cubic_words((hi_word(a), a - hi_word(a)))
    return -w, rest


def cubic_ratio(gate: jax.Array) -> jax.Array:
    """2 w' + x w'' + x w'^2 of the cubic w, x < 0."""
    a, bend = jnp.abs(gate), 6 * coefficients.GELU_B[0] * (gate * gate)
    slope = coefficients.GELU_A[0] + 0.5 * bend
    return (2 * slope + bend) - a * slope * slope


# Of the normal distribution, Q(a) a / phi(a) in powers of 1 / a^2: 1, -1, 3, -15...
_TAIL = tuple((-1.0) ** k * math.prod(range(1, 2 * k, 2)) for k in range(9))


def tail_ratios(gate: jax.Array) -> tuple:
    """x Q / exp and (Q + x phi) / exp, for x < 0."""
    t = 1 / (gate * gate)
    tail = polynomial(_TAIL, t)
    scale = coefficients.INVERSE_SQRT_2PI[0]
    return -scale * tail, scale * gate * (1 - t * tail)


exponential = functools.partial(fading, _distance, (190, 1485))
tanh_form = functools.partial(fading, _cubic, (13.3, 27.2))
gaussian = functools.partial(fading, _half_square, (19.4, 54.4))
