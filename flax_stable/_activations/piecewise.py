"""`relu` and what is made of straight lines that meet at 0; `identity`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen
from .._public import compiled
from ._elementwise import as_floating, as_real, elementwise, named
from ._parametric import pull_back, with_parameters


def ramp(name: str, value: Callable, rises: Callable, slope: float = 1.0) -> Callable:
    """The function ``value``, flat but for where it ``rises``: all that its rule keeps.

    Both are functions of an array of any floating dtype; ``name`` is as for
    `elementwise`.
    """

    @custom_vjp
    def f(x):
        return narrow(value(x), x)

    def fwd(x):
        return f(x), rises(x)

    def bwd(rising, g):
        ct = g if slope == 1 else narrow(slope * widen(g), g)
        return (jnp.where(named(rising, name), ct, 0),)

    f.defvjp(fwd, bwd)
    f.rule.barrier = True
    return f


def is_exact(x: jax.typing.ArrayLike) -> bool:
    return not jnp.issubdtype(jnp.asarray(x).dtype, np.inexact)


def as_integer(x: jax.Array) -> jax.Array:
    """``x``, a boolean as the integer that it counts as in sums."""
    return jnp.where(x, 1, 0) if x.dtype == bool else x


@compiled()
def relu(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The positive part, as `jax.nn.relu`.

    .. math::
      \mathrm{relu}(x) = \max(x, 0)

    Args:
      x: an array of any shape and any real dtype.  Integers stay integers, as in
        `jax.nn`.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is 0 up to and at 0 and 1 above, the second 0.

    Limits: 0 and inf in value, 0 and 1 in the first derivative.  NaN gives NaN in value
    and the derivative 0, since a boolean cannot say NaN.

    Residual: a boolean for each element, which says where the slope is 1.

    Accuracy: value and derivatives are exact.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.relu(jnp.array([-1.0, 0.0, 2.0]))
      Array([0., 0., 2.], dtype=float32)
      >>> jax.tree.leaves(jax.vjp(fs.relu, jnp.ones(3))[1])  # what the rule keeps
      [Array([ True,  True,  True], dtype=bool)]

    References:
      Nair and Hinton, `Rectified Linear Units Improve Restricted Boltzmann Machines
      <https://icml.cc/Conferences/2010/papers/432.pdf>`_, 2010.
    """
    x = as_real("relu", x)
    return jnp.maximum(as_integer(x), 0) if is_exact(x) else _relu(x)


@compiled()
def relu6(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The positive part, held at 6, as `jax.nn.relu6`.

    .. math::
      \mathrm{relu6}(x) = \min(\max(x, 0), 6)

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is 1 between 0 and 6 and 0 elsewhere, at both kinks too; the
    second is 0.

    Limits: 0 and 6 in value, 0 in every derivative.  NaN gives NaN in value and the
    derivative 0, since a boolean cannot say NaN.

    Residual: a boolean for each element, which says where the slope is 1.

    Accuracy: value and derivatives are exact.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.relu6(jnp.array([-1.0, 2.0, 8.0]))
      Array([0., 2., 6.], dtype=float32)

    References:
      Howard et al., `MobileNets <https://arxiv.org/abs/1704.04861>`_, 2017.
    """
    return _relu6(as_floating("relu6", x))


@compiled()
def leaky_relu(
    x: jax.typing.ArrayLike, negative_slope: jax.typing.ArrayLike = 1e-2
) -> jax.Array:
    r"""The identity with a smaller slope below 0, as `jax.nn.leaky_relu`.

    .. math::
      \mathrm{leaky\_relu}(x) = x \text{ for } x \ge 0, \quad a x \text{ for } x < 0

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.
      negative_slope: the slope :math:`a` below 0.  A number, or an array that
        broadcasts against ``x``, with which it promotes as in `jax.nn`; bfloat16 and
        float16 inputs use it in float32.  It is differentiable: its cotangent is summed
        over the axes that it lacks.

    Returns:
      An array of the broadcast shape and the promoted dtype of both.

    Derivatives: the first is 1 from 0 on and the negative slope below, the second 0.
    With respect to the slope it is 0 from 0 on and x below.

    Limits: -inf (with a positive slope) and inf in value, the slope and 1 in the first
    derivative.  NaN gives NaN in value and the slope in the first derivative, since a
    boolean cannot say NaN.

    Residual: a boolean for each element, which says where the slope is 1.  Where the
    negative slope is differentiated too, the input as well.

    Accuracy: in float32 errors observed stay below 0.9, 0.5 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` or the parameter is complex.
      ValueError: the shapes do not broadcast.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> fs.leaky_relu(jnp.array([-1.0, 0.0, 2.0]), 0.1)
      Array([-0.1,  0. ,  2. ], dtype=float32)
      >>> jax.grad(fs.leaky_relu, 1)(-3.0, 0.1)
      Array(-3., dtype=float32, weak_type=True)

    References:
      Maas, Hannun and Ng, `Rectifier Nonlinearities Improve Neural Network Acoustic
      Models
      <https://ai.stanford.edu/~amaas/papers/relu_hybrid_icml2013_final.pdf>`_, 2013.
    """
    return _leaky_relu(*with_parameters("leaky_relu", x, negative_slope=negative_slope))


@compiled()
def relu_squared(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The square of the positive part.

    .. math::
      \mathrm{relu\_squared}(x) = \max(x, 0)^2

    Args:
      x: an array of any shape.  float8, bfloat16 and float16 compute in float32 and
        round once, also in derivatives; integers, booleans and Python numbers promote
        to floating point as `jax.numpy.tanh` promotes them.

    Returns:
      An array of the shape of ``x`` and of its (promoted) dtype.

    Derivatives: the first is :math:`2 \max(x, 0)`, the second 0 up to and at 0 and 2
    above.

    Limits: 0 and inf in value, 0 and inf in the first derivative, 0 and 2 in the
    second.  NaN gives NaN in value and first derivative.

    Residual: the input.

    Accuracy: in float32 errors observed stay below 0.6, 0.5 and 0.5 ULP in value, first
    and second derivative, in float16 and bfloat16 below 0.501 ULP over all inputs, in
    float64 below 4, 8 and 16 ULP, eager and compiled, in reverse and forward mode.
    Results below the smallest normal number may be flushed to zero.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.relu_squared(jnp.array([-1.0, 0.0, 3.0]))
      Array([0., 0., 9.], dtype=float32)

    References:
      So et al., `Primer: Searching for Efficient Transformers for Language Modeling
      <https://arxiv.org/abs/2109.08668>`_, 2021.
    """
    return _relu_squared(as_floating("relu_squared", x))


@compiled()
def identity(x: jax.typing.ArrayLike) -> jax.Array:
    r"""The input itself, as `jax.nn.identity`.

    .. math::
      \mathrm{identity}(x) = x

    Args:
      x: an array of any shape and any real dtype, which it keeps.

    Returns:
      ``x`` as a JAX array.

    Derivatives: the first is 1, the others 0.

    Limits: -inf and inf in value.  NaN gives NaN in value.

    Residual: nothing.

    Accuracy: value and derivatives are exact.

    Raises:
      TypeError: ``x`` is complex.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.identity(jnp.array([-1, 2]))
      Array([-1,  2], dtype=int32)

    References:
      He et al., `Identity Mappings in Deep Residual Networks
      <https://arxiv.org/abs/1603.05027>`_, 2016.
    """
    return as_real("identity", x)


_relu = ramp("relu", lambda x: jnp.where(x <= 0, 0, x), lambda x: x > 0)
_relu6 = ramp(
    "relu6",
    lambda x: jnp.where(x >= 6, 6, jnp.where(x <= 0, 0, x)),
    lambda x: (x > 0) & (x < 6),
)


@custom_vjp
def _leaky_relu(x, slope):
    wide = widen(x)
    return narrow(jnp.where(wide >= 0, wide, slope * wide), x)


def _leaky_relu_fwd(x, slope):
    # Unless the slope is differentiated the rule makes no use of x, and JAX drops it.
    return _leaky_relu(x, slope), (x >= 0, x, slope)


def _leaky_relu_bwd(kept, g):
    (positive, x), slope = named(kept[:2], "leaky_relu"), kept[2]
    slopes = [jnp.where(positive, 1, slope), jnp.where(positive, 0, widen(x))]
    return pull_back(g, (x, slope), slopes)


_leaky_relu.defvjp(_leaky_relu_fwd, _leaky_relu_bwd)
_relu_squared = elementwise(
    lambda x: jnp.where(x <= 0, 0, x) ** 2, lambda x: 2 * _relu(x), "relu_squared"
)
