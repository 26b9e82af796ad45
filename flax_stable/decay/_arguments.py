"""What is asked of arguments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def assert_number(
    who: str, name: str, value: Any, holds: Callable, expected: str, way_out: str
) -> None:
    """Asserts that a value is a number in its range, as far as that is known."""
    if isinstance(value, jax.core.Tracer):
        return
    told = f"{who} expects {name} to be {expected}, but got {value}. {way_out}"
    if not _is_real(value):
        raise TypeError(told)
    if not holds(float(value)):
        raise ValueError(told)


def _is_real(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    dtype = getattr(value, "dtype", np.dtype(bool))
    real = any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer))
    return real and jnp.ndim(value) == 0


def assert_names(who: str, parameters: Any) -> None:
    """Asserts that ``parameters`` are of a kind that `flax_stable.constrain` takes."""
    names = parameters if isinstance(parameters, Sequence | Mapping) else [None]
    if not callable(parameters) and not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{who} expects parameters to be names of raw parameters, a dict from "
            "names to transforms, or a function of paths and values, but got "
            f"{parameters!r}. Write them as for flax_stable.constrain."
        )


def assert_mask(who: str, mask: Any) -> None:
    """Asserts that a mask is a tree of booleans or callable, as Optax takes it."""
    for leaf in [] if callable(mask) else jax.tree.leaves(mask):
        if not isinstance(leaf, bool | np.bool_) and not callable(leaf):
            raise TypeError(
                f"{who} expects mask to be a tree of booleans, or a function that "
                f"makes one of parameters, but it holds {leaf!r}. Write True where "
                "weights decay."
            )


def assert_params(who: str, params: Any) -> None:
    """Asserts that ``update`` got the parameters too."""
    if params is None:
        raise ValueError(
            f"{who} acts on what params are read as, but got None for them. Call "
            "update(updates, state, params)."
        )
