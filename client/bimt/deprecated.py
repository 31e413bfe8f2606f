"""Names of the version before that keep working in this one, with a DeprecationWarning: the one table of aliases.

Options of the command line that were renamed stand beside their new names in `command/`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

# Old name in `bimt` → module and new name.
NAMES = {
    "AnswerFailed": (".errors", "OperationFailed"),
    "Moment": (".events", "JobEvent"),
    "Patience": (".http", "Patience"),
}
INSTEAD = {"Patience": "RetryPolicy"}  # the old class stays for its parameter names


def lookup(name: str) -> Any:
    """What an old name of the package means now. Raises AttributeError for a name that never was."""
    if name not in NAMES:
        raise AttributeError(f"module 'bimt' has no attribute {name!r}")
    module, new = NAMES[name]
    warn(f"bimt.{name}", f"bimt.{INSTEAD.get(name, new)}", stacklevel=4)
    return getattr(importlib.import_module(module, __package__), new)


def renamed(old: str, new: str) -> Any:
    """A property that gives the attribute `new` under its old name."""

    def read(owner: Any) -> Any:
        warn(f"{type(owner).__name__}.{old}", f"{type(owner).__name__}.{new}", stacklevel=3)
        return getattr(owner, new)

    return property(read, doc=f"Deprecated: use `{new}`.")


def warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Say that a name is deprecated, at the line that used it."""
    warnings.warn(f"{old} is deprecated, use {new}.", DeprecationWarning, stacklevel=stacklevel)
