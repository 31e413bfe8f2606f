"""Verification: do the stored weights reproduce the claims? Everything is computed again, then compared.

Two separate questions. From the pruned network as it is stored: its losses, its connections, its modules, what they
do. And from the network as it was trained: does pruning, done again, arrive at the same connections? The first must
agree on any machine, up to rounding. The second may differ on another machine, where rounding can change a choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.modules.effects import ABLATIONS, Ablator
from bimt_engine.analysis.modules.find import ModuleReport, examine_modules
from bimt_engine.analysis.modules.interior import examine_interior
from bimt_engine.analysis.report import Evidence, finite_json
from bimt_engine.analysis.statements.network import verification_statement
from bimt_engine.data.dataset import Dataset
from bimt_engine.exports.weights import SavedNetwork
from bimt_engine.fingerprint import code_hash, data_hash

Progress = Callable[[float, str], None]
Document = Mapping[str, Any]
NEAR = 1e-6  # relative; weights are kept at float64, so only the order of sums can differ
METRICS = tuple(
    f"{part}{metric}" for part in ("", "validation_", "test_") for metric in ("prediction_loss", "accuracy")
)


@dataclass(frozen=True)
class Check:
    """One claim: what was claimed, what was found, whether they agree. `needed`: a claim that falls if they do not."""

    what: str
    claimed: Any
    found: Any
    agrees: bool
    needed: bool = True

    def document(self) -> dict[str, Any]:
        """The check as plain data."""
        return {**self.__dict__}


def verify(
    saved: SavedNetwork,
    dataset: Dataset,
    claimed: Document,
    *,
    again: bool = True,
    progress: Progress = lambda fraction, note: None,
) -> dict[str, Any]:
    """Compute pruning, modules and effects again and say whether they agree with the claims; a JSON-able document.

    dataset   the run's data, made again from its spec and seed.
    claimed   the published documents by name: metrics, graph, modules, effects, interior; what is missing is not
              checked.
    again     also prune the trained network again, which takes as long as the evidence did. Not done for a run that was
              pruned by the rules of version 1: what is stored of it is checked.
    """
    again = again and saved.spec.evidence.evidence_version > 1
    saved = _with_inputs_as_claimed(saved, claimed)
    progress(0.0, "the stored network")
    with threadpool_limits(1):
        asked = saved.spec
        subject = AnalysisContext.of(
            saved.trained,
            dataset,
            loss=asked.training.loss,
            balance_outputs=asked.balances_outputs,
            seed=saved.seed,
        )
        report = _examined(saved, subject)
        checks = [*_data_checks(saved, dataset), *_stored_checks(saved, subject, report, claimed)]
        checks += _interior_checks(saved, subject, report, claimed.get("interior") or {})
    if again:
        # Here, because it brings half of all that the engine imports, which other operations do without.
        from bimt_engine.analysis.evidence import gather_evidence

        evidence = gather_evidence(
            saved.trained,
            dataset,
            saved.spec,
            seed=saved.seed,
            nulls=0,
            progress=lambda fraction, note: progress(0.2 + 0.8 * fraction, note),
        )
        checks += _pruned_again(evidence, claimed)
    agrees = all(check.agrees for check in checks if check.needed)
    document: dict[str, Any] = {
        "agrees": agrees,
        "checks": [check.document() for check in checks],
        "pruned_again": again,
    }
    document["reading"] = verification_statement(document)
    progress(1.0, "done")
    return dict(finite_json(document))


def _with_inputs_as_claimed(saved: SavedNetwork, claimed: Document) -> SavedNetwork:
    """The networks with each input for itself, where the claims were made before a column's inputs were one neuron.

    That is a table with categories, gaps or dates through an uploaded network. Present graphs name them (`columns`).
    """
    graph = claimed.get("graph")
    if graph is None or "columns" in graph.get("graph", {}) or not saved.network.wiring.input_layer.runs:
        return saved
    networks = {}
    for name in ("network", "trained"):
        network = copy.deepcopy(getattr(saved, name))
        first, *others = network.wiring.neuron_layers
        network.wiring = replace(network.wiring, neuron_layers=(replace(first, runs=()), *others))
        networks[name] = network
    return replace(saved, **networks)


def _examined(saved: SavedNetwork, subject: AnalysisContext) -> ModuleReport:
    masks = {w.parameter: saved.masks[w.parameter].numpy() for w in subject.wiring.weight_layers}
    pruned = saved.network.double().eval()
    return examine_modules(
        subject,
        Ablator(subject, pruned, seed=saved.seed),
        Ablator(subject, subject.network, seed=saved.seed),
        masks,
        random_group_count=saved.spec.evidence.random_groups,
        seed=saved.seed,
    )


def _data_checks(saved: SavedNetwork, dataset: Dataset) -> list[Check]:
    found = []
    if "data" in saved.hashes:
        here = data_hash(dataset)
        found.append(Check("the data are those of the run", saved.hashes["data"], here, here == saved.hashes["data"]))
    if "code" in saved.hashes:
        here = code_hash()
        same = here == saved.hashes["code"]
        found.append(Check("the engine's code is that of the run", saved.hashes["code"], here, same, needed=False))
    return found


def _stored_checks(
    saved: SavedNetwork, subject: AnalysisContext, report: ModuleReport, claimed: Document
) -> list[Check]:
    """What the stored, pruned network does, compared with the claims."""
    checks: list[Check] = []
    if metrics := claimed.get("metrics"):
        values = {name: p.detach().double().numpy() for name, p in saved.network.named_parameters()}
        found = _measured(subject, values)
        checks += [_number(name, metrics[name], found[name]) for name in METRICS if name in metrics and name in found]
    if graph := claimed.get("graph"):
        claims = {edge["key"]: float(edge["weight"]) for edge in graph["edges"]}
        kept = _connections(saved)
        checks.append(Check("connections", len(claims), len(kept), claims.keys() == kept.keys()))
        if claims.keys() == kept.keys() and claims:
            worst = max(abs(claims[key] - kept[key]) for key in claims)
            checks.append(Check("largest difference of a weight", 0.0, worst, worst <= NEAR))
    if "modules" in claimed:
        lines, here = _module_lines(claimed["modules"]), _module_lines(report.modules)
        checks.append(Check("modules", lines, here, lines == here))
        said, says = ([bool(m["supported"]) for m in modules] for modules in (claimed["modules"], report.modules))
        checks.append(Check("which modules are supported", said, says, said == says))
    if matrices := (claimed.get("effects") or {}).get("matrices"):
        for do in ABLATIONS:
            checks.append(_matrix(f"effects ({do})", matrices[do], report.effects["matrices"][do]))
        checks.append(_matrix("p-values (Holm)", claimed["effects"]["p_holm"], report.effects["p_holm"]))
    return checks


def _interior_checks(
    saved: SavedNetwork, subject: AnalysisContext, report: ModuleReport, claimed: Document
) -> list[Check]:
    """The partitions inside the modules; their cuts, which follow from them, are not computed again."""
    if "skipped" in claimed or not claimed:
        return []
    pruned = saved.network.double().eval()
    found: Document = examine_interior(
        subject,
        Ablator(subject, pruned, seed=saved.seed),
        Ablator(subject, subject.network, seed=saved.seed),
        {name: p.detach().numpy() for name, p in pruned.named_parameters()},
        {w.parameter: saved.masks[w.parameter].numpy() for w in subject.wiring.weight_layers},
        module_of=report.module_of,
        costs={},
        rejected=report.rejected if saved.spec.evidence.evidence_version >= 4 else None,
        tied_by=claimed.get("tied_by", "dimensions"),
        random_partitions=saved.spec.evidence.random_groups,
        seed=saved.seed,
    )
    said, says = _partition_lines(claimed), _partition_lines(found)
    checks = [Check("groups inside the modules", said, says, said == says)]
    said_so, says_so = ([p["verdict"] for p in document["partitions"]] for document in (claimed, found))
    checks.append(Check("verdicts on these groups", said_so, says_so, said_so == says_so))
    claims, here = (
        [[p["largest_interaction"], p["trained_largest_interaction"]] for p in document["partitions"]]
        for document in (claimed, found)
    )
    return [*checks, _matrix("largest interactions of these groups", claims, here)]


def _partition_lines(interior: Document) -> list[dict[str, Any]]:
    """What identifies a partition; names of groups follow their effects, which may be equal."""
    return [
        {"layer": p["layer"], "kind": p["kind"], "groups": sorted(sorted(group["neurons"]) for group in p["groups"])}
        for p in interior["partitions"]
    ]


def _pruned_again(evidence: Evidence, claimed: Document) -> list[Check]:
    checks = []
    if graph := claimed.get("graph"):
        claims = {edge["key"] for edge in graph["edges"]}
        found = {connection.key for connection in evidence.graph.connections}
        checks.append(Check("connections, pruned again", len(claims), len(found), claims == found, needed=False))
    if "modules" in claimed:
        said, says = _module_lines(claimed["modules"], neurons=False), _module_lines(evidence.modules, neurons=False)
        checks.append(Check("modules, pruned again", said, says, said == says))
    metrics = claimed.get("metrics") or {}
    if (limit := metrics.get("validation_prediction_loss_limit")) is not None:
        found_loss = evidence.metrics["validation_prediction_loss"]
        within = isinstance(found_loss, float) and found_loss <= limit * (1 + NEAR)
        checks.append(Check("validation loss within its limit, pruned again", limit, found_loss, within, needed=False))
    return checks


def _measured(subject: AnalysisContext, values: dict[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for part, examples in subject.parts.items():
        outputs = subject.outputs(values, examples)
        found[f"{part}prediction_loss"] = float(subject.losses(outputs, examples).mean())
        if (accuracy := subject.accuracy(outputs, examples.targets)) is not None:
            found[f"{part}accuracy"] = accuracy
    return found


def _connections(saved: SavedNetwork) -> dict[str, float]:
    """Key -> weight of every kept connection."""
    parameters = dict(saved.network.named_parameters())
    found = {}
    for weights in saved.network.wiring.weight_layers:
        values = parameters[weights.parameter].detach()
        for row, column in saved.masks[weights.parameter].nonzero().tolist():
            found[f"{weights.parameter}[{row},{column}]"] = float(values[row, column])
    return found


def _module_lines(modules: Sequence[Document], *, neurons: bool = True) -> list[dict[str, Any]]:
    """What identifies a module."""
    fields = ("inputs", "outputs", *(("neurons",) if neurons else ()))
    return [{"name": m["name"], **{field: sorted(m[field]) for field in fields}} for m in modules]


def _number(what: str, claimed: Any, found: float) -> Check:
    agrees = isinstance(claimed, int | float) and math.isclose(claimed, found, rel_tol=NEAR, abs_tol=1e-12)
    return Check(what, claimed, found, agrees)


def _matrix(what: str, claimed: Any, found: Any) -> Check:
    """Compared by the largest difference of an entry."""
    ours, theirs = np.array(found, float), np.array(claimed, float)
    if ours.shape != theirs.shape:
        return Check(what, list(theirs.shape), list(ours.shape), False)
    gap = float(np.nanmax(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs)))) if ours.size else 0.0
    return Check(f"{what}: largest difference", 0.0, gap, gap <= NEAR)
