"""The sentences about how well each output is predicted, and about the columns that the network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bimt_engine.analysis.statements.wording import MAX_NAMED, Document, counted, listed, number, quoted, stored

LEARNT_R2 = 0.05  # R² of a number, or recall less false-positive rate of a class; below, nothing was learnt
SMALLER_COST = 0.1  # of the cost strength: what is worth trying next


@dataclass(frozen=True)
class OutputStatement:
    """How well one target is predicted.

    learnt    None where there are too few rows to decide.
    verdict   learnt, not learnt, too few rows to tell.
    text      clause: the measure on validation and test rows, and before pruning.
    """

    output: str
    learnt: bool | None
    verdict: str
    text: str


def output_statement(score: Document) -> OutputStatement:
    """The statement of one row of the stored `metrics.outputs`."""
    measure = score["measure"]
    name = {"r2": "R²", "recall": "recall"}.get(measure, measure)
    now, before, tested = ((score.get(which) or {}).get(measure) for which in ("pruned", "trained", "test"))
    learnt = score["learnt"]
    word = {True: "learnt", False: "not learnt", None: "too few rows to tell"}[learnt]
    text = f"{name} {_four_digits(now)} held out, {_four_digits(before)} before"
    if "test" in score:
        text = f"{name} {_four_digits(tested)} on test rows, {_four_digits(now)} on validation rows"
        text += f", where it was {_four_digits(before)} before pruning"
    return OutputStatement(str(score["output"]), learnt, word, text)


def not_learnt(
    scores: Sequence[Document],
    *,
    connections: int,
    tolerance: float,
    cost_strength: float | None,
    gain: Document | None = None,
) -> str | None:
    """What was not learnt and what may help, in sentences; None where everything was.

    Advice is given where the rows bear it out: pruning lost what the trained network knew; the trained network had
    memorised its training rows; or it did not fit even these, while its cost held it down.

    tolerance       of pruning. cost_strength: the first that is not zero; None where nothing had a cost.
    gain            over a constant answer, as in `metrics.gain_over_constant`; None in older runs.
    """
    missed = [score for score in scores if score["learnt"] is False]
    if not connections:
        said = "Nothing was learnt: no connection is left, so the network answers a constant."
        missed = list(scores)
        if gain is not None:
            said += f" {_gain_statement(gain)}"
    elif not missed:
        return None
    elif len(missed) > MAX_NAMED:
        kind = "classes" if scores[0]["measure"] == "recall" else "outputs"
        said = f"{len(missed)} of {len(scores)} {kind} are not learnt."
    else:
        said = " ".join(_output_not_learnt(score) for score in missed)
    none_better = not connections and gain is not None  # then it was not the tolerance that took them away
    return " ".join([said, *_advice(missed, None if none_better else tolerance, cost_strength)])


@dataclass(frozen=True)
class DataStatement:
    """Whether what two networks were trained and measured on can be compared.

    same   the same data, though perhaps in other rows.
    """

    same: bool
    text: str


DRAWN = ("seed", "train", "test", "validation", "validation_fraction", "test_fraction", "split_version", "time_split")
"""Fields of a data set's spec that say which of its rows are for what, or how many are drawn."""


def data_statement(a: Document, b: Document, *, seeds: tuple[int, int]) -> DataStatement:
    """From the `dataset` of two specs, and the seeds of their runs.

    Two uploads of the same bytes have the same `dataset_id` here.
    """
    fields = [name for name in dict.fromkeys([*a, *b]) if (a.get(name) or None) != (b.get(name) or None)]
    changed = [name.removesuffix("_id") for name in fields if name not in DRAWN]
    if changed:
        kinds = [str(of.get("kind", "unknown")).replace("_", " ") for of in (a, b)]
        what = listed(kinds) if kinds[0] != kinds[1] else f"they differ in {listed(changed)}"
        consequence = "losses, accuracies and whatever else is measured on rows cannot be compared"
        return DataStatement(False, f"These were trained on different data ({what}): {consequence}.")
    if fields or ("seed" in a and a["seed"] is None and seeds[0] != seeds[1]):
        why = f"they differ in {listed(fields)}" if fields else "each seed draws its own"
        return DataStatement(True, f"Both were trained on the same data, in other rows: {why}.")
    return DataStatement(True, "Both were trained on the same data and rows.")


def baselines_measure(baselines: Document) -> str:
    """What the comparison with usual methods is in, the first words of its statement; "" where there is none."""
    if baselines["gap"] is None:
        return ""
    return "Pooled R²" if baselines["measure"] == "r2" else "Accuracy"


def baselines_statement(baselines: Document) -> str:
    """What the network costs in accuracy against the better of two usual methods, from `metrics.baselines`."""
    network, better = baselines["network"], baselines[baselines["better"]]
    other = baselines["boosted" if baselines["better"] == "linear" else "linear"]
    size = f"the network of {counted(baselines['connections'], 'connection')}"
    if baselines["gap"] is None:
        return f"On the test rows {size} cannot be compared: their targets do not vary."
    baseline_scores = ", ".join(f"{of['name']} {_score(of['test'])}" for of in (better, other))
    return f"{baselines_measure(baselines)} on test rows: {size} {_score(network['test'])}, {baseline_scores}."


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def column_statement(column: Document) -> str:
    """How a column of a table became inputs, as an encoding says it; "" for a number that is read as it is."""
    said = []
    levels = [str(level) for level in column.get("levels") or ()]
    if levels:
        more = f" and {len(levels) - MAX_NAMED} more" if len(levels) > MAX_NAMED else ""
        kind = "levels in their order" if column.get("ordered") else "levels"
        said.append(f"{kind} {', '.join(levels[:MAX_NAMED])}{more}")
    if joined := column.get("joined"):
        said.append(f"{counted(len(joined), 'rare level')} as one input")
    if column.get("type") == "date":
        said.append("read as " + (", ".join(_names_of_parts(column)) or "days"))
    if (median := column.get("median")) is not None:
        said.append(f"read as log(1 + value / {number(median)})")
    if column.get("indicator"):
        fills = list(column.get("fills") or [])
        filled = f"{number(fills[0])} stands there and " if len(fills) == 1 else ""
        said.append(f"where there is no value, {filled}an input of its own says so")
    return f"column {column['name']}: {'; '.join(said)}" if said else ""


def _names_of_parts(column: Document) -> list[str]:
    return [str(part) for part in column.get("parts") or ()]


def _gain_statement(gain: Document) -> str:
    """Why a constant answer was kept, from `metrics.gain_over_constant`."""
    rows = f"{gain['rows']} {'validation rows' if gain['by'] == 'validation' else 'rows (cross-fitted)'}"
    if not gain["mean"] > 0:
        return f"No pruned network predicted {rows} better."
    return (
        f"The loss of the best pruned network on {rows} is lower by {number(gain['mean'])}, which two standard errors "
        f"({number(2 * stored(gain['standard_error']))}) do not distinguish from chance."
    )


def _output_not_learnt(score: Document) -> str:
    found, rows = score["pruned"], f"{score['rows']} {'validation' if 'test' in score else 'held-out'} rows"
    why = "" if score["reached"] else ", and no connection leads to it"
    if score["measure"] == "recall":
        said = f"{found['recall']:.0%} of its {rows} are recognised, {found['mistaken']:.0%} of the others"
        return f"Class {quoted(score['output'])} is not learnt: {said} are taken for it{why}."
    doubt = f" ± {found['standard_error']:.2f}" if found["r2"] >= LEARNT_R2 else ""
    r2 = f"R² {round(found['r2'], 2) + 0.0:.2f}{doubt} on {rows}"
    return f"{quoted(score['output'])} is not learnt: {r2}{why}."


def _advice(missed: Sequence[Document], tolerance: float | None, cost_strength: float | None) -> list[str]:
    """At most one sentence for each reason, naming the outputs where it is not about all that was missed."""
    lost = [score for score in missed if score["trained"]["learnt"]]
    rest = [score for score in missed if not score["trained"]["learnt"]]
    by_heart = [score for score in rest if score["trained_on_training_rows"]["learnt"]]
    unknown = [score for score in rest if score["trained_on_training_rows"]["learnt"] is False]
    said = []
    if lost and tolerance is not None:
        knew = f"The network as trained predicted {_which(lost, missed)}; pruning lost it"
        said.append(f"{knew}: try a smaller `evidence.tolerance` than {tolerance:g}.")
    if by_heart:
        said.append(
            f"The network as trained fitted {_which(by_heart, missed)} on its training rows only: "
            "it memorised them, or there is nothing to learn."
        )
    if unknown and cost_strength is not None:
        said.append(
            f"The network as trained did not fit {_which(unknown, missed)} even on its training rows: "
            f"if there is something to learn, try smaller cost strengths, such as "
            f"{float(f'{SMALLER_COST * cost_strength:.1g}'):g}."
        )
    return said


def _which(some: Sequence[Document], missed: Sequence[Document]) -> str:
    if len(some) == len(missed) or len(some) > MAX_NAMED:
        return "it" if len(some) == 1 else "them"
    return ", ".join(quoted(score["output"]) for score in some)


def _four_digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
