"""Monotone and input-convex networks, as Linen modules."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import DotGeneralT, Dtype, Initializer, PrecisionLike

from .._activations.softplus import softplus
from .._positive.dense import assert_functions
from .._positive.initializers import near_permutation
from .._positive.networks import assert_widths, icnn_layer_initializers, mixed
from ._dense import StableSoftplusDense


class MonotoneMLP(nn.Module):
    """A network whose outputs increase or decrease with the inputs that you name.

    Dense layers of positive kernels, `StableSoftplusDense`, with increasing activations
    in between.  The first one has a direction for each input: 1 for outputs that
    increase with it, -1 for outputs that decrease, 0 for outputs that do as they like.

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

    The parameters are those of the dense layers ``hidden_0``, ``hidden_1``, ... and
    ``out``, each a ``raw_kernel`` and a ``bias``; where ``monotone`` has zeros,
    ``hidden_0`` has a ``free_kernel`` too.

    Attributes:
      hidden_features: the widths of the hidden layers.
      features: the number of outputs.
      monotone: a direction for each input; by default all increase.
      activation: an increasing, convex function of one array.
      use_bias: whether the layers add a bias.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters, a real floating one.
      precision: the precision of the products, see `jax.lax.Precision`.
      kernel_init: the initializer of the *positive* kernels.
      bias_init: the initializer of the biases.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      dot_general: the products, `jax.lax.dot_general` by default.
      dot_general_cls: a class or function that makes the product of each layer, and
        goes before ``dot_general``.
      beta: the steepness of the softplus of the kernels, above 0.
      floor: the smallest weight, 0 or more.

    Raises:
      ValueError: there is no hidden layer, ``monotone`` is of another length than the
        inputs, has other values or nothing but zeros, or what `StableSoftplusDense`
        refuses.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> model = fs.linen.MonotoneMLP((32, 32), monotone=(1, -1, 0))
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> jacobian = jax.jacfwd(lambda x: model.apply(variables, x))(jnp.zeros(3))
      >>> bool(jacobian[0, 0] > 0), bool(jacobian[0, 1] < 0)
      (True, True)

    References:
      Runje and Shankaranarayana, `Constrained Monotonic Neural Networks
      <https://arxiv.org/abs/2205.11775>`_, 2023: the three activations.
    """

    hidden_features: Sequence[int]
    features: int = 1
    monotone: Sequence[int] | None = None
    activation: Callable[..., jax.Array] = softplus
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = near_permutation()
    bias_init: Initializer = nn.initializers.zeros_init()
    promote_dtype: Callable[..., Any] = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None
    beta: float = 1.0
    floor: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the network to ``inputs`` of shape ``(..., inputs)``."""
        assert_widths(type(self).__name__, self.hidden_features, features=self.features)
        assert_functions(type(self).__name__, activation=self.activation)
        x, monotone = inputs, self.monotone
        for i, width in enumerate(self.hidden_features):
            x = mixed(self._dense(width, f"hidden_{i}", monotone)(x), self.activation)
            monotone = None
        return self._dense(self.features, "out", None)(x)

    def _dense(self, features, name, monotone):
        return StableSoftplusDense(
            features,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            beta=self.beta,
            floor=self.floor,
            monotone=monotone,
            name=name,
            **_shared(self),
        )


class ICNN(nn.Module):
    """An input-convex network: every output is a convex function of the inputs.

    ``z = activation(z @ positive(raw_kernel) + x @ kernel + bias)``, layer after layer:
    a convex increasing function of a sum of convex functions, with positive weights, is
    convex.  The skip connections from the inputs ``x`` have kernels of any sign; the
    last layer has no activation.

    Convex means that in exact arithmetic.  In floating point the value in the middle of
    two inputs may exceed the mean of the values there by some units in the last place
    of the terms that make it up.

    The parameters are those of the layers ``skip_0``, ``skip_1``, ..., of type
    `flax.linen.Dense`, each a ``kernel`` and a ``bias``, and ``hidden_1``, ..., of type
    `StableSoftplusDense`, each a ``raw_kernel``.

    Attributes:
      hidden_features: the widths of the hidden layers.
      features: the number of outputs.
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
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      dot_general: the products, `jax.lax.dot_general` by default.
      dot_general_cls: a class or function that makes the product of each layer, and
        goes before ``dot_general``.
      beta: the steepness of the softplus of the kernels, above 0.
      floor: the smallest positive weight, 0 or more.

    Raises:
      ValueError: there is no hidden layer, or what `StableSoftplusDense` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> model = fs.linen.ICNN((32, 32))
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> f = lambda x: model.apply(variables, jnp.array(x))
      >>> bool((f([1.0, 2.0]) <= (f([0.0, 5.0]) + f([2.0, -1.0])) / 2).all())
      True

    References:
      Amos, Xu and Kolter, `Input Convex Neural Networks
      <https://arxiv.org/abs/1609.07152>`_, 2017.
    """

    hidden_features: Sequence[int]
    features: int = 1
    activation: Callable[..., jax.Array] = softplus
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    skip_kernel_init: Initializer | None = None
    promote_dtype: Callable[..., Any] = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None
    beta: float = 1.0
    floor: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the network to ``inputs`` of shape ``(..., inputs)``."""
        assert_widths(type(self).__name__, self.hidden_features, features=self.features)
        assert_functions(type(self).__name__, activation=self.activation)
        s = self._skip(0, self.hidden_features[0], None)(inputs)
        for i, width in enumerate((*self.hidden_features[1:], self.features), 1):
            z = self.activation(s)
            skip = self._skip(i, width, z.shape[-1])
            s = skip(inputs) + self._hidden(i, width, z.shape[-1])(z)
        return s

    def _skip(self, i, width, fan_in):
        _, bias_init, kernel_init = self._defaults(i, fan_in)
        return nn.Dense(
            width,
            use_bias=self.use_bias,
            kernel_init=self.skip_kernel_init or kernel_init,
            bias_init=self.bias_init or bias_init,
            name=f"skip_{i}",
            **_shared(self),
        )

    def _hidden(self, i, width, fan_in):
        return StableSoftplusDense(
            width,
            use_bias=False,
            kernel_init=self.kernel_init or self._defaults(i, fan_in)[0],
            beta=self.beta,
            floor=self.floor,
            name=f"hidden_{i}",
            **_shared(self),
        )

    def _defaults(self, i, fan_in):
        last = i == len(self.hidden_features)
        return icnn_layer_initializers(self.activation, fan_in, last)


def _shared(network: Any) -> dict[str, Any]:
    """What all layers of a network take as it is."""
    return {
        "dtype": network.dtype,
        "param_dtype": network.param_dtype,
        "precision": network.precision,
        "promote_dtype": network.promote_dtype,
        "dot_general": network.dot_general,
        "dot_general_cls": network.dot_general_cls,
    }
