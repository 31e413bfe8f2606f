"""What errands work out: one function for each kind, with the engine and without the store. See worker/errand_kinds.py.

A function gets a Question and gives an Answer: a document for JSON, and files by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bimt_engine.analysis.answering import answer_interventions
from bimt_engine.analysis.asked import InterventionError, read_asked
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.pareto import pareto
from bimt_engine.analysis.plain_json import without_infinities
from bimt_engine.analysis.stability import stability
from bimt_engine.analysis.verification import verify
from bimt_engine.datasets.catalogue import make_dataset
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.exports.module_alone import module_alone
from bimt_engine.exports.onnx import onnx_file
from bimt_engine.exports.weights import SavedNetwork, load_weights
from bimt_engine.fingerprint import spec_hash
from bimt_engine.spec import Spec
from bimt_engine.training.snapshot import Snapshot
from worker.predicting import Refusal, predict
from worker.probing import embedding_document, probe_document

KEPT = 4  # networks and data sets that a bench remembers; whoever asks once asks again


@dataclass(frozen=True)
class Answer:
    """What came of a question."""

    document: Any = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """An errand as the bench gets it.

    told       order.json: kind, order, and what errand_kinds lays beside it
    progress   is told a fraction and what is being done
    """

    told: Mapping[str, Any]
    progress: Callable[[float, str], None] = lambda fraction, note: None

    @classmethod
    def read(cls, folder: Path, *, progress: Callable[[float, str], None]) -> Question:
        return cls(json.loads((folder / "order.json").read_text()), progress)

    @property
    def order(self) -> Mapping[str, Any]:
        """What was asked for."""
        return dict(self.told["order"])

    @property
    def saved(self) -> SavedNetwork:
        """The network, as its weights file has it."""
        return _saved(self.told["weights"]["sha256"], self.told["weights"]["path"])

    @property
    def dataset(self) -> Dataset:
        """The data that it was trained on, made anew."""
        run = self.told["run"]
        return _dataset(json.dumps(run["spec"]["dataset"], sort_keys=True), run["seed"], self.told["content"])

    @property
    def spec(self) -> Spec:
        """As the run has it."""
        return Spec.model_validate(self.told["run"]["spec"])

    @property
    def origin(self) -> dict[str, str]:
        """Where the network comes from, for files that leave the service."""
        run = self.told["run"]
        return {"run": run["id"], "seed": str(run["seed"]), "spec_sha256": spec_hash(run["spec"])}

    def neurons_of(self, module: str) -> list[str]:
        """Raises Refusal where there is no such module."""
        found = {one["name"]: one["neurons"] for one in self.told["modules"]}
        if module not in found:
            raise Refusal(f"There is no module `{module}`; this network has {', '.join(sorted(found)) or 'none'}.")
        return list(found[module])


@lru_cache(maxsize=KEPT)
def _saved(sha256: str, path: str) -> SavedNetwork:
    return load_weights(Path(path).read_bytes())


@lru_cache(maxsize=KEPT)
def _dataset(spec: str, seed: int, content: str | None) -> Dataset:
    part = Spec.model_validate({"dataset": json.loads(spec)}).dataset
    return make_dataset(part, seed=seed, content=Path(content) if content else None)


def answer(question: Question) -> Answer:
    """What the kind's function works out. Raises Refusal or another BimtError for what cannot be answered."""
    return ANSWERS[question.told["kind"]](question)


def _predict(question: Question) -> Answer:
    which = question.order.get("network", "pruned")
    saved = question.saved
    network = saved.trained if which == "trained" else saved.network
    return Answer(predict(network, saved.data, question.order["inputs"]) | {"network": which})


def _intervention(question: Question) -> Answer:
    try:
        asked = read_asked(question.order["asked"])
        saved = question.saved
        found = answer_interventions(
            saved.trained if asked.network == "trained" else saved.network,
            question.dataset,
            asked,
            modules=question.told["modules"],
            loss=saved.spec.training.loss,
            seed=saved.seed,
        )
    except InterventionError as error:
        raise Refusal(str(error), problems=error.problems) from error
    return Answer(without_infinities(found))


def _verify(question: Question) -> Answer:
    again = bool(question.order.get("again", True))
    claimed = question.told["documents"]
    return Answer(verify(question.saved, question.dataset, claimed, again=again, progress=question.progress))


def _onnx(question: Question) -> Answer:
    return Answer(files={"model.onnx": onnx_file(question.saved.network, question.saved.data, question.origin)})


def _probe(question: Question) -> Answer:
    document = probe_document(question.saved, question.dataset)
    return Answer(files={"probe.json": json.dumps(document, allow_nan=False, separators=(",", ":")).encode()})


def _embedding(question: Question) -> Answer:
    return Answer(embedding_document(question.saved))


def _module(question: Question) -> Answer:
    """One module alone, as weights and for other programs."""
    letter, saved = question.order["module"], question.saved
    alone = module_alone(
        saved.network, question.saved.data, saved.spec, question.neurons_of(letter), trained=saved.trained
    )
    return Answer(
        files={
            f"module-{letter}.safetensors": alone.weights(seed=saved.seed),
            f"module-{letter}.onnx": alone.onnx(question.origin | {"module": letter}),
        }
    )


def _film(question: Question) -> Answer:
    """The training as a film, for the page and for slides."""
    from bimt_engine.figures.encode import write_film
    from bimt_engine.figures.film import draw_film

    saved, told = question.saved, question.told
    snapshots = [Snapshot.from_bytes(Path(path).read_bytes()) for path in told["snapshots"]]
    if not snapshots:
        raise Refusal("This run kept no snapshots, so there is nothing to show; train with a smaller `snapshot_every`.")
    names = {} if saved.data.tokens is not None else {"input": saved.data.feature_names}
    frames = draw_film(
        snapshots,
        saved.network.wiring,
        names=names | {"output": saved.data.target_names},
        history=told["history"],
        graph=Graph.from_json(told["documents"]["graph"]),
    )
    mp4, gif = write_film(frames)
    return Answer(files={"film.mp4": mp4, "film.gif": gif})


def _pareto(question: Question) -> Answer:
    points = [
        {
            "run": run["id"],
            "cost_strength": run["cost_strength"],
            "seed": run["seed"],
            "loss": run["metrics"].get("test_prediction_loss"),
            "wiring": run["metrics"].get("connection_cost"),
            "connections": run["metrics"].get("connections"),
            "modularity": run["metrics"].get("modularity"),
            "scale": run["metrics"].get("loss_scale"),
        }
        for run in question.told["runs"]
    ]
    return Answer(without_infinities(pareto(points, tolerance=question.order["tolerance"])))


def _stability(question: Question) -> Answer:
    runs = question.told["runs"]
    found = stability(runs)
    reference = found.pop("reference", None)
    return Answer(without_infinities(found | {"reference": None if reference is None else runs[reference]["id"]}))


ANSWERS: dict[str, Callable[[Question], Answer]] = {
    "predict": _predict,
    "intervention": _intervention,
    "verify": _verify,
    "onnx": _onnx,
    "probe": _probe,
    "embedding": _embedding,
    "module": _module,
    "film": _film,
    "pareto": _pareto,
    "stability": _stability,
}
