"""Models: runs that somebody published, with names, versions, words and links."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .jobs import Job
from .runs import Run
from .things import Thing, moment, optional
from .wire import Wire

if TYPE_CHECKING:
    from .networks import LoadedNetwork

Visibility = Literal["private", "team", "unlisted", "public"]


@dataclass(frozen=True)
class Version:
    """One published run.

    model, model_id   the model's name and id
    number            1 for the first; words such as `best` may point to it
    """

    model: str
    model_id: str
    number: int
    run_id: str
    created_at: datetime | None
    document: dict[str, Any]
    wire: Wire

    @classmethod
    def of(cls, document: dict[str, Any], wire: Wire) -> Version:
        names = ("model", "model_id", "number", "run_id")
        known = {name: document[name] for name in names}
        return cls(**known, created_at=moment(document.get("created_at")), document=document, wire=wire)

    def __repr__(self) -> str:
        return f"<Version {self.model}@{self.number} · {self.run_id}>"

    @property
    def path(self) -> str:
        return f"/models/{self.model_id}/versions/{self.number}"

    @property
    def card(self) -> str:
        """What its author says of it, in Markdown."""
        return str(self.document.get("card", ""))

    def weights(self) -> bytes:
        """The pruned network as a safetensors file."""
        return self.wire.content(f"{self.path}/weights.safetensors")

    def load(self) -> LoadedNetwork:
        """The network as a torch module that gives the service's own numbers. Needs torch."""
        optional("torch", what="version.load()", extra="torch", otherwise="version.weights() gives the file itself.")
        from .networks import load_network

        return load_network(self.weights())

    def verify(self) -> dict[str, Any]:
        """Have a worker work its claims out again from the stored weights: `agrees`, a `reading`, every check."""
        return dict(self.wire.ask(f"{self.path}/verify", None))

    def bundle(self, path: str | Path | None = None) -> Path:
        """Everything of it in one ZIP file: card, weights, graph, evidence, pictures."""
        target = Path(path) if path is not None else Path(f"{self.model}-{self.number}.zip")
        return self.wire.download(f"{self.path}/bundle.zip", target)

    def share(self, *, days: int | None = 30, note: str = "", **view: Any) -> dict[str, Any]:
        """A link that shows this version to whoever holds it: its `url` is shown this once.

        days   until it expires; None: never
        view   what its reader sees first: `part`, `module`, `connections`, `figure`
        """
        body = {"view": view | ({"note": note} if note else {}), "expires_in_days": days}
        return dict(self.wire.post(f"{self.path}/shares", body))

    def fork(self, changes: dict[str, Any] | None = None, **more: Any) -> Job:
        """Its spec as a new job, with changes as a JSON merge patch; `seeds`, `dataset`, `name`, … as in submit."""
        body = {"changes": changes or {}} | {key: value for key, value in more.items() if value is not None}
        return Job.of(self.wire.post(f"{self.path}/fork", body), self.wire)

    def annotate(
        self, text: str, *, about: str = "run", target: str = "", replaces: int | None = None
    ) -> dict[str, Any]:
        """Write a note on a part: `about` is run, module, neuron or connection, `target` which one.

        replaces   the number of the note that you have read, so that nobody's words are lost
        """
        body = {"about": about, "target": target, "text": text, "replaces": replaces}
        return dict(self.wire.post(f"{self.path}/annotations", body))

    def annotations(self) -> list[dict[str, Any]]:
        """The notes as they are now, newest first."""
        return list(self.wire.items(f"{self.path}/annotations"))


@dataclass(frozen=True, repr=False)
class Model(Thing):
    """A name under which runs are published, one version after another."""

    name: str
    visibility: str
    versions: int
    ours: bool
    created_at: datetime
    updated_at: datetime

    def _told(self) -> tuple[Any, ...]:
        return (self.name, f"{self.versions} version{'s' * (self.versions != 1)}", self.visibility)

    def version(self, which: int | str | None = None) -> Version:
        """A version by number or word; the newest one without."""
        return Version.of(self.wire.get(f"/models/{self.id}/versions/{which or self.versions}"), self.wire)

    def load(self) -> LoadedNetwork:
        """The newest version as a torch module."""
        return self.version().load()

    def point(self, alias: str, number: int) -> None:
        """From now on the word means this version."""
        self.wire.put(f"/models/{self.id}/aliases/{alias}", {"version": number})

    def shares(self) -> Iterator[dict[str, Any]]:
        """Its links, without their secrets."""
        return self.wire.items(f"/models/{self.id}/shares")


class Models:
    """`client.models`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def publish(self, run: Run | str, name: str, *, card: str = "", visibility: Visibility | None = None) -> Version:
        """The run as the next version under this name; the first one makes the model."""
        body = {"run_id": run.id if isinstance(run, Run) else run, "name": name, "card": card, "visibility": visibility}
        return Version.of(self._wire.post("/models", body, key=uuid.uuid4().hex), self._wire)

    def get(self, name: str) -> Model:
        """A model by name or id."""
        return Model.of(self._wire.get(f"/models/{name}"), self._wire)

    def version(self, name: str) -> Version:
        """A version as `name@3` or `name@best`; the newest one of a plain name."""
        model, _, which = name.partition("@")
        return self.get(model).version(which or None)

    def search(self, q: str | None = None, *, limit: int | None = None, **evidence: Any) -> Iterator[Model]:
        """Models, newest first, by what was found in their newest version.

        evidence   `min_modules`, `max_connections`, `min_modularity`, `min_selectivity`, `method`, `everybody`, …
        """
        for document in self._wire.items("/models", q=q, limit=limit, **evidence):
            yield Model.of(document, self._wire)

    def compare(self, a: Run | Version | str, b: Run | Version | str) -> dict[str, Any]:
        """Two runs or versions side by side: specs, numbers, modules."""
        sides: Sequence[str] = [
            one if isinstance(one, str) else one.id if isinstance(one, Run) else f"{one.model_id}@{one.number}"
            for one in (a, b)
        ]
        return dict(self._wire.get("/compare", a=sides[0], b=sides[1]))

    def revoke_share(self, share_id: str) -> None:
        """The link shows nothing from now on."""
        self._wire.delete(f"/shares/{share_id}")
