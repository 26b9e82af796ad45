"""Where positive kernels start."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from .._activations.piecewise import relu
from ._moments import moments
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

    return functools.partial(_near_permutation, spread)


def _near_permutation(spread, key, shape, dtype=float):
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
    rows, columns = _shuffled(row_key, n), _shuffled(column_key, m)
    matched = ((rows[:, None] % m) == (columns % n)).astype(dtype)
    u = jax.random.uniform(spread_key, shape, dtype, 0.5, 1.5)
    return matched / matched.sum(0) + spread / n * u


def _shuffled(key, n):
    symbolic: bool = export.is_symbolic_dim(n)
    if symbolic:
        return jnp.argsort(jax.random.bits(key, (n,)))
    return jax.random.permutation(key, n)


def moment_preserving(
    activation: Callable[..., jax.Array] = relu,
    *,
    mean: float = 4.0,
    std: float = 1.0,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
) -> Callable[..., jax.Array]:
    r"""Builds an initializer for positive kernels that preserves mean and variance.

    If the inputs are ``activation(s)`` of independent normal pre-activations ``s`` of
    this mean and standard deviation, then so are the outputs, under a bias of 0.  The
    weights are log-normal.  With :math:`n` inputs and the moments :math:`m` and
    :math:`m_2` of the activation, by quadrature,

    .. math::
      \mathrm{E}\, w = \frac{\mu}{n m}, \qquad
      \mathrm{Var}\, w = \frac{1}{n m_2}
      \left(\sigma^2 - \frac{\mu^2 (m_2 - m^2)}{n m^2}\right),

    of which the last term is what a common positive weight already makes of the inputs'
    variance.

    Positive weights without a bias cannot keep a mean of 0, so ``mean`` is above it.
    It should be a few standard deviations, where convex activations are close to
    linear: their gradients then neither vanish nor explode.  A first layer of signed
    weights gets there by a bias of ``mean``.

    Through 32 layers of widths 256 to 1024, of relu, celu or softplus, from inputs as
    above: the root mean squares of activations, and of the gradients of their mean,
    stay within a factor of 5.  From independent standard normal inputs relu and celu
    stay within 10 at width 256; softplus does not, whose gradients fall with the number
    of layers, by 20 to 100.
    What units have apart from one another, and with it a gradient without a common
    sign, fades within a few layers, as it must for independent positive weights:
    `near_permutation` keeps both.

    Args:
      activation: the function that the inputs went through, of one array.
      mean: the mean of pre-activations, above 0.
      std: their standard deviation, above 0.
      out_axis: the axis or axes of outputs.  The fan-in is the product of the others.
      batch_axis: axes that are neither inputs nor outputs.

    Returns:
      An initializer ``init(key, shape, dtype=float)`` of kernels of any rank.

    Raises:
      ValueError: ``mean`` or ``std`` is not above 0, or ``activation`` has no positive
        mean there.
      TypeError: ``dtype`` is not a real floating one.

    Example:
      >>> import jax, flax_stable as fs
      >>> init = fs.moment_preserving(fs.softplus)
      >>> kernel = init(jax.random.key(0), (3, 3, 64, 128))
      >>> bool((kernel > 0).all()), round(float(kernel.sum((0, 1, 2)).mean()), 1)
      (True, 1.0)

    References:
      Glorot and Bengio, `Understanding the Difficulty of Training Deep Feedforward
      Neural Networks <https://proceedings.mlr.press/v9/glorot10a.html>`_, 2010, for
      signed weights.
    """
    _assert_positive("moment_preserving", mean=mean, std=std)

    return functools.partial(
        _moment_preserving, activation, mean, std, out_axis, batch_axis
    )


def _moment_preserving(
    activation, mean, std, out_axis, batch_axis, key, shape, dtype=float
):
    assert_floating("moment_preserving initializes", dtype)
    n, of = _fan_in(shape, out_axis, batch_axis), moments(activation, mean, std)
    _assert_mean("moment_preserving", activation, of.mean)
    spread = (of.square - of.mean**2) / of.mean**2
    largest = jnp.maximum if export.is_symbolic_dim(n) else max
    variance = largest(std**2 - mean**2 * spread / n, 0.0) / (n * of.square)
    return _log_normal(key, shape, dtype, mean / (n * of.mean), variance)


def fan_in_constant(
    activation: Callable[..., jax.Array] = relu,
    *,
    mean: float = 4.0,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
) -> Callable[..., jax.Array]:
    r"""Builds an initializer of equal positive weights that preserves the mean.

    .. math::
      w = \frac{\mu}{n\, \mathrm{activation}(\mu)}

    for :math:`n` inputs: if these are ``activation(mean)``, the pre-activations are
    ``mean``, under a bias of 0; for relu this is the average of the inputs.  All units
    of a layer start equal, as do their gradients: use it for one layer, for an average
    that is to be learned, or where something else tells units apart.

    Through 32 layers of widths 256 to 1024, of relu, celu or softplus, from inputs
    ``activation(s)`` with normal ``s`` of this mean: the root mean squares of
    activations, and of the gradients of their mean, stay within a factor of 5.

    Args:
      activation: the function that the inputs went through, of one array.
      mean: the mean of pre-activations, above 0; any one gives the same for relu.
      out_axis: the axis or axes of outputs.  The fan-in is the product of the others.
      batch_axis: axes that are neither inputs nor outputs.

    Returns:
      An initializer ``init(key, shape, dtype=float)`` of kernels of any rank.

    Raises:
      ValueError: ``mean`` is not above 0, or ``activation`` not positive there.
      TypeError: ``dtype`` is not a real floating one.

    Example:
      >>> import jax, flax_stable as fs
      >>> fs.fan_in_constant()(jax.random.key(0), (4, 2))[0]
      Array([0.25, 0.25], dtype=float32)
    """
    _assert_positive("fan_in_constant", mean=mean)

    return functools.partial(_fan_in_constant, activation, mean, out_axis, batch_axis)


def _fan_in_constant(activation, mean, out_axis, batch_axis, key, shape, dtype=float):
    assert_floating("fan_in_constant initializes", dtype)
    at_mean = moments(activation, mean, 0.0).mean
    _assert_mean("fan_in_constant", activation, at_mean)
    n = _fan_in(shape, out_axis, batch_axis)
    return jnp.full(shape, mean / (n * at_mean), dtype)


def icnn_initializers(
    fan_in: int,
    activation: Callable[..., jax.Array] = relu,
    *,
    correlation: float = 0.125,
    mean: float = 2.0,
    skip: float = 0.75,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    r"""Builds initializers of kernel and bias for input-convex networks.

    Pre-activations of a layer of positive weights have something in common, the sum of
    the inputs.  Hoedt and Klambauer take them as normal numbers of variance 1 with a
    correlation :math:`\rho` between any two, and choose weights and bias for which
    those of the next layer are so again.  With :math:`n` inputs, and the mean
    :math:`m`, the mean square :math:`m_2` and the covariance :math:`c` of the
    activation of two such numbers, by quadrature,

    .. math::
      (\mathrm{E}\, w)^2 = \frac{\rho}{n \left(m_2 - m^2 + (n - 1) c\right)}, \qquad
      \mathrm{Var}\, w = \frac{1 - \rho - \mathrm{skip}}{n m_2}, \qquad
      b = \mu - n m\, \mathrm{E}\, w.

    The first makes the covariance :math:`(\mathrm{E}\, w)^2\, \mathrm{Var} \sum_j x_j`
    of two pre-activations :math:`\rho`, the second fills their variance up, the third
    cancels the mean.  Weights are log-normal.

    The paper has ``mean=0``, ``skip=0`` and ``correlation=0.5``, which for relu gives
    :math:`(\mathrm{E}\, w)^2 = 6 \pi / (n (6 (\pi - 1) + (n - 1) (3 \sqrt 3 + 2 \pi -
    6)))`, :math:`\mathrm{Var}\, w = 1 / n` and :math:`b = -n\, \mathrm{E}\, w / \sqrt{2
    \pi}`.  That serves a few layers.  Its fixed point repels: a relu of growing signals
    exceeds what the bias takes away, one of fading signals falls short of it, and
    within 32 layers of width 256 all units are dead.  The defaults here are
    for depth: pre-activations are two standard deviations above 0, where a convex
    activation is nearly linear, and most of their variance comes fresh from the inputs
    of the network, by the skip connections that an input-convex network has anyway.

    Through 32 layers of widths 256 to 1024, of relu, celu or softplus, with skip
    connections from normal inputs: the root mean squares of activations, and of the
    gradients of their mean, stay within a factor of 5.

    Args:
      fan_in: the number of inputs of the layer.
      activation: the function that they went through, convex and increasing, of one
        array.
      correlation: that of two pre-activations, above 0.
      mean: the mean of pre-activations.
      skip: the share of their variance that skip connections bring: give these a signed
        kernel by ``variance_scaling(skip, "fan_in", "normal")``, if the inputs of the
        network are normalized.  Less than ``1 - correlation``.

    Returns:
      An initializer of kernels and one of biases, each ``init(key, shape,
      dtype=float)``.

    Raises:
      ValueError: ``fan_in`` is not above 0, or ``correlation`` and ``skip`` are no
        shares of the variance that leave a rest.
      TypeError: ``dtype`` is not a real floating one.

    Example:
      >>> import jax, flax_stable as fs
      >>> kernel_init, bias_init = fs.icnn_initializers(64, fs.softplus)
      >>> layer = fs.linen.StableSoftplusDense(
      ...   32, kernel_init=kernel_init, bias_init=bias_init
      ... )
      >>> params = layer.init(jax.random.key(0), jax.numpy.ones((1, 64)))["params"]
      >>> bool((params["bias"] < 0).all())
      True

    References:
      Hoedt and Klambauer, `Principled Weight Initialisation for Input-Convex Neural
      Networks <https://arxiv.org/abs/2312.12474>`_, 2023.
    """
    if fan_in < 1:
        raise ValueError(
            f"icnn_initializers expects the number of inputs as fan_in, but got "
            f"{fan_in}. Take the first axis of the kernel's shape."
        )
    if not (0 < correlation < 1 and 0 <= skip < 1 - correlation):
        raise ValueError(
            "icnn_initializers expects a correlation above 0 and a skip of 0 or more "
            f"that together stay below 1, but got {correlation} and {skip}. The rest "
            "of the variance is that of the weights."
        )

    of = functools.partial(_icnn_constants, fan_in, activation, correlation, mean, skip)
    return functools.partial(_icnn_kernel, of), functools.partial(_icnn_bias, of)


def _icnn_constants(fan_in, activation, correlation, mean, skip):
    of = moments(activation, mean, 1.0, correlation)
    common = of.square - of.mean**2 + (fan_in - 1) * of.covariance
    weight = math.sqrt(correlation / (fan_in * common))
    variance = (1 - correlation - skip) / (fan_in * of.square)
    return weight, variance, mean - fan_in * of.mean * weight


@functools.lru_cache(64)
def _once(constants):
    """What the kernel and the bias of a layer share, the work of many milliseconds."""
    return constants()


def _icnn_kernel(constants, key, shape, dtype=float):
    assert_floating("icnn_initializers initializes", dtype)
    weight, variance, _ = _once(constants)
    return _log_normal(key, shape, dtype, weight, variance)


def _icnn_bias(constants, key, shape, dtype=float):
    return jnp.full(shape, _once(constants)[2], dtype)


def _log_normal(key, shape, dtype, mean, variance):
    """Positive numbers of this mean and variance, drawn in float32 at least."""
    wide = np.float64 if dtype == np.float64 else np.float32
    # Of a symbolic size, the numbers are arrays.
    xp = jnp if isinstance(mean, jax.Array) else math
    width = xp.sqrt(xp.log1p(variance / mean**2))
    normal = jax.random.normal(key, shape, wide)
    weights = jnp.exp(width * normal + (xp.log(mean) - width**2 / 2))
    # Of 16 bits the smallest would be 0.
    return jnp.maximum(weights, float(jnp.finfo(dtype).tiny)).astype(dtype)


def _fan_in(shape, out_axis, batch_axis) -> int:
    apart = np.r_[out_axis, batch_axis].astype(int) % len(shape)
    return math.prod(n for axis, n in enumerate(shape) if axis not in apart)


def _assert_positive(who: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(
                f"{who} expects a {name} above 0, but got {number}. Positive weights "
                "without a bias keep no other: for a centered one see "
                "icnn_initializers, which has a bias."
            )


def _assert_mean(who: str, activation: Callable, mean: float) -> None:
    if not mean > 0:
        raise ValueError(
            f"{who} expects an activation of positive mean, but {activation} has "
            f"{mean:.3g}. Take a larger mean of the pre-activations."
        )
