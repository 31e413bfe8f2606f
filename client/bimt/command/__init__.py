"""The `bimt` command: one file for each kind of verb, over what all verbs are made of (`verb.py`).

Tables and pictures in the terminal are in `formatting.py` beside this folder.
"""

# The help lists the verbs in this order, which is that of a first use.
from . import inputs, jobs, runs, service  # noqa: F401
from .verb import EXIT_CODES, cli

__all__ = ["EXIT_CODES", "cli", "main"]


def main() -> None:
    """What the `bimt` script calls."""
    cli.main(prog_name="bimt")
