"""Gated linear units: a value times an activation of a gate."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._activations import _half
from .._activations._elementwise import as_floating, assert_bool
from .._activations.gelu import gelu, half_exact_gelu, half_gelu
from .._activations.piecewise import relu
from .._activations.sigmoid import half_sigmoid, sigmoid
from .._activations.silu import half_silu, silu
from .._precision import coefficients
from .._public import compiled
from ..testing.references import REFERENCES
from ._products import (
    cubic_ratio,
    exponential,
    few_bit_gated,
    flat,
    gated,
    gaussian,
    gelu_product,
    gelu_slope_product,
    sigmoid_product,
    sigmoid_slope_product,
    silu_product,
    silu_slope_product,
    tail_ratios,
    tanh_form,
    times,
)


@compiled("axis")
def glu(
    x: jax.typing.ArrayLike,
    axis: int = -1,
    *,
    gate: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The gated linear unit, as `jax.nn.glu`.

    .. math::
      \mathrm{glu}(a, b) = a\, \mathrm{sigmoid}(b)

    Args:
      x: an array whose halves along ``axis`` are the value :math:`a` and the gate
        :math:`b`; with a ``gate``, the value alone.  float8, bfloat16 and float16
        compute in float32 and round once, also in derivatives; integers, booleans and
        Python numbers promote to floating point.
      axis: the axis to halve, of no account with a ``gate``.
      gate: the gate, an array of the shape of ``x``; the two promote as in a product.

    Returns:
      An array of the shape of the value and of the (promoted) dtype.

    Derivatives: :math:`\mathrm{sigmoid}(b)` by the value, :math:`a\,
    \mathrm{sigmoid}'(b)` by the gate, each by the formula of `flax_stable.sigmoid`, as
    are those of higher order.

    Limits: those of the product.  An infinite value stays infinite, but gives NaN with
    a gate of -inf, where the factor is 0 itself.  NaN gives NaN.

    Residual: the value and the gate.

    Accuracy: products of two rounded numbers.  In float32 errors observed stay below
    2.8, 4.2 and 4.4 ULP in value, first and second derivative, in float16 and bfloat16
    below 0.501 ULP, in float64 below 4, 8 and 16 ULP, in reverse and forward mode.  A
    gate at which the sigmoid underflows does not take the product with it.

    Raises:
      TypeError: ``x`` or ``gate`` is complex, or their dtypes do not promote.
      ValueError: ``axis`` is none of ``x``, its size there is odd, or ``gate`` has
        another shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.glu(jnp.array([1.0, 2.0, 0.0, 100.0]))
      Array([0.5, 2. ], dtype=float32)
      >>> fs.glu(jnp.array([1.0, 2.0]), gate=jnp.array([0.0, 100.0]))
      Array([0.5, 2. ], dtype=float32)

    References:
      Dauphin et al., `Language Modeling with Gated Convolutional Networks
      <https://arxiv.org/abs/1612.08083>`_, 2017.
    """
    return _glu(*_value_and_gate("glu", x, axis, gate))


@compiled("axis", "bits")
def swiglu(
    x: jax.typing.ArrayLike,
    axis: int = -1,
    *,
    gate: jax.typing.ArrayLike | None = None,
    bits: int | None = None,
) -> jax.Array:
    r"""The gated linear unit with `flax_stable.silu` in place of the sigmoid.

    .. math::
      \mathrm{swiglu}(a, b) = a\, \mathrm{silu}(b)

    Args:
      x: an array whose halves along ``axis`` are the value :math:`a` and the gate
        :math:`b`; with a ``gate``, the value alone.  float8, bfloat16 and float16
        compute in float32 and round once, also in derivatives; integers, booleans and
        Python numbers promote to floating point.
      axis: the axis to halve, of no account with a ``gate``.
      gate: the gate, an array of the shape of ``x``; the two promote as in a product.
      bits: 1, 2, 3 or 4 keeps of the gate a code of so many bits for each element for
        the backward pass, and approximates the derivative by it; ``None`` keeps it.

    Returns:
      An array of the shape of the value and of the (promoted) dtype.

    Derivatives: :math:`\mathrm{silu}(b)` by the value, :math:`a\, \mathrm{silu}'(b)` by
    the gate, each by the formula of `flax_stable.silu`, as are those of higher order.

    Limits: those of the product.  An infinite value stays infinite, but gives NaN with
    a gate of 0 or -inf, where the factor is 0 itself.  NaN gives NaN.

    Residual: the value and the gate.  With ``bits`` it is the value, the
    output (which the next layer keeps anyway) and, in place of the gate, a code of so
    many bits for each element, packed along the last axis.  The derivative by the
    value is then that of the rounded output, if the value is not 0; the one by the gate
    has, in forward mode too, a step function for that of silu: of those of 2^bits steps
    the closest one for a standard normal gate, off by 29, 14, 7.1 and 3.5% of the norm
    with 1 to 4 bits.  The second by the gate is 0.  See docs/few_bits.md.

    Accuracy: products of two rounded numbers.  In float32 errors observed stay below
    2.4, 4.1 and 4.3 ULP in value, first and second derivative, in float16 and bfloat16
    below 0.501 ULP, in float64 below 4, 8 and 16 ULP, in reverse and forward mode.  A
    gate at which silu underflows does not take the product with it.

    Raises:
      TypeError: ``x`` or ``gate`` is complex, or their dtypes do not promote.
      ValueError: ``axis`` is none of ``x``, its size there is odd, or ``gate`` has
        another shape, or ``bits`` is none of these.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.swiglu(jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
      >>> bool(fs.swiglu(jnp.array(1e30), gate=jnp.array(-120.0)) < 0)
      True

    References:
      Shazeer, `GLU Variants Improve Transformer
      <https://arxiv.org/abs/2002.05202>`_, 2020.

      Novikov et al., `Few-Bit Backward: Quantized Gradients of Activation Functions for
      Memory Footprint Reduction <https://arxiv.org/abs/2202.00441>`_, 2022: ``bits``.
    """
    return _swiglu_rule(bits)(*_value_and_gate("swiglu", x, axis, gate))


@compiled("axis", "approximate")
def geglu(
    x: jax.typing.ArrayLike,
    axis: int = -1,
    *,
    gate: jax.typing.ArrayLike | None = None,
    approximate: bool = True,
) -> jax.Array:
    r"""The gated linear unit with `flax_stable.gelu` in place of the sigmoid.

    .. math::
      \mathrm{geglu}(a, b) = a\, \mathrm{gelu}(b)

    Args:
      x: an array whose halves along ``axis`` are the value :math:`a` and the gate
        :math:`b`; with a ``gate``, the value alone.  float8, bfloat16 and float16
        compute in float32 and round once, also in derivatives; integers, booleans and
        Python numbers promote to floating point.
      axis: the axis to halve, of no account with a ``gate``.
      gate: the gate, an array of the shape of ``x``; the two promote as in a product.
      approximate: whether to take gelu in the form with tanh, or in that with the
        normal distribution function.

    Returns:
      An array of the shape of the value and of the (promoted) dtype.

    Derivatives: :math:`\mathrm{gelu}(b)` by the value, :math:`a\, \mathrm{gelu}'(b)` by
    the gate, each by the formula of `flax_stable.gelu`, as are those of higher order.

    Limits: those of the product.  An infinite value stays infinite, but gives NaN with
    a gate of 0 or -inf, where the factor is 0 itself.  NaN gives NaN.

    Residual: the value and the gate.

    Accuracy: products of two rounded numbers.  In float32 errors observed stay below
    2.8, 4.3 and 5.8 ULP in value, first and second derivative, in float16 and bfloat16
    below 0.501 ULP, in float64 below 4, 8 and 16 ULP, in reverse and forward mode.  A
    gate at which gelu underflows does not take the product with it.

    Raises:
      TypeError: ``x`` or ``gate`` is complex, or their dtypes do not promote.
      ValueError: ``axis`` is none of ``x``, its size there is odd, or ``gate`` has
        another shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.geglu(jnp.array([3.0, 2.0, 0.0, 100.0]))
      Array([  0., 200.], dtype=float32)
      >>> fs.geglu(jnp.array([3.0]), gate=jnp.array([1.0]), approximate=False)
      Array([2.524034], dtype=float32)

    References:
      Shazeer, `GLU Variants Improve Transformer
      <https://arxiv.org/abs/2002.05202>`_, 2020.
    """
    assert_bool("geglu", "approximate", approximate)
    unit = _geglu if approximate else _exact_geglu
    return unit(*_value_and_gate("geglu", x, axis, gate))


@compiled("axis")
def reglu(
    x: jax.typing.ArrayLike,
    axis: int = -1,
    *,
    gate: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The gated linear unit with `flax_stable.relu` in place of the sigmoid.

    .. math::
      \mathrm{reglu}(a, b) = a \max(b, 0)

    Args:
      x: an array whose halves along ``axis`` are the value :math:`a` and the gate
        :math:`b`; with a ``gate``, the value alone.  float8, bfloat16 and float16
        compute in float32 and round once, also in derivatives; integers, booleans and
        Python numbers promote to floating point.
      axis: the axis to halve, of no account with a ``gate``.
      gate: the gate, an array of the shape of ``x``; the two promote as in a product.

    Returns:
      An array of the shape of the value and of the (promoted) dtype.

    Derivatives: :math:`\max(b, 0)` by the value; by the gate 0 up to and at 0 and
    :math:`a` above.  The second by the gate is 0, the mixed one that of
    `flax_stable.relu`.

    Limits: those of the product: a negative gate gives 0, also with an infinite value,
    a gate of 0 then gives NaN.  NaN gives NaN in value; the derivative by a gate that
    is NaN is 0, as that of `flax_stable.relu`.

    Residual: the value and the gate.

    Accuracy: a product, rounded once: errors stay below 0.501 ULP in every dtype.  The
    derivative by the gate is exact.

    Raises:
      TypeError: ``x`` or ``gate`` is complex, or their dtypes do not promote.
      ValueError: ``axis`` is none of ``x``, its size there is odd, or ``gate`` has
        another shape.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.reglu(jnp.array([3.0, 2.0, -1.0, 100.0]))
      Array([  0., 200.], dtype=float32)

    References:
      Shazeer, `GLU Variants Improve Transformer
      <https://arxiv.org/abs/2002.05202>`_, 2020.
    """
    return _reglu(*_value_and_gate("reglu", x, axis, gate))


def _value_and_gate(
    name: str,
    x: jax.typing.ArrayLike,
    axis: int,
    gate: jax.typing.ArrayLike | None,
) -> list[jax.Array]:
    x = as_floating(name, x)
    if gate is None:
        return _halves(name, x, axis)
    gate = as_floating(name, gate, argument="gate")
    if x.shape != gate.shape:
        raise ValueError(
            f"{name} multiplies x by a function of gate, which must have the same "
            f"shape, but got shapes x {x.shape}, gate {gate.shape}. Broadcast one of "
            "them with jnp.broadcast_to."
        )
    dtype = jnp.result_type(x, gate)
    both_weak = x.weak_type and gate.weak_type
    return [a if both_weak else a.astype(dtype) for a in (x, gate)]


def _halves(name: str, x: jax.Array, axis: int) -> list[jax.Array]:
    if not isinstance(axis, int | np.integer):
        raise TypeError(
            f"{name} halves x along one axis, but got axis={axis!r}. Give its number."
        )
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{name} halves x along axis {axis}, but x has shape {x.shape}. Name one "
            f"of its {x.ndim} axes."
        )
    if x.shape[axis] % 2:
        raise ValueError(
            f"{name} halves x along axis {axis}, which must have an even size, but x "
            f"has shape {x.shape}. Double the width of the layer before it."
        )
    return jnp.split(x, 2, axis)


# Of each activation and its derivatives, what they are far out and next to a root at 0.
_glu: Callable = gated(
    sigmoid,
    sigmoid_product,
    sigmoid_slope_product,
    exponential(lambda x: -jnp.sign(x), rise=-0.125),
    name="glu",
    half=(
        half_sigmoid,
        times(_half.sigmoid),
        times(_half.sigmoid_slope, even=True),
    ),
)
_swiglu: Callable = gated(
    silu,
    silu_product,
    silu_slope_product,
    exponential(lambda x: 2 - jnp.abs(x)),
    name="swiglu",
    half=(half_silu, times(_half.silu), times(_half.silu_slope)),
)
_swiglu_rule = few_bit_gated(_swiglu, "swiglu", *REFERENCES["silu"][:2])
_geglu: Callable = gated(
    gelu,
    gelu_product,
    gelu_slope_product,
    tanh_form(cubic_ratio),
    name="geglu",
    half=(half_gelu, times(_half.gelu), times(_half.gelu_slope)),
)
_exact_geglu: Callable = gated(
    functools.partial(gelu, approximate=False),
    gaussian(lambda x: tail_ratios(x)[0], rise=0.5),
    gaussian(lambda x: tail_ratios(x)[1]),
    gaussian(lambda x: coefficients.INVERSE_SQRT_2PI[0] * (2 - x * x)),
    name="geglu",
    half=(
        half_exact_gelu,
        times(_half.exact_gelu),
        times(_half.exact_gelu_slope),
    ),
)
_reglu: Callable = gated(relu, flat, flat, flat, name="reglu")
