"""Positive kernels: the parameterization, how they start, and the layer they serve."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ._activations.softplus import inverse_softplus, softplus


def to_kernel(raw_kernel: Any) -> Any:
    """``softplus(raw_kernel)``, through boxes (any pytree) around the array."""
    return jax.tree.map(softplus, raw_kernel)


def to_raw_kernel(kernel: Any) -> Any:
    """``inverse_softplus(kernel)``, likewise; values that are known are checked."""
    return jax.tree.map(_invert, kernel)


def _invert(kernel):
    _check_floating("kernel_init must return", kernel.dtype)
    if not isinstance(kernel, jax.core.Tracer) and not (kernel > 0).all():
        raise ValueError(
            "kernel_init describes the positive kernel and must return values above 0, "
            f"but the smallest one it returned is {kernel.min()}. Take an initializer "
            "of positive values, such as the default near_permutation()."
        )
    return inverse_softplus(kernel)


def _check_floating(who: str, dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{who} a positive kernel of real floating dtype, but got dtype "
            f"{jnp.dtype(dtype).name}. Choose param_dtype=float32 or another float."
        )


def raw_kernel_init(kernel_init: Callable) -> Callable:
    """The initializer of the raw kernel from one that describes the positive kernel."""

    def init(*args, **kwargs):
        return to_raw_kernel(kernel_init(*args, **kwargs))

    return init


def near_permutation(spread: float = 0.1) -> Callable[..., jax.Array]:
    r"""Builds an initializer for positive kernels: a permutation plus a small spread.

    For a kernel of shape ``(n, m)``, inputs and outputs are put in random order and
    matched one to one, round and round until both are used up:

    .. math::
      W_{ij} = \frac{P_{ij}}{\sum_k P_{kj}} + \frac{\mathrm{spread}}{n} u_{ij},
      \qquad u_{ij} \sim U[0.5, 1.5)

    where :math:`P_{ij}` is 1 if input i and output j are matched, else 0.

    Positive weights cannot cancel.  Two things follow for ``z = x @ W`` with zero bias:
    what the inputs have in common is multiplied by the column sum, and what they have
    apart by the column's root sum of squares.  Neither may leave 1 far if many layers
    are to follow one another, yet for weights of about one size the second is
    ``sqrt(n)`` times smaller than the first: either the mean explodes, or all units
    soon compute the same average.  Both are 1 only where one entry dominates each
    column, so that is where this initializer starts.  Here, for ``n <= m``, the column
    sum is ``1 + spread`` and the root sum of squares 1, up to order ``spread / n``; for
    ``n > m`` a column averages ``n / m`` inputs.  The spread makes outputs with the
    same input differ and keeps every weight trainable.

    Through 8 layers of width 512 with zero biases, from independent standard normal
    inputs: the mean magnitude of the activations, their standard deviation over the
    examples, and the root mean square of the gradients of the pre-activations stay
    within a factor of 5 from the first layer to the last, whether nothing, tanh,
    softplus or relu follows each layer.  After L layers a common mean has grown by
    ``(1 + spread) ** L``.

    Args:
      spread: the sum of the small weights of a column; a positive number.

    Returns:
      An initializer ``init(key, shape, dtype=float)`` of kernels of shape ``(n, m)``.

    Raises:
      ValueError: ``spread`` is not positive, or ``shape`` is not of two dimensions.
      TypeError: ``dtype`` is not a real floating one.

    Example:
      >>> import jax, flax_stable as fs
      >>> kernel = fs.near_permutation()(jax.random.key(0), (4, 4))
      >>> bool((kernel > 0).all()), bool(((kernel > 1).sum(0) == 1).all())
      (True, True)

    References:
      Hoedt and Klambauer, `Principled Weight Initialisation for Input-Convex Neural
      Networks <https://arxiv.org/abs/2312.12474>`_, 2023: why initializers of signed
      weights fail for positive ones.
    """
    if not 0 < spread < math.inf:
        raise ValueError(
            f"near_permutation expects a positive spread, but got {spread}. For almost "
            "no spread take a small number, such as 1e-3."
        )

    def init(key, shape, dtype=float):
        if len(shape) != 2:
            raise ValueError(
                "near_permutation initializes kernels of shape (inputs, outputs), but "
                f"got shape {tuple(shape)}. Use jax.vmap for a stack of kernels."
            )
        _check_floating("near_permutation initializes", dtype)
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        n, m = shape
        row_key, column_key, spread_key = jax.random.split(key, 3)
        rows = jax.random.permutation(row_key, n)
        columns = jax.random.permutation(column_key, m)
        matched = ((rows[:, None] % m) == (columns % n)).astype(dtype)
        u = jax.random.uniform(spread_key, shape, dtype, 0.5, 1.5)
        return matched / matched.sum(0) + spread / n * u

    return init


def positive_kernels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the positive kernels out of Linen parameters.

    Every ``raw_kernel`` in the tree becomes a ``kernel = softplus(raw_kernel)``; all
    else is left as it is.  The result is what the same model made of `flax.linen.Dense`
    would take.  Partitioning boxes stay around the kernels.

    Args:
      params: nested dicts of parameters, or all of a model's variables.

    Returns:
      Nested dicts, with kernels of the shapes and dtypes of the raw kernels.

    Raises:
      TypeError: ``params`` is not a dict.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> layer = fs.linen.StableSoftplusDense(4)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> kernel = fs.linen.positive_kernels(variables)["params"]["kernel"]
      >>> kernel.shape, bool((kernel > 0).all())
      ((3, 4), True)
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            "positive_kernels expects the nested dicts of Linen parameters, but got "
            f"{type(params).__name__}. An NNX layer has its positive kernel as .kernel."
        )
    kernels = {}
    for name, value in params.items():
        if name == "raw_kernel":
            kernels["kernel"] = to_kernel(value)
        else:
            nested = isinstance(value, Mapping)
            kernels[name] = positive_kernels(value) if nested else value
    return kernels


def assert_inputs(
    layer: str, inputs: jax.Array, raw_kernel: jax.Array | None, way_out: str
) -> None:
    """Asserts that the kernel is one matrix of floats and that ``inputs`` fit it.

    Without a kernel, as at initialization, inputs of any width fit.
    """
    width = None
    if raw_kernel is not None:
        chex.assert_rank(
            raw_kernel,
            2,
            custom_message=f"{layer} expects a raw_kernel of shape (inputs, outputs), "
            f"but holds one of shape {raw_kernel.shape}. Call a stack of layers by "
            "vmap or scan.",
            exception_type=ValueError,
        )
        chex.assert_type(
            raw_kernel,
            float,
            custom_message=f"{layer} expects a raw_kernel of real floating dtype, but "
            f"holds one of dtype {raw_kernel.dtype}. Cast the parameters.",
            exception_type=TypeError,
        )
        width = raw_kernel.shape[0]
    chex.assert_shape(
        inputs,
        (..., width),
        custom_message=f"{layer} expects inputs of shape (..., {width or 'features'}), "
        f"but got shape {jnp.shape(inputs)}. {way_out}",
        exception_type=ValueError,
    )


def dense(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    dot_general: Callable,
    **options: Any,
) -> jax.Array:
    """``inputs @ kernel + bias`` over the last axis of ``inputs``."""
    contraction = (((inputs.ndim - 1,), (0,)), ((), ()))
    options = summed(dot_general, inputs, kernel) | options
    y = dot_general(inputs, kernel, contraction, **options)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def summed(
    dot_general: Callable, inputs: jax.Array, kernel: jax.Array
) -> dict[str, PartitionSpec]:
    """Options of a product that sums features split over Explicit axes of the mesh.

    JAX leaves open where such a sum lives.  A product of the user's own may know.
    """
    if dot_general is not jax.lax.dot_general:
        return {}
    *outer, split = jax.typeof(inputs).sharding.spec
    of_inputs, of_outputs = jax.typeof(kernel).sharding.spec
    if split is None or split != of_inputs:
        return {}
    return {"out_sharding": PartitionSpec(*outer, of_outputs)}
