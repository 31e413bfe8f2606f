"""Ctrl-C while a job is watched: the job goes on, and the sentence says how to watch it again."""

from __future__ import annotations


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, and there is something to say about it."""
