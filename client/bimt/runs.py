"""Runs: one trained network each, its evidence, its files, and operations on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import NotFound
from .http import HttpClient
from .resource import Resource, optional, parse_time

if TYPE_CHECKING:
    import networkx
    import pandas

    from .networks import LoadedNetwork


@dataclass(frozen=True)
class Module:
    """A module of the network: a group of neurons that computes some of the outputs.

    inputs, outputs   names of the inputs it reads and the outputs it computes
    reading           the same as a sentence
    effects           for every target: the share of its variance that changes when the module is set to `zero`, to its
                      `mean`, or resampled, in the pruned network, where modules are separate by construction; and
                      when the same neurons are set to their mean in the network as trained (`trained`). `p` is
                      against random groups of its size, `p_holm` the same corrected for the number of cells
    supported         whether it passed every test; verdict: supported, not supported, not testable, one piece
    trained_effect    share of its own outputs' variance that its neurons change in the network as trained;
                      `trained_leak`: the largest share of any other output
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
    verdict: str | None = None

    def __str__(self) -> str:
        return self.reading or f"module {self.name}"


@dataclass(frozen=True)
class PartName:
    """What people call a module, or a group inside one.

    note        what they say of it
    number      how often it was written; `run.give_name(…, replaces=number)` changes what you have seen and no other
    member_id   who wrote it last
    """

    name: str
    note: str
    number: int
    member_id: str
    at: datetime


@dataclass(frozen=True)
class Figure:
    """A picture. A notebook displays it."""

    name: str
    format: str
    content: bytes

    def save(self, path: str | Path | None = None) -> Path:
        """Write it to a file, by default `NAME.FORMAT` in the working directory."""
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
class Run(Resource):
    """One network, trained with one seed and one cost strength.

    cost_strength        λ of the first phase that costs; None: as the spec says
    test_metric          of the pruned network on the test examples; `test_metric_name` says which
    connections          kept by pruning
    modules_found        how many modules; `modules()` gives them
    interior_modules     how many groups inside them are supported; `interior()` gives them; None: not examined
    outputs              how well each target is predicted, pruned and before: `refresh()` fetches them, as `metrics`
    modularity           layered modularity Q of its parts
    connection_cost      of the pruned network
    training_seconds     spent on training steps, over all attempts; `evidence_seconds`: on the analysis afterwards
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
        """How many modules were found; None before the analysis."""
        return self.document.get("modules")

    @property
    def interior_modules(self) -> int | None:
        """How many groups of neurons inside the modules are supported; None where the run was not examined for them."""
        return self.document.get("interior_modules")

    def _summary(self) -> tuple[Any, ...]:
        found = f"{self.connections} connections, {self.modules_found} modules" if self.connections is not None else ""
        strength = f"λ {self.cost_strength:g}" if self.cost_strength is not None else ""
        return (f"seed {self.seed}", strength, found or self.state)

    def _optional(self, package: str, what: str, extra: str, otherwise: str) -> Any:
        return optional(package, what=what, extra=extra, url=self.http.url, otherwise=otherwise)

    def refresh(self) -> Run:
        """The run as it is now, with its spec, its metrics and the names of its files."""
        return Run.of(self.http.get(f"/runs/{self.id}"), self.http)

    # --- evidence ---------------------------------------------------------------------------------------

    def modules(self) -> list[Module]:
        """Its modules: what each reads, what it computes, how strong its effects are."""
        names = Module.__dataclass_fields__
        found = self.http.get(f"/runs/{self.id}/modules")["modules"]
        return [Module(**{name: entry.get(name) for name in names}) for entry in found]

    def names(self) -> dict[str, PartName]:
        """What people call its modules and the groups inside them, by their letters; the pages show the same."""
        return _part_names(self.http.get(f"/runs/{self.id}/names"))

    def give_name(self, part: str, name: str, *, note: str = "", replaces: int | None = None) -> dict[str, PartName]:
        """Call a module (`A`) or a group (`A2`) by a name, and say something of it; gives all names.

        replaces   the `number` of the name that you have seen; None: it has none yet
        Raises Conflict where another name was written meanwhile, NotFound where the run has no such part.
        """
        body = {"name": name, "note": note, "replaces": replaces}
        # Sent once: had it been carried out and were it sent again, it would conflict with itself.
        return _part_names(self.http.send("PUT", f"/runs/{self.id}/names/{part}", json=body, repeatable=False).json())

    def take_name(self, part: str, *, replaces: int) -> dict[str, PartName]:
        """Take away the name of a part, and its note; `replaces` is its `number`. Gives the names that are left."""
        return self.give_name(part, "", replaces=replaces)

    def interior(self) -> dict[str, Any] | None:
        """The groups of neurons inside the modules: partitions, their tests, what each group reads and moves, cuts.

        None for a run, or a service, of a version that did not look for them.
        """
        try:
            found = self.http.get(f"/runs/{self.id}/interior")["interior"]
        except NotFound:
            return None
        return None if found is None else dict(found)

    def communities(self) -> dict[str, Any]:
        """Communities found by the Leiden algorithm in the weights alone, with null models for comparison."""
        return dict(self.http.get(f"/runs/{self.id}/modules").get("communities") or {})

    def effects(self) -> dict[str, Any]:
        """The effect on every target of setting a module to zero, to its mean, or resampling it, as matrices.

        `p` is of each cell by itself, `p_holm` corrected for the number of claims; the modules have the same two.
        """
        return dict(self.http.get(f"/runs/{self.id}/effects")["effects"])

    def prune_curve(self) -> list[dict[str, Any]]:
        """The loss against the number of connections left, one row for each size of network."""
        return list(self.http.get(f"/runs/{self.id}/prune-curve")["rows"])

    def history_rows(self) -> list[dict[str, Any]]:
        """The learning curve, one row for each logged step; also while it trains."""
        return list(self.http.get(f"/runs/{self.id}/history")["rows"])

    def history(self) -> pandas.DataFrame:
        """The learning curve as a table with the step as its index; also while it trains. Needs pandas."""
        frames = self._optional("pandas", "run.history()", "tables", "run.history_rows() gives the same as plain data.")
        rows = self.history_rows()
        return frames.DataFrame(rows).set_index("step") if rows else frames.DataFrame()

    def graph_document(self, *, connections: int | None = None) -> dict[str, Any]:
        """The pruned network as a node-link document; `connections`: only that many, those of the largest weights."""
        return dict(self.http.get(f"/runs/{self.id}/graph", connections=connections))

    def graph(self, *, connections: int | None = None) -> networkx.MultiDiGraph:
        """The pruned network as a networkx graph: neurons with layer, position and module; weights on edges."""
        networks = self._optional("networkx", "run.graph()", "graphs", "run.graph_document() gives the same as JSON.")
        return networks.node_link_graph(self.graph_document(connections=connections), edges="edges")

    def figure(self, name: str = "network", format: Literal["svg", "png"] = "svg") -> Figure:
        """A picture, such as `network`; `run.refresh().document["figures"]` names all of them."""
        return Figure(name, format, self.http.content(f"/runs/{self.id}/figures/{name}.{format}"))

    def readout(self) -> dict[str, Any]:
        """Formulas for its outputs, where the network confirms some, and its symmetries; where not, the reason.

        In the units of the data: inputs are columns as uploaded, the output is the target as uploaded; for classes, the
        scores before the softmax.
        """
        return dict(self.http.get(f"/runs/{self.id}/readout")["readout"])

    def representations(self) -> dict[str, Any] | None:
        """For networks that multiply in a group: which irreducible representations embedding and neurons lie in.

        For the integers modulo n these are the frequencies. None for other data.
        """
        found = self.http.get(f"/runs/{self.id}/representations")["representations"]
        return None if found is None else dict(found)

    def embedding(self) -> dict[str, Any]:
        """For networks that read tokens: the vector of each, and their parts by irreducible representation."""
        return dict(self.http.derived(f"/runs/{self.id}/embedding"))

    def snapshot(self, step: int) -> dict[str, Any]:
        """The network at one step of its training: its weights, and which neuron is in which slot."""
        return dict(self.http.get(f"/runs/{self.id}/snapshots/{step}"))

    def snapshots(self) -> Iterator[dict[str, Any]]:
        """The steps of which a snapshot is kept, oldest first."""
        return self.http.items(f"/runs/{self.id}/snapshots")

    # --- operations on the network ------------------------------------------------------------------------

    def predict(
        self, rows: Sequence[Any] | pandas.DataFrame, *, network: Literal["pruned", "trained"] = "pruned"
    ) -> dict[str, Any]:
        """The predictions of the network for some rows, in the units of the data, computed by the service.

        rows   lists in the order of the features, or objects by their names; an array, or a data frame by its names, of
               which columns that the network does not read are ignored. NaN, NaT and None are cells without a value;
               dates are sent as in ISO 8601
        Returns `features`, `targets`, and `outputs`; for classes `probabilities` and `labels`. For sequences only the
        predicted steps: rows × steps × targets.
        """
        given: Any = self._rows_of_frame(rows) if hasattr(rows, "columns") else rows
        if hasattr(given, "tolist"):  # JSON has no numbers of numpy or torch
            given = given.tolist()
        body = {"inputs": [_plain_row(row, number) for number, row in enumerate(given)], "network": network}
        return dict(self.http.operation(f"/runs/{self.id}/predict", body))

    def _rows_of_frame(self, frame: Any) -> list[dict[str, Any]]:
        """The rows of a pandas or polars frame: the columns that the run reads, or all where not each of them is there.

        Of the latter the service says which is missing.
        """
        spec = self.spec or self.refresh().spec or {}
        read = spec.get("dataset", {}).get("inputs")
        if isinstance(read, list) and set(read) <= set(frame.columns):  # of data that is made, it is their number
            frame = frame[read]
        found = frame.to_dicts() if hasattr(frame, "to_dicts") else frame.to_dict("records")
        return list(found)

    def intervene(self, **request: Any) -> dict[str, Any]:
        """The change of every metric and output under an intervention; the stored network stays as it is.

        request   `trials`, a list of lists of changes, or `each`: one trial for every part of a kind
        """
        return dict(self.http.operation(f"/runs/{self.id}/interventions", request))

    # --- the network itself -----------------------------------------------------------------------------

    def weights(self) -> bytes:
        """The pruned network as a safetensors file, with the spec in its metadata."""
        return self.http.content(f"/runs/{self.id}/weights.safetensors")

    def network_file(self, path: str | Path | None = None) -> Path:
        """For an uploaded network: the file as it was uploaded, with the numbers of the pruned network."""
        form = self.document.get("spec", {}).get("network", {}).get("format", "onnx")
        target = Path(path) if path is not None else Path(f"{self.id}-network.{form}")
        return self.http.download(f"/runs/{self.id}/network", target)

    def load(self) -> LoadedNetwork:
        """The pruned network as a torch module with the same outputs as the service's. Needs torch."""
        self._optional("torch", "run.load()", "torch", "run.weights() gives the file itself.")
        from .networks import load_network

        return load_network(self.weights())

    # --- files, some made on the first request ------------------------------------------------------------

    def film(self, path: str | Path | None = None, *, format: Literal["mp4", "gif"] = "mp4") -> Path:
        """The training as a film, in a file. The first request takes some ten seconds."""
        return self._derived_file(path, f"film.{format}", f"{self.id}.{format}")

    def onnx(self, path: str | Path | None = None, *, module: str | None = None) -> Path:
        """The pruned network, or one module (A) or group inside one (A2) alone, as an ONNX file for other programs."""
        name = f"{self.id}.onnx" if module is None else f"{self.id}-{module}.onnx"
        return self._derived_file(path, "model.onnx" if module is None else f"modules/{module}/model.onnx", name)

    def module_weights(self, module: str, path: str | Path | None = None) -> Path:
        """One module (A), or one group inside a module (A2), as a network of its own, in a safetensors file."""
        return self._derived_file(path, f"modules/{module}/weights.safetensors", f"{self.id}-{module}.safetensors")

    def _derived_file(self, path: str | Path | None, address: str, name: str) -> Path:
        return self.http.derived_file(f"/runs/{self.id}/{address}", Path(path) if path is not None else Path(name))

    def card(self) -> str:
        """The model card, in Markdown: what it is, what was found, how it was trained."""
        return self.http.content(f"/runs/{self.id}/card.md").decode("utf-8")

    def bundle(self, path: str | Path | None = None) -> Path:
        """All its files in one ZIP file: weights, graph, evidence, curves, pictures, card, and their hashes."""
        target = Path(path) if path is not None else Path(f"{self.id}.zip")
        return self.http.download(f"/runs/{self.id}/bundle.zip", target)

    def download(self, folder: str | Path | None = None) -> list[Path]:
        """All its files in a folder, by default one named like the run: weights, graph, evidence, pictures, card."""
        into = Path(folder) if folder is not None else Path(self.id)
        whole = self.refresh()
        parts = {
            "run.json": "",
            "modules.json": "/modules",
            "effects.json": "/effects",
            "interior.json": "/interior",
            "prune-curve.json": "/prune-curve",
            "history.json": "/history",
            "graph.json": "/graph",
            "card.md": "/card.md",
            "weights.safetensors": "/weights.safetensors",
        }
        parts |= {f"figures/{figure}": f"/figures/{figure}" for figure in whole.document.get("figures") or []}
        written = [self.http.download(f"/runs/{self.id}/graph", into / "graph.graphml", format="graphml")]
        for name, address in parts.items():
            try:
                written.append(self.http.download(f"/runs/{self.id}{address}", into / name))
            except NotFound:
                continue  # a run of an older version, without this part
        return written


def _part_names(document: dict[str, Any]) -> dict[str, PartName]:
    fields = PartName.__dataclass_fields__
    found = {}
    for part, entry in document["names"].items():
        known = {name: entry[name] for name in fields} | {"at": parse_time(entry["at"])}
        found[part] = PartName(**known)
    return found


class Runs:
    """`client.runs`."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def get(self, run_id: str) -> Run:
        """A run by its id."""
        return Run.of(self._http.get(f"/runs/{run_id}"), self._http)

    def search(
        self,
        *,
        state: str | None = None,
        min_modules: int | None = None,
        min_interior_modules: int | None = None,
        max_connections: int | None = None,
        min_selectivity: float | None = None,
        reads: str | None = None,
        moves: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Run]:
        """The team's runs, newest first, by what was found in them.

        reads, moves   an input that a module, or a group inside one, reads, and an output that it moves; with both,
                       one that does both
        """
        asked = {
            "state": state,
            "min_modules": min_modules,
            "min_interior_modules": min_interior_modules,
            "max_connections": max_connections,
            "min_selectivity": min_selectivity,
            "reads": reads,
            "moves": moves,
        }
        for document in self._http.items("/runs", limit=limit, **asked):
            yield Run.of(document, self._http)


def _plain_row(row: Any, number: int) -> Any:
    """A row as JSON has it. Raises ValueError for a number that JSON does not have."""
    try:
        if isinstance(row, str):
            return list(row)
        if isinstance(row, Mapping):
            return {str(name): _plain(cell) for name, cell in row.items()}
        return [_plain(cell) for cell in row]
    except OverflowError:
        raise ValueError(
            f"Row {number} (the first is 0) holds an infinite number; give a finite one, or None for no value."
        ) from None


def _plain(cell: Any) -> Any:
    """A cell of a frame or an array as JSON has it: None where it has no value. Raises OverflowError for infinity."""
    if type(cell).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be there
        return None
    if isinstance(cell, list | tuple):
        return [_plain(each) for each in cell]
    if type(cell).__name__ == "datetime64":
        return None if str(cell) == "NaT" else str(cell)
    if hasattr(cell, "tolist"):  # an array, or a number of numpy or torch
        return _plain(cell.tolist())
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, Decimal):
        cell = float(cell)
    if isinstance(cell, float):
        if math.isinf(cell):
            raise OverflowError
        return None if math.isnan(cell) else cell
    return cell
