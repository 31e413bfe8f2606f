"""The evaluation of one trained run: evidence, weights and figures, written for the worker to publish."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.batch import Reporter, Run
from worker.protocol import ResultWritten
from worker.run_progress import RunProgress

if TYPE_CHECKING:
    from bimt_engine.analysis.report import Evidence
    from bimt_engine.data.dataset import Dataset
    from bimt_engine.training.loop import Training


def evaluate(run: Run, dataset: Dataset, training: Training, *, reporter: Reporter, run_progress: RunProgress) -> None:
    """Gather the evidence for the replica that the training shows, draw it, and report that the run has a result.

    Raises Stopped.
    """
    reporter.set_active([run])

    def report_progress(fraction: float, note: str) -> None:
        reporter.stop_if_asked()
        reporter.progress([run], run_progress.evidence(fraction), note)

    report_progress(0.0, "the evidence begins")
    # Imported after the training, which does not need it: nearly half of what the engine imports.
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.exports.weights import weights_file
    from bimt_engine.networks.uploaded import UploadedNetwork, in_its_format

    began = time.monotonic()
    network = training.network
    evidence = gather_evidence(network, dataset, run.spec, seed=run.seed, progress=report_progress)
    weights = weights_file(network, evidence.network, spec=run.spec, seed=run.seed, dataset=dataset)
    files = {"weights.safetensors": reporter.write(f"{run.id}-weights.safetensors", weights)}
    if isinstance(run.spec.network, UploadedNetwork):
        name = f"network.{run.spec.network.format}"
        files[name] = reporter.write(f"{run.id}-{name}", in_its_format(run.spec.network, evidence.network))
    figures = {
        name: reporter.write(f"{run.id}-{name}", body)
        for name, body in _figures(run, evidence, dataset, reporter, run_progress)
    }
    reporter.progress([run], run_progress.figures(1.0), "writing the results")
    reporter.evidence_seconds = time.monotonic() - began
    result = {
        "document": evidence.document(),
        "dataset": {
            "task": dataset.task,
            "features": list(dataset.column_names),
            **({} if dataset.encoding is None else {"columns": dataset.encoding.to_json()}),
            "targets": list(dataset.target_names),
            "train": len(dataset.train_inputs),
            **({} if dataset.validation_inputs is None else {"validation": len(dataset.validation_inputs)}),
            "test": len(dataset.test_inputs),
        },
        "stepper": training.stepper_name,
        "device": str(next(network.parameters()).device),
        "replicas": training.state.replicas,
        "training_seconds": training.seconds / training.state.replicas,
        "evidence_seconds": reporter.evidence_seconds,
        "files": files,
        "figures": figures,
    }
    file = reporter.write(f"{run.id}-result.json", json.dumps(result).encode())
    reporter.send(ResultWritten(run=run.id, file=file))
    run.left = False


def _figures(
    run: Run, evidence: Evidence, dataset: Dataset, reporter: Reporter, run_progress: RunProgress
) -> Iterator[tuple[str, bytes]]:
    """Every figure of the registry as SVG; the API makes a PNG of it where one is asked for. Raises Stopped."""
    from bimt_engine.figures.registry import draw_run_figures
    from bimt_engine.figures.style import to_svg

    reporter.progress([run], run_progress.figures(0), "pictures")
    pictures = draw_run_figures(evidence, dataset)
    for number, (name, picture) in enumerate(pictures.items()):
        reporter.stop_if_asked()
        reporter.progress([run], run_progress.figures(number / len(pictures)), f"pictures: {name.replace('-', ' ')}")
        yield f"{name}.svg", to_svg(picture)
