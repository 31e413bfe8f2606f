"""A model card in Markdown: what a network is, what it was trained on, what it does, and what is not known of it.

The one card of runs and published versions. Made from the plain documents of a run; no torch, no numpy. Every sentence
about modules, outputs, formulas and communities is made by `analysis/statements/`, so the card claims no more than
was tested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bimt_engine.analysis.statements.formulas import FORMULA_UNITS, formula_statements
from bimt_engine.analysis.statements.interior import cut_statement, interior_statement, partition_statement
from bimt_engine.analysis.statements.network import communities_statement, module_statement, verification_statement
from bimt_engine.analysis.statements.outputs import baselines_statement, column_statement, output_statement
from bimt_engine.analysis.statements.representations import representations_statement
from bimt_engine.analysis.statements.wording import sentence

Document = Mapping[str, Any]
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")
MAX_LISTED = 20  # names or modules in one list
ROUNDING = 1e-12  # a number below is zero but for rounding

METRICS = (
    ("test_prediction_loss", "prediction loss, test"),
    ("validation_prediction_loss", "prediction loss, validation"),
    ("prediction_loss", "prediction loss, training"),
    ("test_accuracy", "accuracy, test"),
    ("test_r2", "R², test"),
    ("trained_test_prediction_loss", "prediction loss, test, before pruning"),
    ("connections", "connections kept"),
    ("trained_connections", "connections before pruning"),
    ("faithfulness", "faithfulness to the unpruned network"),
    ("connection_cost", "connection cost"),
    ("wiring_efficiency", "wiring / shortest wiring found (1: none shorter)"),
    ("random_mask_loss", "loss of as many connections kept at random"),
)


def model_card(
    *,
    name: str,
    spec: Document,
    metrics: Document,
    modules: Sequence[Document],
    dataset: Document | None = None,
    effects: Document | None = None,
    communities: Document | None = None,
    readout: Document | None = None,
    representations: Document | None = None,
    interior: Document | None = None,
    verification: Document | None = None,
    seed: int | None = None,
    trained_by: Document | None = None,
    hashes: Mapping[str, str] | None = None,
    about: Sequence[str] = (),
    notes: str = "",
) -> str:
    """The card. Nothing that people wrote is read as Markdown but `about` and `notes`.

    dataset      {task, features, targets, train, test}, as runs publish it.
    verification the stored document of the last one, with the date under `on`.
    trained_by   {device, stepper, replicas}, as runs record it.
    hashes       SHA-256 by what it is of: data, code, weights.
    about        sentences under the title, Markdown: which run this is, who published it.
    notes        what the author says, Markdown.
    """
    sections = [
        f"# {safe(name)}",
        " ".join(about),
        notes.strip(),
        _summary(metrics),
        _data(dataset, spec) if dataset else "",
        _training(spec, seed, trained_by or {}),
        _numbers(metrics),
        _outputs(metrics.get("outputs") or ()),
        _modules(modules, effects or {}),
        _interior(interior or {}),
        _formulas(readout or {}),
        _representations(representations),
        _weights_alone(communities or {}),
        _verified(verification or {}),
        _limits(metrics, modules, dataset or {}),
        _origin(hashes or {}, spec),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def safe(text: Any) -> str:
    """Text that says in Markdown what it says here: on one line, no mark-up, no HTML."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _summary(metrics: Document) -> str:
    kept = metrics.get("connections")
    size = f" It keeps {kept} of {metrics.get('trained_connections')} connections." if kept is not None else ""
    verdict = f" {safe(metrics['verdict'])}" if metrics.get("verdict") else ""
    return f"A network trained by brain-inspired modular training, pruned and refitted.{size}{verdict}"


def _data(dataset: Document, spec: Document) -> str:
    asked = spec.get("dataset") or {}
    lines = [
        f"- task: {safe(dataset.get('task'))}",
        f"- examples: {_examples(dataset)}",
        f"- inputs: {_listed(dataset.get('features') or ())}",
        f"- targets: {_listed(dataset.get('targets') or ())}",
        f"- kind: {safe(asked.get('kind', 'unknown'))}",
    ]
    lines += [f"- {safe(said)}" for said in map(column_statement, dataset.get("columns") or ()) if said][:MAX_LISTED]
    lines += [f"- formula: {_code(formula)}" for formula in asked.get("formulas") or ()]
    return "## Data\n\n" + "\n".join(lines)


def _examples(dataset: Document) -> str:
    counts = [dataset.get(part) for part in ("train", "validation", "test")]
    if counts[1] is None:  # of a run before there was a validation part
        return f"{counts[0]} for training, {counts[2]} held out"
    return f"{counts[0]} for training, {counts[1]} for validation, {counts[2]} for testing"


def _training(spec: Document, seed: int | None, trained_by: Document) -> str:
    training, network = spec.get("training") or {}, spec.get("network") or {}
    cost = training.get("cost") or {}
    hidden = network.get("hidden")
    phases = ", ".join(f"{p['cost_strength']:g} until {p['until']:g}" for p in training.get("phases") or ())
    lines = [
        f"- network: {safe(network.get('kind'))}" + (f", hidden layers {safe(hidden)}" if hidden else ""),
        f"- method: {safe(training.get('method'))}, {training.get('steps')} steps, seed {seed}",
        f"- cost strength λ (cost is a {safe(cost.get('reduction'))}): {phases}",
        f"- locality {cost.get('locality')}, layer spacing {cost.get('layer_spacing')}",
    ]
    if trained_by.get("device"):
        beside = f", {trained_by['replicas']} runs side by side" if (trained_by.get("replicas") or 1) > 1 else ""
        stepper = safe(trained_by.get("stepper") or "unknown")
        lines.append(f"- computed on {safe(trained_by['device'])} by the {stepper} stepper{beside}")
    if pruning := training.get("pruning"):
        lines.append(f"- pruned during training to {pruning['connections']} connections")
    return "## Training\n\n" + "\n".join(lines)


def _numbers(metrics: Document) -> str:
    rows = [f"| {label} | {_measured(key, metrics[key])} |" for key, label in METRICS if metrics.get(key) is not None]
    table = "## Numbers\n\n| measure | value |\n|---|---|\n" + "\n".join(rows) if rows else ""
    baselines = metrics.get("baselines")
    return f"{table}\n\n{safe(baselines_statement(baselines))}" if table and baselines else table


def _outputs(outputs: Sequence[Document]) -> str:
    said = [output_statement(output) for output in outputs[:MAX_LISTED]]
    lines = [f"- {safe(s.output)}: {safe(s.text)}{'' if s.learnt else f', {s.verdict}'}" for s in said]
    if len(outputs) > MAX_LISTED:
        lines.append(f"- and {len(outputs) - MAX_LISTED} more")
    return "## How well each output is predicted\n\n" + "\n".join(lines) if lines else ""


def _modules(modules: Sequence[Document], effects: Document) -> str:
    if not modules:
        return f"## Modules\n\n{safe(sentence(effects.get('skipped') or 'None: no connection is left'))}"
    lines = []
    for module in modules[:MAX_LISTED]:
        neurons, said = len(module.get("neurons") or ()), safe(module_statement(module, len(modules)).text)
        supported = " Supported." if module.get("supported") else ""
        lines.append(f"- **{safe(module['name'])}** ({neurons} neurons): {said}.{supported}")
    if len(modules) > MAX_LISTED:
        lines.append(f"- and {len(modules) - MAX_LISTED} more")
    how = (
        "Each module was held at its mean and the change of every output measured"
        f" ({safe(effects.get('measure', 'share of the variance of each output'))}); p-values are against random groups"
        " of neurons of the same size, Holm-corrected. Supported means: exclusive and significant, in the network"
        " as trained as well."
    )
    return "## Modules\n\n" + "\n".join(lines) + f"\n\n{how}"


def _interior(interior: Document) -> str:
    if not interior:
        return ""
    if "skipped" in interior or not interior["partitions"]:
        return f"## Inside the modules\n\n{safe(interior_statement(interior))}"
    partitions = interior["partitions"]
    order = sorted(range(len(partitions)), key=lambda number: number != interior["primary"])
    said = []
    for partition in (partitions[number] for number in order[:MAX_LISTED]):
        stated = partition_statement(partition)
        lines = [f"- {safe(group)}" for group in stated.groups[:MAX_LISTED]]
        if len(stated.groups) > MAX_LISTED:
            lines.append(f"- and {len(stated.groups) - MAX_LISTED} more")
        said.append(f"{safe(stated.text)}\n\n" + "\n".join(lines))
    said += [safe(cut_statement(cut)) for cut in interior["cuts"]]
    return "## Inside the modules\n\n" + "\n\n".join(said)


def _formulas(readout: Document) -> str:
    if not readout.get("outputs"):
        return f"## Formulas\n\n{safe(readout['reading'])}" if readout.get("reading") else ""
    lines = []
    said = formula_statements(readout)
    for formula in said:
        written = f" = {_code(formula.formula)}" if formula.formula else ""
        lines.append(f"- {safe(formula.output)}{written}, {formula.verdict}: {safe(formula.evidence[0])}")
    units = FORMULA_UNITS.get(readout.get("units"), FORMULA_UNITS[None]) if any(f.formula for f in said) else ""
    return "## Formulas\n\n" + "\n".join(lines) + (f"\n\n{units}" if units else "")


def _representations(representations: Document | None) -> str:
    if not representations:
        return ""
    return f"## Representations of the group\n\n{safe(representations_statement(representations).text)}"


def _weights_alone(communities: Document) -> str:
    if "groups" not in communities:
        return ""
    return f"## Modularity of the weights\n\n{safe(communities.get('reading') or communities_statement(communities))}"


def _verified(verification: Document) -> str:
    if "agrees" not in verification:
        return ""
    on = f" on {verification['on']}" if verification.get("on") else ""
    said = f"Recomputed from the stored weights{on}. {verification_statement(verification)}"
    return f"## Verification\n\n{safe(said)}"


def _limits(metrics: Document, modules: Sequence[Document], dataset: Document) -> str:
    lines = [
        "- The statements about modules were tested on the distribution of the data only.",
    ]
    tested = dataset.get("test", "some")
    if "validation" in dataset:
        lines.append(f"- No choice depended on the {tested} test examples; they were only used for measuring.")
    else:
        lines.append(
            f"- The held-out part has {tested} examples, and pruning used them: there is no separate test set."
        )
    verdicts = {safe(m["name"]): module_statement(m, len(modules)).verdict for m in modules if not m.get("supported")}
    untested = [name for name, verdict in verdicts.items() if verdict == "not testable"]
    unsupported = [name for name in verdicts if name not in untested]
    if unsupported:
        lines.append(
            f"- Not supported by the tests: {', '.join(unsupported[:MAX_LISTED])}. Do not rely on these parts."
        )
    if untested:
        lines.append(f"- Not testable, because too few neurons have connections: {', '.join(untested[:MAX_LISTED])}.")
    if metrics.get("within_tolerance") is False:
        lines.append("- No pruned network stayed within its tolerance, so this is the network as trained.")
    lines.append("- This is one seed: compare the seeds of the job before calling a structure typical.")
    return "## Limits\n\n" + "\n".join(lines)


def _origin(hashes: Mapping[str, str], spec: Document) -> str:
    lines = [f"- SHA-256 of the {safe(what)}: `{safe(value)}`" for what, value in sorted(hashes.items())]
    body = json.dumps(spec, indent=1, sort_keys=True, ensure_ascii=False).replace("```", "` ` `")
    return "## Provenance\n\n" + "\n".join([*lines, "", "```json", body, "```"]).lstrip("\n")


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(safe(name) for name in names[:MAX_LISTED])
    return shown + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "") or "none"


def _code(text: Any) -> str:
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"


def _measured(key: str, value: Any) -> str:
    """A metric; how far below zero R² is says nothing."""
    return "below 0, worse than a constant" if key.endswith("r2") and value < 0 else _figure(value)


def _figure(value: Any) -> str:
    """Four digits; what is zero but for rounding is zero."""
    return f"{0.0 if abs(value) < ROUNDING else value:.4g}" if isinstance(value, float) else safe(value)
