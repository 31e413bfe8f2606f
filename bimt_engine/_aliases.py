"""The engine's one table of aliases: import paths of the previous version, kept for one version with a warning.

A path is looked up here only when no module has that name. `Training.moments` is kept in training/loop.py.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "bimt_engine.datasets": "bimt_engine.data",
    "bimt_engine.datasets.catalogue": "bimt_engine.data.registry",
    "bimt_engine.datasets.dataset": "bimt_engine.data.dataset",
    "bimt_engine.recipes.shelf": "bimt_engine.recipes",
}
PACKAGES = {"bimt_engine.datasets"}


class _Aliases(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=fullname in PACKAGES) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        if old not in PACKAGES:  # imported on the way to a module, which warns
            warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        moved = importlib.import_module(new)
        module.__doc__ = f"Deprecated path of {new}."
        module.__getattr__ = lambda name: getattr(moved, name)  # type: ignore[method-assign]


def install() -> None:
    """Let the old paths be found, after everything else."""
    if not any(isinstance(finder, _Aliases) for finder in sys.meta_path):
        sys.meta_path.append(_Aliases())
