"""Functions and modules by their names."""

import importlib
from typing import Any


class UsageError(Exception):
    """A question that makes no sense."""


def load(path: str) -> Any:
    """What ``package.module:name`` names."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise UsageError(f"{path!r} is no package.module:name")
    try:
        found: Any = load_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"{path!r} does not exist: {error}") from None
    return found


def load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UsageError(f"cannot import {name!r}: {reason}") from None
