"""Which outputs a network predicts at all: each held against a constant answer, on rows that it was not trained on.

A module says what a network does; whether that has anything to do with the data is another question. A number is
learnt when its held-out R² is at least `LEAST` and its squared errors are below those of the best constant by more than
their standard error. A class is learnt when its rows are called by its name more often than other rows are, by as much
and by more than the standard error of that difference: a constant answer calls both alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bimt_engine.analysis.plain_mlp import Array, Values
from bimt_engine.analysis.subject import Examples, Subject
from bimt_engine.spec import Spec

LEAST = 0.05  # R² of a number, or how much oftener a class is recognised than mistaken; below, nothing was learnt
SMALLER = 0.1  # of the cost strength: what is worth trying next
MOST_NAMED = 8  # outputs in a sentence
Row = dict[str, Any]


def learnt(subject: Subject, pruned: Values, *, reached: Sequence[str]) -> list[Row]:
    """For each target, how well it is predicted: pruned, as trained, and on the rows of the training.

    pruned    the values of the pruned network; the subject has those as trained.
    reached   targets that a connection leads to.

    Each row: output, reached, learnt (None: no held-out row can tell), measure ("r2" or "recall"), `pruned`, `trained`,
    `trained_on_training_rows` (each with that measure, `standard_error`, `learnt`, and for classes `precision` and
    `mistaken`, the share of other rows that are taken for the class), rows (held out; of a class, its own).
    """
    trained = subject.values()
    scored = {
        "pruned": scores(subject, pruned, subject.held_out),
        "trained": scores(subject, trained, subject.held_out),
        "trained_on_training_rows": scores(subject, trained, subject.train),
    }
    return [
        {
            "output": str(name),
            "reached": str(name) in reached,
            "learnt": scored["pruned"][number]["learnt"],
            "measure": "recall" if subject.dataset.task == "classification" else "r2",
            "rows": scored["pruned"][number].pop("rows"),
            **{which: {k: v for k, v in of[number].items() if k != "rows"} for which, of in scored.items()},
        }
        for number, name in enumerate(subject.dataset.target_names)
    ]


def scores(subject: Subject, values: Values, examples: Examples) -> list[Row]:
    """For each target, how well these examples are predicted: the measure, its standard error, `learnt`, rows."""
    outputs = subject.outputs(values, examples)
    if subject.dataset.task == "classification":
        called = outputs.argmax(-1)
        classes = range(len(subject.dataset.target_names))
        return [_recognised(called == number, examples.targets == number) for number in classes]
    # A sequence that is predicted at several steps has a column for each step and target; its steps are pooled.
    targets = len(subject.dataset.target_names)
    shape = (len(outputs), -1, targets)
    truth, said = examples.targets.reshape(shape), outputs.reshape(shape)
    constant = subject.train.targets.reshape(len(subject.train.targets), -1, targets).mean(axis=0)
    return [_explained(truth[..., t], said[..., t], constant[..., t]) for t in range(targets)]


def _explained(truth: Array, said: Array, constant: Array) -> Row:
    """R² of one target, (examples, steps), and whether its errors are below those of the constant."""
    variance = float(truth.var(axis=0).mean())
    errors = ((truth - said) ** 2).mean(axis=1)
    if len(truth) < 2 or variance <= 0:
        return {"r2": None, "standard_error": None, "learnt": None, "rows": len(truth)}
    gains = ((truth - constant) ** 2).mean(axis=1) - errors
    r2 = 1 - float(errors.mean()) / variance
    error = float(gains.std()) / math.sqrt(len(gains)) / variance
    better = r2 >= LEAST and float(gains.mean()) / variance > error
    return {"r2": r2, "standard_error": error, "learnt": bool(better), "rows": len(truth)}


def _recognised(called: Array, own: Array) -> Row:
    """How often rows of a class are called by its name, and other rows mistaken for it."""
    ours, others = int(own.sum()), int((~own).sum())
    row: Row = {"recall": None, "precision": None, "mistaken": None, "standard_error": None, "learnt": None}
    if not (ours and others):
        return row | {"rows": ours}
    recall, mistaken = float(called[own].mean()), float(called[~own].mean())
    error = math.sqrt(recall * (1 - recall) / ours + mistaken * (1 - mistaken) / others)
    return {
        "recall": recall,
        "precision": float(own[called].mean()) if called.any() else None,
        "mistaken": mistaken,
        "standard_error": error,
        "learnt": bool(recall - mistaken >= LEAST and recall - mistaken > error),
        "rows": ours,
    }


def not_learnt_in_words(rows: Sequence[Row], spec: Spec, *, connections: int) -> str | None:
    """What was not learnt and what may help, in sentences; None where everything was.

    Advice is given where the rows bear it out: pruning lost what the trained network knew; the trained network had
    learnt the rows of its training by heart; or it did not know even these, while its cost held it down.
    """
    missed = [row for row in rows if row["learnt"] is False]
    if not connections:
        said = "Nothing was learnt: no connection is left, so the network answers a constant."
        missed = list(rows)
    elif not missed:
        return None
    elif len(missed) > MOST_NAMED:
        said = f"{len(missed)} of {len(rows)} {'classes' if _of_classes(rows) else 'outputs'} are not learnt."
    else:
        said = " ".join(_not_learnt(row) for row in missed)
    return " ".join([said, *_advice(missed, spec)])


def _not_learnt(row: Row) -> str:
    found, rows = row["pruned"], row["rows"]
    why = "" if row["reached"] else ", and no connection leads to it"
    if row["measure"] == "recall":
        said = (
            f"{found['recall']:.0%} of its {rows} held-out rows are recognised, {found['mistaken']:.0%} of the others"
        )
        return f"Class {row['output']} is not learnt: {said} are taken for it{why}."
    doubt = f" ± {found['standard_error']:.2f}" if found["r2"] >= LEAST else ""
    return f"{row['output']} is not learnt: R² {round(found['r2'], 2) + 0.0:.2f}{doubt} on {rows} held-out rows{why}."


def _advice(missed: Sequence[Row], spec: Spec) -> list[str]:
    """At most one sentence for each reason, naming whom it is about where it is not about all that was missed."""
    lost = [row for row in missed if row["trained"]["learnt"]]
    rest = [row for row in missed if not row["trained"]["learnt"]]
    by_heart = [row for row in rest if row["trained_on_training_rows"]["learnt"]]
    unknown = [row for row in rest if row["trained_on_training_rows"]["learnt"] is False]
    strength = next((p.cost_strength for p in spec.expanded().training.phases if p.cost_strength > 0), None)
    said = []
    if lost:
        knew = f"The network as trained knew {_whom(lost, missed)}; pruning lost it"
        said.append(f"{knew}: try a smaller `evidence.tolerance` than {spec.evidence.tolerance:g}.")
    if by_heart:
        said.append(
            f"The network as trained fitted {_whom(by_heart, missed)} on the rows of its training only: "
            "learnt by heart, or there is nothing to learn."
        )
    if unknown and strength is not None:
        said.append(
            f"The network as trained did not fit {_whom(unknown, missed)} even on the rows of its training: "
            f"if there is something to learn, try smaller cost strengths, such as {_round(SMALLER * strength)}."
        )
    return said


def _whom(some: Sequence[Row], missed: Sequence[Row]) -> str:
    if len(some) == len(missed) or len(some) > MOST_NAMED:
        return "it" if len(some) == 1 else "them"
    return ", ".join(row["output"] for row in some)


def _of_classes(rows: Sequence[Mapping[str, Any]]) -> bool:
    return rows[0]["measure"] == "recall"


def _round(number: float) -> str:
    return f"{float(f'{number:.1g}'):g}"
