"""Networks of yours in the service: ONNX files, weights with a config, or a torch module that is exported here."""

from __future__ import annotations

import importlib.util
import io
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .datasets import CHECK_POLL_SECONDS, IN_PARTS_FROM, upload_in_parts, upload_whole
from .errors import InvalidFields, wrong_fields
from .http import HttpClient
from .progress import byte_bar
from .resource import Resource, optional


@dataclass(frozen=True, repr=False)
class UploadedNetwork(Resource):
    """A network of your team.

    state        `checking` becomes `ready` or `refused`
    format       `onnx` or `safetensors`
    parameters   numbers that can be trained
    operators    of an ONNX file: how often each is used
    kind         of a safetensors file: its architecture
    notes        what was left out, such as the end of a classifier that names the likeliest class
    """

    name: str
    state: str
    format: str
    bytes: int
    sha256: str
    parameters: int | None
    operators: dict[str, int] | None
    kind: str | None
    config: dict[str, Any] | None
    notes: list[str] | None
    created_at: datetime

    def _summary(self) -> tuple[Any, ...]:
        size = None if self.parameters is None else f"{self.parameters:,} parameters"
        return (self.name, self.format, size, self.state if self.state != "ready" else None)

    def refresh(self) -> UploadedNetwork:
        """The network as it is now."""
        return UploadedNetwork.of(self.http.get(f"/networks/{self.id}"), self.http)

    def until_checked(self) -> UploadedNetwork:
        """The network once the service has checked it. Raises InvalidFields where it cannot be used."""
        now = self
        while now.state == "checking":
            time.sleep(CHECK_POLL_SECONDS)
            now = now.refresh()
        if now.state == "refused":
            fields = wrong_fields(now.document.get("errors"))
            raise InvalidFields(
                422,
                slug="unusable-network",
                detail=fields[0].detail if fields else f"The file {now.name} cannot be used as a network.",
                fields=fields,
            )
        return now

    def download(self, path: str | Path | None = None) -> Path:
        """The bytes as they were uploaded, in a file."""
        target = Path(path) if path is not None else Path(f"{self.id}.{self.format}")
        return self.http.download(f"/networks/{self.id}/file", target)

    def delete(self) -> None:
        """Delete it. Jobs that used it keep their results."""
        self.http.delete(f"/networks/{self.id}")


class Networks:
    """`client.networks`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def upload(
        self,
        network: str | Path | Any,
        *,
        example: Any = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        format: Literal["onnx", "safetensors"] | None = None,
        progress: bool | None = None,
        resume: str | None = None,
    ) -> UploadedNetwork:
        """Send a network; the network once the service has checked it.

        network   a file, ONNX or safetensors; or a torch module, which is written as ONNX here, on your machine
        example   of a module: what it is called with, the batch first; at least two rows
        config    of safetensors: {"network": {"kind": "mlp", …}, "inputs": 4, "targets": 2}
        resume    id of an interrupted upload, as UploadBroken names it
        Raises InvalidFields with a sentence where the service cannot use it.
        """
        if not isinstance(network, str | Path):
            if example is None:
                raise ValueError(
                    "Give `example=`, what the module is called with: its operations are recorded with it."
                )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.onnx"
                path.write_bytes(onnx_of(network, example))
                return self._send(path, name or type(network).__name__, None, "onnx", progress, None)
        return self._send(Path(network), name, config, format, progress, resume)

    def _send(
        self,
        path: Path,
        name: str | None,
        config: dict[str, Any] | None,
        form: str | None,
        progress: bool | None,
        resume: str | None,
    ) -> UploadedNetwork:
        about = {"name": name or path.name, "format": form, "config": config}
        given = {key: value for key, value in about.items() if value is not None}
        size = path.stat().st_size
        with byte_bar(f"upload {path.name}", size, wanted=progress) as on_progress:
            if resume is not None or size > IN_PARTS_FROM:
                sent = upload_in_parts(self._http, path, given, on_progress, noun="networks", resume=resume)
            else:
                sent = upload_whole(self._http, path, given, on_progress, noun="networks")
        return UploadedNetwork.of(sent, self._http).until_checked()

    def get(self, network_id: str) -> UploadedNetwork:
        """A network by its id."""
        return UploadedNetwork.of(self._http.get(f"/networks/{network_id}"), self._http)

    def search(
        self, q: str | None = None, *, state: str | None = None, limit: int | None = None
    ) -> Iterator[UploadedNetwork]:
        """The team's networks, newest first; `q` is a part of the name."""
        for document in self._http.items("/networks", q=q, state=state, limit=limit):
            yield UploadedNetwork.of(document, self._http)


def onnx_of(module: Any, example: Any) -> bytes:
    """A torch module as ONNX, for inference, with a free batch axis.

    example   a tensor, or a tuple of one
    Where the package onnxscript is installed, torch's present exporter is used, else its older one, which needs none.
    """
    torch = optional("torch", what="Exporting a module", extra="torch")
    inputs = example if isinstance(example, tuple) else (example,)
    was_training = module.training
    module.eval()
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that needs no other package says that it is the older one
            if importlib.util.find_spec("onnxscript") is None:
                axes = {"x": {0: "batch"}, "y": {0: "batch"}}
                torch.onnx.export(
                    module, inputs, file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes
                )
            else:
                free = tuple({0: torch.export.Dim("batch")} for _ in inputs)
                torch.onnx.export(module, inputs, file, dynamo=True, verbose=False, dynamic_shapes=free)
    finally:
        module.train(was_training)
    return file.getvalue()
