"""Health on the wire."""

from __future__ import annotations

from typing import Literal

from api.schemas.base import Shown


class HealthOut(Shown):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Part(Shown):
    """One part of the service."""

    ok: bool
    detail: str


class ReadyOut(Shown):
    """Whether the whole service works, part by part."""

    ready: bool
    parts: dict[str, Part]
