"""The evidence for one run: pruning, graph, modules, effects, communities, readout, in one call and one document.

Everything after the pruning is one part of several. A part that fails, or that would be too large, is left out with the
reason in its document (`skipped`); the other parts are computed all the same. What is too large is decided by counting
operations and sizes beforehand, never by a clock, so that equal runs have equal evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from bimt_engine.analysis.communities import NULLS, find_communities, skipped_communities
from bimt_engine.analysis.context import AnalysisContext, LossName, variance_of, weighted
from bimt_engine.analysis.extraction import extract_graph
from bimt_engine.analysis.modules.effects import Ablator, ablation_effects
from bimt_engine.analysis.modules.find import ModuleReport, examine_modules, skipped_modules
from bimt_engine.analysis.modules.interior import examine_interior, skipped_interior, with_groups
from bimt_engine.analysis.output_scores import compare_with_baselines, score_answers, score_outputs
from bimt_engine.analysis.pruning.cross_fitting import cross_fitted_gains, worth_cross_fitting
from bimt_engine.analysis.pruning.search import Pruned, prune
from bimt_engine.analysis.readout.formulas import readout, skipped_readout, with_group_formulas
from bimt_engine.analysis.report import Evidence, InteriorDocument, OutputScore
from bimt_engine.analysis.representation_report import representation_report, skipped_representations
from bimt_engine.analysis.statements.interior import interior_modules, run_verdict
from bimt_engine.analysis.statements.outputs import not_learnt
from bimt_engine.analysis.wiring_efficiency import WiringEfficiency, relayout
from bimt_engine.data.dataset import Dataset, is_image
from bimt_engine.data.kinds.uploaded import UploadedData
from bimt_engine.networks.network import Network
from bimt_engine.spec import CostSpec, EvidenceSpec, Spec
from bimt_engine.training.connection_cost import prices

Progress = Callable[[float, str], None]
Result = TypeVar("Result")
MAX_ABLATED = 5_000  # connections; beyond, ablation one by one costs more than it shows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """What the evidence depends on besides network and data.

    loss, balance_outputs   as in training; None: the loss of the task.
    cost_strength           λ of the training where it cost anything, for what is said of outputs that are not learnt.
    baselines               whether other methods are fitted to the same rows: of a standardised table, not of images.
    retrained               the spec to train again by, where few rows leave it open whether a network beats a constant;
                            None: it is not trained again.
    """

    evidence: EvidenceSpec
    cost: CostSpec
    loss: LossName | None = None
    balance_outputs: bool = False
    cost_strength: float | None = None
    retrained: Spec | None = None
    baselines: bool = False

    @classmethod
    def of(cls, spec: Spec) -> Questions:
        """Those of a run."""
        phases = spec.expanded().training.phases
        return cls(
            evidence=spec.evidence,
            cost=spec.training.cost,
            loss=spec.training.loss,
            balance_outputs=spec.balances_outputs,
            cost_strength=next((p.cost_strength for p in phases if p.cost_strength > 0), None),
            retrained=spec,
            baselines=isinstance(spec.dataset, UploadedData) and spec.dataset.is_standardised_table,
        )


def gather_evidence(
    network: Network,
    dataset: Dataset,
    spec: Spec | Questions,
    *,
    seed: int,
    progress: Progress = lambda fraction, note: None,
    nulls: int = NULLS,
) -> Evidence:
    """Prune the trained network and test what is left. The network is not changed. Equal by seed, bit for bit.

    progress   called with a fraction and what is being done; what it raises is not caught.
    nulls      chance graphs that the communities are compared with.
    """
    with threadpool_limits(1):  # the matrices are small: more threads only wait for one another
        questions = Questions.of(spec) if isinstance(spec, Spec) else spec
        return _gather(network, dataset, questions, seed, progress, nulls)


def _gather(
    network: Network, dataset: Dataset, questions: Questions, seed: int, progress: Progress, nulls: int
) -> Evidence:
    asked = questions.evidence
    subject = AnalysisContext.of(
        network, dataset, loss=questions.loss, balance_outputs=questions.balance_outputs, seed=seed
    )
    pruned = _pruned(subject, questions, seed, lambda fraction, note: progress(0.5 * fraction, f"pruning: {note}"))
    progress(0.5, "graph")
    connections = pruned.chosen.connections

    def ablated() -> dict[tuple[str, int, int], float]:
        return ablation_effects(subject, pruned.values, pruned.masks) if connections <= MAX_ABLATED else {}

    ablations = _part("ablation", ablated, lambda reason: {})
    graph = extract_graph(subject, pruned.values, pruned.masks, effects=ablations)
    progress(0.55, "modules")

    ablators = Ablator(subject, pruned.network, seed=seed), Ablator(subject, subject.network, seed=seed)

    def examined() -> ModuleReport:
        return examine_modules(subject, *ablators, pruned.masks, random_group_count=asked.random_groups, seed=seed)

    report = _part("modules", examined, lambda reason: skipped_modules(dataset.target_names, reason))
    representations = _part(
        "representations",
        lambda: representation_report(subject, pruned.values, pruned.masks),
        skipped_representations,
    )
    progress(0.6, "groups inside the modules")

    def inside() -> InteriorDocument:
        return examine_interior(
            subject,
            *ablators,
            pruned.values,
            pruned.masks,
            module_of=report.module_of,
            representations=representations,
            costs=ablations,
            rejected=report.rejected if asked.evidence_version >= 4 else None,
            tied_by="functions" if asked.evidence_version < 3 else "common_functions",
            random_partitions=asked.random_groups,
            seed=seed,
        )

    groups = _part("interior", inside, skipped_interior)
    interior = _part(
        "formulas of groups",
        lambda: with_group_formulas(subject, pruned.values, groups, tolerance=asked.tolerance, seed=seed),
        lambda reason: groups,
    )
    graph = with_groups(graph.with_modules(report.module_of), interior)
    progress(0.65, "communities")
    communities = _part(
        "communities",
        lambda: find_communities(
            graph, seeds=asked.leiden_seeds, seed=seed, cut_into=max(2, len(report.modules)), nulls=nulls
        ),
        skipped_communities,
    )
    progress(0.85, "readout")
    read = _part(
        "readout",
        lambda: readout(
            subject,
            pruned.values,
            pruned.masks,
            tolerance=asked.tolerance,
            seed=seed,
            searches=asked.formula_searches,
        ),
        skipped_readout,
    )
    progress(0.98, "summing up")
    reached = [output for module in report.modules for output in module["outputs"]]
    no_scores: list[OutputScore] = []
    outputs = _part(
        "output scores", lambda: score_outputs(subject, pruned.values, reached=reached), lambda reason: no_scores
    )
    missed = not_learnt(
        outputs,
        connections=connections,
        tolerance=asked.tolerance,
        cost_strength=questions.cost_strength,
        gain=None if pruned.gain is None else pruned.gain.document(),
    )
    baselines = None
    if questions.baselines and not is_image(dataset):
        baselines = _part(
            "baselines",
            lambda: compare_with_baselines(subject, pruned.values, connections=connections, seed=seed),
            lambda reason: None,
        )
    of_modules = report.verdict if report.modules or missed is None else None
    found = run_verdict(of_modules, interior, modules=len(report.modules))
    verdict = " ".join(filter(None, (missed, found)))
    metrics = _metrics(subject, questions, pruned, seed) | {
        "modules": len(report.modules),
        "supported_modules": report.supported,
        "interior_modules": interior_modules(interior),
        "verdict": verdict,
        "modularity": communities["modularity"],
        "outputs": outputs,
        **({"targets": score_answers(subject, pruned.values)} if dataset.answers else {}),
        **({} if baselines is None else {"baselines": baselines}),
    }
    effects = report.effects | {"verdict": verdict}
    curve = [step.document() for step in pruned.curve]
    progress(1.0, "done")
    return Evidence(
        network=pruned.network,
        metrics=metrics,
        prune_curve=curve,
        graph=graph,
        modules=report.modules,
        effects=effects,
        communities=communities,
        readout=read,
        interior=interior,
        trained=subject.network,
        representations=representations,
    )


def _pruned(subject: AnalysisContext, questions: Questions, seed: int, progress: Progress) -> Pruned:
    """The pruned network; judged by networks trained on parts of the data where that is asked for and worth while."""
    asked, retrained = questions.evidence, questions.retrained

    def cross_fit() -> Float[np.ndarray, " N"]:
        assert retrained is not None
        return cross_fitted_gains(subject.dataset, retrained, seed=seed, progress=lambda _, note: progress(0.9, note))

    return prune(
        subject,
        tolerance=asked.tolerance,
        refit_evaluations=asked.refit_evaluations,
        seed=seed,
        evidence_version=asked.evidence_version,
        cross_fit=cross_fit if retrained is not None and worth_cross_fitting(subject, retrained) else None,
        progress=progress,
    )


def _part(name: str, compute: Callable[[], Result], skipped: Callable[[str], Result]) -> Result:
    """What one part finds; where it fails, its document without results, with the reason.

    A trained run is worth more than any one part of its evidence, so no error of a part may lose it.
    """
    try:
        return compute()
    except Exception as error:
        log.warning("part %r of the evidence failed", name, exc_info=True)
        return skipped(f"failed: {type(error).__name__}: {error}")


def _metrics(subject: AnalysisContext, questions: Questions, pruned: Pruned, seed: int) -> dict[str, Any]:
    """The numbers of a run. `trained_…`: as trained; plain names: pruned and refitted."""
    found: dict[str, Any] = {
        "connections": pruned.chosen.connections,
        "faithfulness": pruned.chosen.faithfulness,
        "tolerance": pruned.tolerance,
        "loss_scale": pruned.scale,
        "prediction_loss_limit": pruned.limits["train_loss"],
        "validation_prediction_loss_limit": pruned.limits["validation_loss"],
        "within_tolerance": pruned.within_tolerance,
        "gain_over_constant": None if pruned.gain is None else pruned.gain.document(),
        "random_mask_loss": float(np.median(pruned.random_masks)) if pruned.random_masks else None,
    }
    if subject.dataset.origin:
        found["data_origin"] = dict(subject.dataset.origin)
    trained = subject.values()
    for prefix, values in (("", pruned.values), ("trained_", trained)):
        for part, examples in subject.parts.items():
            outputs = subject.outputs(values, examples)
            found[f"{prefix}{part}prediction_loss"] = float(subject.losses(outputs, examples).mean())
            if (accuracy := subject.accuracy(outputs, examples.targets, examples.weights)) is not None:
                found[f"{prefix}{part}accuracy"] = accuracy
            if part and subject.dataset.task == "regression":
                variance = float(weighted(variance_of(examples.targets, examples.weights), subject.weights).mean())
                error = float(subject.losses(outputs, examples).mean())
                if examples.weights is None:
                    error = float(weighted((outputs - examples.targets) ** 2, subject.weights).mean())
                found[f"{prefix}{part}r2"] = 1 - error / variance if variance > 0 else None
    shapes = {name: value.shape for name, value in trained.items()}
    priced = prices(subject.wiring, shapes, questions.cost, bias_cost=questions.cost.bias_cost_from is not None)
    for name, values in (("connection_cost", pruned.values), ("trained_connection_cost", trained)):
        found[name] = float(sum((priced[p].numpy() * np.abs(values[p])).sum() for p in priced))
    for prefix, network in (("", pruned.network), ("trained_", subject.network)):
        found |= {f"{prefix}{name}": value for name, value in _wiring(network, seed).items()}
    found["trained_connections"] = pruned.curve[0].connections
    return found


def _wiring(network: Network, seed: int) -> dict[str, float | None]:
    """The wiring of a network by name, null where no layout could be computed."""
    unknown = WiringEfficiency(None, None).document()
    return _part("wiring efficiency", lambda: relayout(network, seed=seed).document(), lambda reason: unknown)
