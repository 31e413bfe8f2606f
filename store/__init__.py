"""Rows and files of the service: what API and worker share.

A noun is one folder or file with its tables and queries: jobs, operations, runs, datasets, models, teams, webhooks,
files.
"""

from __future__ import annotations

import sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader

# Deprecated commands, accepted until the next version: `python -m store.OLD …` runs `python -m store.admin_cli NEW …`.
DEPRECATED_COMMANDS = {"operate": (), "first_token": ("bootstrap-token",)}
_SOURCE = """
import sys
from store.admin_cli import main

if __name__ == "__main__":
    print("`python -m store.{old}` is deprecated and goes with the next version; use `{new}`.", file=sys.stderr)
    sys.exit(main([*{words}, *sys.argv[1:]]))
"""


class _DeprecatedCommands(MetaPathFinder, InspectLoader):
    """Finder and loader of the modules of DEPRECATED_COMMANDS."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of a deprecated command, or None for any other module."""
        package, _, name = fullname.rpartition(".")
        return spec_from_loader(fullname, self) if package == "store" and name in DEPRECATED_COMMANDS else None

    def get_source(self, fullname: str) -> str:
        """Source that prints the deprecation and runs the present command."""
        old = fullname.rpartition(".")[2]
        words = DEPRECATED_COMMANDS[old]
        return _SOURCE.format(old=old, new=" ".join(("python -m store.admin_cli", *words)), words=words)


sys.meta_path.insert(0, _DeprecatedCommands())
