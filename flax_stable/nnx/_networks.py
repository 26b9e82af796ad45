"""Monotone and input-convex networks, as NNX modules."""

import functools
from collections.abc import Callable, Mapping, Sequence
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

from .._activations.softplus import softplus
from .._positive.dense import assert_functions
from .._positive.initializers import near_permutation
from .._positive.networks import assert_widths, icnn_layer_initializers, mixed
from ._dense import StableSoftplusLinear

_kernel_init = near_permutation()
_bias_init = nnx.initializers.zeros_init()
_Metadata = Mapping[str, Any]
_none: _Metadata = MappingProxyType({})


class MonotoneMLP(nnx.Module):
    """A network whose outputs increase or decrease with the inputs that you name.

    Linear layers of positive kernels, `StableSoftplusLinear`, with increasing
    activations in between.  The first one has a direction for each input: 1 for outputs
    that increase with it, -1 for outputs that decrease, 0 for outputs that do as they
    like.

    With a convex activation alone all outputs would be convex in the monotone inputs,
    however many layers there are: positive weights keep that.  Therefore a third of the
    units of a layer have ``activation``, a third its concave mirror image ``-activation
    (-x)``, and a third a bounded one that is made of both, as a sigmoid is.  These
    approach any continuous function that increases in all inputs, as the paper shows.

    Monotone means that in exact arithmetic.  In floating point sums of products with
    positive weights are monotone too, whatever they round to, as long as every output
    is summed in the same order.  So with an activation that is, such as
    `flax_stable.relu`, no output steps back; with others, where they are off by a unit
    in the last place, an output may by some of these.

    The attributes are the layers ``hidden_0``, ``hidden_1``, ... and
    ``out``.

    Args:
      in_features: the number of inputs.
      hidden_features: the widths of the hidden layers.
      out_features: the number of outputs.
      monotone: a direction for each input; by default all increase.
      activation: an increasing, convex function of one array.
      use_bias: whether the layers add a bias.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters, a real floating one.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the *positive* kernels.
      bias_init: the initializer of the biases.
      dot_general: the products, `jax.lax.dot_general` by default.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      preferred_element_type: the dtype that the products accumulate in and return.
      rngs: the random number streams; ``params`` is used.
      kernel_metadata: metadata of all kernels, such as ``out_sharding``.
      bias_metadata: metadata of the biases.
      beta: the steepness of the softplus of the kernels, above 0.
      floor: the smallest weight, 0 or more.

    Raises:
      ValueError: there is no hidden layer, ``monotone`` is of another length than the
        inputs, has other values or nothing but zeros, or what `StableSoftplusLinear`
        refuses.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> model = fs.nnx.MonotoneMLP(3, (32, 32), monotone=(1, -1, 0), rngs=nnx.Rngs(0))
      >>> jacobian = jax.jacfwd(model)(jnp.zeros(3))
      >>> bool(jacobian[0, 0] > 0), bool(jacobian[0, 1] < 0)
      (True, True)

    References:
      Runje and Shankaranarayana, `Constrained Monotonic Neural Networks
      <https://arxiv.org/abs/2205.11775>`_, 2023: the three activations.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int = 1,
        *,
        monotone: Sequence[int] | None = None,
        activation: Callable[..., jax.Array] = softplus,
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
        kernel_metadata: _Metadata = _none,
        bias_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        assert_widths(
            type(self).__name__,
            hidden_features,
            in_features=in_features,
            out_features=out_features,
        )
        assert_functions(type(self).__name__, activation=activation)
        self.hidden_features = tuple(hidden_features)
        self.activation = activation
        linear = functools.partial(
            StableSoftplusLinear,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dot_general=dot_general,
            promote_dtype=promote_dtype,
            preferred_element_type=preferred_element_type,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
            beta=beta,
            floor=floor,
        )
        width = in_features
        for i, features in enumerate(hidden_features):
            layer = linear(width, features, monotone=None if i else monotone)
            setattr(self, f"hidden_{i}", layer)
            width = features
        self.out = linear(width, out_features)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the network to ``inputs`` of shape ``(..., in_features)``."""
        x = inputs
        for i in range(len(self.hidden_features)):
            x = mixed(getattr(self, f"hidden_{i}")(x), self.activation)
        return self.out(x)


class ICNN(nnx.Module):
    """An input-convex network: every output is a convex function of the inputs.

    ``z = activation(z @ positive(raw_kernel) + x @ kernel + bias)``, layer after layer:
    a convex increasing function of a sum of convex functions, with positive weights, is
    convex.  The skip connections from the inputs ``x`` have kernels of any sign; the
    last layer has no activation.

    Convex means that in exact arithmetic.  In floating point the value in the middle of
    two inputs may exceed the mean of the values there by some units in the last place
    of the terms that make it up.

    The attributes are the layers ``skip_0``, ``skip_1``, ..., of type
    `flax.nnx.Linear`, each a ``kernel`` and a ``bias``, and ``hidden_1``, ..., of type
    `StableSoftplusLinear`, each a ``raw_kernel``.

    Args:
      in_features: the number of inputs.
      hidden_features: the widths of the hidden layers.
      out_features: the number of outputs.
      activation: a convex, increasing function of one array.
      use_bias: whether the skip connections add a bias.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters, a real floating one.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the *positive* kernels; by default that of
        `flax_stable.icnn_initializers`, for normalized inputs and this activation.
      bias_init: the initializer of the biases; by default that which belongs to it.
      skip_kernel_init: the initializer of the signed kernels; by default normal
        numbers, likewise.
      dot_general: the products, `jax.lax.dot_general` by default.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      preferred_element_type: the dtype that the products accumulate in and return.
      rngs: the random number streams; ``params`` is used.
      kernel_metadata: metadata of all kernels, such as ``out_sharding``.
      bias_metadata: metadata of the biases.
      beta: the steepness of the softplus of the kernels, above 0.
      floor: the smallest positive weight, 0 or more.

    Raises:
      ValueError: there is no hidden layer, or what `StableSoftplusLinear` refuses.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> f = fs.nnx.ICNN(2, (32, 32), rngs=nnx.Rngs(0))
      >>> x, y = jnp.array([0.0, 5.0]), jnp.array([2.0, -1.0])
      >>> bool((f((x + y) / 2) <= (f(x) + f(y)) / 2).all())
      True

    References:
      Amos, Xu and Kolter, `Input Convex Neural Networks
      <https://arxiv.org/abs/1609.07152>`_, 2017.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int = 1,
        *,
        activation: Callable[..., jax.Array] = softplus,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        skip_kernel_init: Initializer | None = None,
        dot_general: DotGeneralT = jax.lax.dot_general,
        promote_dtype: PromoteDtypeFn = _promote_dtype,
        preferred_element_type: Dtype | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: _Metadata = _none,
        bias_metadata: _Metadata = _none,
        beta: float = 1.0,
        floor: float = 0.0,
    ):
        assert_widths(
            type(self).__name__,
            hidden_features,
            in_features=in_features,
            out_features=out_features,
        )
        assert_functions(type(self).__name__, activation=activation)
        self.hidden_features = tuple(hidden_features)
        self.activation = activation
        options: Any = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": precision,
            "dot_general": dot_general,
            "promote_dtype": promote_dtype,
            "preferred_element_type": preferred_element_type,
            "rngs": rngs,
            "kernel_metadata": kernel_metadata,
        }
        fan_in = None
        for i, width in enumerate((*hidden_features, out_features)):
            kernel, bias, skip_kernel = icnn_layer_initializers(
                activation, fan_in, last=i == len(hidden_features)
            )
            skip = nnx.Linear(
                in_features,
                width,
                use_bias=use_bias,
                kernel_init=skip_kernel_init or skip_kernel,
                bias_init=bias_init or bias,
                bias_metadata=bias_metadata,
                **options,
            )
            setattr(self, f"skip_{i}", skip)
            if fan_in is not None:
                hidden = StableSoftplusLinear(
                    fan_in,
                    width,
                    use_bias=False,
                    kernel_init=kernel_init or kernel,
                    beta=beta,
                    floor=floor,
                    **options,
                )
                setattr(self, f"hidden_{i}", hidden)
            fan_in = width

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the network to ``inputs`` of shape ``(..., in_features)``."""
        s = inputs
        for i in range(len(self.hidden_features) + 1):
            skip = getattr(self, f"skip_{i}")(inputs)
            if i:
                skip = skip + getattr(self, f"hidden_{i}")(self.activation(s))
            s = skip
        return s
