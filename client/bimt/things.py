"""What comes back from the service: frozen data with typed fields, and the line to ask for more."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

from .errors import NotInstalled
from .wire import Wire

T = TypeVar("T", bound="Thing")


@dataclass(frozen=True, repr=False)
class Thing:
    """One noun of the service as it was when it was asked for.

    id         whose first word is the noun
    document   the whole JSON, with fields too that this client does not know yet
    """

    id: str
    document: dict[str, Any] = field(repr=False, compare=False)
    wire: Wire = field(repr=False, compare=False)

    @classmethod
    def of(cls: type[T], document: dict[str, Any], wire: Wire) -> T:
        """The thing that a document describes. What the service does not say is None."""
        values: dict[str, Any] = {
            each.name: moment(document.get(each.name)) if each.name.endswith("_at") else document.get(each.name)
            for each in fields(cls)
            if each.name not in ("document", "wire")
        }
        return cls(**values, document=document, wire=wire)

    def __repr__(self) -> str:
        told = (str(value) for value in self._told() if value not in (None, ""))
        return f"<{type(self).__name__} {' · '.join((self.id, *told))}>"

    def _told(self) -> tuple[Any, ...]:
        """What a person wants to see at a glance, besides the id."""
        return ()


def moment(text: str | None) -> datetime | None:
    """A time of the service."""
    return None if text is None else datetime.fromisoformat(text)


def optional(package: str, *, what: str, extra: str, otherwise: str = "") -> Any:
    """A package that only some need. Raises NotInstalled with what to do."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        more = f" {otherwise}" if otherwise else ""
        raise NotInstalled(f"{what} needs {package}: pip install 'bimt-client[{extra}]'.{more}", name=package) from None
