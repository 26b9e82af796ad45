"""Feed-forward blocks: an activation and the product after it, recomputed as one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.typing import DotGeneralT, PrecisionLike
from jax.ad_checkpoint import checkpoint_name

from ._activations._elementwise import as_real
from ._activations.gelu import gelu
from ._gated.units import swiglu
from ._positive.dense import assert_functions, assert_sizes, dense
from ._public import explained


@explained("activation", "dot_general", "precision", "out_sharding")
def activation_dense(
    x: jax.typing.ArrayLike,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    activation: Callable[..., jax.Array] = gelu,
    dot_general: DotGeneralT = jax.lax.dot_general,
    precision: PrecisionLike = None,
    out_sharding: Any = None,
) -> jax.Array:
    r"""An activation and the dense layer after it, of which only the input is kept.

    .. math::
      y = \mathrm{activation}(x)\, W + b

    over the last axis of ``x``.  The product's gradient takes the activation, which
    would have to be kept beside ``x``; here it is computed once more instead.

    Args:
      x: the pre-activation, of shape ``(..., inputs)``.
      kernel: the matrix :math:`W`, of shape ``(inputs, outputs)``.
      bias: the vector :math:`b`, of shape ``(outputs,)``, or ``None``.
      activation: a function of one array.  It may close over arrays, such as a slope
        that is learned or the key of a dropout: they have their gradients, and are kept
        as they are.
      dot_general: the product, called as `jax.lax.dot_general` is, with ``precision``.
      precision: the precision of the product, see `jax.lax.Precision`.
      out_sharding: the sharding of the product on a mesh of Explicit axes.  By default
        what JAX infers; where axes of the mesh split the ``inputs``, which JAX leaves
        open, ``y`` is summed over these and laid out as ``x`` and ``kernel`` are
        along their other axes.

    Returns:
      An array of shape ``(..., outputs)``: to the bit what the composition gives, if
      that is not compiled otherwise.

    Derivatives: those of ``activation`` and of the product, of any order, in reverse
    and forward mode.

    Residual: ``x`` and ``kernel``.  A barrier holds the compiler from keeping the
    activation all the same, in a model written out layer by layer as in one scanned.
    ``x`` bears the name ``"mlp_hidden"``, by which the policies of `jax.checkpoint` can
    tell it.

    Accuracy: that of ``activation``, and of the product.

    Raises:
      ValueError: ``kernel`` is no matrix that fits ``activation(x)``, or ``bias`` does
        not fit ``kernel``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> x, kernel = jnp.ones((8, 512)), jnp.ones((512, 2))
      >>> y, vjp = jax.vjp(fs.activation_dense, x, kernel)
      >>> y.shape, sorted(kept.shape for kept in jax.tree.leaves(vjp))
      ((8, 2), [(8, 512), (512, 2)])

    References:
      Chen et al., `Training Deep Nets with Sublinear Memory Cost
      <https://arxiv.org/abs/1604.06174>`_, 2016.
    """
    return _recomputed(
        "activation_dense",
        activation,
        (x,),
        (kernel, bias),
        dot_general,
        precision=precision,
        out_sharding=out_sharding,
    )


@explained("activation", "dot_general", "precision", "out_sharding")
def gated_dense(
    x: jax.typing.ArrayLike,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    gate: jax.typing.ArrayLike | None = None,
    activation: Callable[..., jax.Array] = swiglu,
    dot_general: DotGeneralT = jax.lax.dot_general,
    precision: PrecisionLike = None,
    out_sharding: Any = None,
) -> jax.Array:
    r"""A gated unit and the dense layer after it, of which only the input is kept.

    .. math::
      y = \mathrm{activation}(x, \mathrm{gate})\, W + b

    over the last axis: `activation_dense` of two arrays, or of the two in one.

    Args:
      x: the value, of shape ``(..., inputs)``; without ``gate``, value and gate side by
        side, of shape ``(..., 2 * inputs)``.
      kernel: the matrix :math:`W`, of shape ``(inputs, outputs)``.
      bias: the vector :math:`b`, of shape ``(outputs,)``, or ``None``.
      gate: the gate, of the shape of the value.  Apart, the two can be split between
        devices along their last axis.
      activation: a gated unit such as `flax_stable.swiglu`: called as
        ``activation(x, gate=gate)``, or without ``gate`` as ``activation(x)``.
      dot_general: the product, called as `jax.lax.dot_general` is, with ``precision``.
      precision: the precision of the product, see `jax.lax.Precision`.
      out_sharding: the sharding of the product, as in `activation_dense`.

    Returns:
      An array of shape ``(..., outputs)``: to the bit what the composition gives, if
      that is not compiled otherwise.

    Derivatives: those of ``activation`` and of the product, of any order, in reverse
    and forward mode.

    Residual: value, gate and ``kernel``; the first two bear the name ``"mlp_hidden"``.
    The rest is as for `activation_dense`.

    Accuracy: that of ``activation``, and of the product.

    Raises:
      ValueError: ``kernel`` is no matrix that fits the gated unit, or ``bias`` does not
        fit ``kernel``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> value = gate = jnp.ones((8, 512))
      >>> kernel = jnp.ones((512, 2))
      >>> fs.gated_dense(value, kernel, gate=gate).shape
      (8, 2)
      >>> fs.gated_dense(jnp.ones((8, 1024)), kernel, activation=fs.glu).shape
      (8, 2)

    References:
      Shazeer, `GLU Variants Improve Transformer <https://arxiv.org/abs/2002.05202>`_,
      2020.
    """
    return _recomputed(
        "gated_dense",
        activation,
        (x,) if gate is None else (x, gate),
        (kernel, bias),
        dot_general,
        precision=precision,
        out_sharding=out_sharding,
    )


def lecun_normal(*args: Any, **kwargs: Any) -> jax.Array:
    """Flax's initializer, as a function that a pickle can name."""
    return jax.nn.initializers.lecun_normal()(*args, **kwargs)


def _recomputed(name, activation, hidden, layer, dot_general, **options):
    _assert_activation(name, activation)
    _assert_bias(name, *layer)
    x, *gates = hidden
    hidden = as_real(name, x), *map(jnp.asarray, gates)
    if options["out_sharding"] is None:
        del options["out_sharding"]  # a product of the user's own need not know it

    # A rule that holds the product would have to say on every mesh where the sums of
    # its gradients go.  Autodiff knows that; it is only to start over.
    @jax.checkpoint
    def second_half(hidden, kernel, bias):
        y = activated(activation, hidden)
        _assert_fit(y, kernel)
        return dense(y, kernel, bias, dot_general, **options)

    return second_half(kept(*hidden), *layer)


def kept(*hidden: jax.Array) -> tuple[jax.Array, ...]:
    """The pre-activations, by the name that tells them to policies of checkpoint."""
    return checkpoint_name(hidden, "mlp_hidden")


def activated(
    activation: Callable[..., jax.Array],
    hidden: tuple[jax.Array, ...],
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """The activation of one array, or of a value and its gate.

    With a key, elements of it are dropped.
    """
    value, *gates = hidden
    y = activation(value, gate=gates[0]) if gates else activation(value)
    return y if key is None else dropout(y, dropout_rate, key)


def _assert_fit(y: jax.Array, kernel: jax.Array) -> None:
    if y.shape[-1:] != kernel.shape[:1]:
        raise ValueError(
            f"The last axis of the activation, of shape {y.shape}, must be the first "
            f"of the kernel, but that has shape {kernel.shape}. Mind that a gated unit "
            "halves its input if it gets no gate."
        )


def _assert_activation(name: str, activation: Any) -> None:
    if not callable(activation):
        raise TypeError(
            f"{name} expects activation to be a function of arrays, but got "
            f"{activation!r}. Give one such as flax_stable.gelu."
        )


def _assert_bias(name: str, kernel: jax.Array, bias: jax.Array | None) -> None:
    if jnp.ndim(kernel) != 2:
        raise ValueError(
            f"{name} expects a kernel of shape (inputs, outputs), but got shape "
            f"{jnp.shape(kernel)}. Take jax.vmap for a stack of kernels."
        )
    if bias is not None and jnp.shape(bias) != jnp.shape(kernel)[1:]:
        raise ValueError(
            f"{name} expects a bias of shape {jnp.shape(kernel)[1:]}, one number for "
            f"each output of the kernel, but got shape {jnp.shape(bias)}."
        )


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """``x`` with a share ``rate`` of its elements zero, the others scaled; keeps a key.

    The bits are those of `flax.nnx.Dropout`.
    """
    if rate == 1:
        return jnp.zeros_like(x)

    @jax.checkpoint
    def drop(x, key):
        mask = jax.random.bernoulli(
            key, 1 - rate, x.shape, out_sharding=jax.typeof(x).sharding
        )
        return jnp.where(mask, x / (1 - rate), jnp.zeros_like(x))

    return drop(x, key)


def assert_fields(
    block: str, sizes: dict[str, int], functions: dict[str, Any], rate: float
) -> None:
    """Asserts what sizes, functions and the rate of dropout must be."""
    assert_sizes(block, **sizes)
    assert_functions(block, **functions)
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not number or not 0 <= rate <= 1:
        raise (ValueError if number else TypeError)(
            f"{block} expects a dropout_rate from 0 to 1, the share of elements to "
            f"drop, but got {rate!r}."
        )
