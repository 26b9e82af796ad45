"""Dense layers as NNX modules."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as _promote_dtype
from flax.typing import (
    DotGeneralT,
    Dtype,
    Initializer,
    PrecisionLike,
    PromoteDtypeFn,
)

from .._positive import kernels
from .._positive.dense import assert_functions, assert_inputs, assert_sizes, dense
from .._positive.directions import (
    as_directions,
    assembled,
    directed_rows,
    free_rows,
    has_free,
)
from .._positive.initializers import near_permutation

_kernel_init = near_permutation()
_bias_init = nnx.initializers.zeros_init()


class StableSoftplusLinear(nnx.Module):
    """A linear layer whose kernel is positive: ``kernel = softplus(raw_kernel)``.

    ``y = x @ softplus(raw_kernel) + bias`` over the last axis, so every output is an
    increasing function of every input, or of those that ``monotone`` says.  Arguments,
    defaults and dtype promotion are those of `flax.nnx.Linear`; only the default of
    ``kernel_init`` differs.  The softplus is taken in the dtype of the parameters,
    before promotion, by `flax_stable.positive`.

    The parameters are ``raw_kernel``, of shape ``(in_features, out_features)`` and any
    sign, and ``bias``; the property ``kernel`` gives the positive kernel.  Where
    ``monotone`` has zeros, the weights of these inputs are the rows of a third one,
    ``free_kernel``, as they are, and ``raw_kernel`` has the rows of the others.  Mind
    that Optax's weight decay of ``raw_kernel`` pulls the kernel to ``softplus(0) =
    0.693``; that of `flax_stable.decay` pulls it to 0.

    Args:
      in_features: the number of inputs.
      out_features: the number of outputs.
      use_bias: whether to add a bias.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters, a real floating one.
      precision: the precision of the product, see `jax.lax.Precision`.
      kernel_init: the initializer of the *positive* kernel; ``raw_kernel`` starts as
        its inverse_softplus.  Metadata that it carries is kept.  Under `jax.jit` values
        cannot be checked: there one below 0 becomes NaN, and 0 a weight that never
        moves.
      bias_init: the initializer of the bias.
      dot_general: the product, `jax.lax.dot_general` by default.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      preferred_element_type: the dtype that the product accumulates in and returns.
      rngs: the random number streams; ``params`` is used.
      kernel_metadata: metadata of ``raw_kernel``, such as ``out_sharding``, and of
        ``free_kernel``.
      bias_metadata: metadata of ``bias``.
      beta: the steepness of the softplus, above 0.
      floor: the smallest weight, 0 or more; those that start below twice that
        start there.
      monotone: a direction for each input: 1 for outputs that increase with it, -1 for
        outputs that decrease, whose weights are ``-positive(raw)``, and 0 for a free
        one, whose weights are those of ``free_kernel``.  These start with the sizes
        that ``kernel_init`` gives, called for all inputs as for the others, and random
        signs.  On Explicit axes split outputs then, not inputs.  By default all
        increase.

    Raises:
      ValueError: the last axis of the inputs is not ``in_features``, ``kernel_init``
        returned values that are not positive, ``beta`` or ``floor`` cannot be,
        or ``monotone`` is of another length, has other values or nothing but zeros.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype,
        or a quantizer replaced ``raw_kernel``: it is to quantize the plain layer, with
        the parameters that `flax_stable.constrain` reads out of these.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> model = nnx.Sequential(
      ...   fs.nnx.StableSoftplusLinear(3, 8, rngs=nnx.Rngs(0)), fs.nnx.Tanh()
      ... )
      >>> model(jnp.ones((1, 3))).shape
      (1, 8)
      >>> bool((model.layers[0].kernel > 0).all())
      True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _kernel_init,
        bias_init: Initializer = _bias_init,
        dot_general: DotGeneralT = jax.lax.dot_general,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = MappingProxyType({}),
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        beta: float = 1.0,
        floor: float = 0.0,
        monotone: Sequence[int] | None = None,
    ):
        layer = type(self).__name__
        assert_sizes(layer, in_features=in_features, out_features=out_features)
        assert_functions(
            layer,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dot_general=dot_general,
            promote_dtype=promote_dtype,
        )
        self.beta = beta
        self.floor = floor
        directions = as_directions(layer, monotone, in_features)
        self.monotone = None if monotone is None else tuple(monotone)
        self.in_features = in_features

        def initialize(key):
            kernel = kernel_init(key, (in_features, out_features), param_dtype)
            return nnx.Param(kernel, **kernel_metadata)

        kernel = initialize(rngs.params())
        raw_kernel = kernels.to_raw_kernel(kernel[...], beta, floor)
        self.raw_kernel = kernel.replace(directed_rows(raw_kernel, directions))
        self.free_kernel = nnx.data(None)
        if has_free(directions):
            kernel = initialize(key := rngs.params())
            self.free_kernel = kernel.replace(free_rows(kernel[...], directions, key))
        self.bias = nnx.data(None)
        if use_bias:
            self.bias = nnx.Param(
                bias_init(rngs.params(), (out_features,), param_dtype), **bias_metadata
            )
        self.out_features = out_features
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.dot_general = dot_general
        self.promote_dtype = promote_dtype
        self.preferred_element_type = preferred_element_type

    @property
    def kernel(self) -> jax.Array:
        """The positive kernel, ``positive(raw_kernel)``, in the dtype of the latter.

        Its rows have the directions that ``monotone`` gives; those of free inputs are
        the rows of ``free_kernel``.  It is computed: what is set is ``raw_kernel``.
        """
        held = self._held()
        kernel = kernels.to_kernel(held["raw_kernel"], self.beta, self.floor)
        return assembled(kernel, held.get("free_kernel"), self._directions())

    @kernel.setter
    def kernel(self, kernel: Any) -> None:
        kernels.refuse_to_set(self, "kernel")

    def _directions(self):
        return as_directions(type(self).__name__, self.monotone, self.in_features)

    def _held(self):
        held = {"raw_kernel": self.raw_kernel, "free_kernel": self.free_kernel}
        return {name: param[...] for name, param in held.items() if param is not None}

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Applies the layer to ``inputs`` of shape ``(..., in_features)``.

        ``out_sharding`` is the sharding of the result on a mesh of Explicit axes.
        """
        assert_inputs(
            type(self).__name__,
            inputs,
            self._held(),
            "Move the features to the last axis, or build the layer for this width.",
        )
        inputs, kernel, bias = self.promote_dtype(
            (inputs, self.kernel, None if self.bias is None else self.bias[...]),
            dtype=self.dtype,
        )
        options = {
            "out_sharding": out_sharding,
            "preferred_element_type": self.preferred_element_type,
        }
        return dense(
            inputs,
            kernel,
            bias,
            self.dot_general,
            precision=self.precision,
            # A product of the user's own need not know what it is not asked for.
            **{name: value for name, value in options.items() if value is not None},
        )
