"""Flax's layers with positive parameters, as Linen modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer

from .._activations.piecewise import identity
from .._positive import kernels
from .._positive.dense import assert_functions, assert_sizes, scaled
from .._positive.initializers import moment_preserving, near_permutation


def _raw(
    layer: Any, param: Callable, positive: str, name: str, init: Callable, *args: Any
) -> Any:
    """What ``layer.param`` does, the raw parameter in place of the positive one."""
    if name != positive:
        return param(name, init, *args)
    transform = layer.beta, layer.floor
    raw = param(f"raw_{name}", kernels.raw_kernel_init(init, *transform), *args)
    return kernels.to_kernel(raw, *transform)


class StableSoftplusDenseGeneral(nn.DenseGeneral):
    """`flax.linen.DenseGeneral` with the kernel ``positive(raw_kernel)``.

    All that layer's fields, results and errors are its own, but for the default of
    ``kernel_init``.  The parameters are ``raw_kernel``, of the shape of its kernel and
    any sign, and ``bias``; `positive_kernels` reads the positive kernel out of them.

    Attributes:
      kernel_init: the initializer of the *positive* kernel, flattened to a matrix as
        Flax does.  Partitioning boxes are kept.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusDenseGeneral((4, 5), axis=(1, -1))
      >>> params = layer.init(jax.random.key(0), jnp.ones((1, 3, 6, 7)))["params"]
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (4, 5), 'raw_kernel': (3, 7, 4, 5)}
    """

    kernel_init: Initializer = near_permutation()
    beta: float = 1.0
    floor: float = 0.0

    def setup(self):
        layer = type(self).__name__
        assert_sizes(layer, features=self.features)
        assert_functions(layer, kernel_init=self.kernel_init)

    @nn.nowrap
    def param(self, name, init_fn, *init_args, **kwargs):
        """Declares a parameter, the kernel as ``raw_kernel``."""
        return _raw(self, super().param, "kernel", name, init_fn, *init_args, **kwargs)


class StableSoftplusConv(nn.Conv):
    """`flax.linen.Conv` with the kernel ``positive(raw_kernel)``.

    All that layer's fields, results and errors are its own, but for the default of
    ``kernel_init``; a ``mask`` makes its weights 0.  The parameters are ``raw_kernel``,
    of the shape of its kernel and any sign, and ``bias``; `positive_kernels` reads the
    positive kernel out of them.

    Attributes:
      kernel_init: the initializer of the *positive* kernel.  Partitioning boxes are
        kept.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusConv(4, kernel_size=(3, 3), strides=2)
      >>> params = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))["params"]
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (4,), 'raw_kernel': (3, 3, 2, 4)}
    """

    kernel_init: Initializer = moment_preserving()
    beta: float = 1.0
    floor: float = 0.0

    def setup(self):
        layer = type(self).__name__
        assert_sizes(
            layer,
            features=self.features,
            kernel_size=self.kernel_size,
            feature_group_count=self.feature_group_count,
        )
        assert_functions(layer, kernel_init=self.kernel_init)

    @nn.nowrap
    def param(self, name, init_fn, *init_args, **kwargs):
        """Declares a parameter, the kernel as ``raw_kernel``."""
        return _raw(self, super().param, "kernel", name, init_fn, *init_args, **kwargs)


class StableSoftplusEinsum(nn.Einsum):
    """`flax.linen.Einsum` with the kernel ``positive(raw_kernel)``.

    All that layer's fields, results and errors are its own, but for the default of
    ``kernel_init``.  The parameters are ``raw_kernel``, of the shape of its kernel and
    any sign, and ``bias``; `positive_kernels` reads the positive kernel out of them.

    Attributes:
      kernel_init: the initializer of the *positive* kernel.  The default takes the last
        axis for that of outputs: for others give ``moment_preserving(out_axis=...)``.
        Partitioning boxes are kept.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusEinsum((5, 6, 7), "abc,cde->abde")
      >>> params = layer.init(jax.random.key(0), jnp.ones((3, 4, 5)))["params"]
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (6, 7), 'raw_kernel': (5, 6, 7)}
    """

    kernel_init: Initializer = moment_preserving()
    beta: float = 1.0
    floor: float = 0.0

    def setup(self):
        layer = type(self).__name__
        assert_sizes(layer, shape=self.shape)
        assert_functions(layer, kernel_init=self.kernel_init)

    @nn.nowrap
    def param(self, name, init_fn, *init_args, **kwargs):
        """Declares a parameter, the kernel as ``raw_kernel``."""
        return _raw(self, super().param, "kernel", name, init_fn, *init_args, **kwargs)


class StableSoftplusEmbed(nn.Embed):
    """`flax.linen.Embed` with positive embeddings, ``positive(raw_embedding)``.

    All that layer's fields, methods, results and errors are its own, but for the
    default of ``embedding_init``.  The parameter is ``raw_embedding``, of shape
    ``(num_embeddings, features)`` and any sign; `positive_kernels` reads the positive
    one out of it.

    Attributes:
      embedding_init: the initializer of the *positive* embeddings; by default
        ``attend`` preserves mean and variance of queries that have 1 and 1.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest number of an embedding, 0 or more; those that start below
        twice that start there.

    Raises:
      ValueError: ``embedding_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``embedding_init`` returned values not of a real floating dtype.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusEmbed(num_embeddings=5, features=3)
      >>> variables = layer.init(jax.random.key(0), jnp.array([1]))
      >>> y = layer.apply(variables, jnp.array([[0, 4]]))
      >>> y.shape, bool((y > 0).all())
      ((1, 2, 3), True)
    """

    embedding_init: Initializer = moment_preserving(identity, mean=1.0, out_axis=0)
    beta: float = 1.0
    floor: float = 0.0

    def setup(self):
        layer = type(self).__name__
        assert_sizes(layer, num_embeddings=self.num_embeddings, features=self.features)
        assert_functions(layer, embedding_init=self.embedding_init)
        super().setup()

    @nn.nowrap
    def param(self, name, init_fn, *init_args, **kwargs):
        """Declares a parameter, the embedding as ``raw_embedding``."""
        return _raw(
            self, super().param, "embedding", name, init_fn, *init_args, **kwargs
        )


class StableSoftplusScale(nn.Module):
    """A positive scale for each feature: ``y = x * positive(raw_scale)``.

    Over the last axis: what a positive rate, a temperature or a standard deviation is
    made of, and what keeps signs and orders of its inputs.  The parameter is
    ``raw_scale``, of shape ``(features,)`` and any sign; `positive_kernels` reads the
    positive one out of it.

    Attributes:
      dtype: the dtype of the result; by default that of inputs and parameters.
      param_dtype: the dtype of the parameter, a real floating one.
      scale_init: the initializer of the *positive* scale.  Partitioning boxes are kept.
      promote_dtype: the function that brings ``(inputs, scale)`` to one dtype.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest scale, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``scale_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``scale_init`` returned values not of a real floating dtype.
      flax.errors.ScopeParamShapeError: the last axis of the inputs is not what the
        parameter was made for.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusScale()
      >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> layer.apply(variables, jnp.array([[3.0, -4.0]]))
      Array([[ 3., -4.]], dtype=float32)
    """

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    scale_init: Initializer = nn.initializers.ones_init()
    promote_dtype: Callable[..., Any] = promote_dtype
    beta: float = 1.0
    floor: float = 0.0

    def setup(self):
        layer = type(self).__name__
        assert_functions(layer, scale_init=self.scale_init)

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scales ``inputs`` of shape ``(..., features)``."""
        shape = jnp.shape(inputs)[-1:]
        arguments = "scale", self.scale_init, shape, self.param_dtype
        scale = _raw(self, self.param, "scale", *arguments)
        return scaled(*self.promote_dtype(inputs, scale, dtype=self.dtype))
