"""Where positive kernels start."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .kernels import assert_floating


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
        assert_floating("near_permutation initializes", dtype)
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
