"""One row per (recipe, seed): train, gather the evidence, keep what a table or a page needs.

Rows are kept in `reports/rows/`, named by the spec, the seed and the engine's own source: a report that was
interrupted continues where it stopped, and a changed engine never reads an old row.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules.find import find_modules
from bimt_engine.analysis.pruning.engine import PruningEngine
from bimt_engine.analysis.readout.symmetry import symmetry_report
from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import DataError
from bimt_engine.fingerprint import code_hash
from bimt_engine.networks.network import Network
from bimt_engine.recipes import load_recipe
from bimt_engine.spec import Spec, TrainingSpec
from bimt_engine.training.batches import TensorData

Row = dict[str, Any]
ROW_VERSION = 2  # raise it when a row says more, or something else, than before


@dataclass(frozen=True)
class Experiment:
    """Train this recipe's spec with this seed.

    evidence   False: train only. Pruning a network of 90 000 connections is a job of its own.
    baseline   also prune the published way, by thresholds alone.
    content    of the file that the spec's data set is read from, where it is an uploaded one.
    """

    recipe: str
    seed: int
    spec: Spec
    evidence: bool = True
    baseline: bool = False
    content: bytes | None = None

    @property
    def key(self) -> str:
        """A file name that changes with the spec, the seed and the engine's source."""
        spec = self.spec.expanded().model_dump(mode="json")
        said = json.dumps([ROW_VERSION, spec, self.seed, self.evidence, self.baseline, code_hash()])
        return f"{self.recipe}-{self.seed}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def experiments(recipe_name: str, seeds: int | None, *, evidence: bool) -> list[Experiment]:
    """The recipe over the seeds 0 … n − 1, none of them picked."""
    recipe = load_recipe(recipe_name)
    spec = recipe.spec
    return [Experiment(recipe_name, seed, spec, evidence) for seed in range(seeds or recipe.seeds)]


def run_experiment(experiment: Experiment) -> Row:
    """Train, prune and test one network; everything in the row is plain JSON.

    kept          where nothing is pruned, how many connections the trained network uses.
    seconds_cpu   CPU time of training and of the evidence, each without loading the data.
    wiring        of the trained network, in its own and in the shortest layout.
    """
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.analysis.wiring_efficiency import relayout
    from bimt_engine.data.registry import make_dataset
    from bimt_engine.training.loop import Training

    spec, seed = experiment.spec.expanded(), experiment.seed
    try:
        dataset = make_dataset(spec.dataset, seed=seed, content=experiment.content)
    except DataError as missing:  # MNIST's files are the user's own
        return {"recipe": experiment.recipe, "seed": seed, "skipped": str(missing)}
    began = time.process_time()
    training = Training.begin(spec, dataset, seed=seed)
    history = [update.row for update in training.updates() if update.row]
    trained = time.process_time()
    row: Row = {
        "recipe": experiment.recipe,
        "seed": seed,
        "stepper": training.stepper_name,
        "seconds_cpu": {"training": trained - began},
        "trained": history[-1],
        "wiring": relayout(training.network, seed=seed).document(),
        "history": history,
    }
    if experiment.evidence:
        evidence = gather_evidence(training.network, dataset, spec, seed=seed)
        row["seconds_cpu"]["evidence"] = time.process_time() - trained
        row["evidence"] = evidence.document()
    else:
        row["kept"] = kept_connections(training.network, dataset, spec.training)
    if experiment.baseline:
        subject = AnalysisContext.of(
            training.network, dataset, loss=spec.training.loss, balance_outputs=spec.balances_outputs, seed=seed
        )
        row["thresholds"] = [prune_by_magnitude(subject, cut) for cut in CUTS]
    return row


class Trial(Protocol):
    """What a row is made of; `key` is a file name that changes with everything that the row depends on."""

    @property
    def key(self) -> str: ...


AnyTrial = TypeVar("AnyTrial", bound=Trial)


def gather(
    trials: Iterable[AnyTrial],
    run: Callable[[AnyTrial], Row],
    folder: Path,
    *,
    processes: int,
    minutes: float | None = None,
) -> Iterator[tuple[AnyTrial, Row]]:
    """Each trial with its row as they are ready, those of earlier reports first; each row is kept at once.

    minutes   none is begun afterwards. A row with `skipped` is not kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = []
    for trial in trials:
        path = folder / f"{trial.key}.json"
        if path.exists():
            yield trial, json.loads(path.read_text(encoding="utf-8"))
        else:
            waiting.append(trial)
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    following = iter(waiting)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running: dict[Future[Row], AnyTrial] = {}
        while True:
            while len(running) < processes and time.monotonic() < end:
                begun = next(following, None)
                if begun is None:
                    break
                running[pool.submit(run, begun)] = begun
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                trial, row = running.pop(done), done.result()
                if "skipped" not in row:
                    part = folder / f"{trial.key}.part"
                    part.write_text(json.dumps(row), encoding="utf-8")
                    part.rename(folder / f"{trial.key}.json")
                yield trial, row


LADDER = np.geomspace(1e-3, 1.0, 31)  # AdamW leaves about 1e-3 where nothing is needed
ACCURACY = 0.001  # may be lost
LOSS = 0.01  # of the loss may be added


def kept_connections(network: Network, dataset: Dataset, training: TrainingSpec) -> dict[str, float | int]:
    """{connections, threshold, nonzero}: kept by the rule, the threshold, and weights that are not exactly 0.

    The network is left as it was.
    """
    data = TensorData.of(dataset, training.model_copy(update={"device": "cpu"}), seeds=[0])
    names = [weights.parameter for weights in network.wiring.weight_layers]
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in names]
    trained = [weight.detach().clone() for weight in weights]
    strengths = torch.cat([weight.abs().flatten() for weight in trained])
    before = data.evaluate(network)
    found = {"connections": strengths.numel(), "threshold": 0.0, "nonzero": int(torch.count_nonzero(strengths))}
    for threshold in LADDER.tolist():
        with torch.no_grad():
            for weight, whole in zip(weights, trained, strict=True):
                weight.copy_(whole * (whole.abs() > threshold))
        if _as_good(data.evaluate(network), before):
            found |= {"connections": int((strengths > threshold).sum()), "threshold": threshold}
    with torch.no_grad():
        for weight, whole in zip(weights, trained, strict=True):
            weight.copy_(whole)
    return found


def _as_good(after: dict[str, float], before: dict[str, float]) -> bool:
    if "train_accuracy" in before:
        return after["train_accuracy"] >= before["train_accuracy"] - ACCURACY
    return after["prediction_loss"] <= before["prediction_loss"] * (1 + LOSS)


# --- pruned as published ----------------------------------------------------------------------------


CUTS = (0.001, 0.01, 0.05, 0.1)


def prune_by_magnitude(context: AnalysisContext, cut: float) -> dict[str, Any]:
    """Graph, modules, symmetries and losses of the trained network without what is smaller than the cut; JSON-able."""
    engine = PruningEngine(context, refit_evaluations=0)
    values = {name: np.where(np.abs(value) >= cut, value, 0.0) for name, value in context.values().items()}
    masks = {w.parameter: values[w.parameter] != 0 for w in context.wiring.weight_layers}
    values, masks = engine.without_dead_ends(values, masks)
    state = engine.state(values, masks)
    names = context.dataset.feature_names
    tested = context.losses(context.outputs(values, context.test), context.test)
    symmetries = symmetry_report(context, values, seed=0)
    return {
        "cut": cut,
        "metrics": {
            "prediction_loss": state.step.train_loss,
            "validation_prediction_loss": state.step.validation_loss,
            "test_prediction_loss": float(tested.mean()),
            "connections": state.step.connections,
        },
        "graph": extract_graph(context, values, masks).to_json(),
        "modules": [
            {
                "inputs": [names[i] for i in module.inputs],
                "outputs": [context.dataset.target_names[o] for o in module.outputs],
                "supported": False,
            }
            for module in find_modules(context, masks)
        ],
        "readout": {"outputs": [{"symmetry": symmetry} for symmetry in symmetries]},
    }
