"""Interventions as documents: plain JSON in, plain JSON out, within limits, every problem told with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.asked import MOST_TRIALS, EachAsked, InterventionError, InterventionsAsked, read_asked
from bimt_engine.analysis.intervention import Change, Intervention
from bimt_engine.analysis.losses import LossName
from bimt_engine.analysis.subject import Subject
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.network import Network

MOST_WORK = 2e11  # multiplications of all trials together: half a minute of one core
MOST_PROBLEMS = 50  # told at once


def answer_interventions(
    network: Network,
    dataset: Dataset,
    asked: Mapping[str, Any] | InterventionsAsked,
    *,
    modules: Sequence[Mapping[str, Any]] = (),
    loss: LossName | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What the interventions asked for do to every metric and output; JSON-able. The network is not changed.

    network   the one that `asked` names: pruned and refitted, or as trained. What it keeps is what is not exactly 0.
    modules   the evidence's documents, for changes of whole modules.
    loss      as the spec says; None: as the task asks.
    Raises InterventionError, with a JSON Pointer for every change that cannot be made.
    """
    asked = asked if isinstance(asked, InterventionsAsked) else read_asked(asked)
    with threadpool_limits(1):
        subject = Subject.of(network, dataset, loss=loss, seed=seed)
        members = {str(module["name"]): list(module["neurons"]) for module in modules}
        intervention = Intervention(subject, subject.values(), modules=members, seed=seed)
        trials = _each(intervention, asked.each) if asked.each else [_changes(trial) for trial in asked.trials]
        _refuse_unless_affordable(intervention, len(trials))
        _check(intervention, trials, pointer="/each" if asked.each else None)
        outcomes = intervention.run(trials)
    told = [
        {
            "changes": [{"kind": c.kind, "id": c.id, "do": c.do, "value": c.value} for c in trial],
            "metrics": outcome.metrics,
            "change": outcome.document()["change"],
            "effects": outcome.effects,
        }
        for trial, outcome in zip(trials, outcomes, strict=True)
    ]
    measure = "E[(y - y')²] / Var(y) of each output over training and held-out examples"
    return {"network": asked.network, "before": intervention.before, "measure": measure, "trials": told}


def _changes(trial: Sequence[Any]) -> list[Change]:
    return [Change(change.kind, change.id, change.do, change.value) for change in trial]


def _each(intervention: Intervention, asked: EachAsked) -> list[list[Change]]:
    """One trial for every part of this kind that the network has."""
    ids = intervention.parts(asked.kind)
    if not ids:
        raise InterventionError(
            f"This network has no {asked.kind} to change.", problems=(("/each/kind", "none there"),)
        )
    if len(ids) > MOST_TRIALS:
        raise InterventionError(
            f"This network has {len(ids)} of kind {asked.kind}; at most {MOST_TRIALS} trials are run at once. "
            "Name the ones that matter in `trials`.",
            problems=(("/each/kind", f"{len(ids)} are more than {MOST_TRIALS}"),),
        )
    return [[Change(asked.kind, identifier, asked.do, asked.value)] for identifier in ids]


def _refuse_unless_affordable(intervention: Intervention, trials: int) -> None:
    parameters = sum(value.size for value in intervention.values.values())
    one = float(parameters) * np.prod(
        intervention.inputs.shape[:2] if intervention.inputs.ndim == 3 else [len(intervention.inputs)]
    )
    if trials * one > MOST_WORK:
        fit = max(1, int(MOST_WORK / one))
        raise InterventionError(
            f"{trials} trials of this network on {len(intervention.inputs)} examples would take minutes: ask for at "
            f"most {fit} at once.",
            problems=(("/trials", f"at most {fit} at once"),),
        )


def _check(intervention: Intervention, trials: Sequence[Sequence[Change]], *, pointer: str | None) -> None:
    """Every change that cannot be made, told at once."""
    problems: list[tuple[str, str]] = []
    for t, trial in enumerate(trials):
        for c, change in enumerate(trial):
            try:
                intervention.check(change)
            except InterventionError as error:
                problems.append((pointer or f"/trials/{t}/{c}", str(error)))
            if (problems and pointer) or len(problems) >= MOST_PROBLEMS:
                raise InterventionError(problems[0][1], problems=tuple(problems))
    if problems:
        raise InterventionError(" ".join(sentence for _, sentence in problems[:5]), problems=tuple(problems))
