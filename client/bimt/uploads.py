"""A large file in parts: announced, sent piece by piece, gone on with after a cut, completed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from .bars import Told
from .errors import Conflict, ServiceFault, Unreachable, UploadBroken
from .wire import Wire

PART = 8 * 1024**2  # bytes held in memory, and lost with a line that drops
UPLOAD_SILENCE = 600.0  # seconds; a large file is written down before the answer comes
# What a file is, by the end of its own name: what it is called in lists need not have one.
ENDINGS = {
    **{".csv": "csv", ".tsv": "csv", ".txt": "csv", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet"},
    **{".idx": "idx", ".idx.gz": "idx", "-ubyte": "idx", "-ubyte.gz": "idx", ".cayley": "cayley", ".json": "cayley"},
}
ROLES = ("inputs", "targets", "task", "test_fraction", "standardise")


def in_parts(wire: Wire, path: Path, about: dict[str, Any], told: Told, *, resume: str | None) -> dict[str, Any]:
    """The data set's document.

    about    `name`, `format` and roles, as they were given; of an upload that goes on, the first announcement counts
    resume   id of an upload to go on with
    Raises UploadBroken, which knows the id, where the line stays away; ValueError where the file is another one.
    """
    upload = wire.get(f"/uploads/{resume}") if resume else _announced(wire, path, about)
    if upload["bytes"] != path.stat().st_size:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes; {upload['id']} is of a file of {upload['bytes']:,}."
        )
    try:
        received = _sent(wire, path, upload, told)
        done = wire.send("POST", f"/uploads/{upload['id']}/complete", repeatable=True, timeout=UPLOAD_SILENCE)
    except (Unreachable, ServiceFault) as error:
        arrived = f"{upload['received']:,} of {upload['bytes']:,} bytes have arrived"
        again = f"client.datasets.upload({str(path)!r}, resume={upload['id']!r})"
        raise UploadBroken(
            f"{error} {arrived}. Go on where it was: {again}, or `bimt upload {path} --resume {upload['id']}`.",
            upload=upload["id"],
        ) from error
    told(received)
    document: dict[str, Any] = done.json()
    return document


def _announced(wire: Wire, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    roles = {name: about[name] for name in ROLES if name in about}
    of_its_name = next((form for ending, form in ENDINGS.items() if path.name.lower().endswith(ending)), None)
    form = about.get("format") or of_its_name
    body = {"name": about["name"], "bytes": path.stat().st_size, "sha256": sha256, "format": form}
    announced: dict[str, Any] = wire.post("/uploads", body | {"roles": roles or None})
    return announced


def _sent(wire: Wire, path: Path, upload: dict[str, Any], told: Told) -> int:
    """Send what is missing; keeps `received` of the upload up to date, and returns it."""
    part = min(PART, upload["largest_part"])
    with path.open("rb") as file:
        while upload["received"] < upload["bytes"]:
            start = upload["received"]
            told(start)
            file.seek(start)
            address = f"/uploads/{upload['id']}/parts/{start}"
            headers = {"Content-Type": "application/octet-stream"}
            try:
                answer = wire.send("PUT", address, content=file.read(part), headers=headers, timeout=UPLOAD_SILENCE)
            except Conflict:  # it knows better how far it is, as when somebody else sends the same upload
                answer = wire.send("GET", f"/uploads/{upload['id']}")
                if answer.json()["received"] == start:
                    raise
            upload |= answer.json()
    return int(upload["received"])
