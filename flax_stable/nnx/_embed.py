"""Positive embeddings and scales, as NNX modules."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as _promote_dtype
from flax.typing import Dtype, Initializer, PromoteDtypeFn

from .._activations.piecewise import identity
from .._positive.dense import assert_functions, assert_sizes, scaled
from .._positive.initializers import moment_preserving
from ._positive import Positive

_embedding_init = moment_preserving(identity, mean=1.0, out_axis=0)
_scale_init = nnx.initializers.ones_init()
_Metadata = Mapping[str, Any]
_none: _Metadata = MappingProxyType({})


class StableSoftplusEmbed(nnx.Embed):
    """`flax.nnx.Embed` with positive embeddings, ``positive(raw_embedding)``.

    All that layer's arguments, methods, results and errors are its own, but for the
    default of ``embedding_init``.  The parameter is ``raw_embedding``, of shape
    ``(num_embeddings, features)`` and any sign; the attribute ``embedding`` is the
    positive one.

    Args:
      embedding_init: the initializer of the *positive* embeddings; by default
        ``attend`` preserves mean and variance of queries that have 1 and 1.
      embedding_metadata: metadata of ``raw_embedding``.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest number of an embedding, 0 or more; those that start below
        twice that start there.

    Raises:
      ValueError: ``embedding_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``embedding_init`` returned values not of a real floating dtype.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> layer = fs.nnx.StableSoftplusEmbed(5, 3, rngs=nnx.Rngs(0))
      >>> y = layer(jnp.array([[0, 4]]))
      >>> y.shape, bool((y > 0).all())
      ((1, 2, 3), True)
    """

    embedding: Any = Positive()

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        embedding_init: Initializer = _embedding_init,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        rngs: nnx.Rngs,
        embedding_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        layer = type(self).__name__
        assert_sizes(layer, num_embeddings=num_embeddings, features=features)
        assert_functions(layer, embedding_init=embedding_init)
        self.beta = beta
        self.floor = floor
        super().__init__(
            num_embeddings,
            features,
            dtype=dtype,
            param_dtype=param_dtype,
            embedding_init=embedding_init,
            promote_dtype=promote_dtype,
            rngs=rngs,
            embedding_metadata=embedding_metadata,
        )


class StableSoftplusScale(nnx.Module):
    """A positive scale for each feature: ``y = x * positive(raw_scale)``.

    Over the last axis: what a positive rate, a temperature or a standard deviation is
    made of, and what keeps signs and orders of its inputs.  The parameter is
    ``raw_scale``, of shape ``(num_features,)`` and any sign; the attribute ``scale`` is
    the positive one.

    Args:
      num_features: the number of features.
      dtype: the dtype of the result; by default that of inputs and parameters.
      param_dtype: the dtype of the parameter, a real floating one.
      scale_init: the initializer of the *positive* scale.
      promote_dtype: the function that brings ``(inputs, scale)`` to one dtype.
      rngs: the random number streams; ``params`` is used.
      scale_metadata: metadata of ``raw_scale``.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest scale, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: the last axis of the inputs is not ``num_features``, ``scale_init``
        returned values that are not positive, or ``beta`` or ``floor`` cannot
        be.
      TypeError: ``scale_init`` returned values not of a real floating dtype.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> layer = fs.nnx.StableSoftplusScale(2, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([[3.0, -4.0]]))
      Array([[ 3., -4.]], dtype=float32)
    """

    scale: Any = Positive()

    def __init__(
        self,
        num_features: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        scale_init: Initializer = _scale_init,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        rngs: nnx.Rngs,
        scale_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        layer = type(self).__name__
        assert_sizes(layer, num_features=num_features)
        assert_functions(layer, scale_init=scale_init)
        self.beta = beta
        self.floor = floor
        self.scale = nnx.Param(
            scale_init(rngs.params(), (num_features,), param_dtype), **scale_metadata
        )
        self.num_features = num_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scales ``inputs`` of shape ``(..., num_features)``."""
        if jnp.shape(inputs)[-1:] != (self.num_features,):
            raise ValueError(
                f"StableSoftplusScale expects inputs of shape (..., {self.num_features}"
                f"), but got shape {jnp.shape(inputs)}. Move the features to the last "
                "axis, or build the layer for this width."
            )
        return scaled(*self.promote_dtype((inputs, self.scale), dtype=self.dtype))
