"""Parameters stored raw and read through a transform, in trees of any model."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ._positive.kernels import assert_unquantized
from ._positive.transform import inverse_positive, positive

# What marks a raw parameter, in the trees of both APIs.
RAW = "raw_"


class Transform(NamedTuple):
    """A map from raw values to those that a layer reads, and its inverse.

    Attributes:
      forward: the map, applied to a raw array on every reading.
      inverse: its inverse, applied where values of the layer become raw ones.

    A function of single elements serves stacks of layers and every mesh as it is.  One
    that looks at whole arrays, such as a softmax of rows, sees a stack in `constrain`,
    and a layer of it inside of ``vmap`` or ``scan``.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> unit = fs.Transform(fs.tanh, jnp.arctanh)
      >>> params = fs.unconstrain({"scale": jnp.array([0.0, 0.5])}, {"scale": unit})
      >>> params
      {'raw_scale': Array([0.        , 0.54930615], dtype=float32)}
      >>> fs.constrain(params, {"scale": unit})
      {'scale': Array([0. , 0.5], dtype=float32)}
    """

    forward: Callable[[jax.Array], jax.Array]
    inverse: Callable[[jax.Array], jax.Array]


Chain: TypeAlias = Transform | Sequence[Transform]
Parameters: TypeAlias = (
    str | Sequence[str] | Mapping[str, Chain] | Callable[[str, Any], Chain | None]
)


_INITIALIZER = (
    "A layer needs an initializer of such values, as flax_stable.near_permutation is "
    "for positive ones."
)


def positive_transform(*, beta: Any = 1.0, floor: Any = 0.0) -> Transform:
    """The transform to positive numbers, ``floor + softplus(raw, beta)``.

    Args:
      beta: the steepness, as in `flax_stable.positive`.
      floor: what the values stay above, as in `flax_stable.positive`.

    Returns:
      A `Transform` of `flax_stable.positive` and `flax_stable.inverse_positive`.

    Raises:
      ValueError: ``beta`` is not positive or ``floor`` is below 0, where it is used.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> transform = fs.positive_transform(floor=1e-3)
      >>> float(transform.forward(jnp.float32(-200.0)))
      0.0010000000474974513
    """
    options = {"beta": beta, "floor": floor}
    return Transform(
        functools.partial(positive, **options),
        functools.partial(inverse_positive, **options),
    )


_POSITIVE = positive_transform()


def constrain(params: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    r"""Reads the parameters of the plain layers out of raw ones.

    A leaf ``raw_kernel`` that ``parameters`` selects becomes ``kernel``, the transform
    of it; all else stays as it is.  The result is what the layers take that know of no
    transform: a model is baked by it.  `unconstrain` is the way back.

    Args:
      params: nested dicts of parameters, such as those of `flax.linen`, with boxes or
        without, or an `flax.nnx.State`.
      parameters: which parameters, and by which transform.  A string is a regular
        expression for the end of a path, by whole names: ``"kernel"``,
        ``"head/kernel"`` or ``"layers_\d+/(kernel|scale)"``.  One such string or a
        sequence of them makes parameters positive, by `positive_transform`; a dict of
        them gives each its `Transform`, or a sequence of transforms, of which the first
        is the one that sees the raw values.  A function gets every path and value and
        returns a transform, a sequence of transforms, or None.

    Returns:
      Nested dicts, with the boxes of ``params``.

    Raises:
      TypeError: ``params`` is no mapping, or a transform is none.
      ValueError: a string finds nothing, or two find the same parameter.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.constrain({"raw_kernel": jnp.zeros(2), "bias": 1.0}, "kernel")
      {'kernel': Array([0.6931472, 0.6931472], dtype=float32), 'bias': 1.0}
    """
    _assert_mapping("constrain", params)
    raw = {plain_path(path): value for path, value in leaves(params) if _is_raw(path)}
    chains = select("constrain", parameters, raw, dict(leaves(params)))

    def read(path, value):
        plain = plain_path(path)
        if not _is_raw(path) or plain not in chains:
            return path, value
        return plain, forward(chains[plain], value)

    return _mapped(read, params)


def unconstrain(params: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """Stores the parameters of plain layers raw: the inverse of `constrain`.

    A leaf ``kernel`` that ``parameters`` selects becomes ``raw_kernel``, the inverse
    transform of it; all else stays as it is.  So the weights of a checkpoint enter a
    model with raw parameters.  Values that are known are checked; under `jax.jit` they
    are not, and a value out of the range becomes what the inverse makes of it.

    Args:
      params: nested dicts of parameters, as for `constrain`.
      parameters: which parameters, and by which transform, as for `constrain`.

    Returns:
      Nested dicts, with the boxes of ``params``.

    Raises:
      TypeError: ``params`` is no mapping, or a transform is none.
      ValueError: a string finds nothing, two find the same parameter, or the inverse
        does not lead back to the values, which are then outside of the range.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.unconstrain({"head": {"kernel": jnp.array([0.5, 1.0])}}, "head/kernel")
      {'head': {'raw_kernel': Array([-0.43275213,  0.54132485], dtype=float32)}}
    """
    _assert_mapping("unconstrain", params)
    found = dict(leaves(params))
    chains = select(
        "unconstrain",
        parameters,
        {path: value for path, value in found.items() if not _is_raw(path)},
        found,
    )

    def store(path, value):
        if path not in chains:
            return path, value
        return raw_path(path), inverse(chains[path], value, path)

    return _mapped(store, params)


def forward(chain: tuple[Transform, ...], raw: Any) -> Any:
    """The value of a raw parameter, in the boxes (any pytree) that it came in."""
    return jax.tree.map(functools.partial(_forward, chain), raw)


def _forward(chain, x):
    for transform in chain:
        x = transform.forward(x)
    return x


def inverse(chain: tuple[Transform, ...], value: Any, path: str) -> Any:
    """The raw parameter of a value, likewise; values that are known are checked."""

    def invert(x):
        raw = jnp.asarray(x)
        for transform in reversed(chain):
            try:
                raw = transform.inverse(raw)
            except ValueError as error:
                raise ValueError(
                    f"{path!r} cannot be stored raw: {error} {_INITIALIZER}"
                ) from error
        if not isinstance(raw, jax.core.Tracer):
            _assert_there_and_back(path, chain, jnp.asarray(x), raw)
        return raw

    assert_unquantized(value)
    return jax.tree.map(invert, value)


def _assert_there_and_back(path, chain, value, raw):
    back = _forward(chain, raw)
    if back.shape != value.shape or back.dtype != value.dtype:
        raise ValueError(
            f"The transform of {path!r} must lead back from raw values to what its "
            f"inverse was given, {value.dtype.name}{list(value.shape)}, but leads to "
            f"{back.dtype.name}{list(back.shape)}. Take a pair that are inverse to one "
            "another."
        )
    lost, any_lost = _lost(value, raw, back)
    if any_lost:
        index = tuple(int(i) for i in jnp.argwhere(lost)[0])
        raise ValueError(
            f"{path!r} holds values outside of the range of its transform: "
            f"{int(lost.sum())} of {value.size}, the first of them {value[index]} at "
            f"{index}. Give values that the transform can take. {_INITIALIZER}"
        )


@jax.jit
def _lost(value, raw, back):
    # Half of the digits: a pair that is no pair misses by more, and rounding by less.
    digits = float(jnp.finfo(value.dtype).eps) ** 0.5
    tolerance = digits * jnp.max(jnp.abs(value), initial=0)
    finite = jnp.isfinite(raw) if raw.shape == value.shape else jnp.isfinite(raw).all()
    lost = ~(finite & (jnp.abs(back - value) <= tolerance))
    return lost, lost.any()


def select(
    who: str, parameters: Parameters, values: Mapping[str, Any], there: Mapping
) -> dict[str, tuple[Transform, ...]]:
    """The transforms of each selected path of ``values``; ``there`` is for errors."""
    if callable(parameters):
        found = {path: parameters(path, value) for path, value in values.items()}
        chains = {path: _chain(t) for path, t in found.items() if t is not None}
        if not chains:
            raise ValueError(_missing(who, "the function given selects no", there))
        return chains
    if isinstance(parameters, str):
        parameters = (parameters,)
    if not isinstance(parameters, Mapping):
        parameters = dict.fromkeys(parameters, _POSITIVE)
    chains = {}
    for pattern, chain in parameters.items():
        paths = [p for p in values if re.fullmatch(f"(?:.*/)?(?:{pattern})", p)]
        if not paths:
            raise ValueError(_missing(who, f"{pattern!r} names no", there))
        for path in paths:
            if path in chains:
                raise ValueError(
                    f"{who}: {path!r} is named twice in {list(parameters)}. Give one "
                    "name a sequence of transforms, or write longer paths."
                )
            chains[path] = _chain(chain)
    return chains


def _missing(who, what, there):
    kind = "raw parameter" if who == "constrain" else "plain parameter"
    return (
        f"{who}: {what} {kind}. There are {sorted(there)}: {RAW!r} before a name marks "
        "raw ones. Plain ones become raw by flax_stable.unconstrain, raw ones plain by "
        "flax_stable.constrain."
    )


def _chain(given: Any) -> tuple[Transform, ...]:
    chain = (given,) if isinstance(given, Transform) else given
    if not isinstance(chain, Sequence) or not all(
        isinstance(transform, Transform) for transform in chain
    ):
        raise TypeError(
            "A parameter is read through a Transform or a sequence of them, but got "
            f"{given!r}. Write flax_stable.Transform(forward, inverse)."
        )
    return tuple(chain)


def raw_path(path: str) -> str:
    """The path at which the raw values of a parameter stand."""
    *above, name = path.split("/")
    return "/".join([*above, RAW + name])


def plain_path(path: str) -> str:
    """The path of the parameter whose raw values stand at ``path``."""
    *above, name = path.split("/")
    return "/".join([*above, name.removeprefix(RAW)])


def _is_raw(path: str) -> bool:
    return path.split("/")[-1].startswith(RAW)


def leaves(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The paths and values of nested mappings, names joined by slashes."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _mapped(function: Callable, params: Mapping, above: str = "") -> dict[str, Any]:
    """Nested dicts of what ``function(path, value)`` returns, a path and a value."""
    mapped = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            mapped[name] = _mapped(function, value, f"{above}{name}/")
            continue
        path, new = function(f"{above}{name}", value)
        mapped[name if path == f"{above}{name}" else path.split("/")[-1]] = new
    return mapped


def _assert_mapping(who: str, params: Any) -> None:
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{who} expects nested dicts of parameters, but got "
            f"{type(params).__name__}. Of an NNX layer take flax_stable.nnx."
            "Parametrized, and plain() of it."
        )
