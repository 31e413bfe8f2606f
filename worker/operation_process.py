"""The operation process: `python -m worker.operation_process FOLDER PARENT`. It answers operations, one after another.

It has the engine and the folders named in its messages, and imports nothing of the store. The request.json of a folder
holds the kind of the operation, its arguments, and files that worker/operations.py adds; the result is answer.json with
files beside it. Here is one handler for each kind: it takes a Request and returns an Answer. It raises Refusal, or
another BimtError, for what cannot be computed as requested.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.intervention_request import InterventionError, read_request
from bimt_engine.analysis.job import pareto, selection_loss, stability
from bimt_engine.analysis.modules.interventions import run_interventions
from bimt_engine.analysis.report import finite_json
from bimt_engine.analysis.verification import verify
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.registry import make_dataset
from bimt_engine.errors import BimtError
from bimt_engine.exports.module_alone import group_alone, module_alone
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import SavedNetwork, load_weights
from bimt_engine.fingerprint import spec_hash
from bimt_engine.networks.uploaded import UploadedNetwork, provide_files
from bimt_engine.spec import Spec
from bimt_engine.training.state import Snapshot
from worker.predicting import Refusal, embedding_document, predict, probe_document
from worker.protocol import (
    Answered,
    DiskFull,
    Failed,
    OperationMessage,
    OperationProgress,
    Ready,
    Refused,
    Sends,
    is_disk_full,
    start_engine_process,
    write_whole,
)

log = logging.getLogger("worker.operations")
CACHED = 4  # networks and data sets; one question to a network is often followed by another


@dataclass(frozen=True)
class Answer:
    """The result of an operation: a document for JSON, and files by name.

    figures   of a job, by name, in base64: they are stored beside its document, which is small as well.
    """

    document: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """An operation.

    document   request.json: `kind`, `asked`, and what worker/operations.py lays beside them.
    progress   takes a fraction and the name of the stage.
    """

    document: Mapping[str, Any]
    progress: Callable[[float, str], None] = lambda fraction, note: None

    @classmethod
    def read(cls, folder: Path, *, progress: Callable[[float, str], None]) -> Request:
        """The request in this folder."""
        return cls(json.loads((folder / "request.json").read_text()), progress)

    @property
    def asked(self) -> Mapping[str, Any]:
        """What was asked for."""
        return dict(self.document["asked"])

    @property
    def saved(self) -> SavedNetwork:
        """The network, as its weights file has it."""
        brought = self.document.get("network")
        provide_files({brought["sha256"]: Path(brought["path"])} if brought else {})
        return _saved(self.document["weights"]["sha256"], self.document["weights"]["path"])

    @property
    def dataset(self) -> Dataset:
        """The data that it was trained on, generated or read again."""
        run = self.document["run"]
        return _dataset(json.dumps(run["spec"]["dataset"], sort_keys=True), run["seed"], self.document["content"])

    @property
    def spec(self) -> Spec:
        """As the run has it."""
        return Spec.from_stored(self.document["run"]["spec"])

    @property
    def origin(self) -> dict[str, str]:
        """Where the network comes from, for files that leave the service."""
        run = self.document["run"]
        return {"run": run["id"], "seed": str(run["seed"]), "spec_sha256": spec_hash(run["spec"])}

    def part(self, name: str) -> tuple[list[str], bool]:
        """(neurons of a module, False), or (those of a group inside one, True). Raises Refusal where there is none."""
        modules, groups = (
            {one["name"]: list(one["neurons"]) for one in self.document.get(kind) or ()}
            for kind in ("modules", "groups")
        )
        if name not in modules | groups:
            there = ", ".join([*sorted(modules), *sorted(groups)])
            raise Refusal(f"There is no module `{name}`; this network has {there or 'none'}.")
        return (groups[name], True) if name in groups else (modules[name], False)


@lru_cache(maxsize=CACHED)
def _saved(sha256: str, path: str) -> SavedNetwork:
    return load_weights(Path(path).read_bytes())


@lru_cache(maxsize=CACHED)
def _dataset(spec: str, seed: int, content: str | None) -> Dataset:
    part = Spec.from_stored({"dataset": json.loads(spec)}).dataset
    return make_dataset(part, seed=seed, content=Path(content) if content else None)


Handler = Callable[[Request], Answer]
HANDLERS: dict[str, Handler] = {}


def handles(kind: str) -> Callable[[Handler], Handler]:
    """Register the handler of a kind."""

    def register(handler: Handler) -> Handler:
        HANDLERS[kind] = handler
        return handler

    return register


@handles("predict")
def _predict(request: Request) -> Answer:
    which = request.asked.get("network", "pruned")
    saved = request.saved
    network = saved.trained if which == "trained" else saved.network
    seen = bool(request.asked.get("network_inputs"))
    return Answer(predict(network, saved.data, request.asked["inputs"], network_inputs=seen) | {"network": which})


@handles("intervention")
def _intervention(request: Request) -> Answer:
    try:
        asked = read_request(request.asked["asked"])
        saved = request.saved
        found = run_interventions(
            saved.trained if asked.network == "trained" else saved.network,
            request.dataset,
            asked,
            modules=[*request.document["modules"], *request.document["groups"]],
            loss=saved.spec.training.loss,
            balance_outputs=saved.spec.balances_outputs,
            seed=saved.seed,
        )
    except InterventionError as error:
        raise Refusal(str(error), problems=error.problems) from error
    return Answer(finite_json(found))


@handles("verify")
def _verify(request: Request) -> Answer:
    again = bool(request.asked.get("again", True))
    claimed = request.document["documents"]
    return Answer(verify(request.saved, request.dataset, claimed, again=again, progress=request.progress))


def _uploaded_as_onnx(request: Request) -> bool:
    network = request.saved.spec.network
    return isinstance(network, UploadedNetwork) and network.format == "onnx"


@handles("onnx")
def _onnx(request: Request) -> Answer:
    if _uploaded_as_onnx(request):
        raise Refusal("This network was uploaded as ONNX: its file with the pruned numbers is at /runs/{id}/network.")
    return Answer(files={"model.onnx": onnx_file(request.saved.network, request.saved.data, request.origin)})


@handles("probe")
def _probe(request: Request) -> Answer:
    document = probe_document(request.saved, request.dataset)
    return Answer(files={"probe.json": json.dumps(document, allow_nan=False, separators=(",", ":")).encode()})


@handles("embedding")
def _embedding(request: Request) -> Answer:
    saved = request.saved
    return Answer(embedding_document(saved, request.dataset.group if saved.data.tokens is not None else None))


@handles("module")
def _module(request: Request) -> Answer:
    """One module alone, or one group inside a module, as weights and for other programs."""
    letter, saved = request.asked["module"], request.saved
    if _uploaded_as_onnx(request):
        raise Refusal("A module of a network that was uploaded as ONNX cannot be written as a network of its own yet.")
    neurons, is_group = request.part(letter)
    cut_out = group_alone if is_group else module_alone
    alone = cut_out(saved.network, request.saved.data, saved.spec, neurons, trained=saved.trained)
    return Answer(
        files={
            f"module-{letter}.safetensors": alone.weights(seed=saved.seed),
            f"module-{letter}.onnx": alone.onnx(request.origin | {"module": letter}),
        }
    )


@handles("film")
def _film(request: Request) -> Answer:
    """The training as a film, for the page and for slides."""
    from bimt_engine.figures.film import draw_film, write_film

    saved, document = request.saved, request.document
    snapshots = [Snapshot.from_bytes(Path(path).read_bytes()) for path in document["snapshots"]]
    if not snapshots:
        raise Refusal("This run kept no snapshots, so there is nothing to show; train with a smaller `snapshot_every`.")
    names = {} if saved.data.tokens and not saved.data.is_text else {"input": saved.data.feature_names}
    frames = draw_film(
        snapshots,
        saved.network.wiring,
        names=names | {"output": saved.data.target_names},
        history=document["history"],
        graph=Graph.from_json(document["documents"]["graph"]),
    )
    mp4, gif = write_film(frames)
    return Answer(files={"film.mp4": mp4, "film.gif": gif})


@handles("pareto")
def _pareto(request: Request) -> Answer:
    loss, rows = selection_loss([run["metrics"] for run in request.document["runs"]])
    points = [
        {
            "run": run["id"],
            "cost_strength": run["cost_strength"],
            "seed": run["seed"],
            "loss": run["metrics"].get(loss),
            "test_loss": run["metrics"].get("test_prediction_loss"),
            "wiring": run["metrics"].get("connection_cost"),
            "connections": run["metrics"].get("connections"),
            "modularity": run["metrics"].get("modularity"),
            "scale": run["metrics"].get("loss_scale"),
            "tolerance": run["metrics"].get("tolerance"),
        }
        for run in request.document["runs"]
    ]
    document = finite_json(pareto(points, tolerance=request.asked["tolerance"], rows=rows))
    return Answer(document, figures=_figures("pareto", document))


def _figures(kind: str, document: Mapping[str, Any]) -> dict[str, str]:
    """The figure of a job's document as SVG; nothing where it would show nothing."""
    from bimt_engine.figures.registry import JOB_FIGURES
    from bimt_engine.figures.style import to_svg

    figure = JOB_FIGURES[kind](document)
    return {} if figure is None else {f"{kind}.svg": base64.b64encode(to_svg(figure)).decode()}


@handles("stability")
def _stability(request: Request) -> Answer:
    runs = request.document["runs"]
    found = stability(runs)
    for of in (found, *found["cost_strengths"]):
        if of.get("reference") is not None:
            of["reference"] = runs[of["reference"]]["id"]
    return Answer(finite_json(found))


# --- the process ---------------------------------------------------------------------------------------


def main(folder: Path, parent: int) -> int:
    """Answer operations until the worker closes the pipe, which ends the process."""
    writer, commands = start_engine_process("bimt operations", parent)
    torch.set_num_threads(1)
    writer.send(Ready())
    while True:
        writer.send(answer(commands.next_work().folder, writer))


def answer(folder: Path, writer: Sends) -> OperationMessage:
    """Answer one operation; the message that ends it."""

    def progress(fraction: float, note: str) -> None:
        writer.send(OperationProgress(fraction=fraction, note=note))

    try:
        request = Request.read(folder, progress=progress)
        found = HANDLERS[request.document["kind"]](request)
        files = {name: write_whole(folder, f"file-{n}", body) for n, (name, body) in enumerate(found.files.items())}
        document = {"document": found.document, "files": files, "figures": dict(found.figures)}
        write_whole(folder, "answer.json", json.dumps(document, allow_nan=False).encode())
        return Answered()
    except Refusal as refusal:
        return Refused(sentence=str(refusal), problems=list(refusal.problems))
    except BimtError as error:
        return Refused(sentence=str(error))
    except MemoryError:
        return Failed(sentence="The machine's memory did not suffice for this; ask for less at once.")
    except Exception as error:
        if is_disk_full(error):
            return DiskFull()
        log.error("%s", traceback.format_exc())
        sentence = (
            f"A fault of the service ended this operation ({type(error).__name__}: {error}). Ask again, and report it."
        )
        return Failed(sentence=sentence)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
