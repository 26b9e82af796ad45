"""What functions owe their users: a public name, and errors that say what to do."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np

F = TypeVar("F", bound=Callable)


def publish(*modules: ModuleType) -> None:
    """Lets the functions that modules export bear the modules' names.

    Then `help` shows the name to import, and pickles hold it.
    """
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            while inspect.isfunction(value) and "._" in value.__module__:
                value.__module__ = module.__name__
                value = getattr(value, "__wrapped__", None)


def compiled(*static: str) -> Callable[[F], F]:
    """`jax.jit` as a plain function, which can be pickled, with errors `explained`."""

    def decorate(fun):
        return explained(*static)(jax.jit(fun, static_argnames=static))

    return decorate


def explained(*static: str) -> Callable[[F], F]:
    """Names the function and the argument where one is of a kind that JAX cannot take.

    All arguments but those named static are arrays, or trees of them.
    """

    def decorate(fun: Any) -> Any:
        @functools.wraps(fun)
        def call(*args, **kwargs):
            # Only after an error are there arguments to look at: calls stay fast.
            try:
                return fun(*args, **kwargs)
            except (TypeError, ValueError):
                message = _wrong_kind(call, static, args, kwargs)
                if message is None:
                    raise
            raise TypeError(message) from None

        return call

    return decorate


def number(name: str, holds: Callable, expected: str) -> Callable[[F], F]:
    """Asserts what an argument must be where it is a number: an array may be traced."""

    def decorate(fun: Any) -> Any:
        place = list(inspect.signature(fun).parameters).index(name)

        @functools.wraps(fun)
        def call(*args, **kwargs):
            value = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(value, (int, float, np.number)) and not holds(value):
                raise ValueError(
                    f"{_called(call)} expects {name} to be {expected}, but got {value}."
                )
            return fun(*args, **kwargs)

        return call

    return decorate


def _called(fun: Callable) -> str:
    return f"{fun.__module__}.{fun.__name__}".removeprefix("flax_stable.")


def _wrong_kind(
    fun: Callable, static: tuple[str, ...], args: tuple, kwargs: dict
) -> str | None:
    signature = inspect.signature(fun)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    called = _called(fun)
    arrays = [name for name in signature.parameters if name not in static]
    for name, value in given.items():
        if name not in static:
            for leaf in jax.tree.leaves(value):
                if not _is_array(leaf):
                    return (
                        f"{called} expects {name} to be an array or a number, but got "
                        f"{described(leaf)}. Convert it with jnp.asarray."
                    )
        elif not _is_hashable(value):
            return (
                f"{called} expects {name} to be a Python value that is known when it "
                f"is compiled, but got {described(value)}. {_way_out(called, arrays)}"
            )
    return None


def _way_out(called: str, arrays: list[str]) -> str:
    first, *others = arrays
    keywords = "".join(f", {other}=..." for other in others)
    takes = "one array" if not others else "one array by position, others by keyword"
    return (
        f"It takes {takes}: {called}({first}{keywords}). In jax.jit static_argnames "
        "makes a value known; a list becomes a tuple."
    )


def _is_array(x: Any) -> bool:
    try:
        jax.typeof(x)
    except TypeError:
        return False
    return True


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


def described(x: Any) -> str:
    """A value, as an error shows it."""
    if isinstance(x, (jax.Array, np.ndarray)):
        return f"an array of type {x.dtype}{list(x.shape)}"
    shown = repr(x)
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    return f"{shown} of type {type(x).__name__}"
