"""Flax's layers with positive kernels, as NNX modules."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as _promote_dtype
from flax.typing import (
    ConvGeneralDilatedT,
    DotGeneralT,
    Dtype,
    EinsumT,
    Initializer,
    PaddingLike,
    PrecisionLike,
    PromoteDtypeFn,
)

from .._positive import kernels
from .._positive.dense import assert_functions, assert_sizes
from .._positive.initializers import moment_preserving, near_permutation

_general_init = near_permutation()
_kernel_init = moment_preserving()
_bias_init = nnx.initializers.zeros_init()
_Metadata = Mapping[str, Any]
_none: _Metadata = MappingProxyType({})


class Positive:
    """A positive parameter of a layer: computed from the raw one, which is stored.

    Flax's own constructor sets it once, to what the initializer returned.
    """

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        raw = getattr(layer, f"raw_{self.name}")
        return kernels.to_kernel(raw[...], layer.beta, layer.floor)

    def __set__(self, layer, parameter):
        if hasattr(layer, f"raw_{self.name}"):
            kernels.refuse_to_set(layer, self.name)
        raw = kernels.to_raw_kernel(parameter[...], layer.beta, layer.floor)
        setattr(layer, f"raw_{self.name}", parameter.replace(raw))


class StableSoftplusLinearGeneral(nnx.LinearGeneral):
    """`flax.nnx.LinearGeneral` with the kernel ``positive(raw_kernel)``.

    All that layer's arguments, results and errors are its own, but for the default of
    ``kernel_init``.  The parameters are ``raw_kernel``, of the shape of its kernel and
    any sign, and ``bias``; the attribute ``kernel`` is the positive kernel.

    Args:
      kernel_init: the initializer of the *positive* kernel, flattened to a matrix as
        Flax does.  Metadata that it carries is kept.
      kernel_metadata: metadata of ``raw_kernel``, such as ``out_sharding``.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> layer = fs.nnx.StableSoftplusLinearGeneral(
      ...   (3, 7), (4, 5), axis=(1, -1), rngs=nnx.Rngs(0)
      ... )
      >>> layer(jnp.ones((1, 3, 6, 7))).shape, layer.kernel.shape
      ((1, 6, 4, 5), (3, 7, 4, 5))
    """

    kernel: Any = Positive()

    def __init__(
        self,
        in_features: int | Sequence[int],
        out_features: int | Sequence[int],
        *,
        axis: int | Sequence[int] = -1,
        batch_axis: Mapping[int, int] = MappingProxyType({}),
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        kernel_init: Initializer = _general_init,
        bias_init: Initializer = _bias_init,
        precision: PrecisionLike = None,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        dot_general: DotGeneralT | None = None,
        dot_general_cls: Any = None,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = _none,
        bias_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        layer = type(self).__name__
        assert_sizes(layer, in_features=in_features, out_features=out_features)
        assert_functions(layer, kernel_init=kernel_init)
        self.beta = beta
        self.floor = floor
        super().__init__(
            in_features,
            out_features,
            axis=axis,
            batch_axis=batch_axis,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            precision=precision,
            promote_dtype=promote_dtype,
            dot_general=dot_general,
            dot_general_cls=dot_general_cls,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )


class StableSoftplusConv(nnx.Conv):
    """`flax.nnx.Conv` with the kernel ``positive(raw_kernel)``.

    All that layer's arguments, results and errors are its own, but for the default of
    ``kernel_init``; a ``mask`` makes its weights 0.  The parameters are ``raw_kernel``,
    of the shape of its kernel and any sign, and ``bias``; the attribute ``kernel`` is
    the positive kernel.

    Args:
      kernel_init: the initializer of the *positive* kernel.  Metadata that it carries
        is kept.
      kernel_metadata: metadata of ``raw_kernel``, such as ``out_sharding``.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> layer = fs.nnx.StableSoftplusConv(
      ...   2, 4, kernel_size=(3, 3), strides=2, rngs=nnx.Rngs(0)
      ... )
      >>> layer(jnp.ones((1, 8, 8, 2))).shape, bool((layer.kernel > 0).all())
      ((1, 4, 4, 4), True)
    """

    kernel: Any = Positive()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: PaddingLike = "SAME",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        mask: jax.Array | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _kernel_init,
        bias_init: Initializer = _bias_init,
        conv_general_dilated: ConvGeneralDilatedT = jax.lax.conv_general_dilated,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = _none,
        bias_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        layer = type(self).__name__
        assert_sizes(
            layer,
            in_features=in_features,
            out_features=out_features,
            kernel_size=kernel_size,
            feature_group_count=feature_group_count,
        )
        assert_functions(layer, kernel_init=kernel_init)
        self.beta = beta
        self.floor = floor
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            padding=padding,
            input_dilation=input_dilation,
            kernel_dilation=kernel_dilation,
            feature_group_count=feature_group_count,
            use_bias=use_bias,
            mask=mask,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
            conv_general_dilated=conv_general_dilated,
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )


class StableSoftplusEinsum(nnx.Einsum):
    """`flax.nnx.Einsum` with the kernel ``positive(raw_kernel)``.

    All that layer's arguments, results and errors are its own, but for the default of
    ``kernel_init``.  The parameters are ``raw_kernel``, of the shape of its kernel and
    any sign, and ``bias``; the attribute ``kernel`` is the positive kernel.

    Args:
      kernel_init: the initializer of the *positive* kernel.  The default takes the last
        axis for that of outputs: for others give ``moment_preserving(out_axis=...)``.
        Metadata that it carries is kept.
      kernel_metadata: metadata of ``raw_kernel``, such as ``out_sharding``.
      beta: the steepness of the softplus, above 0: see `flax_stable.positive`.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.

    Raises:
      ValueError: ``kernel_init`` returned values that are not positive, or
        ``beta`` or ``floor`` cannot be.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> layer = fs.nnx.StableSoftplusEinsum(
      ...   "abc,cde->abde", (5, 6, 7), (6, 7), rngs=nnx.Rngs(0)
      ... )
      >>> layer(jnp.ones((3, 4, 5))).shape, layer.kernel.shape
      ((3, 4, 6, 7), (5, 6, 7))
    """

    kernel: Any = Positive()

    def __init__(
        self,
        einsum_str: str,
        kernel_shape: Sequence[int],
        bias_shape: Sequence[int] | None = None,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _kernel_init,
        bias_init: Initializer = _bias_init,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        einsum_op: EinsumT = jnp.einsum,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = _none,
        bias_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        layer = type(self).__name__
        assert_sizes(layer, kernel_shape=kernel_shape)
        assert_functions(layer, kernel_init=kernel_init)
        self.beta = beta
        self.floor = floor
        super().__init__(
            einsum_str,
            kernel_shape,
            bias_shape,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
            promote_dtype=promote_dtype,
            einsum_op=einsum_op,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )
