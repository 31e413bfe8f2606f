"""Uploads in parts on the wire: announced, sent piece by piece, gone on with after a cut, completed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.schemas.base import Body, DatasetId, InPath, Label, Shown, identifier
from api.schemas.datasets import Format, Roles

SHA256 = r"^[0-9a-f]{64}$"


class UploadIn(Body):
    """A file that will be sent in parts."""

    name: Label = Field(description="As the file is called; its ending says the format unless `format` does.")
    bytes: int = Field(ge=1, le=2**50, description="How long the whole file is.")
    format: Format | None = Field(default=None, description="Null: as the name ends.")
    roles: Roles | None = Field(default=None, description="Other column roles than those that will be understood.")
    sha256: Annotated[str, Field(pattern=SHA256)] | None = Field(
        default=None, description="Of the whole file, in hex: bytes that your team has already need not be sent again."
    )


class UploadPath(InPath):
    upload_id: identifier("upload")  # type: ignore[valid-type]


class PartPath(UploadPath):
    start: int = Field(ge=0, le=2**50)


class UploadOut(Shown):
    """How far an upload is. The next part begins at `received`."""

    id: str
    name: str
    bytes: int
    received: int
    largest_part: int = Field(description="Bytes that one part may have.")
    dataset_id: DatasetId | None = Field(default=None, description="What it became; null until it is completed.")
    created_at: datetime
    expires_at: datetime
