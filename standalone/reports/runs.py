"""One row per (recipe, seed): train, gather the evidence, keep what a table or a page needs.

Rows are kept in `reports/rows/`, named by the spec, the seed and the engine's own source: a report that was
interrupted goes on where it stopped, and a changed engine never reads an old row.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bimt_engine.fingerprint import code_hash
from bimt_engine.recipes.shelf import load_recipe
from bimt_engine.spec import Spec

Row = dict[str, Any]
ROW_VERSION = 2  # raise it when a row says more, or something else, than before


@dataclass(frozen=True)
class Question:
    """Train this recipe's spec with this seed.

    evidence   False: train only. Pruning a network of 90 000 connections is a job of its own.
    baseline   also prune the published way, by thresholds alone.
    """

    recipe: str
    seed: int
    spec: Spec
    evidence: bool = True
    baseline: bool = False

    @property
    def key(self) -> str:
        spec = self.spec.expanded().model_dump(mode="json")
        said = json.dumps([ROW_VERSION, spec, self.seed, self.evidence, self.baseline, code_hash()])
        return f"{self.recipe}-{self.seed}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def questions(recipe_name: str, seeds: int | None, *, evidence: bool) -> list[Question]:
    """The recipe over the seeds 0 … n − 1, none of them picked."""
    recipe = load_recipe(recipe_name)
    spec = recipe.spec
    return [Question(recipe_name, seed, spec, evidence) for seed in range(seeds or recipe.seeds)]


def answer(question: Question) -> Row:
    """Train, prune and test one network; everything in the row is plain JSON.

    kept          where nothing is pruned, how many connections the trained network uses (standalone/reports/kept.py).
    seconds_cpu   CPU time of training and of the evidence, each without loading the data.
    wiring        of the trained network, as it lies and relaid.
    """
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.analysis.relaying import relay
    from bimt_engine.analysis.subject import Subject
    from bimt_engine.analysis.thresholding import CUTS, threshold
    from bimt_engine.datasets.catalogue import make_dataset
    from bimt_engine.training.loop import Training
    from standalone.reports.kept import kept_connections

    spec, seed = question.spec.expanded(), question.seed
    dataset = make_dataset(spec.dataset, seed=seed)
    began = time.process_time()
    training = Training.begin(spec, dataset, seed=seed)
    history = [moment.row for moment in training.moments() if moment.row]
    trained = time.process_time()
    row: Row = {
        "recipe": question.recipe,
        "seed": seed,
        "stepper": training.stepper_name,
        "seconds_cpu": {"training": trained - began},
        "trained": history[-1],
        "wiring": relay(training.network, seed=seed).document(),
        "history": history,
    }
    if question.evidence:
        evidence = gather_evidence(training.network, dataset, spec, seed=seed)
        row["seconds_cpu"]["evidence"] = time.process_time() - trained
        row["evidence"] = evidence.document()
    else:
        row["kept"] = kept_connections(training.network, dataset, spec.training)
    if question.baseline:
        subject = Subject.of(training.network, dataset, loss=spec.training.loss, seed=seed)
        row["thresholds"] = [threshold(subject, cut) for cut in CUTS]
    return row


def answers(asked: list[Question], folder: Path, *, processes: int) -> Iterator[Row]:
    """The rows of these questions as they are answered, those of earlier reports first."""
    folder.mkdir(parents=True, exist_ok=True)
    open_questions = []
    for question in asked:
        path = folder / f"{question.key}.json"
        if path.exists():
            yield json.loads(path.read_text(encoding="utf-8"))
        else:
            open_questions.append(question)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(answer, question): question for question in open_questions}
        for done in as_completed(waiting):
            row = done.result()
            path = folder / f"{waiting[done].key}.json"
            part = path.with_suffix(".part")
            part.write_text(json.dumps(row), encoding="utf-8")
            part.rename(path)
            yield row
