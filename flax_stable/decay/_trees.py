"""Trees of parameters: which of them are raw, and how each is read."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._parametrization import RAW, Parameters, Transform, positive_transform
from .._precision import widen
from ._transforms import Chain


def raw_mask(params: Any) -> Any:
    """Marks the raw parameters, those with names that start with ``raw_``.

    It is a mask for `optax.masked`, and tells the labels of `optax.multi_transform`.

    Args:
      params: parameters, or a tree of their structure such as gradients: nested dicts
        as those of `flax.linen`, with boxes or without, an `flax.nnx.State`, or what
        `flax.nnx.Optimizer` gives to Optax.

    Returns:
      The same tree of booleans.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> fs.decay.raw_mask({"dense": {"raw_kernel": jnp.ones(3), "bias": jnp.ones(3)}})
      {'dense': {'bias': False, 'raw_kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(lambda keys, _: _is_raw(keys), params)


def mapped(
    who: str, parameters: Parameters, function: Callable, updates: Any, params: Any
) -> Any:
    """Maps ``function(chain, x, g)`` over parameters, widened, and their updates."""
    chains = _chains(who, parameters, params)

    def apply(keys, g, x):
        if g is None:
            return None
        chain = chains[_plain(keys)] if _is_raw(keys) else ()
        return function(chain, widened(x), jnp.asarray(g))

    return jax.tree_util.tree_map_with_path(
        apply, updates, params, is_leaf=lambda g: g is None
    )


def widened(x: Any) -> jax.Array:
    """An array in the dtype of formulas; plain parameters may be complex."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.complexfloating) else widen(x)


def _chains(who: str, parameters: Parameters, params: Any) -> dict[str, Chain]:
    """The transforms of raw parameters, by the paths that plain ones would have."""
    found = jax.tree_util.tree_leaves_with_path(params)
    if not all(_names(keys) for keys, _ in found):
        raise ValueError(
            f"{who} knows raw parameters by their names, but params hold arrays that "
            "have none. Put it outside of optax.flatten, which takes names away; where "
            "no parameter is raw, Optax's own does the same."
        )
    raw = {_plain(keys): leaf for keys, leaf in found if _is_raw(keys)}
    chains = {path: _chain(who, parameters, path, x) for path, x in raw.items()}
    if unknown := [path for path, chain in chains.items() if chain is None]:
        name = unknown[0]
        raise ValueError(
            f"{who} expects parameters to tell how raw ones are read, but they say "
            f"nothing of {unknown}. Add {name!r} if it is read by flax_stable.positive "
            f"as it is, {{{name!r}: flax_stable.positive_transform(beta=..., floor=...)"
            f"}} or another Transform if by that, {{{name!r}: ()}} if by none."
        )
    return {path: chain for path, chain in chains.items() if chain is not None}


def _chain(who: str, parameters: Parameters, path: str, x: Any) -> Chain | None:
    """The transforms that ``parameters`` give to one path; names may match no path.

    The same ones serve parts of a model, and models whose parameters are all plain.
    """
    if callable(parameters):
        given = parameters(path, x)
        if given is None:
            return None
    else:
        names = (parameters,) if isinstance(parameters, str) else parameters
        if not isinstance(names, Mapping):
            names = dict.fromkeys(names, positive_transform())
        found = [n for n in names if re.fullmatch(f"(?:.*/)?(?:{n})", path)]
        if len(found) > 1:
            raise ValueError(
                f"{who} expects one name in parameters for {path!r}, but got {found}. "
                "Give one name a sequence of transforms, or write longer paths."
            )
        if not found:
            return None
        given = names[found[0]]
    chain = (given,) if isinstance(given, Transform) else given
    if not isinstance(chain, Sequence) or not all(
        isinstance(transform, Transform) for transform in chain
    ):
        raise TypeError(
            f"{who} expects parameters to give {path!r} a Transform or a sequence of "
            f"them, but got {given!r}. Write flax_stable.Transform(forward, inverse)."
        )
    return tuple(chain)


def _names(keys: tuple[Any, ...]) -> list[Any]:
    """The names on the way to a leaf, up to the last one that is a string.

    Boxes of Linen and variables of NNX hold their array as the attribute ``value``.
    """
    boxed = jax.tree_util.GetAttrKey("value")
    names = [
        getattr(key, "key", getattr(key, "name", getattr(key, "idx", None)))
        for key in keys
        if key != boxed
    ]
    while names and not isinstance(names[-1], str):
        names.pop()
    return names


def _is_raw(keys: tuple[Any, ...]) -> bool:
    names = _names(keys)
    return bool(names) and names[-1].startswith(RAW)


def _plain(keys: tuple[Any, ...]) -> str:
    """The path of a raw parameter without the mark on its name."""
    *above, name = _names(keys)
    return "/".join(map(str, [*above, name.removeprefix(RAW)]))
