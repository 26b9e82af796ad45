"""The feed-forward blocks of a transformer, as Linen modules."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import DotGeneralT, Dtype, Initializer, PrecisionLike

from .. import _blocks
from .._activations.gelu import gelu
from .._gated.units import swiglu
from .._positive.dense import summing


class MLP(nn.Module):
    """The feed-forward block of a transformer: dense, activation, dense.

    ``y = activation(x @ up + bias) @ down + bias`` over the last axis.  Of the wide
    layer in between, the backward pass keeps the pre-activation and nothing else: see
    `flax_stable.activation_dense`, what the second half does.  Fields, defaults and
    dtype promotion are those of `flax.linen.Dense`.

    The parameters are those of two dense layers: ``up`` with a ``kernel`` of shape
    ``(inputs, intermediate_features)`` and a ``bias``, and ``down`` with a ``kernel``
    of shape ``(intermediate_features, features)`` and a ``bias``.  A model of two
    `flax.linen.Dense` has them as ``Dense_0`` and ``Dense_1``.

    Attributes:
      intermediate_features: the width in between.
      features: the number of outputs; by default that of inputs.
      activation: a function of one array, or a module that is one.
      use_bias: whether the layers add a bias.
      dropout_rate: the share of elements dropped after the activation, and again of the
        outputs.  The keys come from the stream ``dropout``; the backward pass keeps
        these and computes the masks again.
      deterministic: whether nothing is dropped; here or as an argument of the call, if
        ``dropout_rate`` is not 0.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the kernels.  Partitioning boxes are kept.
      bias_init: the initializer of the biases.
      down_kernel_init: that of ``down``'s kernel, if it is another one: on a mesh the
        two are split along different axes.
      down_bias_init: that of ``down``'s bias, if it is another one.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      dot_general: the products, `jax.lax.dot_general` by default.
      dot_general_cls: a class or function that makes the product of a layer, such as
        that of a quantizer, and goes before ``dot_general``.

    Raises:
      ValueError: ``dropout_rate`` is not between 0 and 1, or ``deterministic`` is
        needed and not given.
      flax.errors.ScopeParamShapeError: the last axis of the inputs is not what the
        parameters were made for.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> block = fs.linen.MLP(64, activation=fs.silu)
      >>> variables = block.init(jax.random.key(0), jnp.ones((1, 16)))
      >>> jax.tree.map(jnp.shape, variables["params"]["down"])
      {'bias': (16,), 'kernel': (64, 16)}
    """

    intermediate_features: int
    features: int | None = None
    activation: Callable[..., jax.Array] = gelu
    use_bias: bool = True
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = _blocks.lecun_normal
    bias_init: Initializer = nn.initializers.zeros_init()
    down_kernel_init: Initializer | None = None
    down_bias_init: Initializer | None = None
    promote_dtype: Callable[..., Any] = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Applies the block to ``inputs`` of shape ``(..., inputs)``.

        ``out_sharding`` is the sharding of the result on a mesh of Explicit axes: by
        default features that were split between devices in the block are summed.
        """
        _assert_fields(self)
        hidden = _dense(self, self.intermediate_features, "up")(inputs)
        return _second_half(self, inputs, (hidden,), deterministic, out_sharding)


class GatedMLP(nn.Module):
    """The gated feed-forward block of a transformer: two dense, gate, dense.

    ``y = activation(x @ up, gate=x @ gate) @ down`` over the last axis.  Of the wide
    layers in between, the backward pass keeps value and gate and nothing else: see
    `flax_stable.gated_dense`, what the second half does.  Fields, defaults and dtype
    promotion are those of `flax.linen.Dense`; only ``use_bias`` differs.

    The parameters are those of three dense layers: ``up`` and ``gate``, each with a
    ``kernel`` of shape ``(inputs, intermediate_features)``, and ``down`` with one of
    shape ``(intermediate_features, features)``, and a ``bias`` in each if they have
    any.  That ``up`` and ``gate`` are apart lets a mesh split both by columns.

    Attributes:
      intermediate_features: the width in between.
      features: the number of outputs; by default that of inputs.
      activation: a gated unit, called as ``activation(value, gate=gate)``.
      use_bias: whether the layers add a bias.
      dropout_rate: the share of elements dropped after the gate, and again of the
        outputs.  The keys come from the stream ``dropout``; the backward pass keeps
        these and computes the masks again.
      deterministic: whether nothing is dropped; here or as an argument of the call, if
        ``dropout_rate`` is not 0.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the kernels.  Partitioning boxes are kept.
      bias_init: the initializer of the biases.
      down_kernel_init: that of ``down``'s kernel, if it is another one: on a mesh the
        kernels are split along different axes.
      down_bias_init: that of ``down``'s bias, if it is another one.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      dot_general: the products, `jax.lax.dot_general` by default.
      dot_general_cls: a class or function that makes the product of a layer, such as
        that of a quantizer, and goes before ``dot_general``.

    Raises:
      ValueError: ``dropout_rate`` is not between 0 and 1, or ``deterministic`` is
        needed and not given.
      flax.errors.ScopeParamShapeError: the last axis of the inputs is not what the
        parameters were made for.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> block = fs.linen.GatedMLP(64)
      >>> variables = block.init(jax.random.key(0), jnp.ones((1, 16)))
      >>> jax.tree.map(jnp.shape, variables["params"])["gate"]
      {'kernel': (16, 64)}
    """

    intermediate_features: int
    features: int | None = None
    activation: Callable[..., jax.Array] = swiglu
    use_bias: bool = False
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = _blocks.lecun_normal
    bias_init: Initializer = nn.initializers.zeros_init()
    down_kernel_init: Initializer | None = None
    down_bias_init: Initializer | None = None
    promote_dtype: Callable[..., Any] = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        out_sharding: Any = None,
    ) -> jax.Array:
        """Applies the block to ``inputs`` of shape ``(..., inputs)``.

        ``out_sharding`` is the sharding of the result on a mesh of Explicit axes: by
        default features that were split between devices in the block are summed.
        """
        _assert_fields(self)
        value = _dense(self, self.intermediate_features, "up")(inputs)
        gate = _dense(self, self.intermediate_features, "gate")(inputs)
        return _second_half(self, inputs, (value, gate), deterministic, out_sharding)


def _assert_fields(block: Any) -> None:
    sizes = {"intermediate_features": block.intermediate_features}
    if block.features is not None:
        sizes["features"] = block.features
    names = ("activation", "kernel_init", "bias_init", "promote_dtype")
    functions = {name: getattr(block, name) for name in names}
    _blocks.assert_fields(type(block).__name__, sizes, functions, block.dropout_rate)


def _dense(
    block: Any, features: int, name: str, out_sharding: Any = None, **changes: Any
) -> nn.Dense:
    fields = {"kernel_init": block.kernel_init, "bias_init": block.bias_init}
    product, cls = summing(block.dot_general), block.dot_general_cls
    if out_sharding is not None:
        sharded = functools.partial(functools.partial, out_sharding=out_sharding)
        product, cls = sharded(product), cls and (lambda: sharded(cls()))
    return nn.Dense(
        features,
        use_bias=block.use_bias,
        dtype=block.dtype,
        param_dtype=block.param_dtype,
        precision=block.precision,
        promote_dtype=block.promote_dtype,
        dot_general=product,
        dot_general_cls=cls,
        name=name,
        **fields | changes,
    )


def _second_half(block, inputs, hidden, deterministic, out_sharding):
    """The activation, the dense layer ``down``, and what is dropped after each."""
    rate = block.dropout_rate
    within = after = None
    if rate and not nn.merge_param("deterministic", block.deterministic, deterministic):
        within, after = jax.random.split(block.make_rng("dropout"))

    def second_half(block, hidden, key):
        down = _dense(
            block,
            jnp.shape(inputs)[-1] if block.features is None else block.features,
            "down",
            out_sharding,
            kernel_init=block.down_kernel_init or block.kernel_init,
            bias_init=block.down_bias_init or block.bias_init,
        )
        return down(_blocks.activated(block.activation, hidden, rate, key))

    # Initializers see values that they can check, not tracers.
    if not block.is_initializing():
        second_half = nn.remat(second_half)
    y = second_half(block, _blocks.kept(*hidden), within)
    return y if after is None else _blocks.dropout(y, rate, after)
