"""The feed-forward blocks of a transformer, as NNX modules."""

import functools
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as _promote_dtype
from flax.typing import DotGeneralT, Dtype, Initializer, PrecisionLike, PromoteDtypeFn

from .. import _blocks
from .._activations.gelu import gelu
from .._gated.units import swiglu
from .._positive.dense import summing

_kernel_init = nnx.initializers.lecun_normal()
_bias_init = nnx.initializers.zeros_init()
_Metadata = Mapping[str, Any]
_Rngs = nnx.Rngs | nnx.RngStream | jax.Array | None


class MLP(nnx.Module):
    """The feed-forward block of a transformer: dense, activation, dense.

    ``y = activation(x @ up + bias) @ down + bias`` over the last axis.  Of the wide
    layer in between, the backward pass keeps the pre-activation and nothing else: see
    `flax_stable.activation_dense`, what the second half does.  Arguments, defaults and
    dtype promotion are those of `flax.nnx.Linear`.

    The attributes ``up`` and ``down`` are two `flax.nnx.Linear`.  They are called as
    layers: `flax.nnx.LoRA`, `flax_stable.nnx.Parametrized` or any other module of one
    array may stand in their place.

    Args:
      in_features: the number of inputs.
      intermediate_features: the width in between.
      out_features: the number of outputs; by default that of inputs.
      activation: a function of one array, or a module that is one.
      use_bias: whether the layers add a bias.
      dropout_rate: the share of elements dropped after the activation, and again of the
        outputs.  The keys come from the stream ``dropout``; the backward pass keeps
        these and computes the masks again.
      deterministic: whether nothing is dropped; ``eval()`` and ``train()`` of the model
        set it, an argument of the call goes before it.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the kernels.
      bias_init: the initializer of the biases.
      down_kernel_init: that of ``down``'s kernel, if it is another one.
      down_bias_init: that of ``down``'s bias, if it is another one.
      dot_general: the products, `jax.lax.dot_general` by default.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      preferred_element_type: the dtype that the products accumulate in and return.
      rngs: the random number streams; ``params`` is used, and ``dropout`` if something
        is dropped.
      kernel_metadata: metadata of ``up``'s kernel, such as ``out_sharding``.
      bias_metadata: metadata of ``up``'s bias.
      down_kernel_metadata: metadata of ``down``'s kernel: on a mesh the two are split
        along different axes.
      down_bias_metadata: metadata of ``down``'s bias.

    Raises:
      ValueError: ``dropout_rate`` is not between 0 and 1, or the last axis of the
        inputs is not ``in_features``.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> block = fs.nnx.MLP(16, 64, activation=fs.silu, rngs=nnx.Rngs(0))
      >>> block(jnp.ones((1, 16))).shape, block.down.kernel.shape
      ((1, 16), (64, 16))
    """

    def __init__(
        self,
        in_features: int,
        intermediate_features: int,
        out_features: int | None = None,
        *,
        activation: Callable[..., jax.Array] = gelu,
        use_bias: bool = True,
        dropout_rate: float = 0.0,
        deterministic: bool | None = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _kernel_init,
        bias_init: Initializer = _bias_init,
        down_kernel_init: Initializer | None = None,
        down_bias_init: Initializer | None = None,
        dot_general: DotGeneralT = jax.lax.dot_general,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = MappingProxyType({}),
        bias_metadata: _Metadata = MappingProxyType({}),
        down_kernel_metadata: _Metadata = MappingProxyType({}),
        down_bias_metadata: _Metadata = MappingProxyType({}),
    ):
        if out_features is None:
            out_features = in_features
        _blocks.assert_fields(
            type(self).__name__,
            {
                "in_features": in_features,
                "intermediate_features": intermediate_features,
                "out_features": out_features,
            },
            {
                "activation": activation,
                "kernel_init": kernel_init,
                "bias_init": bias_init,
                "promote_dtype": promote_dtype,
            },
            dropout_rate,
        )
        linear = functools.partial(
            nnx.Linear,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            dot_general=summing(dot_general),
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
        )
        self.in_features = in_features
        self.activation = activation
        self.up = linear(
            in_features,
            intermediate_features,
            kernel_init=kernel_init,
            bias_init=bias_init,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
        )
        self.down = linear(
            intermediate_features,
            out_features,
            kernel_init=down_kernel_init or kernel_init,
            bias_init=down_bias_init or bias_init,
            kernel_metadata=down_kernel_metadata,
            bias_metadata=down_bias_metadata,
        )
        self.dropout = _dropout(self, dropout_rate, deterministic, rngs)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: _Rngs = None,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Applies the block to ``inputs`` of shape ``(..., in_features)``.

        ``rngs`` goes before the streams that the block was built with.
        ``out_sharding`` is the sharding of the result on a mesh of Explicit axes: by
        default features that were split between devices in the block are summed.
        """
        _assert_inputs(self, inputs)
        keys = _dropout_keys(self.dropout, deterministic, rngs)
        return _second_half(self, (self.up(inputs),), keys, out_sharding)


class GatedMLP(nnx.Module):
    """The gated feed-forward block of a transformer: two dense, gate, dense.

    ``y = activation(x @ up, gate=x @ gate) @ down`` over the last axis.  Of the wide
    layers in between, the backward pass keeps value and gate and nothing else: see
    `flax_stable.gated_dense`, what the second half does.  Arguments, defaults and dtype
    promotion are those of `flax.nnx.Linear`; only ``use_bias`` differs.

    The attributes ``up``, ``gate`` and ``down`` are three `flax.nnx.Linear`.  They are
    called as layers: `flax.nnx.LoRA`, `flax_stable.nnx.Parametrized` or any other
    module of one array may stand in their place.  That ``up`` and ``gate`` are apart
    lets a mesh split both by columns.

    Args:
      in_features: the number of inputs.
      intermediate_features: the width in between.
      out_features: the number of outputs; by default that of inputs.
      activation: a gated unit, called as ``activation(value, gate=gate)``.
      use_bias: whether the layers add a bias.
      dropout_rate: the share of elements dropped after the gate, and again of the
        outputs.  The keys come from the stream ``dropout``; the backward pass keeps
        these and computes the masks again.
      deterministic: whether nothing is dropped; ``eval()`` and ``train()`` of the model
        set it, an argument of the call goes before it.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the kernels.
      bias_init: the initializer of the biases.
      down_kernel_init: that of ``down``'s kernel, if it is another one.
      down_bias_init: that of ``down``'s bias, if it is another one.
      dot_general: the products, `jax.lax.dot_general` by default.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      preferred_element_type: the dtype that the products accumulate in and return.
      rngs: the random number streams; ``params`` is used, and ``dropout`` if something
        is dropped.
      kernel_metadata: metadata of the kernels of ``up`` and ``gate``, such as
        ``out_sharding``.
      bias_metadata: metadata of the biases of ``up`` and ``gate``.
      down_kernel_metadata: metadata of ``down``'s kernel: on a mesh the kernels are
        split along different axes.
      down_bias_metadata: metadata of ``down``'s bias.

    Raises:
      ValueError: ``dropout_rate`` is not between 0 and 1, or the last axis of the
        inputs is not ``in_features``.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> block = fs.nnx.GatedMLP(16, 64, rngs=nnx.Rngs(0))
      >>> block(jnp.ones((1, 16))).shape, block.gate.kernel.shape
      ((1, 16), (16, 64))
    """

    def __init__(
        self,
        in_features: int,
        intermediate_features: int,
        out_features: int | None = None,
        *,
        activation: Callable[..., jax.Array] = swiglu,
        use_bias: bool = False,
        dropout_rate: float = 0.0,
        deterministic: bool | None = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _kernel_init,
        bias_init: Initializer = _bias_init,
        down_kernel_init: Initializer | None = None,
        down_bias_init: Initializer | None = None,
        dot_general: DotGeneralT = jax.lax.dot_general,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = MappingProxyType({}),
        bias_metadata: _Metadata = MappingProxyType({}),
        down_kernel_metadata: _Metadata = MappingProxyType({}),
        down_bias_metadata: _Metadata = MappingProxyType({}),
    ):
        if out_features is None:
            out_features = in_features
        _blocks.assert_fields(
            type(self).__name__,
            {
                "in_features": in_features,
                "intermediate_features": intermediate_features,
                "out_features": out_features,
            },
            {
                "activation": activation,
                "kernel_init": kernel_init,
                "bias_init": bias_init,
                "promote_dtype": promote_dtype,
            },
            dropout_rate,
        )
        linear = functools.partial(
            nnx.Linear,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            dot_general=summing(dot_general),
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
        )
        self.in_features = in_features
        self.activation = activation
        self.up, self.gate = (
            linear(
                in_features,
                intermediate_features,
                kernel_init=kernel_init,
                bias_init=bias_init,
                kernel_metadata=kernel_metadata,
                bias_metadata=bias_metadata,
            )
            for _ in range(2)
        )
        self.down = linear(
            intermediate_features,
            out_features,
            kernel_init=down_kernel_init or kernel_init,
            bias_init=down_bias_init or bias_init,
            kernel_metadata=down_kernel_metadata,
            bias_metadata=down_bias_metadata,
        )
        self.dropout = _dropout(self, dropout_rate, deterministic, rngs)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: _Rngs = None,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Applies the block to ``inputs`` of shape ``(..., in_features)``.

        ``rngs`` goes before the streams that the block was built with.
        ``out_sharding`` is the sharding of the result on a mesh of Explicit axes: by
        default features that were split between devices in the block are summed.
        """
        _assert_inputs(self, inputs)
        keys = _dropout_keys(self.dropout, deterministic, rngs)
        return _second_half(
            self, (self.up(inputs), self.gate(inputs)), keys, out_sharding
        )


def _assert_inputs(block: Any, inputs: jax.Array) -> None:
    if jnp.shape(inputs)[-1:] != (block.in_features,):
        raise ValueError(
            f"{type(block).__name__} expects inputs of shape (..., "
            f"{block.in_features}), but got shape {jnp.shape(inputs)}. Move the "
            "features to the last axis, or build the block for this width."
        )


def _dropout(
    block: Any, rate: float, deterministic: bool | None, rngs: nnx.Rngs
) -> nnx.Dropout:
    """Flax's own module, which holds the stream, and what train() and eval() set."""
    return nnx.Dropout(rate, deterministic=deterministic, rngs=rngs if rate else None)


def _dropout_keys(
    dropout: nnx.Dropout, deterministic: bool | None, rngs: _Rngs
) -> tuple:
    """The keys of the two masks, or None twice."""
    if deterministic is None:
        deterministic = dropout.deterministic
    if not dropout.rate or deterministic:
        return None, None
    rngs = dropout.rngs if rngs is None else rngs
    if isinstance(rngs, nnx.Rngs):
        rngs = rngs.dropout
    return tuple(jax.random.split(rngs if isinstance(rngs, jax.Array) else rngs()))


def _second_half(block, hidden, keys, out_sharding):
    """The activation, the layer ``down``, and what is dropped after each."""
    rate, (within, after) = block.dropout.rate, keys
    # Layers that take no more than their inputs serve as well.
    options = {} if out_sharding is None else {"out_sharding": out_sharding}

    def second_half(layers, hidden, key):
        activation = layers.get("activation", block.activation)
        y = _blocks.activated(activation, hidden, rate, key)
        return layers["down"](y, **options)

    layers = {"down": block.down}
    if isinstance(block.activation, nnx.Module):
        layers["activation"] = block.activation
    y = _remat(second_half, layers, _blocks.kept(*hidden), within)
    return y if after is None else _blocks.dropout(y, rate, after)


def _remat(f: Callable, layers: Any, *args: Any) -> jax.Array:
    """`flax.nnx.remat` of ``f(layers, *args)``, which writes only what ``f`` writes.

    That one writes every variable, and fails where a transformation of functions closes
    over the layers.
    """
    graph, state = nnx.split(layers)
    grew = False

    @jax.checkpoint
    def run(state, args):
        nonlocal grew
        before = {p: jax.tree.leaves(leaf) for p, leaf in nnx.to_flat_state(state)}
        inner = nnx.merge(graph, state)
        y = f(inner, *args)
        graph_after, after = nnx.split(inner)
        grew = graph_after != graph
        if grew:
            return y, {}
        written = [
            (path, leaf)
            for path, leaf in nnx.to_flat_state(after)
            if any(map(operator.is_not, jax.tree.leaves(leaf), before[path]))
        ]
        return y, nnx.from_flat_state(written)

    y, written = run(state, args)
    if grew:
        # New attributes, such as those of sow() or of a quantizer.
        return nnx.remat(f)(layers, *args)
    nnx.update(layers, written)
    return y
