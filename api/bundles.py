"""A run or a version as one zip file, written as it is sent: memory stays small, and the same gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api import cards
from api.evidence import graph_of
from api.schemas.models import NoteOut
from api.services import services
from store import progress, runs
from store.files import Files
from store.tables import Model, ModelVersion, Run

# Zip files begin in 1980; a fixed time makes equal versions equal files.
TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Part:
    """One file of the bundle: bytes at hand, or the name of bytes in the file store."""

    name: str
    sha256: str
    size: int
    content: bytes | None = None


def of_run(rows: Session, run: Run) -> list[Part]:
    """Everything that was found in a run; the first part is the list of the others.

    Raises the problem that it is not there yet.
    """
    return _listed(run, {}, [*_evidence(rows, run), _at_hand("card.md", cards.of_run(rows, run).encode())])


def of_version(rows: Session, model: Model, version: ModelVersion, run: Run, *, notes: list[NoteOut]) -> list[Part]:
    """The same of a version, with what people wrote about it."""
    written = [
        _at_hand("annotations.json", _json([note.model_dump(mode="json") for note in notes])),
        _at_hand("card.md", cards.of_version(rows, model, version, run).encode()),
    ]
    return _listed(run, {"model": model.name, "version": version.number}, [*_evidence(rows, run), *written])


def sent(found: list[Part], name: str) -> Response:
    """The zip file as a download of this name."""
    response = Response(zipped(found, services().files), content_type="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    return response


def _evidence(rows: Session, run: Run) -> list[Part]:
    documents: dict[str, Any] = {
        "spec.json": run.spec,
        "graph.json": graph_of(rows, run).to_json(),
        "modules.json": [module.body for module in runs.modules(rows, run.id)],
        "history.json": progress.history(rows, run.id),
        **{f"{name}.json": document for name, document in sorted(runs.bodies(rows, run.id).items())},
    }
    found = [_at_hand(name, _json(document)) for name, document in documents.items()]
    found += [Part(file.name, file.sha256, file.bytes) for file in runs.published_files(rows, run.id)]
    found += [Part(f"figures/{figure.name}", figure.sha256, figure.bytes) for figure in runs.figures(rows, run.id)]
    return found


def _listed(run: Run, published_as: dict[str, Any], found: list[Part]) -> list[Part]:
    manifest = {
        "format": "bimt-bundle/1",
        **published_as,
        "run_id": run.id,
        "seed": run.seed,
        "files": {part.name: {"sha256": part.sha256, "bytes": part.size} for part in found},
    }
    return [_at_hand("manifest.json", _json(manifest)), *found]


def zipped(found: list[Part], files: Files) -> Iterator[bytes]:
    """The zip file, piece by piece."""
    line = _Line()
    with zipfile.ZipFile(line, "w", zipfile.ZIP_STORED) as archive:
        for part in found:
            entry = zipfile.ZipInfo(part.name, TIME)
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=part.size > 1 << 30) as out:
                for piece in files.stream(part.sha256) if part.content is None else [part.content]:
                    out.write(piece)
                    yield from line.take()
            yield from line.take()
    yield from line.take()


class _Line:
    """What a zip file is written to: it remembers nothing but what was not yet sent."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.written = 0

    def write(self, data: bytes) -> int:
        self.waiting += data
        self.written += len(data)
        return len(data)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        """Nothing waits but for take."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> Iterator[bytes]:
        if self.waiting:
            yield bytes(self.waiting)
            self.waiting.clear()


def _at_hand(name: str, content: bytes) -> Part:
    return Part(name, hashlib.sha256(content).hexdigest(), len(content), content)


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
