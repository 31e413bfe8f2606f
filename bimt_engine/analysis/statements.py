"""Every sentence that is made from the evidence, in one place, for pages, command line, model card and API alike.

Each function takes the plain documents of a run as they are stored (`report.py` has their types) and gives a sentence,
or a frozen dataclass that holds the sentence in `text` beside the parts it is made of. So no caller has to take a
sentence apart again: names of columns may contain any character. No torch and no numpy, because the API imports this.

Longer than other files on purpose: the sentences about one network can be compared and kept consistent in one place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bimt_engine.analysis.graph import Graph, Neuron

Document = Mapping[str, Any]

# What the tests of a module ask for (`modules/find.py` applies these limits).
EXCLUSIVE = 1e-3  # of an output's variance: a module of the pruned network may do no more to outputs not its own
LEAK = 0.01  # the same in the network as trained, which the |w| penalty leaves with residue
CARRIES = 0.5  # of an output's variance must go when its module is switched off in the network as trained
SIGNIFICANT = 0.05  # p-value after Holm's correction

LEARNT_R2 = 0.05  # R² of a number, or recall less false-positive rate of a class; below, nothing was learnt
NAMED = 1e-3  # of an output's variance: additive parts that carry less are not named
MAX_NAMED = 8  # names, outputs or modules in one sentence
SMALLER_COST = 0.1  # of the cost strength: what is worth trying next
MAX_NETWORK_MODULES = 8  # modules that are listed one by one in the description of a figure

PURE = 0.9  # of a neuron's variance: with so much in one irreducible representation it is counted for it
WORTH_NAMING = 0.03  # of the variance: a representation with less is left out of a sentence
EXACT_FROM = 0.99  # shares above are told with one more digit
FREQUENCY = "frequency "  # begins the names of the representations of abelian groups

METRIC_LABELS = {
    "test_prediction_loss": "test loss",
    "validation_prediction_loss": "validation loss",
    "train_prediction_loss": "train loss",
    "prediction_loss": "train loss",
    "test_accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "train_accuracy": "train accuracy",
    "test_r2": "test R²",
    "validation_r2": "validation R²",
    "r2": "R²",
}
"""Metric -> its short label."""

INTERVENTION_LABELS = {
    "mean": "held at its mean in the pruned network",
    "resample": "given its values from other examples",
    "zero": "set to zero",
    "trained": "held at its mean in the network as trained, before it was pruned",
}
"""Kind of an effect matrix -> how the modules were treated, to follow "when a module is …"."""

FIGURE_LABELS = {
    "network": "The network in layers, inputs below and outputs above; colours are modules, dashes negative weights.",
    "effects": "What each module does to each output, as a matrix.",
    "fit": "True against predicted values on test examples: a good network lies on the diagonal.",
    "prune-curve": "The loss as connections are taken away, and where the network was cut.",
    "embedding": (
        "What the network has learned to know of its tokens: their vectors in the irreducible representations of "
        "their group that hold the most, for numbers modulo n its frequencies."
    ),
    "strips": (
        "What each dimension of the embedding tells apart: one strip for each, with the tokens at their values, and "
        "the representation that holds the most of it."
    ),
    "features": "What neurons of the first hidden layer respond to in an image: their incoming weights as pictures.",
    "decision": "Where the classifier of two inputs draws its line.",
    "ranks": "Weights from heavy to light: how many are needed, and where the rest begins.",
    "pareto": "Held-out loss against wiring of each run; the line joins the runs that no other beats in both.",
}
"""Name in the figure registry -> what the figure shows."""

FORMULA_UNITS = {
    "data": "Columns and target are in the units of the data.",
    "scores": "It is the score of this class, the larger the likelier, for columns in the units of the data.",
    # Runs that were read out when formulas were still in the network's own units.
    None: "It is in the units that the network was trained in: standardised ones, where its data were standardised.",
}

SUPPORTED_MEANS = (
    f"A supported module moves its own outputs by {CARRIES:g} at least, and all others by less than {LEAK:g}."
)
"""Of the network as trained."""

CAUTION = (
    "Rejecting a null says that the weights are not placed at random. It does not say that these groups are the right "
    "ones, or that they do anything: that is what the effects of the modules are for."
)


# --- names and numbers ------------------------------------------------------------------------------


PLAIN = re.compile(r"[^\W\d]\w*(\[[^\[\]“”]*\])?")
RESERVED = frozenset((
    "pi", "e", "E", "I", "oo", "zoo", "nan", "abs", "Abs", "sign", "sqrt", "exp", "log", "ln", "min", "max", "Min",
    "Max", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "floor", "ceiling", "Piecewise",
    "Heaviside", "True", "False",
))  # fmt: skip
"""What sympy calls functions and numbers: no column may be written so in a formula."""
PUNCTUATION = re.compile(r'[;:"“”]|,(?!\d+\])')  # ends a name for a reader; the comma of `pixel[3,4]` does not


def quoted(name: Any) -> str:
    """A name as it stands in a sentence: in quotes where its punctuation would be read as that of the sentence."""
    return f"“{name}”" if PUNCTUATION.search(str(name)) else str(name)


def in_formula(name: Any) -> str:
    """A name as it stands in a formula: in quotes where it could be read as more than one thing, such as “a+b”, “log”.

    Words, digits and underscores stand as they are, and so does what follows them in square brackets.
    """
    text = str(name)
    if PLAIN.fullmatch(text) and text not in RESERVED:
        return text
    return "“" + text.replace("”", "\\”") + "”"


def listed(names: Sequence[Any], most: int = MAX_NAMED) -> str:
    """a; a and b; a, “b, c” and d. A long list is cut short."""
    shown = [quoted(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def counted(count: int, noun: str) -> str:
    """1 neuron, 2 neurons."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def sentence(text: str) -> str:
    """A clause as a sentence: its first letter upper-case, a full stop at the end. Empty stays empty."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def share(value: float | int | None) -> str:
    """A share such as R²: 0.99995 is not 1, so it gets as many digits as it takes to say so, up to nine.

    How far below zero R² is says nothing: a constant would be better.
    """
    if value is None:
        return "–"
    if value < 0:
        return "below 0, worse than a constant"
    digits = next((n for n in range(4, 9) if float(f"{value:.{n}f}") != 1.0 or value == 1.0), 9)
    shown = f"{value:.{digits}f}"
    return (shown.rstrip("0").rstrip(".") or "0").replace("-", "−")


def number(value: float | int | None) -> str:
    """A number as a person reads it: few digits, no needless zeros, a true minus sign, powers of ten raised."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        shown = f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
        return shown.replace("-", "−")
    if size >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")
    shown = f"{value:.{max(0, 3 - math.ceil(math.log10(size) + 1e-12))}f}"
    if "." in shown:
        shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", "−")


def validation_loss(point: Document) -> float | None:
    """The validation loss of a point of the stored prune curve.

    Of runs before there was a validation part, the loss on the one part that was held out.
    """
    loss: float | None = point.get("validation_loss", point.get("held_out_loss"))
    return loss


def held_out_part(rows: Sequence[Document], metric: str) -> str:
    """Which part a curve over the training shows beside the training part: validation, in older runs test."""
    return "validation" if any(f"validation_{metric}" in row for row in rows) else "test"


def metric_label(name: str | None) -> str:
    """The short label of a metric; of one that has none, its name with spaces."""
    return METRIC_LABELS.get(name or "", (name or "metric").replace("_", " "))


def measured(name: str | None, value: float | int | None) -> str:
    """A metric as a person reads it: shares by `share`, all others by `number`."""
    return share(value) if (name or "").endswith(("r2", "accuracy")) else number(value)


# --- modules ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleStatement:
    """What is said of one module.

    name       its letter.
    inputs     the features that it reads; outputs: the targets that it decides.
    what       clause: what it reads and decides.
    evidence   clauses: the numbers behind it, in the pruned network and in the network as trained.
    verdict    supported, not supported, not testable, one piece; None of a document that does not say.
    reason     clause: why it is not supported; None where it is, and where the network is one piece.
    text       all of it in one sentence, without a full stop: the stored field `reading`.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    what: str
    evidence: tuple[str, ...]
    reason: str | None
    text: str
    verdict: str | None = None


def module_statement(module: Document, modules: int) -> ModuleStatement:
    """The statement of a stored module.

    In the pruned network a component cannot move another's outputs, and random groups seldom do as well: that is how
    it was cut. What the same neurons do in the network as trained was not decided by any cut.

    modules   how many modules the network has.
    Documents without effects, of runs of older versions, have no evidence; their stored `reading` is the text.
    """
    name, inputs, outputs = str(module.get("name", "")), _names(module, "inputs"), _names(module, "outputs")
    what = f"reads {listed(inputs) or 'nothing'}, decides {listed(outputs)}"
    effects = module.get("effects") or {}
    if not outputs or any(output not in effects for output in outputs) or "trained_leak" not in module:
        reason = module.get("why_not")
        said = {True: "supported", False: "not supported", None: None}[module.get("supported")]
        return ModuleStatement(name, inputs, outputs, what, (), reason, str(module.get("reading", "")), said)
    own = [_value(effects[output].get("mean")) for output in outputs]
    others = [_value(effect.get("mean")) for output, effect in effects.items() if output not in outputs]
    worst = max(others, default=0.0)
    strength = f"effect {min(own):.2f}"
    if modules == 1:
        one = f"the whole network in one piece ({strength})"
        return ModuleStatement(name, inputs, outputs, what, (one,), None, f"module {name} {what}: {one}", "one piece")
    leak = module["trained_leak"]
    apart = "there are no others" if leak is None else f"others {_below(worst)}"
    end = ", nothing else" if worst < EXCLUSIVE else f", and moves other outputs by up to {worst:.2g} of their variance"
    p_holm = max(_value(effects[output].get("p_holm")) for output in outputs)
    beside = "" if leak is None else f", others by {leak:.2g} at most"
    evidence = (
        f"{strength}, {apart}, p = {p_holm:.3g} (Holm) in the pruned network, where it is apart by construction",
        f"in the network as trained its neurons move {listed(outputs)} by {_value(module['trained_effect']):.2f} of "
        f"{'its' if len(outputs) == 1 else 'their'} variance{beside}",
    )
    told, reason = ("supported", None) if module.get("supported") else not_supported(module, modules)
    clauses = [*evidence, *([f"{told}: {reason}"] if reason else [])]
    what += end
    text = f"module {name} {what}: {'; '.join(clauses)}"
    return ModuleStatement(name, inputs, outputs, what, evidence, reason, text, told)


def not_supported(module: Document, modules: int) -> tuple[str, str]:
    """(not supported | not testable, why as a clause that stands alone): the stored fields `verdict`, `why_not`."""
    name, leak, carries = module["name"], _value(module["trained_leak"] or 0.0), _value(module["trained_effect"])
    if leak >= LEAK:
        return "not supported", (
            f"in the network as trained, the neurons of {name} also move other outputs (by {leak:.2g} of "
            "their variance): pruning made this separation, training did not"
        )
    if carries < CARRIES:
        return "not supported", (
            f"in the network as trained, the neurons of {name} carry only {carries:.2g} of the variance of "
            f"{listed(_names(module, 'outputs'))}, where {CARRIES:g} is asked for: other neurons carry the rest"
        )
    if module["all_groups_tried"] and module["random_groups"] < 1 / SIGNIFICANT * modules:
        return "not testable", (
            f"so few neurons live that only {module['random_groups']} other groups are of the size of "
            f"{name}: chance cannot be ruled out"
        )
    return "not supported", f"random groups of neurons do as well as {name}"


def verdict(modules: Sequence[Document]) -> str:
    """Which modules can be trusted, and of the others, why not."""
    if not modules:
        return "No module is supported: no connection is left."
    supported = [module["name"] for module in modules if module["supported"]]
    if len(modules) == 1:
        return "No separate module is supported: the pruned network is one piece."
    if len(supported) == len(modules):
        return f"All {len(modules)} modules are supported: {listed(supported)}."
    said = [f"Supported: {listed(supported)}."] if supported else []
    for which, alone in (("not supported", "No module is supported"), ("not testable", "No module is testable")):
        if reasons := [module["why_not"] for module in modules if module["verdict"] == which]:
            said.append(f"{which.capitalize() if said else alone}: {'; '.join(reasons)}.")
    return " ".join(said)


def _below(value: float) -> str:
    """A small number as the power of ten it stays below."""
    if value <= 1e-12:
        return "< 1e-12"
    return f"< 1e{math.floor(math.log10(value)) + 1}" if value < EXCLUSIVE else f"{value:.2g}"


def _names(document: Document, field: str) -> tuple[str, ...]:
    return tuple(str(name) for name in document.get(field) or ())


def _value(stored: float | None) -> float:
    """A stored number; null stands for one that was not finite."""
    return math.nan if stored is None else float(stored)


# --- how well each output is predicted --------------------------------------------------------------


@dataclass(frozen=True)
class OutputStatement:
    """How well one target is predicted.

    learnt    None where too few rows can tell.
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
    learnt the rows of its training by heart; or it did not know even these, while its cost held it down.

    tolerance       of pruning. cost_strength: the first that is not zero; None where nothing was charged.
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


def baselines_statement(baselines: Document) -> str:
    """What the network costs in accuracy against the better of two usual methods, from `metrics.baselines`."""
    measure = "R²" if baselines["measure"] == "r2" else "accuracy"
    network, better = baselines["network"], baselines[baselines["better"]]
    other = baselines["boosted" if baselines["better"] == "linear" else "linear"]
    size = f"the network of {counted(baselines['connections'], 'connection')}"
    if baselines["gap"] is None:
        return f"On the test rows {size} cannot be compared: their targets do not vary."
    told = ", ".join(f"{of['name']} {_score(of['test'])}" for of in (better, other))
    return f"{measure} on test rows: {size} {_score(network['test'])}, {told}."


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
        f"({number(2 * _value(gain['standard_error']))}) do not tell from chance."
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
        knew = f"The network as trained knew {_which(lost, missed)}; pruning lost it"
        said.append(f"{knew}: try a smaller `evidence.tolerance` than {tolerance:g}.")
    if by_heart:
        said.append(
            f"The network as trained fitted {_which(by_heart, missed)} on the rows of its training only: "
            "learnt by heart, or there is nothing to learn."
        )
    if unknown and cost_strength is not None:
        said.append(
            f"The network as trained did not fit {_which(unknown, missed)} even on the rows of its training: "
            f"if there is something to learn, try smaller cost strengths, such as "
            f"{float(f'{SMALLER_COST * cost_strength:.1g}'):g}."
        )
    return said


def _which(some: Sequence[Document], missed: Sequence[Document]) -> str:
    if len(some) == len(missed) or len(some) > MAX_NAMED:
        return "it" if len(some) == 1 else "them"
    return ", ".join(quoted(score["output"]) for score in some)


# --- communities ------------------------------------------------------------------------------------


def communities_statement(document: Document) -> str:
    """How modular the weights are, from the stored `communities`: the field `reading`."""
    if "skipped" in document:
        return skipped_statement("Communities", document["skipped"])
    if document["modularity"] is None:
        return "No connection is left, so there is nothing to group."
    if document.get("method") == "modules":
        return _modularity_of_parts(document)
    groups, score = len(document["groups"]), document["modularity"]
    start = f"Leiden parts the weights into {counted(groups, 'group')} (layered Q = {score:.3f})"
    if not document["nulls"]:
        return f"{start}; no null was drawn, so this says nothing yet."
    p = document["nulls"]["degree_preserving"]["p"]
    chance = document["nulls"]["degree_preserving"]["mean"]
    if p < SIGNIFICANT:
        return f"{start}, more than rewired graphs reach ({chance:.3f}, p = {p:.3g}). {CAUTION}"
    return (
        f"{start}, no more than rewired graphs reach ({chance:.3f}, p = {p:.3g}): by weights alone the groups are not "
        "distinguishable from chance. Trust the effects of the modules instead."
    )


def _modularity_of_parts(document: Document) -> str:
    parts, score, null = document["parts"], document["modularity"], document["nulls"].get("degree_preserving")
    said = f"The layered modularity of the {counted(parts, 'part')} is Q = {score:.3f}"
    if null is None:
        said = f"{said}; one part alone has nothing to be compared with."
    else:
        more = "more than" if null["p_fixed"] <= SIGNIFICANT else "no more than"
        said += f", {more} in rewired graphs ({null['mean']:.3f}, p = {null['p_fixed']:.3g}). {CAUTION}"
    return f"{said} Leiden’s groups: {document['leiden']}." if "leiden" in document else said


# --- stability over seeds ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RecurringModule:
    """How often one module came back over the runs of a job.

    same_in       runs with a module of exactly these inputs and outputs; overlapping_in: runs with an overlapping one.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    same_in: int
    overlapping_in: int
    text: str


@dataclass(frozen=True)
class StabilityStatement:
    """How far the runs of a job agree.

    partition   the most common one: (inputs, outputs) of each of its groups that holds an output.
    text        all of it in sentences: the stored field `reading`.
    """

    runs: int
    empty: int
    agreement: int
    partition: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    modules: tuple[RecurringModule, ...]
    text: str


def stability_statement(document: Document) -> StabilityStatement:
    """The statement of a stored stability document, or of one of its `cost_strengths`."""
    runs = document["runs"]
    if not runs:
        return StabilityStatement(0, 0, 0, (), (), "No run has ended yet, so there is nothing to compare.")
    empty = document["empty"]
    nothing = f"{empty} of {runs} runs kept no connection, so they have no modules"
    if empty == runs:
        text = f"{nothing}: nothing was found, and there is nothing to compare."
        return StabilityStatement(runs, empty, 0, (), (), text)
    partition = tuple(_ends(group) for group in document["partition"])
    partition = tuple((reads, decides) for reads, decides in partition if decides)
    parts = " | ".join(_arrow(reads, decides) for reads, decides in partition) or "no output is reached"
    said = f"{nothing}. " if empty else ""
    said += f"{document['agreement']} of {runs} runs part inputs and outputs the same way ({parts})"
    if document["adjusted_rand"] is not None:
        among = " of those that kept something" if empty else ""
        said += (
            f"; mean adjusted Rand index{among} {document['adjusted_rand']:.2f}, mean variation of information "
            f"{document['variation_of_information']:.2f} nats"
        )
    modules = tuple(_recurring_module(module, runs) for module in document["modules"])
    came_back = "; ".join(module.text for module in modules[:MAX_NAMED])
    text = f"{said}. A module with exactly these inputs and outputs: {came_back}."
    if inside := document.get("interior"):
        text = f"{text} {_stable_inside(inside)}"
    return StabilityStatement(runs, empty, document["agreement"], partition, modules, text)


def _stable_inside(inside: Document) -> str:
    """How far runs agree on the supported groups inside their modules."""
    examined, groups = inside["examined"], inside["groups"]
    said = f"Inside, {inside['counted_in']} of {examined} runs have {counted(groups, 'supported group')}"
    if not groups:
        return f"{said}."
    roles = [role["representation"] or _arrow(role["reads"], role["moves"]) for role in inside["roles"]]
    shown = " | ".join(roles[:MAX_NAMED]) + (f" and {len(roles) - MAX_NAMED} more" if len(roles) > MAX_NAMED else "")
    return f"{said}, {inside['same_roles_in']} with the same roles ({shown})."


def strength_sentence(cost_strength: float | None, said: str, *, of: int) -> str:
    """What is said of the runs with one cost strength; which one it is, where there are several."""
    if of == 1:
        return said
    return f"At {'the λ of the spec' if cost_strength is None else f'λ {number(cost_strength)}'}: {said}"


def _recurring_module(module: Document, runs: int) -> RecurringModule:
    same, overlapping = module["same_ends_in"], max(module["met_in"] - module["same_ends_in"], 0)
    inputs, outputs = _names(module, "inputs"), _names(module, "outputs")
    text = f"{_arrow(inputs, outputs)} in {same} of {runs} runs"
    text += f", overlapping modules in {overlapping} more" if overlapping else ""
    return RecurringModule(inputs, outputs, same, overlapping, text)


def _ends(group: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(inputs, outputs) of a group of the stored partition, whose members are `in NAME` and `out NAME`."""
    reads = tuple(name.removeprefix("in ") for name in group if name.startswith("in "))
    return reads, tuple(name.removeprefix("out ") for name in group if name.startswith("out "))


def _arrow(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    return f"{', '.join(map(quoted, inputs)) or 'nothing'} → {', '.join(map(quoted, outputs))}"


# --- formulas ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FormulaVerdict:
    """One thing that a formula was compared with, in a few words, and whether it agrees."""

    text: str
    good: bool


@dataclass(frozen=True)
class FormulaStatement:
    """What is said of the formula of one output.

    formula     as text, in Python's notation; None where none was found.
    accepted    it meets the network, or fits the data better than the network does.
    verdicts    of the network and of the data; in documents without them, whether it was accepted.
    evidence    sentences: what it was compared with, or why there is none, and its units.
    structure   sentences: what the output depends on.
    """

    output: str
    formula: str | None
    accepted: bool
    verdicts: tuple[FormulaVerdict, ...]
    evidence: tuple[str, ...]
    structure: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """All verdicts in one clause."""
        return listed([verdict.text for verdict in self.verdicts])


def formula_statements(readout: Document) -> list[FormulaStatement]:
    """One statement for each output of a stored readout."""
    return [formula_statement(output, readout.get("units")) for output in readout.get("outputs") or ()]


def formula_statement(output: Document, units: str | None) -> FormulaStatement:
    """The statement of one output of a stored readout; `units` is the field of that name beside it."""
    formula, symmetry = output.get("formula") or {}, output.get("symmetry") or {}
    text = formula.get("text")
    if text is None or formula.get("r2") is None:
        said = [_formula_refused(formula)]
    elif "meets_network" in formula:
        said = [_beside_the_network(formula), *_beside_the_data(formula)]
    else:
        said = [_formula_evidence(formula) if formula.get("accepted") else _formula_refused(formula)]
    if formula.get("search_skipped"):
        said.append(sentence(formula["search_skipped"]))
    if text is not None:
        said.append(FORMULA_UNITS.get(units, FORMULA_UNITS[None]))
    return FormulaStatement(
        output=str(output.get("output", "")),
        formula=text,
        accepted=bool(formula.get("accepted")),
        verdicts=formula_verdicts(formula),
        evidence=tuple(said),
        structure=structure_sentences(symmetry, formula),
    )


def formula_verdicts(formula: Document) -> tuple[FormulaVerdict, ...]:
    """The verdicts of a stored formula; of one that was stored before there were two, whether it was accepted."""
    if formula.get("text") is None:
        return (FormulaVerdict("no formula", False),)
    if "meets_network" not in formula:
        accepted = bool(formula.get("accepted"))
        return (FormulaVerdict("accepted" if accepted else "not accepted", accepted),)
    meets = bool(formula["meets_network"])
    verdicts = [FormulaVerdict("meets the network" if meets else "does not meet the network", meets)]
    if formula.get("better_than_network"):
        verdicts.append(FormulaVerdict("fits the data better than the network", True))
    elif (data := formula.get("meets_data")) is not None:
        verdicts.append(FormulaVerdict("meets the data" if data else "does not meet the data", bool(data)))
    return tuple(verdicts)


def structure_sentences(symmetry: Document, formula: Document | None = None) -> tuple[str, ...]:
    """What an output depends on, from the `symmetry` of a readout; empty where there is no structure to tell of.

    Parts that carry less than NAMED of the variance are not named, nor those that an accepted formula leaves out: what
    the network makes of these is said in a sentence of its own. Parts are of columns; formulas and sums read inputs,
    of which a column may have several, such as `port[C]`: these are told by their columns.
    """
    formula = formula or {}
    parts = symmetry.get("additive_parts") or []
    columns = frozenset(name for part in (symmetry.get("reads") or [], *parts) for name in part)
    shares = symmetry.get("part_shares") or [None] * len(parts)
    named = [(part, share) for part, share in zip(parts, shares, strict=True) if share is None or share >= NAMED]
    used = _columns_read(formula, columns) if formula.get("accepted") and "inputs" in formula else None
    told = [part for part, _ in named if used is None or set(part) & used]
    beside = [(part, share) for part, share in named if part not in told]
    said = []
    if len(told) > 1:
        said.append(f"It adds up {len(told)} parts that do not mix: {'; '.join(listed(part) for part in told)}.")
    for through in symmetry.get("through") or []:
        inputs, of = through.get("inputs") or [], _columns_read(through, columns)
        if len(of) > 1 and any(of <= set(part) for part in told or parts):  # a category is always read through a sum
            said.append(f"It depends on {listed(inputs)} only through {through.get('reading')}.")
    if beside:
        names = listed([name for part, _ in beside for name in part])
        carried = sum(share or 0.0 for _, share in beside)
        said.append(f"The network reads {names} as well ({carried:.2g} of its variance); the formula does not.")
    return tuple(said)


def _columns_read(document: Document, columns: frozenset[str]) -> set[str]:
    """The columns that the inputs of a stored formula or sum belong to.

    Documents without `columns` name the inputs alone: `port[C]` belongs to the longest of these columns that it begins
    with, and an input that is named like a column to that one.
    """
    if (stored := document.get("columns")) is not None:
        return set(stored)
    found = set()
    for name in document.get("inputs") or ():
        ends = [at for at, letter in enumerate(name) if letter == "["] if name not in columns else []
        found.add(next((name[:at] for at in reversed(ends) if name[:at] in columns), name))
    return found


def readout_statement(document: Document, classes: bool) -> str:
    """Which formulas were accepted, from the outputs of a readout: the stored field `reading`.

    classes   whether the outputs are scores of classes.
    """
    met: list[str] = []
    better: list[str] = []
    for output in document["outputs"]:
        formula = output["formula"]
        if formula["accepted"]:
            (met if formula.get("meets_network", True) else better).append(
                f"{quoted(output['output'])} = {formula['text']}"
            )
    if not met and not better:
        return "No formula was accepted: none meets the network closely enough to stand in for it."
    units = f", {'scores of classes for columns' if classes else 'all'} in units of the data"
    said = [f"Accepted{units}: {'; '.join(met)}."] if met else []
    if better:
        said.append(f"Not the network, but a better fit to the data{'' if met else units}: {'; '.join(better)}.")
    return " ".join(said)


def combination(names: Sequence[str], coefficients: Sequence[float]) -> str:
    """A weighted sum as text: x1 - x2, or 0.5·x1 + x3."""
    text = ""
    for name, coefficient in zip(names, coefficients, strict=True):
        size = "" if abs(coefficient) == 1 else f"{abs(coefficient):.4g}·"
        sign = " - " if coefficient < 0 else " + "
        text += f"{sign if text else sign.strip().replace('+', '')}{size}{in_formula(name)}"
    return text


def _formula_refused(formula: Document) -> str:
    reason = formula.get("reason") or "no reason was kept"
    return f"{'Not accepted' if formula.get('predicted', True) else 'Nothing is read out'}: {reason}."


def _beside_the_network(formula: Document) -> str:
    """How far the network and the formula agree."""
    tested = formula.get("test") or {}
    on_test = "" if tested.get("r2") is None else f", {share(tested['r2'])} on test rows"
    if not formula["meets_network"]:
        return sentence(f"{formula.get('reason') or 'it does not meet the network'}{on_test}")
    said = f"It meets the network to R² = {share(formula['r2'])} on validation rows{on_test}"
    return (
        f"{said}; with it in the output’s place the network loses {number(formula['substitution_loss'])}, "
        f"where {number(formula['loss_limit'])} is allowed."
    )


def _beside_the_data(formula: Document) -> list[str]:
    """How far the data and the formula agree, beside the network; nothing for classes."""
    if formula.get("meets_data") is None:
        return []
    how = "meets the data as the network does" if formula["meets_data"] else "is off the data by more than the network"
    if formula.get("better_than_network"):
        how = "fits the data better than the network"
    said = f"It {how}: R² = {share(formula.get('r2_of_targets'))}"
    said += f", that of the network {share(formula.get('network_r2_of_targets'))}"
    if tested := formula.get("test"):
        said += f"; on test rows {share(tested['r2_of_targets'])} and {share(tested['network_r2_of_targets'])}"
    return [f"{said}."]


def _formula_evidence(formula: Document) -> str:
    """The evidence in documents of one verdict."""
    said = f"It meets the network to R² = {share(formula.get('r2'))} on held-out examples"
    if (of_targets := formula.get("r2_of_targets")) is not None:
        said += f" and the data to {share(of_targets)}" if of_targets >= 0 else " and the data worse than a constant"
    if formula.get("substitution_loss") is not None:
        said += (
            f"; with it in the output’s place the network loses {number(formula['substitution_loss'])}, "
            f"where {number(formula.get('loss_limit'))} is allowed"
        )
    return f"{said}."


# --- representations of a group ---------------------------------------------------------------------


@dataclass(frozen=True)
class NeuronRepresentation:
    """Which irreducible representation a neuron lies in.

    neuron     its id, such as hidden1:7. representation: that with the largest share of its variance; None where its
               mean over the pairs with the same product is constant.
    share      of that variance. rest: the others with a share worth naming.
    explained  how much of the neuron's variance over all pairs is that of the mean.
    """

    neuron: str
    representation: str | None
    share: float
    rest: tuple[tuple[str, float], ...]
    explained: float


@dataclass(frozen=True)
class RepresentationsStatement:
    """What a network that multiplies in a group holds of the group's irreducible representations.

    group       sentence: the group and its representations.
    embedding   sentence: where its tokens lie; None where it has no embedding.
    layers      sentence for each hidden layer: how many of its neurons lie in one representation, and in which.
    text        all of it: the stored field `reading`.
    """

    group: str
    embedding: str | None
    layers: tuple[str, ...]
    text: str


def representations_statement(document: Document) -> RepresentationsStatement:
    """The statement of a stored document of representations; of a skipped one, the reason as its `group`."""
    if "skipped" in document:
        said = skipped_statement("Representations", document["skipped"])
        return RepresentationsStatement(said, None, (), said)
    group, names = document["group"], document["names"]
    kind = "cyclic" if group["cyclic"] else "abelian" if group["abelian"] else "not abelian"
    said = f"The group has {counted(group['order'], 'element')} and is {kind}; "
    if group["abelian"]:
        said += f"its {len(names)} irreducible representations are frequencies."
    else:
        said += f"it has {len(names)} irreducible representations: {listed(names)}."
    embedding = None
    if document["embedding"] is not None:
        embedding = _embedding_representations(document)
    by_layer: dict[str, list[NeuronRepresentation]] = {}
    for neuron in neuron_representations(document):
        by_layer.setdefault(neuron.neuron.rpartition(":")[0], []).append(neuron)
    layers = tuple(_layer_representations(layer, neurons) for layer, neurons in by_layer.items())
    return RepresentationsStatement(said, embedding, layers, " ".join(filter(None, (said, embedding, *layers))))


def neuron_representations(document: Document) -> list[NeuronRepresentation]:
    """Which representation each hidden neuron lies in, in the order of the stored document."""
    found = []
    for neuron, of in (document.get("neurons") or {}).items():
        shares, names = of["product"]["shares"], document["names"]
        explained = _value(of["product"]["variance"]) / _value(of["variance"]) if of["variance"] else 0.0
        first, *others = _worth_naming(shares) or [0]
        name = names[first] if shares[first] > 0 else None
        rest = tuple((names[k], shares[k]) for k in others)
        found.append(NeuronRepresentation(neuron, name, shares[first], rest, min(explained, 1.0)))
    return found


def group_representations(document: Document, neurons: Sequence[str]) -> tuple[float, ...] | None:
    """The shares of a group of neurons, such as a module's, in each representation; None where none of them is hidden.

    Of the variance of all their means by product together.
    """
    of = [document["neurons"][neuron]["product"] for neuron in neurons if neuron in (document.get("neurons") or {})]
    total = sum(_value(each["variance"]) for each in of)
    if not of or not total > 0:
        return None
    weighted = [[_value(each["variance"]) * part for part in each["shares"]] for each in of]
    return tuple(sum(column) / total for column in zip(*weighted, strict=True))


def module_representations(document: Document, neurons: Sequence[str]) -> str | None:
    """Clause: in which representations a module's neurons lie; None where none of them is hidden."""
    shares = group_representations(document, neurons)
    if shares is None:
        return None
    where = _in_representations(shares, document["names"])
    said = "are spread over the representations" if where is None else f"lie {where}"
    return f"its hidden neurons, averaged over pairs with the same product, {said}"


def _in_representations(shares: Sequence[float | int], names: Sequence[str]) -> str | None:
    """To 97% in frequencies 4, 11 and 24; None where a few hold less than half."""
    named = _worth_naming(shares)
    carried = sum(shares[k] for k in named)
    if carried < CARRIES:
        return None
    return f"to {percent(carried)} in {representation_names([names[k] for k in named])}"


def _worth_naming(shares: Sequence[float | int]) -> list[int]:
    """The numbers of the representations that are named in a sentence, that with the largest share first."""
    ranked = sorted(range(len(shares)), key=lambda k: -shares[k])
    return [k for k in ranked if shares[k] >= WORTH_NAMING][:MAX_NAMED]


def _embedding_representations(document: Document) -> str:
    """Where the tokens lie, and where they would lie by chance: random vectors are spread evenly."""
    shares = document["embedding"]["together"]["shares"]
    if not any(shares):
        return "The embedding is the same for all elements."
    said = _in_representations(shares, document["names"])
    if said is None:
        return f"The embedding is spread over its representations: none holds more than {percent(max(shares))}."
    chance = sum(document["subspaces"][k] for k in _worth_naming(shares)) / (document["group"]["order"] - 1)
    return f"The embedding lies {said}, where random vectors would lie to {percent(chance)}."


def _layer_representations(layer: str, neurons: Sequence[NeuronRepresentation]) -> str:
    pure = [neuron for neuron in neurons if neuron.representation is not None and neuron.share >= PURE]
    all_of, mean = f"{len(neurons)} neurons of {layer}", "averaged over pairs with the same product,"
    if not pure and len(neurons) == 1:
        return f"The only neuron of {layer}, {mean} does not lie to {percent(PURE)} in one representation."
    if not pure:
        return f"None of the {all_of}, {mean} lies to {percent(PURE)} in one representation."
    counts: dict[str, int] = {}
    for neuron in pure:
        counts[str(neuron.representation)] = counts.get(str(neuron.representation), 0) + 1
    where = [f"{number} in {name}" for name, number in sorted(counts.items(), key=lambda pair: -pair[1])]
    which = f"All {all_of}" if len(pure) == len(neurons) else f"{len(pure)} of the {all_of}"
    if len(neurons) == 1:
        which = f"The only neuron of {layer}"
    said = f"{which}, {mean} {'lies' if len(pure) == 1 else 'lie'} to {percent(min(n.share for n in pure))}"
    ending = ", …" if len(where) > MAX_NAMED else ""
    return f"{said} or more in one representation: {', '.join(where[:MAX_NAMED])}{ending}."


def representation_names(names: Sequence[str]) -> str:
    """Frequencies 4, 11 and 24; the sign and the 2-dimensional representation; as they stand in a sentence."""
    if all(name.startswith(FREQUENCY) for name in names):
        numbers = [name.removeprefix(FREQUENCY) for name in names]
        shown = numbers[:MAX_NAMED] + ([f"{len(numbers) - MAX_NAMED} more"] if len(numbers) > MAX_NAMED else [])
        joined = " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
        return f"{'frequency' if len(names) == 1 else 'frequencies'} {joined}"
    return f"{listed([f'the {name}' for name in names])} representation{'' if len(names) == 1 else 's'}"


def percent(value: float | int) -> str:
    """A share as a percentage that is not rounded up: 0.996 is 99.6%, and 100% only what is all but for rounding."""
    if value >= 1 - 1e-5:
        return "100%"
    return f"{math.floor(1000 * value) / 10:g}%" if value > EXACT_FROM else f"{math.floor(100 * value + 1e-9)}%"


# --- verification, sweeps, what was skipped ---------------------------------------------------------


def verification_statement(document: Document) -> str:
    """Whether the claims agree with the stored weights, from `agrees` and `checks`: the stored field `reading`."""
    checks = document["checks"]
    if document["agrees"]:
        other = [check["what"] for check in checks if not check["agrees"]]
        note = f" Not the same, and not needed: {', '.join(other)}." if other else ""
        return f"What was claimed is what the stored weights give.{note}"
    wrong = ", ".join(check["what"] for check in checks if check["needed"] and not check["agrees"])
    return f"The stored weights do not give what was claimed: {wrong}."


@dataclass(frozen=True)
class ParetoStatement:
    """What a sweep of cost strengths says.

    empty       sentence: how many runs kept nothing; None where all kept something. The stored field `reading`.
    suggested   sentence: the largest harmless cost strength, and what the next larger one costs; None where there is
                none. chosen: that strength.
    strengths   clause for each cost strength: its loss, wiring and connections over the seeds.
    knee        sentence: where the front bends; None where it does not. knee_run: the id of that run.
    """

    empty: str | None
    suggested: str | None
    strengths: tuple[str, ...]
    knee: str | None
    knee_run: str | None
    chosen: float | None = None


def pareto_statement(document: Document) -> ParetoStatement:
    """The statement of a stored sweep."""
    strength, knee = document.get("suggested_cost_strength"), document.get("knee")
    suggested = bend = None
    strengths = document.get("cost_strengths") or ()
    if strength is not None and len(strengths) != 1:
        suggested = _largest_harmless(strength, document)
    if knee:
        at = "" if knee.get("cost_strength") is None else f"λ {number(knee['cost_strength'])}, "
        bend = f"The knee is at {at}seed {knee.get('seed')}."
    said = tuple(map(_strength_statement, strengths))
    knee_run = None if not knee else str(knee.get("run"))
    return ParetoStatement(document.get("reading"), suggested, said, bend, knee_run, strength if suggested else None)


def _largest_harmless(strength: float, document: Document) -> str:
    """Which cost strength is the largest harmless one, by which numbers, and what the next larger one costs."""
    strengths = {row["cost_strength"]: row for row in document.get("cost_strengths") or ()}
    chosen, rows = strengths.get(strength), document.get("rows")
    said = f"λ {number(strength)} is the largest whose median loss"
    within = f"within {number(document.get('tolerance'))} of the targets’ variance above the best"
    if chosen is None:  # a document of before, which has no medians
        return f"{said} is still harmless ({within})."
    best = min(strengths.values(), key=lambda row: (row["loss"], row["cost_strength"]))
    said += f" on {rows} rows, {number(chosen['loss'])}, is still harmless ({within}"
    said += ")." if best is chosen else f", {number(best['loss'])} at λ {number(best['cost_strength'])})."
    higher = next((row for row in strengths.values() if row["cost_strength"] > strength), None)
    if higher is not None and higher["times_best"] is not None:
        said += f" At λ {number(higher['cost_strength'])} it is {number(higher['times_best'])} times the best."
    if rows == "validation" and chosen.get("test_loss") is not None:
        said += f" On test rows, which nothing was chosen by, it is {number(chosen['test_loss'])}."
    return said


def _strength_statement(row: Document) -> str:
    text = f"λ {number(row['cost_strength'])}: loss {number(row['loss'])}"
    if row["runs"] > 1:
        text += f" (median of {row['runs']} runs, {number(row['lowest_loss'])} to {number(row['highest_loss'])})"
    text += f", wiring {number(row['wiring'])}"
    if row["connections"] is not None:
        text += f", {number(row['connections'])} connections"
    return text + ("" if row["harmless"] else "; not harmless")


def empty_runs(empty: int, runs: int) -> str | None:
    """How many runs of a sweep kept no connection; None where all kept some."""
    if not empty:
        return None
    return f"{empty} of {runs} runs kept no connection: they answer a constant, and their loss is that of a constant."


def too_large(what: str, found: int | float, limit: int | float) -> str:
    """The reason why a part of the evidence was not computed: its size, and the size that is computed."""
    return f"too large: {what} would be {number(found)}, and at most {number(limit)} is computed"


def skipped_statement(part: str, reason: str) -> str:
    """One sentence for a part of the evidence that was not computed."""
    return sentence(f"{part} skipped: {reason}")


# --- the network ------------------------------------------------------------------------------------


def network_statement(graph: Graph) -> str:
    """What the picture of a network shows, for readers who do not see it: its size, and which ends belong together."""
    used = {end for c in graph.connections for end in (c.source, c.target)}
    stated = [layer["name"] for layer in graph.meta.get("layers", ()) if isinstance(layer, Mapping) and "name" in layer]
    layers = stated or list(dict.fromkeys(neuron.layer for neuron in graph.neurons))
    if not layers:
        return "The network has no neurons."
    there = {layer: [n for n in graph.neurons if n.layer == layer and n.id in used] for layer in layers}
    first, last = layers[0], layers[-1]
    hidden = [str(len(there[layer])) for layer in layers[1:-1]]
    size = f"{counted(len(there[first]), 'input')} and {counted(len(there[last]), 'output')} in use"
    if hidden:
        size += f", with {listed(hidden)} neurons in {counted(len(hidden), 'layer')} between them"
    letters = sorted({n.module for n in graph.neurons if n.module}, key=lambda m: (len(m), m))
    said = [f"{size}, joined by {counted(len(graph.connections), 'connection')}."]
    if len(letters) > 1:
        said.append(f"It falls into {len(letters)} modules that share no connection.")
    for letter in letters[:MAX_NETWORK_MODULES]:
        reads, decides = (
            listed([neuron_label(n) for n in there[layer] if n.module == letter]) for layer in (first, last)
        )
        said.append(f"Module {letter} leads from {reads or 'no input'} to {decides or 'no output'}.")
    if groups := graph.meta.get("groups"):
        named = [f"{name} {label}" for name, label in list(groups.items())[:MAX_NETWORK_MODULES]]
        said.append(f"Colours are groups inside: {'; '.join(named)}.")
    return " ".join(said)


def neuron_label(neuron: Neuron) -> str:
    """The name of a neuron's feature or target; of a hidden neuron its layer and slot."""
    return neuron.name or neuron.id.replace(":", " ", 1)


def _four_digits(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
