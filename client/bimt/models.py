"""Models: published runs, with versions, aliases, share links and annotations."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .deprecated import renamed
from .http import HttpClient
from .jobs import Job
from .resource import Resource, optional, parse_time
from .runs import Run

if TYPE_CHECKING:
    from .networks import LoadedNetwork

Visibility = Literal["private", "team", "unlisted", "public"]


@dataclass(frozen=True)
class Version:
    """One published run.

    model, model_id   the model's name and id
    number            1 for the first; aliases such as `best` may point to it
    """

    model: str
    model_id: str
    number: int
    run_id: str
    created_at: datetime | None
    document: dict[str, Any]
    http: HttpClient

    wire = renamed("wire", "http")

    @classmethod
    def of(cls, document: dict[str, Any], http: HttpClient) -> Version:
        """The version that a JSON document describes."""
        names = ("model", "model_id", "number", "run_id")
        known = {name: document[name] for name in names}
        return cls(**known, created_at=parse_time(document.get("created_at")), document=document, http=http)

    def __repr__(self) -> str:
        return f"<Version {self.model}@{self.number} · {self.run_id}>"

    @property
    def path(self) -> str:
        """Its address below `/api/v1`."""
        return f"/models/{self.model_id}/versions/{self.number}"

    @property
    def card(self) -> str:
        """The description by its author, in Markdown."""
        return str(self.document.get("card", ""))

    def weights(self) -> bytes:
        """The pruned network as a safetensors file."""
        return self.http.content(f"{self.path}/weights.safetensors")

    def load(self) -> LoadedNetwork:
        """The network as a torch module with the same outputs as the service's. Needs torch."""
        otherwise = "version.weights() gives the file itself."
        optional("torch", what="version.load()", extra="torch", url=self.http.url, otherwise=otherwise)
        from .networks import load_network

        return load_network(self.weights())

    def verify(self) -> dict[str, Any]:
        """Have a worker recompute its claims from the stored weights: `agrees`, a `reading`, every check."""
        return dict(self.http.operation(f"{self.path}/verify", None))

    def bundle(self, path: str | Path | None = None) -> Path:
        """All its files in one ZIP file: card, weights, graph, evidence, pictures."""
        target = Path(path) if path is not None else Path(f"{self.model}-{self.number}.zip")
        return self.http.download(f"{self.path}/bundle.zip", target)

    def share(self, *, days: int | None = 30, note: str = "", **view: Any) -> dict[str, Any]:
        """A link that shows this version to anyone who has it; its `url` is returned only now.

        days   until it expires; None: never
        view   what is shown first: `part`, `module`, `connections`, `figure`
        """
        body = {"view": view | ({"note": note} if note else {}), "expires_in_days": days}
        return dict(self.http.post(f"{self.path}/shares", body))

    def fork(self, changes: dict[str, Any] | None = None, **more: Any) -> Job:
        """Its spec as a new job, with changes as a JSON merge patch; `seeds`, `dataset`, `name`, … as in submit."""
        body = {"changes": changes or {}} | {key: value for key, value in more.items() if value is not None}
        return Job.of(self.http.post(f"{self.path}/fork", body), self.http)

    def annotate(
        self, text: str, *, about: str = "run", target: str = "", replaces: int | None = None
    ) -> dict[str, Any]:
        """Write a note on a part: `about` is run, module, neuron or connection, `target` names it.

        replaces   number of the note that this one replaces: refused if another has replaced it meanwhile
        """
        body = {"about": about, "target": target, "text": text, "replaces": replaces}
        return dict(self.http.post(f"{self.path}/annotations", body))

    def annotations(self) -> list[dict[str, Any]]:
        """The current notes, newest first."""
        return list(self.http.items(f"{self.path}/annotations"))


@dataclass(frozen=True, repr=False)
class Model(Resource):
    """A name under which runs are published, one version after another."""

    name: str
    visibility: str
    versions: int
    ours: bool
    created_at: datetime
    updated_at: datetime

    def _summary(self) -> tuple[Any, ...]:
        return (self.name, f"{self.versions} version{'s' * (self.versions != 1)}", self.visibility)

    def version(self, which: int | str | None = None) -> Version:
        """A version by number or alias; by default the newest."""
        return Version.of(self.http.get(f"/models/{self.id}/versions/{which or self.versions}"), self.http)

    def load(self) -> LoadedNetwork:
        """The newest version as a torch module."""
        return self.version().load()

    def point(self, alias: str, number: int) -> None:
        """Make the alias point to this version."""
        self.http.put(f"/models/{self.id}/aliases/{alias}", {"version": number})

    def shares(self) -> Iterator[dict[str, Any]]:
        """Its links, without their secrets."""
        return self.http.items(f"/models/{self.id}/shares")


class Models:
    """`client.models`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def publish(self, run: Run | str, name: str, *, card: str = "", visibility: Visibility | None = None) -> Version:
        """The run as the next version under this name; the first one creates the model."""
        body = {"run_id": run.id if isinstance(run, Run) else run, "name": name, "card": card, "visibility": visibility}
        return Version.of(self._http.post("/models", body, key=uuid.uuid4().hex), self._http)

    def get(self, name: str) -> Model:
        """A model by name or id."""
        return Model.of(self._http.get(f"/models/{name}"), self._http)

    def version(self, name: str) -> Version:
        """A version as `name@3` or `name@best`; the newest version of a plain name."""
        model, _, which = name.partition("@")
        return self.get(model).version(which or None)

    def search(self, q: str | None = None, *, limit: int | None = None, **evidence: Any) -> Iterator[Model]:
        """Models, newest first, by what was found in their newest version.

        evidence   `min_modules`, `min_interior_modules`, `max_connections`, `min_modularity`, `min_selectivity`,
                   `reads`, `moves`, `method`, `everybody`, …
        """
        for document in self._http.items("/models", q=q, limit=limit, **evidence):
            yield Model.of(document, self._http)

    def compare(self, a: Run | Version | str, b: Run | Version | str) -> dict[str, Any]:
        """Two runs or versions side by side: specs, numbers, modules."""
        sides: Sequence[str] = [
            one if isinstance(one, str) else one.id if isinstance(one, Run) else f"{one.model_id}@{one.number}"
            for one in (a, b)
        ]
        return dict(self._http.get("/compare", a=sides[0], b=sides[1]))

    def revoke_share(self, share_id: str) -> None:
        """Make the link invalid."""
        self._http.delete(f"/shares/{share_id}")
