"""A model card in Markdown: what a network is, what it was trained on, what it does, and what is not known of it.

Made from the plain documents of a run; no torch. Every sentence about modules is the evidence's own, so the card can
claim no more than was tested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")
MOST_LISTED = 20  # names or modules in one list

METRICS = (
    ("test_prediction_loss", "prediction loss, held out"),
    ("prediction_loss", "prediction loss, training"),
    ("test_accuracy", "accuracy, held out"),
    ("test_r2", "R², held out"),
    ("trained_test_prediction_loss", "the same before pruning"),
    ("connections", "connections kept"),
    ("trained_connections", "connections before pruning"),
    ("faithfulness", "faithfulness to the unpruned network"),
    ("connection_cost", "connection cost"),
    ("wiring_efficiency", "wiring / shortest wiring found (1: none shorter)"),
    ("random_mask_loss", "loss of as many connections kept at random"),
)
UNITS = {
    "data": "Columns and targets are in the units of the data. R² is against the network.",
    "scores": "Scores of classes, for columns in the units of the data. R² is against the network.",
    None: "In the units that the network was trained in: standardised ones, where its data were standardised.",
}


def model_card(
    *,
    name: str,
    spec: Document,
    dataset: Document,
    metrics: Document,
    modules: Sequence[Document],
    effects: Document | None = None,
    communities: Document | None = None,
    readout: Document | None = None,
    seed: int | None = None,
    hashes: Mapping[str, str] | None = None,
    notes: str = "",
) -> str:
    """The card. Nothing that people wrote is read as Markdown but `notes`, which is theirs.

    dataset   {task, features, targets, train, test}, as runs publish it.
    hashes    SHA-256 by what it is of: data, code, weights.
    """
    sections = [
        f"# {safe(name)}",
        _summary(metrics, modules),
        _data(dataset, spec),
        _training(spec, seed),
        _numbers(metrics),
        _outputs(metrics.get("outputs") or ()),
        _modules(modules, effects or {}),
        _formulas(readout or {}),
        _weights_alone(communities or {}),
        _limits(metrics, modules, dataset),
        _origin(hashes or {}, spec),
        f"## Notes\n\n{notes.strip()}" if notes.strip() else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def safe(text: Any) -> str:
    """Text that says in Markdown what it says here: on one line, no mark-up, no HTML."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _summary(metrics: Document, modules: Sequence[Document]) -> str:
    kept = metrics.get("connections")
    size = f" It keeps {kept} of {metrics.get('trained_connections')} connections." if kept is not None else ""
    verdict = f" {safe(metrics['verdict'])}" if metrics.get("verdict") else ""
    return f"A network trained by brain-inspired modular training, pruned and refitted.{size}{verdict}"


def _data(dataset: Document, spec: Document) -> str:
    asked = spec.get("dataset") or {}
    lines = [
        f"- task: {safe(dataset.get('task'))}",
        f"- examples: {dataset.get('train')} to train on, {dataset.get('test')} held out",
        f"- inputs: {_listed(dataset.get('features') or ())}",
        f"- targets: {_listed(dataset.get('targets') or ())}",
        f"- kind: {safe(asked.get('kind', 'unknown'))}",
    ]
    lines += [f"- formula: {_code(formula)}" for formula in asked.get("formulas") or ()]
    return "## Data\n\n" + "\n".join(lines)


def _training(spec: Document, seed: int | None) -> str:
    training, network = spec.get("training") or {}, spec.get("network") or {}
    cost = training.get("cost") or {}
    phases = ", ".join(f"{p['cost_strength']:g} until {p['until']:g}" for p in training.get("phases") or ())
    lines = [
        f"- network: {safe(network.get('kind'))}, hidden layers {safe(network.get('hidden', 'of its kind'))}",
        f"- method: {safe(training.get('method'))}, {training.get('steps')} steps, seed {seed}",
        f"- cost strength λ (cost is a {safe(cost.get('reduction'))}): {phases}",
        f"- locality {cost.get('locality')}, layer spacing {cost.get('layer_spacing')}",
    ]
    if pruning := training.get("pruning"):
        lines.append(f"- pruned while training to {pruning['connections']} connections")
    return "## Training\n\n" + "\n".join(lines)


def _numbers(metrics: Document) -> str:
    rows = [f"| {label} | {_measured(key, metrics[key])} |" for key, label in METRICS if metrics.get(key) is not None]
    return "## Numbers\n\n| measure | value |\n|---|---|\n" + "\n".join(rows) if rows else ""


def _outputs(outputs: Sequence[Document]) -> str:
    lines = []
    for output in outputs[:MOST_LISTED]:
        measure = output["measure"]
        name = {"r2": "R²", "recall": "recall"}.get(measure, measure)
        held_out, before = (output[which].get(measure) for which in ("pruned", "trained"))
        learnt = {True: "", False: ", not learnt", None: ", too few rows to tell"}[output["learnt"]]
        lines.append(
            f"- {safe(output['output'])}: {name} {_figure(held_out)} held out, {_figure(before)} before{learnt}"
        )
    if len(outputs) > MOST_LISTED:
        lines.append(f"- and {len(outputs) - MOST_LISTED} more")
    return "## How well each output is predicted\n\n" + "\n".join(lines) if lines else ""


def _modules(modules: Sequence[Document], effects: Document) -> str:
    if not modules:
        return "## Modules\n\nNone: no connection is left."
    lines = [
        f"- **{safe(m['name'])}**, {'supported' if m.get('supported') else 'not supported'}: {safe(m['reading'])}"
        for m in modules[:MOST_LISTED]
    ]
    if len(modules) > MOST_LISTED:
        lines.append(f"- and {len(modules) - MOST_LISTED} more")
    how = (
        "Each module was held at its mean and the harm to every output measured"
        f" ({safe(effects.get('measure', 'share of the variance of each output'))}); p-values are against random groups"
        " of neurons of the same size, Holm-corrected. Supported means: exclusive, significant, and true of the"
        " network as it was trained as well."
    )
    return "## Modules\n\n" + "\n".join(lines) + f"\n\n{how}"


def _formulas(readout: Document) -> str:
    if not readout.get("outputs"):
        return f"## Formulas\n\n{safe(readout['reading'])}" if readout.get("reading") else ""
    lines = []
    for output in readout["outputs"]:
        formula = output["formula"]
        if formula.get("accepted"):
            lines.append(f"- {safe(output['output'])} = {_code(formula['text'])} (held-out R² {formula['r2']:.5f})")
        elif formula.get("predicted") is False:
            lines.append(f"- {safe(output['output'])}: nothing was read out; {safe(formula.get('reason') or '')}")
        else:
            lines.append(f"- {safe(output['output'])}: no formula was accepted; {safe(formula.get('reason') or '')}")
    told = (
        UNITS.get(readout.get("units"), UNITS[None])
        if any(o["formula"].get("accepted") for o in readout["outputs"])
        else ""
    )
    return "## Formulas\n\n" + "\n".join(lines) + (f"\n\n{told}" if told else "")


def _weights_alone(communities: Document) -> str:
    return f"## What the weights alone say\n\n{safe(communities['reading'])}" if communities.get("reading") else ""


def _limits(metrics: Document, modules: Sequence[Document], dataset: Document) -> str:
    lines = [
        "- What is said of modules holds where there were data; elsewhere nothing was tested.",
        f"- The held-out part has {dataset.get('test')} examples, and pruning looked at them: it is no pure test.",
    ]
    unsupported = [safe(m["name"]) for m in modules if not m.get("supported")]
    if unsupported:
        lines.append(
            f"- Not supported by the tests: {', '.join(unsupported[:MOST_LISTED])}. Do not rely on these parts."
        )
    if metrics.get("within_tolerance") is False:
        lines.append("- No pruned network stayed within its tolerance, so nothing that is needed was pruned.")
    lines.append("- One seed is one case: compare the seeds of the job before calling a structure typical.")
    return "## Limits\n\n" + "\n".join(lines)


def _origin(hashes: Mapping[str, str], spec: Document) -> str:
    lines = [f"- SHA-256 of the {safe(what)}: `{safe(value)}`" for what, value in sorted(hashes.items())]
    body = json.dumps(spec, indent=1, sort_keys=True, ensure_ascii=False).replace("```", "` ` `")
    return "## Where it comes from\n\n" + "\n".join([*lines, "", "```json", body, "```"]).lstrip("\n")


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(safe(name) for name in names[:MOST_LISTED])
    return shown + (f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else "") or "none"


def _code(text: Any) -> str:
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"


def _measured(key: str, value: Any) -> str:
    """A metric; how far below zero R² is says nothing."""
    return "below 0, worse than a constant" if key.endswith("r2") and value < 0 else _figure(value)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else safe(value)
