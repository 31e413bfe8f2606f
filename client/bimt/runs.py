"""Runs: one trained network each, and everything that was found in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import NotFound
from .things import Thing, optional
from .wire import Wire

if TYPE_CHECKING:
    import networkx
    import pandas

    from .networks import LoadedNetwork


@dataclass(frozen=True)
class Module:
    """A cluster of neurons.

    inputs, outputs   names of what it reads and decides
    reading           the same as a sentence
    effects           for every target: the share of its variance that moves when the module is set to `zero`, to its
                      `mean`, or resampled in the pruned network, where it is apart by construction, and when the same
                      neurons are set to their mean in the network as trained (`trained`); `p` against random groups of
                      its size, and `p_holm`, the same corrected for the number of cells
    supported         whether it passed every test
    trained_effect    how much of its outputs' variance its neurons move in the network as trained; `trained_leak`: of
                      the outputs of others, at most
    """

    name: str
    neurons: list[str]
    inputs: list[str]
    outputs: list[str]
    connections: int
    reading: str
    selectivity: float | None
    sufficiency: float | None
    effects: dict[str, Any]
    supported: bool | None = None
    trained_effect: float | None = None
    trained_leak: float | None = None

    def __str__(self) -> str:
        return self.reading or f"module {self.name}"


@dataclass(frozen=True)
class Figure:
    """A picture. In a notebook it shows itself."""

    name: str
    format: str
    content: bytes

    def save(self, path: str | Path | None = None) -> Path:
        """Write it into a file; without a path, one of its own name here."""
        target = Path(path) if path is not None else Path(f"{self.name}.{self.format}")
        target.write_bytes(self.content)
        return target

    def __repr__(self) -> str:
        return f"<Figure {self.name}.{self.format} · {len(self.content)} bytes>"

    def _repr_svg_(self) -> str | None:
        return self.content.decode("utf-8") if self.format == "svg" else None

    def _repr_png_(self) -> bytes | None:
        return self.content if self.format == "png" else None


@dataclass(frozen=True, repr=False)
class Run(Thing):
    """One network, trained with one seed and one cost strength.

    cost_strength        λ of the first phase that costs; None: as the spec says
    test_metric          of the pruned network on the test examples; `test_metric_name` says which
    connections          that were kept
    modules_found        how many modules; `modules()` gives them
    outputs              how well each target is predicted, pruned and before: `refresh()` fetches them, as `metrics`
    modularity           Q of the communities
    connection_cost      wiring that is left
    training_seconds     spent on its steps, over all attempts; `evidence_seconds`: on what was found afterwards
    """

    job_id: str
    number: int
    seed: int
    cost_strength: float | None
    state: str
    reason: str | None
    step: int
    steps: int
    training_seconds: float | None
    evidence_seconds: float | None
    test_metric_name: str | None
    test_metric: float | None
    connections: int | None
    modularity: float | None
    selectivity: float | None
    connection_cost: float | None
    spec: dict[str, Any] | None
    metrics: dict[str, Any] | None
    outputs: list[dict[str, Any]] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def modules_found(self) -> int | None:
        return self.document.get("modules")

    def _told(self) -> tuple[Any, ...]:
        found = f"{self.connections} connections, {self.modules_found} modules" if self.connections is not None else ""
        strength = f"λ {self.cost_strength:g}" if self.cost_strength is not None else ""
        return (f"seed {self.seed}", strength, found or self.state)

    def refresh(self) -> Run:
        """The same as it is now, with its spec, its metrics and the names of its files."""
        return Run.of(self.wire.get(f"/runs/{self.id}"), self.wire)

    # --- what was found ---------------------------------------------------------------------------------

    def modules(self) -> list[Module]:
        """Its modules: what each reads, what it decides, how strongly."""
        names = Module.__dataclass_fields__
        found = self.wire.get(f"/runs/{self.id}/modules")["modules"]
        return [Module(**{name: entry.get(name) for name in names}) for entry in found]

    def communities(self) -> dict[str, Any]:
        """What Leiden sees in the weights alone, with the nulls it must be held against."""
        return dict(self.wire.get(f"/runs/{self.id}/modules").get("communities") or {})

    def effects(self) -> dict[str, Any]:
        """What every target loses when a module is set to zero, to its mean, or resampled, as matrices.

        `p` is of each cell by itself, `p_holm` corrected for the number of claims; the modules have the same two.
        """
        return dict(self.wire.get(f"/runs/{self.id}/effects")["effects"])

    def prune_curve(self) -> list[dict[str, Any]]:
        """The loss against the number of connections left, one row for each size of network."""
        return list(self.wire.get(f"/runs/{self.id}/prune-curve")["rows"])

    def history_rows(self) -> list[dict[str, Any]]:
        """The learning curve, one row for each step that was logged; also while it trains."""
        return list(self.wire.get(f"/runs/{self.id}/history")["rows"])

    def history(self) -> pandas.DataFrame:
        """The learning curve as a table with the step as its index; also while it trains. Needs pandas."""
        frames = optional(
            "pandas", what="run.history()", extra="tables", otherwise="run.history_rows() gives the same as plain data."
        )
        rows = self.history_rows()
        return frames.DataFrame(rows).set_index("step") if rows else frames.DataFrame()

    def graph_document(self, *, connections: int | None = None) -> dict[str, Any]:
        """The pruned network as a node-link document; `connections`: only so many, the heaviest."""
        return dict(self.wire.get(f"/runs/{self.id}/graph", connections=connections))

    def graph(self, *, connections: int | None = None) -> networkx.MultiDiGraph:
        """The pruned network as a networkx graph: neurons with layer, position and module; weights on edges."""
        networks = optional(
            "networkx", what="run.graph()", extra="graphs", otherwise="run.graph_document() gives the same as JSON."
        )
        return networks.node_link_graph(self.graph_document(connections=connections), edges="edges")

    def figure(self, name: str = "network", format: Literal["svg", "png"] = "svg") -> Figure:
        """A picture, such as `network`; `run.refresh().document["figures"]` names all of them."""
        return Figure(name, format, self.wire.content(f"/runs/{self.id}/figures/{name}.{format}"))

    def readout(self) -> dict[str, Any]:
        """Its outputs as formulas, where the network confirmed some, its symmetries; where not, why.

        All in the units of the data: columns as they were uploaded go in, and the target as it was uploaded comes out;
        of classes, their scores before the softmax.
        """
        return dict(self.wire.get(f"/runs/{self.id}/readout")["readout"])

    def embedding(self) -> dict[str, Any]:
        """Of networks that read tokens: the vector of each, and the frequencies in them."""
        return dict(self.wire.made(f"/runs/{self.id}/embedding"))

    def snapshot(self, step: int) -> dict[str, Any]:
        """The network at one step of its training: its weights, and which neuron sat in which slot."""
        return dict(self.wire.get(f"/runs/{self.id}/snapshots/{step}"))

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """The steps of which the network is kept, oldest first."""
        return self.wire.items(f"/runs/{self.id}/snapshots")

    # --- questions to the network -------------------------------------------------------------------------

    def predict(
        self, rows: Sequence[Any] | pandas.DataFrame, *, network: Literal["pruned", "trained"] = "pruned"
    ) -> dict[str, Any]:
        """What the network says of some rows, in the units of the data, computed by the service.

        rows   lists in the order of the features, or objects by their names; an array, or a data frame by its names
        Gives `features`, `targets`, and `outputs`; of classes `probabilities` and `labels`. Of sequences, the predicted
        steps only: rows × steps × targets.
        """
        given: Any = rows
        if hasattr(given, "columns"):
            given = given.to_dict("records")
        elif hasattr(given, "tolist"):  # JSON knows no number of numpy or torch
            given = given.tolist()
        body = {"inputs": [row if isinstance(row, dict) else list(row) for row in given], "network": network}
        return dict(self.wire.ask(f"/runs/{self.id}/predict", body))

    def intervene(self, **asked: Any) -> dict[str, Any]:
        """What becomes of every metric and output when something inside is changed; nothing is modified.

        asked   `trials`, a list of lists of changes, or `each`: one trial for every part of a kind
        """
        return dict(self.wire.ask(f"/runs/{self.id}/interventions", asked))

    # --- the network itself -----------------------------------------------------------------------------

    def weights(self) -> bytes:
        """The pruned network as a safetensors file, with the spec in its metadata."""
        return self.wire.content(f"/runs/{self.id}/weights.safetensors")

    def load(self) -> LoadedNetwork:
        """The pruned network as a torch module that gives the service's own numbers. Needs torch."""
        optional("torch", what="run.load()", extra="torch", otherwise="run.weights() gives the file itself.")
        from .networks import load_network

        return load_network(self.weights())

    # --- made when first asked for ----------------------------------------------------------------------

    def film(self, path: str | Path | None = None, *, format: Literal["mp4", "gif"] = "mp4") -> Path:
        """The training as a film, in a file. The first time it takes some ten seconds to be made."""
        return self._made(path, f"film.{format}", f"{self.id}.{format}")

    def onnx(self, path: str | Path | None = None, *, module: str | None = None) -> Path:
        """The pruned network, or one module of it alone, as an ONNX file for other programs."""
        name = f"{self.id}.onnx" if module is None else f"{self.id}-{module}.onnx"
        return self._made(path, "model.onnx" if module is None else f"modules/{module}/model.onnx", name)

    def module_weights(self, module: str, path: str | Path | None = None) -> Path:
        """One module alone as a network of its own, in a safetensors file."""
        return self._made(path, f"modules/{module}/weights.safetensors", f"{self.id}-{module}.safetensors")

    def _made(self, path: str | Path | None, address: str, name: str) -> Path:
        return self.wire.made_file(f"/runs/{self.id}/{address}", Path(path) if path is not None else Path(name))

    def card(self) -> str:
        """What it is, what was found and how it was trained, as a text in Markdown."""
        return self.wire.content(f"/runs/{self.id}/card.md").decode("utf-8")

    def bundle(self, path: str | Path | None = None) -> Path:
        """Everything of it in one ZIP file: weights, graph, evidence, curves, pictures, card, and all their hashes."""
        target = Path(path) if path is not None else Path(f"{self.id}.zip")
        return self.wire.download(f"/runs/{self.id}/bundle.zip", target)

    def download(self, folder: str | Path | None = None) -> list[Path]:
        """Everything that can be had of it, in a folder of its own: weights, graph, modules, curves, pictures, card."""
        into = Path(folder) if folder is not None else Path(self.id)
        whole = self.refresh()
        parts = {
            "run.json": "",
            "modules.json": "/modules",
            "effects.json": "/effects",
            "prune-curve.json": "/prune-curve",
            "history.json": "/history",
            "graph.json": "/graph",
            "card.md": "/card.md",
            "weights.safetensors": "/weights.safetensors",
        }
        parts |= {f"figures/{figure}": f"/figures/{figure}" for figure in whole.document.get("figures") or []}
        written = [self.wire.download(f"/runs/{self.id}/graph", into / "graph.graphml", format="graphml")]
        for name, address in parts.items():
            try:
                written.append(self.wire.download(f"/runs/{self.id}{address}", into / name))
            except NotFound:
                continue  # of an older run, which has no such part
        return written


class Runs:
    """`client.runs`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def get(self, run_id: str) -> Run:
        return Run.of(self._wire.get(f"/runs/{run_id}"), self._wire)

    def search(
        self,
        *,
        state: str | None = None,
        min_modules: int | None = None,
        max_connections: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Run]:
        """The team's runs, newest first, by what was found in them."""
        found = self._wire.items(
            "/runs", state=state, min_modules=min_modules, max_connections=max_connections, limit=limit
        )
        for document in found:
            yield Run.of(document, self._wire)
