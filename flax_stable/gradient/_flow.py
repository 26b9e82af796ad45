"""What happens to a gradient on its way back."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._activations.piecewise import is_exact
from .._custom_vjp import custom_vjp
from .._precision import falling_zero, narrow, widen
from ..safe import divide, sqrt
from ..safe import norm as length_of


@jax.jit
def scale_gradient(x: Any, scale: jax.typing.ArrayLike) -> Any:
    """``x`` itself, with its gradient times ``scale``.

    Args:
      x: an array or a pytree of arrays.
      scale: a number or an array that broadcasts to each of them; it may be traced, as
        a schedule is.  It is not differentiated.

    Returns:
      ``x``.

    Derivatives: ``scale`` in place of 1.

    Residual: ``scale``.

    Raises:
      ValueError: ``scale`` does not broadcast to the shape of an array of ``x``.

    Example:
      >>> import jax, flax_stable as fs
      >>> float(jax.grad(lambda x: fs.gradient.scale_gradient(x, 0.1) ** 2)(3.0))
      0.6000000238418579
    """
    scale = lax.stop_gradient(jnp.asarray(scale))

    def one(x):
        if jnp.broadcast_shapes(x.shape, scale.shape) != x.shape:
            raise ValueError(
                "scale_gradient expects a scale that broadcasts to the array, but got "
                f"shapes {scale.shape} and {x.shape}."
            )
        return _scale(x, scale.astype(widen(x).dtype))

    return _each(one, x)


@custom_vjp
def _scale(x: jax.Array, scale: jax.Array) -> jax.Array:
    return lax.stop_gradient(x) - narrow(scale * widen(falling_zero(x)), x)


_scale.defvjp(
    lambda x, scale: (_scale(x, scale), scale),
    lambda scale, g: (narrow(widen(g) * scale, g), None),
)


@jax.jit
def reverse_gradient(x: Any, scale: jax.typing.ArrayLike = 1.0) -> Any:
    """``x`` itself, with its gradient times ``-scale``.

    Put between features and a classifier of their domain it trains the features against
    the classifier: to be the same in both domains.

    Args:
      x: an array or a pytree of arrays.
      scale: as for `scale_gradient`.

    Returns:
      ``x``.

    Derivatives: ``-scale`` in place of 1.

    Residual: ``scale``.

    Raises:
      ValueError: as for `scale_gradient`.

    Example:
      >>> import jax, flax_stable as fs
      >>> float(jax.grad(lambda x: fs.gradient.reverse_gradient(x) ** 2)(3.0))
      -6.0

    References:
      Ganin and Lempitsky, `Unsupervised Domain Adaptation by Backpropagation
      <https://arxiv.org/abs/1409.7495>`_, 2015.
    """
    return scale_gradient(x, -jnp.asarray(scale))


@jax.jit
def stop_gradient_where(mask: Any, x: Any) -> Any:
    """``x`` itself, with a gradient of 0 where the mask is true.

    A gradient of inf or NaN is stopped like any other.  What made it so further back,
    as the slope of a square root at 0 does, is not undone: `flax_stable.safe` is for
    that.

    Args:
      mask: a boolean array that broadcasts to each array of ``x``, or a pytree of such
        arrays, of the structure of ``x``.
      x: an array or a pytree of arrays.

    Returns:
      ``x``.

    Derivatives: 0 where the mask is true and 1 elsewhere.

    Residual: the mask.

    Raises:
      ValueError: the mask does not broadcast to the shape of ``x``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> x = jnp.array([1.0, 2.0])
      >>> jax.grad(lambda x: (fs.gradient.stop_gradient_where(x > 1, x) ** 2).sum())(x)
      Array([2., 0.], dtype=float32)
    """
    structures: Any = jax.tree.structure(mask), jax.tree.structure(x)
    if structures[0] != structures[1]:
        mask = jax.tree.map(lambda _: mask, x)

    def one(x, mask):
        if jnp.broadcast_shapes(x.shape, jnp.shape(mask)) != x.shape:
            raise ValueError(
                "stop_gradient_where expects a mask that broadcasts to the array, but "
                f"got shapes {jnp.shape(mask)} and {x.shape}."
            )
        return _stop(x, jnp.asarray(mask))

    return _each(one, x, mask)


@custom_vjp
def _stop(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, lax.stop_gradient(x), x)


_stop.defvjp(
    lambda x, mask: (_stop(x, mask), mask),
    lambda mask, g: (jnp.where(mask, 0, g), None),
)


@functools.partial(jax.jit, static_argnames="axis_name")
def clip_gradient(
    x: Any,
    *,
    value: jax.typing.ArrayLike | None = None,
    norm: jax.typing.ArrayLike | None = None,
    axis_name: Any = None,
) -> Any:
    r"""``x`` itself, with its gradient clipped, each element or as a whole.

    .. math::
      g \to \mathrm{clip}(g, -\mathrm{value}, \mathrm{value}), \qquad
      g \to g \, \min(1, \mathrm{norm} / |g|)

    That is not linear in the gradient, so there is no forward mode: `jax.jvp` raises an
    error, as for a `jax.custom_vjp`.  Reverse mode over reverse mode works.

    Args:
      x: an array or a pytree of arrays.
      value: the largest absolute value of an element, a number.
      norm: the largest Euclidean length of the gradients of all arrays together, over
        all devices of a mesh.  Lengths are taken in float32 (or 64) without overflow.
      axis_name: the axes of a `jax.shard_map` or of `jax.vmap` over which the length is
        taken too.  Without it, it is that of what each device, or element, has.

    Returns:
      ``x``.

    Derivatives: as written.  NaN stays NaN.  By ``norm`` it makes all of the gradient
    NaN; an infinite element makes itself NaN and the others 0.

    Residual: the bound.

    Raises:
      TypeError: not exactly one of ``value`` and ``norm`` is given.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> weights = jnp.array([3.0, 4.0])
      >>> jax.grad(lambda x: fs.gradient.clip_gradient(x, norm=1.0) @ weights)(weights)
      Array([0.6, 0.8], dtype=float32)

    References:
      Pascanu, Mikolov and Bengio, `On the Difficulty of Training Recurrent Neural
      Networks <https://arxiv.org/abs/1211.5063>`_, 2013.
    """
    if (value is None) == (norm is None):
        raise TypeError(
            "clip_gradient expects value or norm, but got "
            f"{'neither' if value is None else 'both'}."
        )
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, x))
    floats = [y for y in leaves if not is_exact(y)]
    if value is not None:
        clipped = [_clip(y, jnp.asarray(value, widen(y).dtype)) for y in floats]
    else:
        wide = jnp.result_type(np.float32, *(widen(y).dtype for y in floats))
        clipped = _clip_norm(axis_name, floats, jnp.asarray(norm, wide))
    found = iter(clipped)
    return jax.tree.unflatten(tree, [y if is_exact(y) else next(found) for y in leaves])


@functools.partial(custom_vjp, forward_mode=False)
def _clip(x: jax.Array, value: jax.Array) -> jax.Array:
    return x


_clip.defvjp(
    lambda x, value: (x, value),
    lambda value, g: (narrow(jnp.clip(widen(g), -value, value), g), None),
)


@functools.partial(custom_vjp, nondiff_argnums=(0,), forward_mode=False)
def _clip_norm(axis_name: Any, x: list, norm: jax.Array) -> list:
    return x


def _clip_norm_bwd(axis_name, bound, g):
    lengths = [length_of(widen(y)).astype(bound.dtype) for y in g]
    length = length_of(jnp.stack([*lengths, jnp.zeros_like(bound)]))
    if axis_name is not None:
        top = lax.stop_gradient(lax.pmax(lax.stop_gradient(length), axis_name))
        length = top * sqrt(lax.psum(divide(length, top) ** 2, axis_name))
    # Of a length of 0 the quotient would be NaN.
    factor = jnp.where(length > bound, bound / jnp.maximum(length, bound), 1)
    factor = jnp.where(jnp.isnan(length), length, factor)
    return [narrow(widen(y) * factor.astype(widen(y).dtype), y) for y in g], None


_clip_norm.defvjp(lambda axis_name, x, norm: (x, norm), _clip_norm_bwd)


def _each(f: Callable, x: Any, *others: Any) -> Any:
    """``f`` of every floating array of a tree, the others as they are."""

    def one(x, *others):
        x = jnp.asarray(x)
        return x if is_exact(x) else f(x, *others)

    return jax.tree.map(one, x, *others)
