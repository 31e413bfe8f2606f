"""Names of the version before that the store still accepts, with a warning, until the next version: the one table.

Documented in docs/aliases.md. Old addresses stand in api/aliases.py, old names of the client in
client/bimt/deprecated.py, old import paths of the engine in bimt_engine/_aliases.py.
"""

from __future__ import annotations

# Old variable → new variable.
SETTINGS = {"BIMT_ERRAND_HOURS": "BIMT_OPERATION_HOURS", "BIMT_SILENCE_SECONDS": "BIMT_IDLE_SECONDS"}

# Old name of a queue → new name: in BIMT_QUEUE, in `python -m worker --queue`, and in rows written before.
QUEUES = {"errands": "interactive", "chores": "batch"}

# Old command `python -m store.OLD` → the words after `python -m store.admin_cli` that do the same.
COMMANDS: dict[str, tuple[str, ...]] = {"operate": (), "first_token": ("bootstrap-token",)}
