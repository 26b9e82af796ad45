"""Parameters stored raw and read through a transform, in trees of any model."""

import functools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
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


# The names from the root to a parameter, which may hold slashes themselves.
Path: TypeAlias = tuple[Hashable, ...]
Chain: TypeAlias = Transform | Sequence[Transform]
Chains: TypeAlias = Mapping[Path, tuple[Transform, ...]]
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
      ValueError: a string finds nothing, two find the same parameter, or there is a
        plain parameter too where one of a raw one would stand.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.constrain({"raw_kernel": jnp.zeros(2), "bias": 1.0}, "kernel")
      {'kernel': Array([0.6931472, 0.6931472], dtype=float32), 'bias': 1.0}
    """
    _assert_mapping("constrain", params)
    found = list(leaves(params))
    assert_found("constrain", parameters, found)
    return read(params, select("constrain", parameters, found))


def unconstrain(params: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """Stores the parameters of plain layers raw: the inverse of `constrain`.

    A leaf ``kernel`` that ``parameters`` selects becomes ``raw_kernel``, the inverse
    transform of it; all else stays as it is.  ``raw_`` goes before the whole name of a
    leaf, which may hold slashes, as the scales of `flax.linen.WeightNorm` do.  So the
    weights of a checkpoint enter a model with raw parameters.  Values that are known
    are checked; under `jax.jit` they are not, and a value out of the range becomes what
    the inverse makes of it.

    Args:
      params: nested dicts of parameters, as for `constrain`.
      parameters: which parameters, and by which transform, as for `constrain`.

    Returns:
      Nested dicts, with the boxes of ``params``.

    Raises:
      TypeError: ``params`` is no mapping, or a transform is none.
      ValueError: a string finds nothing, two find the same parameter, the inverse does
        not lead back to the values, which are then outside of the range, or there is a
        raw parameter of that name already.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.unconstrain({"head": {"kernel": jnp.array([0.5, 1.0])}}, "head/kernel")
      {'head': {'raw_kernel': Array([-0.43275213,  0.54132485], dtype=float32)}}
    """
    _assert_mapping("unconstrain", params)
    found = list(leaves(params))
    assert_found("unconstrain", parameters, found)
    return store(params, select("unconstrain", parameters, found))


def read(params: Mapping[str, Any], chains: Chains) -> dict[str, Any]:
    """The parameters of ``chains`` out of raw ones, those that are there."""

    def convert(path, value):
        if not _is_raw(path) or plain_path(path) not in chains:
            return path, value
        path = plain_path(path)
        return path, forward(chains[path], value)

    return _mapped("constrain", convert, params)


def store(
    params: Mapping[str, Any], chains: Chains, kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The way back, where raw values that are in ``kept`` stay as they are."""
    stored = dict(leaves(kept or {}))

    def convert(path, value):
        if path not in chains:
            return path, value
        raw = raw_path(path)
        value = stored[raw] if raw in stored else inverse(chains[path], value, path)
        return raw, value

    return _mapped("unconstrain", convert, params)


def forward(chain: tuple[Transform, ...], raw: Any) -> Any:
    """The value of a raw parameter, in the boxes (any pytree) that it came in."""
    return jax.tree.map(functools.partial(_forward, chain), raw)


def _forward(chain, x):
    for transform in chain:
        x = transform.forward(x)
    return x


def inverse(chain: tuple[Transform, ...], value: Any, path: Path) -> Any:
    """The raw parameter of a value, likewise; values that are known are checked."""
    where = joined(path)

    def invert(x):
        raw = jnp.asarray(x)
        for transform in reversed(chain):
            try:
                raw = transform.inverse(raw)
            except ValueError as error:
                raise ValueError(
                    f"{where!r} cannot be stored raw: {error} {_INITIALIZER}"
                ) from error
        if not isinstance(raw, jax.core.Tracer):
            _assert_there_and_back(where, chain, jnp.asarray(x), raw)
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
    who: str, parameters: Parameters, found: Iterable[tuple[Path, Any]]
) -> Chains:
    """The transforms of what ``parameters`` names among leaves, by plain paths."""
    values = _candidates(who, found)
    if callable(parameters):
        given = {path: parameters(joined(path), values[path]) for path in values}
        return {path: _chain(t) for path, t in given.items() if t is not None}
    chains: dict[Path, tuple[Transform, ...]] = {}
    for pattern, chain in _patterns(parameters).items():
        for path in _matches(pattern, values):
            if path in chains:
                raise ValueError(
                    f"{who}: {joined(path)!r} is named twice in {list(parameters)}. "
                    "Give one name a sequence of transforms, or write longer paths."
                )
            chains[path] = _chain(chain)
    return chains


def assert_found(
    who: str, parameters: Parameters, found: Sequence[tuple[Path, Any]]
) -> None:
    """Asserts that all that ``parameters`` names is there."""
    if callable(parameters):
        missing = None if select(who, parameters, found) else "the function given"
    else:
        values = _candidates(who, found)
        patterns = _patterns(parameters)
        missing = next((repr(p) for p in patterns if not _matches(p, values)), None)
    if missing:
        kind = "raw parameter" if who == "constrain" else "plain parameter"
        there = sorted(joined(path) for path, _ in found)
        raise ValueError(
            f"{who}: {missing} names no {kind}. There are {there}: {RAW!r} before a "
            "name marks raw ones. Plain ones become raw by flax_stable.unconstrain, "
            "raw ones plain by flax_stable.constrain."
        )


def _candidates(who: str, found: Iterable[tuple[Path, Any]]) -> dict[Path, Any]:
    """What can be named: to be read, raw parameters by plain paths, else plain ones."""
    if who == "constrain":
        return {plain_path(path): value for path, value in found if _is_raw(path)}
    return {path: value for path, value in found if _is_plain(path)}


def _patterns(parameters: Any) -> Mapping[str, Chain]:
    if isinstance(parameters, Mapping):
        return parameters
    names = (parameters,) if isinstance(parameters, str) else parameters
    if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            "Parameters are named by a string, a sequence or a dict of strings, or a "
            f"function of path and value, but got {parameters!r}. Write 'kernel' for "
            "all with paths that end so."
        )
    return dict.fromkeys(names, _POSITIVE)


def _matches(pattern: str, values: Mapping[Path, Any]) -> list[Path]:
    try:
        end = re.compile(f"(?:.*/)?(?:{pattern})", re.DOTALL)
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is no regular expression: {error}. For any name write '.*'."
        ) from error
    return [path for path in values if end.fullmatch(joined(path))]


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


def joined(path: Path) -> str:
    """A path as users write it."""
    return "/".join(map(str, path))


def raw_path(path: Path) -> Path:
    """The path at which the raw values of a parameter stand."""
    return (*path[:-1], f"{RAW}{path[-1]}")


def plain_path(path: Path) -> Path:
    """The path of the parameter whose raw values stand at ``path``."""
    return (*path[:-1], str(path[-1]).removeprefix(RAW))


def _is_raw(path: Path) -> bool:
    return isinstance(path[-1], str) and path[-1].startswith(RAW)


def _is_plain(path: Path) -> bool:
    # The numbers of an NNX list cannot say that they are raw.
    return isinstance(path[-1], str) and not path[-1].startswith(RAW)


def leaves(params: Mapping[Any, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The paths and values of nested mappings."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _mapped(
    who: str, function: Callable, params: Mapping[Any, Any], above: Path = ()
) -> dict[Any, Any]:
    """Nested dicts of what ``function(path, value)`` returns, a path and a value."""
    mapped: dict[Any, Any] = {}
    for name, new in params.items():
        path = (*above, name)
        if isinstance(new, Mapping):
            new = _mapped(who, function, new, path)
        else:
            path, new = function(path, new)
        if path[-1] != name and path[-1] in params:
            raise ValueError(
                f"{who} finds two values for {joined(path)!r}: a raw parameter and its "
                "plain one stand side by side. Remove one of them."
            )
        mapped[path[-1]] = new
    return mapped


def _assert_mapping(who: str, params: Any) -> None:
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{who} expects nested dicts of parameters, but got "
            f"{type(params).__name__}. Of an NNX layer take flax_stable.nnx."
            "Parametrized, and plain() of it."
        )
