"""Data sets: upload a file, whole or in parts, or name a maker; look at how the service reads them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .errors import Conflict, InvalidFields, ServiceFault, Unreachable, UploadBroken, wrong_fields
from .http import CountedFile, HttpClient
from .progress import OnBytes, byte_bar
from .resource import Resource

CHECK_POLL_SECONDS = 1.0  # while a large file is checked
IN_PARTS_FROM = 32 * 1024**2  # bytes; a smaller file is sent whole, and after a broken connection again from its start
PART = 8 * 1024**2  # bytes held in memory, and sent again after a broken connection
UPLOAD_TIMEOUT = 600.0  # seconds; the service stores a large file before it answers
# Format by the end of the file's own name: the name of the data set need not have an ending.
ENDINGS = {
    **{f".{text}{packed}": "csv" for text in ("csv", "tsv", "tab", "txt") for packed in ("", ".gz", ".zip")},
    **{".npz": "npz", ".npy": "npy", ".parquet": "parquet", ".pq": "parquet", ".xlsx": "xlsx", ".xlsm": "xlsx"},
    **{".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow"},
    **{".onnx": "onnx", ".safetensors": "safetensors"},
    **{".idx": "idx", ".idx.gz": "idx", "-ubyte": "idx", "-ubyte.gz": "idx", ".cayley": "cayley", ".json": "cayley"},
}
ROLES = (
    *("inputs", "targets", "task", "validation_fraction", "test_fraction", "standardise", "context"),
    *("columns", "split", "weight"),
)


@dataclass(frozen=True, repr=False)
class Dataset(Resource):
    """Data to train on.

    kind    `uploaded` or `made`
    state   `checking` becomes `ready` or `refused`
    roles   of an uploaded one: which columns are inputs and targets
    maker   of a made one: what computes it
    notes   what the service decided: columns left out, cells without a value, the target chosen
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

    def _summary(self) -> tuple[Any, ...]:
        size = f"{self.rows} × {self.columns}" if self.rows is not None else None
        return (self.name, size, self.task, self.state if self.state != "ready" else None)

    def refresh(self) -> Dataset:
        """The data set as it is now."""
        return Dataset.of(self.http.get(f"/datasets/{self.id}"), self.http)

    def until_checked(self) -> Dataset:
        """The data set once the service has checked all of it. Raises InvalidFields where it is no usable data."""
        now = self
        while now.state == "checking":
            time.sleep(CHECK_POLL_SECONDS)
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
        return dict(self.http.get(f"/datasets/{self.id}/preview"))

    def change(self, **roles: Any) -> Dataset:
        """Another `name`, or other roles for its columns: `inputs` … `standardise` and `context`, as of `upload`.

        Of `columns` each field of each column: `change(columns={"when": {"type": "date"}})`.
        Large files are checked again: see `until_checked`. Jobs that exist keep the roles they were made with.
        """
        return Dataset.of(self.http.patch(f"/datasets/{self.id}", roles), self.http)

    def download(self, path: str | Path | None = None) -> Path:
        """The bytes as they were uploaded, in a file."""
        target = Path(path) if path is not None else Path(f"{self.id}.{self.format or 'bin'}")
        return self.http.download(f"/datasets/{self.id}/content", target)

    def delete(self) -> None:
        """Delete it. Jobs that used it keep their results."""
        self.http.delete(f"/datasets/{self.id}")


class Datasets:
    """`client.datasets`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def upload(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        inputs: Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
        task: Literal["regression", "classification"] | None = None,
        validation_fraction: float | None = None,
        test_fraction: float | None = None,
        standardise: bool | None = None,
        format: Literal["csv", "xlsx", "arrow", "npy", "npz", "parquet", "idx", "images", "cayley", "text"]
        | None = None,
        context: int | None = None,
        columns: dict[str, dict[str, Any]] | None = None,
        split: dict[str, str] | None = None,
        weight: str | None = None,
        progress: bool | None = None,
        resume: str | None = None,
    ) -> Dataset:
        """Send a file; the data set once the service has checked it.

        A large file goes up in parts: a broken connection costs one part, which is sent again, and bytes that your
        team has stored already are not sent at all.

        inputs, targets   names of columns. Without `targets`, a column named like a target (`y`, `label` …) is taken,
                          else the last one that can be predicted; the data set's `notes` say which and why
        task              None: by the target's values
        format            None: by the file's name. A ZIP archive needs it: `text` (files in UTF-8) or `images` (in
                          folders named by their class)
        context           of text: how many bytes one example has
        columns           what columns are and how they are read, where that differs from what the service finds:
                          `{"when": {"type": "date", "notation": "31/12/2024"}, "age": {"missing": "drop"}}`
        split             rows with one value of a column stay together, `{"by": "group", "column": "patient"}`, or the
                          latest are for testing, `{"by": "time", "column": "day"}`; None: by chance
        weight            column that says how much each row counts
        progress          show a bar; None: where standard error is a terminal
        resume            id of an interrupted upload, as UploadBroken names it: sends the rest of its bytes
        Raises InvalidFields with the row and column of every fault, UploadBroken where a large upload stopped.
        """
        path = Path(path)
        roles = {
            "inputs": inputs,
            "targets": [targets] if isinstance(targets, str) else targets,
            "task": task,
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
            "standardise": standardise,
            "context": context,
            "columns": columns,
            "split": split,
            "weight": weight,
        }
        about = {"name": name or path.name, "format": format} | roles
        given = {key: value for key, value in about.items() if value is not None}
        size = path.stat().st_size
        with byte_bar(f"upload {path.name}", size, wanted=progress) as on_progress:
            if resume is not None or size > IN_PARTS_FROM:
                sent = upload_in_parts(self._http, path, given, on_progress, noun="datasets", resume=resume)
            else:
                sent = upload_whole(self._http, path, given, on_progress, noun="datasets")
        return Dataset.of(sent, self._http).until_checked()

    def make(self, name: str, maker: dict[str, Any] | None = None, **fields: Any) -> Dataset:
        """A data set that a maker of the service computes, such as

        client.datasets.make("two formulas", kind="formula", inputs=4, formulas=["(x1+x3)**3", "x2**2"])
        """
        body = {"name": name, "maker": (maker or {}) | fields}
        return Dataset.of(self._http.post("/datasets", body), self._http)

    def get(self, dataset_id: str) -> Dataset:
        """A data set by its id."""
        return Dataset.of(self._http.get(f"/datasets/{dataset_id}"), self._http)

    def search(self, q: str | None = None, *, state: str | None = None, limit: int | None = None) -> Iterator[Dataset]:
        """The team's data sets, newest first; `q` is a part of the name."""
        for document in self._http.items("/datasets", q=q, state=state, limit=limit):
            yield Dataset.of(document, self._http)


# --- uploads of data sets and networks --------------------------------------------------------------------


def upload_whole(
    http: HttpClient, path: Path, about: dict[str, Any], on_progress: OnBytes, *, noun: str
) -> dict[str, Any]:
    """Send a file in one request, read from the disk while it is sent. Returns the document of what it became.

    noun   `datasets` or `networks`
    """
    fields = {key: str(value).lower() if isinstance(value, bool) else value for key, value in about.items()}
    fields = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in fields.items()}
    with path.open("rb") as file:

        def body() -> dict[str, Any]:
            file.seek(0)
            return {"files": {"file": (path.name, CountedFile(file, on_progress))}, "data": fields}

        document: dict[str, Any] = http.send("POST", f"/{noun}", body=body, timeout=UPLOAD_TIMEOUT).json()
    return document


def upload_in_parts(
    http: HttpClient, path: Path, about: dict[str, Any], on_progress: OnBytes, *, noun: str, resume: str | None
) -> dict[str, Any]:
    """Send a large file: declare it, send its parts, complete it. Returns the document of what it became.

    about    `name`, `format`, roles, config; for a resumed upload, those it was declared with count
    noun     `datasets` or `networks`
    resume   id of an upload to resume
    Raises UploadBroken with that id where the service stays unreachable, ValueError where the file is another one.
    """
    upload = http.get(f"/uploads/{resume}") if resume else _declare(http, path, about)
    if upload["bytes"] != path.stat().st_size:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes; {upload['id']} is of a file of {upload['bytes']:,}."
        )
    try:
        received = _send_parts(http, path, upload, on_progress)
        done = http.send("POST", f"/uploads/{upload['id']}/complete", repeatable=True, timeout=UPLOAD_TIMEOUT)
    except (Unreachable, ServiceFault) as error:
        arrived = f"{upload['received']:,} of {upload['bytes']:,} bytes have arrived"
        again = f"client.{noun}.upload({str(path)!r}, resume={upload['id']!r})"
        verb = "bimt networks upload" if noun == "networks" else "bimt upload"
        raise UploadBroken(
            f"{error} {arrived}. Resume it: {again}, or `{verb} {path} --resume {upload['id']}`.",
            upload=upload["id"],
        ) from error
    on_progress(received)
    document: dict[str, Any] = done.json()
    return document


def _declare(http: HttpClient, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    roles = {name: about[name] for name in ROLES if name in about}
    by_ending = next((form for ending, form in ENDINGS.items() if path.name.lower().endswith(ending)), None)
    form = about.get("format") or by_ending
    body = {"name": about["name"], "bytes": path.stat().st_size, "sha256": sha256, "format": form}
    more = {"roles": roles or None, "config": about.get("config")}
    body |= {key: value for key, value in more.items() if value is not None}
    declared: dict[str, Any] = http.post("/uploads", body)
    return declared


def _send_parts(http: HttpClient, path: Path, upload: dict[str, Any], on_progress: OnBytes) -> int:
    """Send the missing bytes; updates `received` in `upload` and returns it."""
    part = min(PART, upload["largest_part"])
    with path.open("rb") as file:
        while upload["received"] < upload["bytes"]:
            start = upload["received"]
            on_progress(start)
            file.seek(start)
            address = f"/uploads/{upload['id']}/parts/{start}"
            headers = {"Content-Type": "application/octet-stream"}
            try:
                answer = http.send("PUT", address, content=file.read(part), headers=headers, timeout=UPLOAD_TIMEOUT)
            except Conflict:  # the service has other bytes than we think, as when two processes send one upload
                answer = http.send("GET", f"/uploads/{upload['id']}")
                if answer.json()["received"] == start:
                    raise
            upload |= answer.json()
    return int(upload["received"])
