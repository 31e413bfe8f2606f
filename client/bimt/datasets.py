"""Data sets: upload a file, name a maker, look at what was understood."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .bars import Told, byte_bar
from .errors import InvalidFields, wrong_fields
from .things import Thing
from .uploads import UPLOAD_SILENCE, in_parts
from .wire import CountedFile, Wire

LOOK_EVERY = 1.0  # seconds, while a large file is checked
IN_PARTS_FROM = 32 * 1024**2  # bytes; a smaller file is sent whole, and again from its beginning


@dataclass(frozen=True, repr=False)
class Dataset(Thing):
    """Data to learn from.

    kind    `uploaded` or `made`
    state   `checking` becomes `ready` or `refused`
    roles   of an uploaded one: which columns are inputs and targets
    maker   of a made one: what computes it
    notes   what was decided for you: columns left out, the target chosen
    """

    name: str
    kind: str
    state: str
    rows: int | None
    columns: int | None
    task: str | None
    bytes: int
    sha256: str | None
    format: str | None
    roles: dict[str, Any] | None
    maker: dict[str, Any] | None
    notes: list[str] | None
    created_at: datetime

    def _told(self) -> tuple[Any, ...]:
        size = f"{self.rows} × {self.columns}" if self.rows is not None else None
        return (self.name, size, self.task, self.state if self.state != "ready" else None)

    def refresh(self) -> Dataset:
        """The same as it is now."""
        return Dataset.of(self.wire.get(f"/datasets/{self.id}"), self.wire)

    def until_checked(self) -> Dataset:
        """The same once the service has looked at all of it. Raises InvalidFields where it is no usable data."""
        now = self
        while now.state == "checking":
            time.sleep(LOOK_EVERY)
            now = now.refresh()
        if now.state == "refused":
            raise InvalidFields(
                422,
                slug="unusable-data",
                detail=f"The file {now.name} cannot be used as data.",
                fields=wrong_fields(now.document.get("errors")),
            )
        return now

    def preview(self) -> dict[str, Any]:
        """Columns with their types and ranges, the roles that would fit, the first rows."""
        return dict(self.wire.get(f"/datasets/{self.id}/preview"))

    def change(self, **roles: Any) -> Dataset:
        """Other roles for its columns (`inputs`, `targets`, `task`, `test_fraction`, `standardise`) or another `name`.

        Large files are looked at again: see `until_checked`. Jobs that exist keep the roles they were made with.
        """
        return Dataset.of(self.wire.patch(f"/datasets/{self.id}", roles), self.wire)

    def download(self, path: str | Path | None = None) -> Path:
        """The bytes as they were uploaded, in a file."""
        target = Path(path) if path is not None else Path(f"{self.id}.{self.format or 'bin'}")
        return self.wire.download(f"/datasets/{self.id}/content", target)

    def delete(self) -> None:
        """Forget it. Jobs that used it keep their results."""
        self.wire.delete(f"/datasets/{self.id}")


class Datasets:
    """`client.datasets`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def upload(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        inputs: Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
        task: Literal["regression", "classification"] | None = None,
        test_fraction: float | None = None,
        standardise: bool | None = None,
        format: Literal["csv", "npz", "parquet", "idx", "cayley"] | None = None,
        progress: bool | None = None,
        resume: str | None = None,
    ) -> Dataset:
        """Send a file; the data set once the service has checked it.

        A large file goes up in parts: what a dropped line breaks is one part, which is sent again, and bytes that your
        team has already are not sent at all.

        inputs, targets   names of columns; left out, one called like a target (`y`, `label` …) is it, else the last
                          that can be predicted; the data set's `notes` say why it was not the last
        task              left out, what the target's column looks like
        progress          a bar; None: where somebody is looking
        resume            id of an upload in parts that was broken off, as its error named it: goes on where that was
        Raises InvalidFields with the row and column of every fault, UploadBroken where a large file got stuck.
        """
        path = Path(path)
        roles = {
            "inputs": inputs,
            "targets": [targets] if isinstance(targets, str) else targets,
            "task": task,
            "test_fraction": test_fraction,
            "standardise": standardise,
        }
        about = {"name": name or path.name, "format": format} | roles
        given = {key: value for key, value in about.items() if value is not None}
        size = path.stat().st_size
        with byte_bar(f"upload {path.name}", size, wanted=progress) as told:
            if resume is not None or size > IN_PARTS_FROM:
                sent = Dataset.of(in_parts(self._wire, path, given, told, resume=resume), self._wire)
            else:
                sent = self._whole(path, given, told)
        return sent.until_checked()

    def _whole(self, path: Path, about: dict[str, Any], told: Told) -> Dataset:
        """The file in one request, read from the disk while it is sent."""
        fields = {key: str(value).lower() if isinstance(value, bool) else value for key, value in about.items()}
        with path.open("rb") as file:

            def body() -> dict[str, Any]:
                file.seek(0)
                return {"files": {"file": (path.name, CountedFile(file, told))}, "data": fields}

            response = self._wire.send("POST", "/datasets", body=body, timeout=UPLOAD_SILENCE)
        return Dataset.of(response.json(), self._wire)

    def make(self, name: str, maker: dict[str, Any] | None = None, **fields: Any) -> Dataset:
        """A data set that a maker of the catalogue computes, such as

        client.datasets.make("two formulas", kind="formula", inputs=4, formulas=["(x1+x3)**3", "x2**2"])
        """
        body = {"name": name, "maker": (maker or {}) | fields}
        return Dataset.of(self._wire.post("/datasets", body), self._wire)

    def get(self, dataset_id: str) -> Dataset:
        return Dataset.of(self._wire.get(f"/datasets/{dataset_id}"), self._wire)

    def search(self, q: str | None = None, *, state: str | None = None, limit: int | None = None) -> Iterator[Dataset]:
        """The team's data sets, newest first; `q` is a part of the name."""
        for document in self._wire.items("/datasets", q=q, state=state, limit=limit):
            yield Dataset.of(document, self._wire)
