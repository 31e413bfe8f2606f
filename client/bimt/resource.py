"""What the service returns: frozen data with typed fields, and the HTTP client to ask for more."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

from .deprecated import renamed
from .errors import NotInstalled
from .http import HttpClient, version

T = TypeVar("T", bound="Resource")


@dataclass(frozen=True, repr=False)
class Resource:
    """One resource of the service as it was when it was fetched.

    id         begins with the kind of resource: `job_…`, `run_…`
    document   the whole JSON, with fields too that this client does not know yet
    http       sends further requests
    """

    id: str
    document: dict[str, Any] = field(repr=False, compare=False)
    http: HttpClient = field(repr=False, compare=False)

    wire = renamed("wire", "http")

    @classmethod
    def of(cls: type[T], document: dict[str, Any], http: HttpClient) -> T:
        """The resource that a document describes. A field that the document lacks is None."""
        values: dict[str, Any] = {
            each.name: parse_time(document.get(each.name)) if each.name.endswith("_at") else document.get(each.name)
            for each in fields(cls)
            if each.name not in ("document", "http")
        }
        return cls(**values, document=document, http=http)

    def __repr__(self) -> str:
        parts = (str(value) for value in self._summary() if value not in (None, ""))
        return f"<{type(self).__name__} {' · '.join((self.id, *parts))}>"

    def _summary(self) -> tuple[Any, ...]:
        """What `repr` shows besides the id."""
        return ()


def parse_time(text: str | None) -> datetime | None:
    """A time stamp of the service, None where there is none."""
    return None if text is None else datetime.fromisoformat(text)


def optional(package: str, *, what: str, extra: str, url: str | None = None, otherwise: str = "") -> Any:
    """Import a package that only one extra brings. Raises NotInstalled with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        sentence = f"{what} needs {package}: {install_hint(extra, url)} {otherwise}".rstrip()
        raise NotInstalled(sentence, name=package) from None


def install_hint(extra: str, url: str | None = None) -> str:
    """How to install an extra: from the service at `url`, which serves its own wheel, or from a checkout.

    Never by a bare name: `bimt-client` is on no public index, where anybody could register it.
    """
    checkout = f"pip install './client[{extra}]' in a checkout of the service."
    if url is None or version() == "unknown":
        return checkout
    return f'pip install "bimt-client[{extra}] @ {url}/client/bimt_client-{version()}-py3-none-any.whl", or {checkout}'
