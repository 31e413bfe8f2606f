"""The card (Markdown) and the bundle (zip) of a run or a version."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api.evidence import graph_of, open_stored, or_not_yet
from bimt_engine.exports.model_card import model_card, safe
from store import models, runs, teams
from store.tables import Job, Model, ModelVersion, Run

# Zip files begin in 1980; a fixed time makes equal versions equal files.
TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Part:
    """One file of the bundle: its bytes, or the name of bytes in the file store."""

    name: str
    sha256: str
    size: int
    content: bytes | None = None


def bundle_of_run(rows: Session, run: Run) -> list[Part]:
    """Everything that was found in a run; the first part is the list of the others.

    Raises the problem that it is not there yet.
    """
    return _listed(run, {}, [*_evidence(rows, run), _document("card.md", card_of_run(rows, run).encode())])


def bundle_of_version(
    rows: Session, model: Model, version: ModelVersion, run: Run, *, notes: list[dict[str, Any]]
) -> list[Part]:
    """The same of a version, with the notes that people wrote about it."""
    written = [
        _document("annotations.json", _json(notes)),
        _document("card.md", card_of_version(rows, model, version, run).encode()),
    ]
    return _listed(run, {"model": model.name, "version": version.number}, [*_evidence(rows, run), *written])


def send_bundle(found: list[Part], name: str) -> Response:
    """The zip file as a download of this name. Every stored part is opened and verified before the status is sent."""
    opened: list[tuple[Part, Iterable[bytes]]] = [
        (part, [part.content] if part.content is not None else open_stored(part.sha256, part.name)[1]) for part in found
    ]
    response = Response(zipped(opened), content_type="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.zip"'
    return response


def _evidence(rows: Session, run: Run) -> list[Part]:
    documents: dict[str, Any] = {
        "spec.json": run.spec,
        "graph.json": graph_of(rows, run).to_json(),
        "modules.json": [module.body for module in runs.modules(rows, run.id)],
        "history.json": runs.history(rows, run.id),
        **{f"{name}.json": document for name, document in sorted(runs.bodies(rows, run.id).items())},
    }
    found = [_document(name, _json(document)) for name, document in documents.items()]
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
    return [_document("manifest.json", _json(manifest)), *found]


def zipped(opened: Sequence[tuple[Part, Iterable[bytes]]]) -> Iterator[bytes]:
    """The zip file of parts with their contents, piece by piece."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for part, content in opened:
            entry = zipfile.ZipInfo(part.name, TIME)
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=part.size > 1 << 30) as out:
                for piece in content:
                    out.write(piece)
                    yield from outbox.take()
            yield from outbox.take()
    yield from outbox.take()


class _Outbox:
    """What a zip file is written to: it keeps only the bytes that were not sent yet."""

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
        """Do nothing: `take` empties it."""

    def close(self) -> None:
        """Do nothing: there is no file behind it."""

    def take(self) -> Iterator[bytes]:
        if self.waiting:
            yield bytes(self.waiting)
            self.waiting.clear()


def _document(name: str, content: bytes) -> Part:
    return Part(name, hashlib.sha256(content).hexdigest(), len(content), content)


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def card_of_run(rows: Session, run: Run) -> str:
    """The card of a run, whether published or not. Raises the problem that nothing was found yet."""
    job = rows.get_one(Job, run.job_id)
    return _card(rows, run, name=f"{job.name}, seed {run.seed}", about=[f"Run `{run.id}` of job `{job.id}`."])


def card_of_version(rows: Session, model: Model, version: ModelVersion, run: Run) -> str:
    """The card of a version, with what its author says of it."""
    author = teams.names(rows, {version.member_id}).get(version.member_id, "")
    words = [word for word, number in models.aliases(rows, model).items() if number == version.number]
    known_as = f", known as {', '.join(words)}" if words else ""
    verified = {"on": f"{version.verified_at:%Y-%m-%d}"} if version.verified_at else {}
    return _card(
        rows,
        run,
        name=f"{model.name}, version {version.number}",
        about=[f"Published {version.created_at:%Y-%m-%d} by {safe(author)}{safe(known_as)}. Run `{run.id}`."],
        verification={**(version.verification or {}), **verified},
        notes=version.card,
    )


def _card(rows: Session, run: Run, **more: Any) -> str:
    or_not_yet(runs.body(rows, run.id, "effects"), run)
    found = runs.bodies(rows, run.id)
    files = {file.name: file.sha256 for file in runs.published_files(rows, run.id)}
    hashes = {"weights": files.get("weights.safetensors"), "data": run.spec["dataset"].get("sha256")}
    card = model_card(
        spec=run.spec,
        metrics=found.get("metrics") or {},
        modules=[module.body for module in runs.modules(rows, run.id)],
        dataset=found.get("dataset"),
        effects=found.get("effects"),
        communities=found.get("communities"),
        readout=found.get("readout"),
        representations=found.get("representations"),
        interior=found.get("interior"),
        seed=run.seed,
        trained_by={"device": run.device, "stepper": run.stepper, "replicas": run.replicas},
        hashes={what: sha256 for what, sha256 in hashes.items() if sha256},
        **more,
    )
    given = sorted(runs.names(rows, run.id).items())
    lines = [f"- {part}: {safe(': '.join(word for word in (of['name'], of['note']) if word))}" for part, of in given]
    return f"{card.rstrip()}\n\n## What people call its parts\n\n{chr(10).join(lines)}\n" if lines else card
