"""A value with the derivative of something else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._activations._parametric import pull_back
from .._activations.hard import hard_tanh
from .._activations.piecewise import identity, is_exact
from .._custom_vjp import custom_vjp
from .._precision import falling_zero, widen


def straight_through(value: Any, surrogate: Any = identity) -> Any:
    """The value of one function with the derivative of another.

    Arrays, or functions of the same arguments::

        straight_through(jnp.round(x), x)
        straight_through(jnp.round)(x)  # the same: the surrogate is the identity

    Args:
      value: what comes out: an array, a pytree of them, or a function.
      surrogate: what is differentiated in its place.  Its leaves have the shapes and
        dtypes of those of ``value``; integers and booleans of ``value`` are cast.

    Returns:
      ``value``, or a function of it, with the derivatives of every order of
      ``surrogate``.  Those of ``value`` are never computed.

    Residual: that of ``surrogate``.

    Raises:
      TypeError: one of the two is a function and the other is not, or they differ in
        structure or dtype.
      ValueError: they differ in shape.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> rounded = fs.gradient.straight_through(jnp.round)
      >>> [float(y) for y in jax.value_and_grad(rounded)(1.7)]
      [2.0, 1.0]

    References:
      Bengio, Leonard and Courville, `Estimating or Propagating Gradients Through
      Stochastic Neurons <https://arxiv.org/abs/1308.3432>`_, 2013.
    """
    if not callable(value):
        if callable(surrogate):
            if surrogate is not identity:
                raise TypeError(
                    "straight_through got an array as value and a function as "
                    "surrogate. Pass two arrays or two functions."
                )
            raise TypeError(
                "straight_through got an array and no surrogate. Pass the array that "
                "is differentiated in its place, or a function of it."
            )
        return _pass_through(*_alike(value, surrogate))
    if not callable(surrogate):
        raise TypeError(
            "straight_through got a function as value and an array as surrogate. Pass "
            "two arrays or two functions."
        )

    def function(*args, **kwargs):
        y = value(*lax.stop_gradient(args), **lax.stop_gradient(kwargs))
        return _pass_through(*_alike(y, surrogate(*args, **kwargs)))

    return function


def _alike(value: Any, surrogate: Any) -> tuple:
    """Both as arrays of the same types, or an error."""
    value, surrogate = jax.tree.map(jnp.asarray, (value, surrogate))
    trees: Any = jax.tree.structure(value), jax.tree.structure(surrogate)
    if trees[0] != trees[1]:
        raise TypeError(
            "straight_through expects value and surrogate of one structure, but got "
            f"{trees[0]} and {trees[1]}."
        )

    def cast(y, x):
        if y.shape != x.shape:
            raise ValueError(
                "straight_through expects value and surrogate of one shape, but got "
                f"{y.shape} and {x.shape}. Broadcast the one to the other."
            )
        if y.dtype == x.dtype:
            return lax.convert_element_type(y, y.dtype)
        if not is_exact(y):
            raise TypeError(
                "straight_through expects value and surrogate of one dtype, but got "
                f"{y.dtype} and {x.dtype}. Cast the one with astype."
            )
        return y.astype(x.dtype)

    strong = jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), surrogate)
    return jax.tree.map(cast, value, surrogate), strong


@custom_vjp
def _pass_through(value: Any, surrogate: Any) -> Any:
    return jax.tree.map(
        lambda y, x: lax.stop_gradient(y) - falling_zero(x), value, surrogate
    )


_pass_through.defvjp(
    lambda value, surrogate: (_pass_through(value, surrogate), None),
    lambda _, g: (None, g),
)


def replace_gradient(value_fn: Callable, gradient_fn: Callable) -> Callable:
    """The function ``value_fn`` with the slope ``gradient_fn``.

    Args:
      value_fn: an elementwise function of one or more arrays.  Integers and booleans
        that it returns are cast to the dtype of the arrays.
      gradient_fn: takes the same arrays and returns the slope, of the shape of the
        value, or a tuple of one for each array; ``None`` in the tuple is a slope of 0.

    Returns:
      The function of both.  Its second derivative is the derivative of ``gradient_fn``.

    Residual: the arguments.

    Raises:
      TypeError: ``gradient_fn`` returns the wrong number of slopes.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> spike = fs.gradient.replace_gradient(
      ...   lambda x: jnp.where(x > 0, 1.0, 0.0),
      ...   lambda x: 1 / (1 + jnp.abs(x)) ** 2,
      ... )
      >>> [float(y) for y in jax.value_and_grad(spike)(-1.0)]
      [0.0, 0.25]

    References:
      Neftci, Mostafa and Zenke, `Surrogate Gradient Learning in Spiking Neural Networks
      <https://arxiv.org/abs/1901.09948>`_, 2019.
    """

    @custom_vjp
    def function(*args):
        y = jnp.asarray(value_fn(*args))
        return y.astype(jnp.result_type(*args)) if is_exact(y) else y

    def bwd(args, g):
        slopes = gradient_fn(*args)
        slopes = slopes if isinstance(slopes, tuple) else (slopes,)
        if len(slopes) != len(args):
            raise TypeError(
                f"gradient_fn must return {len(args)} slopes, one for each argument, "
                f"but it returned {len(slopes)}."
            )
        moving = [i for i, slope in enumerate(slopes) if slope is not None]
        factors = [
            widen(jnp.broadcast_to(jnp.asarray(slopes[i], g.dtype), g.shape))
            for i in moving
        ]
        cts = iter(pull_back(g, tuple(args[i] for i in moving), factors))
        return tuple(next(cts) if i in moving else None for i in range(len(args)))

    function.defvjp(lambda *args: (function(*args), args), bwd)

    def call(*args):
        return function(*map(jnp.asarray, args))

    return call


@jax.jit
def straight_through_round(x: jax.typing.ArrayLike) -> jax.Array:
    """The nearest whole number (of two the even one), with the slope 1.

    Args:
      x: an array of any shape and floating dtype.

    Returns:
      An array like ``x``.

    Derivatives: the first is 1, the others 0.

    Residual: nothing.

    Example:
      >>> import jax, flax_stable as fs
      >>> y = jax.value_and_grad(fs.gradient.straight_through_round)(1.7)
      >>> [float(y) for y in y]
      [2.0, 1.0]

    References:
      Bengio, Leonard and Courville, `Estimating or Propagating Gradients Through
      Stochastic Neurons <https://arxiv.org/abs/1308.3432>`_, 2013.
    """
    return straight_through(jnp.round)(x)


@jax.jit
def straight_through_sign(x: jax.typing.ArrayLike) -> jax.Array:
    """1 from 0 on and -1 below, with the slope of `flax_stable.hard_tanh`.

    Args:
      x: an array of any shape and floating dtype.

    Returns:
      An array like ``x``.

    Derivatives: the first is 1 between -1 and 1 and 0 elsewhere, at both ends too: what
    is saturated learns no more.  The others are 0.

    Limits: NaN gives NaN.

    Residual: a boolean for each element.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> x = jnp.array([-2.0, -0.3, 0.0])
      >>> fs.gradient.straight_through_sign(x)
      Array([-1., -1.,  1.], dtype=float32)
      >>> jax.vmap(jax.grad(fs.gradient.straight_through_sign))(x)
      Array([0., 1., 1.], dtype=float32)

    References:
      Courbariaux et al., `Binarized Neural Networks
      <https://arxiv.org/abs/1602.02830>`_, 2016.
    """
    return straight_through(_sign, hard_tanh)(x)


def _sign(x: jax.typing.ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    return jnp.where(x == 0, jnp.ones_like(x), jnp.sign(x))
