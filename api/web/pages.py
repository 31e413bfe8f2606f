"""The pages."""

from __future__ import annotations

from typing import Any


def install(app: Any) -> None:
    """Nothing yet."""


problem_page = None
