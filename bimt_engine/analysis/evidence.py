"""The whole evidence for one run: prune, graph, modules, effects, communities, readout, in one call and document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.ablation import ablation_effects
from bimt_engine.analysis.communities import NULLS, find_communities
from bimt_engine.analysis.effects import Probe
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.learnt import learnt, not_learnt_in_words
from bimt_engine.analysis.modules import examine_modules
from bimt_engine.analysis.plain_json import without_infinities
from bimt_engine.analysis.pruning import Pruned, prune
from bimt_engine.analysis.readout import readout
from bimt_engine.analysis.relaying import relay
from bimt_engine.analysis.subject import Subject
from bimt_engine.datasets.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.spec import Spec
from bimt_engine.training.connection_cost import prices

Progress = Callable[[float, str], None]
MANY_CONNECTIONS = 5_000  # beyond, ablation one by one costs more than it tells


@dataclass(frozen=True)
class Evidence:
    """What a run gives back.

    network   pruned and refitted, float64; its masks are the graph's connections.
    metrics   numbers of the run by name, and under `outputs` a row for each target: how well it is predicted, see
              learnt.py; modules, effects, communities, readout, prune_curve are JSON-able like them.
    """

    network: Network
    metrics: dict[str, Any]
    prune_curve: list[dict[str, Any]]
    graph: Graph
    modules: list[dict[str, Any]]
    effects: dict[str, Any]
    communities: dict[str, Any]
    readout: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Everything but the network, for JSON: no NaN, no infinity."""
        return without_infinities(
            {
                "metrics": self.metrics,
                "prune_curve": self.prune_curve,
                "graph": self.graph.to_json(),
                "modules": self.modules,
                "effects": self.effects,
                "communities": self.communities,
                "readout": self.readout,
            }
        )


def gather_evidence(
    network: Network,
    dataset: Dataset,
    spec: Spec,
    *,
    seed: int,
    progress: Progress = lambda fraction, note: None,
    nulls: int = NULLS,
) -> Evidence:
    """Prune the trained network and test what is left. The network is not changed. Equal by seed, bit for bit.

    progress   is told a fraction and what is being done; whatever it raises goes through.
    nulls      chance graphs that the communities are held against.
    """
    with threadpool_limits(1):  # the matrices are small: more threads only wait for one another
        return _gather(network, dataset, spec, seed, progress, nulls)


def _gather(network: Network, dataset: Dataset, spec: Spec, seed: int, progress: Progress, nulls: int) -> Evidence:
    asked = spec.evidence
    subject = Subject.of(network, dataset, loss=spec.training.loss, seed=seed)
    pruned = prune(
        subject,
        tolerance=asked.tolerance,
        refit_steps=asked.refit_steps,
        seed=seed,
        progress=lambda fraction, note: progress(0.5 * fraction, f"pruning: {note}"),
    )
    progress(0.5, "graph")
    few = pruned.chosen.connections <= MANY_CONNECTIONS
    effects_of_connections = ablation_effects(subject, pruned.values, pruned.masks) if few else {}
    graph = extract_graph(subject, pruned.values, pruned.masks, effects=effects_of_connections)
    progress(0.55, "modules")
    report = examine_modules(
        subject,
        Probe(subject, pruned.network, seed=seed),
        Probe(subject, subject.network, seed=seed),
        pruned.masks,
        random_group_count=asked.random_groups,
        seed=seed,
    )
    graph = graph.with_modules(report.module_of)
    progress(0.65, "communities")
    communities = find_communities(
        graph, seeds=asked.leiden_seeds, seed=seed, cut_into=max(2, len(report.modules)), nulls=nulls
    )
    progress(0.85, "readout")
    read = readout(subject, pruned.values, pruned.masks, tolerance=asked.tolerance, seed=seed)
    progress(0.98, "summing up")
    reached = [output for module in report.modules for output in module["outputs"]]
    outputs = learnt(subject, pruned.values, reached=reached)
    missed = not_learnt_in_words(outputs, spec, connections=pruned.chosen.connections)
    of_modules = report.verdict if report.modules or missed is None else None
    verdict = " ".join(filter(None, (missed, of_modules)))
    metrics = _metrics(subject, spec, pruned, seed) | {
        "modules": len(report.modules),
        "supported_modules": report.supported,
        "verdict": verdict,
        "modularity": communities["modularity"],
        "outputs": outputs,
    }
    effects = report.effects | {"verdict": verdict}
    curve = [step.document() for step in pruned.curve]
    progress(1.0, "done")
    return Evidence(pruned.network, metrics, curve, graph, report.modules, effects, communities, read)


def _metrics(subject: Subject, spec: Spec, pruned: Pruned, seed: int) -> dict[str, Any]:
    """The numbers of a run. `trained_…`: as trained; plain names: pruned and refitted."""
    found: dict[str, Any] = {
        "connections": pruned.chosen.connections,
        "prediction_loss": pruned.chosen.train_loss,
        "test_prediction_loss": pruned.chosen.held_out_loss,
        "faithfulness": pruned.chosen.faithfulness,
        "tolerance": pruned.tolerance,
        "loss_scale": pruned.scale,
        "prediction_loss_limit": pruned.limits["train_loss"],
        "test_prediction_loss_limit": pruned.limits["held_out_loss"],
        "within_tolerance": pruned.within_tolerance,
        "random_mask_loss": float(np.median(pruned.random_masks)) if pruned.random_masks else None,
    }
    trained = subject.values()
    for prefix, values in (("", pruned.values), ("trained_", trained)):
        for part, examples in (("", subject.train), ("test_", subject.held_out)):
            outputs = subject.outputs(values, examples)
            found[f"{prefix}{part}prediction_loss"] = float(subject.losses(outputs, examples).mean())
            if subject.dataset.task == "classification":
                found[f"{prefix}{part}accuracy"] = float((outputs.argmax(-1) == examples.targets).mean())
            elif part == "test_":
                variance = float(examples.targets.var(axis=0).mean())
                error = float(((outputs - examples.targets) ** 2).mean())
                found[f"{prefix}test_r2"] = 1 - error / variance if variance > 0 else None
    shapes = {name: value.shape for name, value in trained.items()}
    bias_cost = spec.training.cost.bias_cost_from is not None
    priced = prices(subject.wiring, shapes, spec.training.cost, bias_cost=bias_cost)
    for name, values in (("connection_cost", pruned.values), ("trained_connection_cost", trained)):
        found[name] = float(sum((priced[p].numpy() * np.abs(values[p])).sum() for p in priced))
    for prefix, network in (("", pruned.network), ("trained_", subject.network)):
        found |= {f"{prefix}{name}": value for name, value in relay(network, seed=seed).document().items()}
    found["trained_connections"] = pruned.curve[0].connections
    return found
