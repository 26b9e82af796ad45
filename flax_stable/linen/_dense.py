"""Dense layers as Linen modules."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from flax.typing import (
    DotGeneralT,
    Dtype,
    Initializer,
    PrecisionLike,
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


class StableSoftplusDense(nn.Module):
    """A dense layer whose kernel is positive: ``kernel = softplus(raw_kernel)``.

    ``y = x @ softplus(raw_kernel) + bias`` over the last axis, so every output is an
    increasing function of every input, or of those that ``monotone`` says.  Fields,
    defaults and dtype promotion are those of `flax.linen.Dense`; only the default of
    ``kernel_init`` differs.  The softplus is taken in the dtype of the parameters,
    before promotion, by `flax_stable.positive`.

    The parameters are ``raw_kernel``, of shape ``(inputs, features)`` and any sign, and
    ``bias``.  `positive_kernels` reads the positive kernel out of them.  Where
    ``monotone`` has zeros, the weights of these inputs are the rows of a third one,
    ``free_kernel``, as they are, and ``raw_kernel`` has the rows of the others.  Mind
    that Optax's weight decay of ``raw_kernel`` pulls the kernel to ``softplus(0) =
    0.693``; that of `flax_stable.decay` pulls it to 0.

    Attributes:
      features: the number of outputs.
      use_bias: whether to add a bias.
      dtype: the dtype of the computation; by default that of inputs and parameters.
      param_dtype: the dtype of the parameters, a real floating one.
      precision: the precision of the product, see `jax.lax.Precision`.
      kernel_init: the initializer of the *positive* kernel; ``raw_kernel`` starts as
        its inverse_softplus.  Partitioning boxes are kept; on a mesh of Explicit axes
        Flax's ``with_partitioning`` wants the value sharded already, and
        ``with_logical_partitioning`` does not.  Under `jax.jit` values cannot be
        checked: there one below 0 becomes NaN, and 0 a weight that never moves.
      bias_init: the initializer of the bias.
      promote_dtype: the function that brings ``(inputs, kernel, bias)`` to one dtype.
      dot_general: the product, `jax.lax.dot_general` by default.
      dot_general_cls: a class or function that makes the product, and goes before
        ``dot_general``.
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
      ValueError: the last axis of the inputs is not what the parameters were made for,
        ``kernel_init`` returned values that are not positive, ``beta`` or
        ``floor`` cannot be, or ``monotone`` is of another length, has other values
        or nothing but zeros.
      TypeError: ``kernel_init`` returned a kernel that is not of a real floating dtype,
        or a quantizer replaced ``raw_kernel``: it is to quantize the plain layer, with
        the parameters that `flax_stable.constrain` reads out of these.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> from flax import linen as nn
      >>> model = nn.Sequential(
      ...   [fs.linen.StableSoftplusDense(8), fs.linen.Tanh(), nn.Dense(2)]
      ... )
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> jax.tree.map(jnp.shape, variables["params"]["layers_0"])
      {'bias': (8,), 'raw_kernel': (3, 8)}
    """

    features: int
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
    monotone: Sequence[int] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the layer to ``inputs`` of shape ``(..., inputs)``."""
        assert_sizes(self._name(), features=self.features)
        assert_functions(
            self._name(),
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            promote_dtype=self.promote_dtype,
        )
        self._assert_inputs(inputs)
        width = jnp.shape(inputs)[-1]
        kernel = self._kernel((width, self.features))
        bias = None
        if self.use_bias:
            bias = self.param(
                "bias", self.bias_init, (self.features,), self.param_dtype
            )
        inputs, kernel, bias = self.promote_dtype(
            inputs, kernel, bias, dtype=self.dtype
        )
        dot_general = self.dot_general or jax.lax.dot_general
        if self.dot_general_cls is not None:
            dot_general = self.dot_general_cls()
        return dense(inputs, kernel, bias, dot_general, precision=self.precision)

    def _kernel(self, shape: tuple[int, int]) -> jax.Array:
        directions = as_directions(self._name(), self.monotone, shape[0])
        transform = self.beta, self.floor
        raw_init = kernels.raw_kernel_init(self.kernel_init, *transform)

        def directed_init(*args):
            return directed_rows(raw_init(*args), directions)

        args = shape, self.param_dtype
        raw_kernel = self.param("raw_kernel", directed_init, *args)
        free_kernel = None
        if has_free(directions):

            def free_init(key, *args):
                return free_rows(self.kernel_init(key, *args), directions, key)

            free_kernel = self.param("free_kernel", free_init, *args)
        kernel = kernels.to_kernel(raw_kernel, *transform)
        return assembled(kernel, free_kernel, directions)

    def _assert_inputs(self, inputs: jax.Array) -> None:
        assert_inputs(
            self._name(),
            inputs,
            {
                name: nn.meta.unbox(self.get_variable("params", name))
                for name in ("raw_kernel", "free_kernel")
                if self.has_variable("params", name)
            },
            "Move the features to the last axis, or initialize the layer for this "
            "width.",
        )

    def _name(self) -> str:
        path = f" {'/'.join(self.path)!r}" if self.path else ""
        return type(self).__name__ + path
