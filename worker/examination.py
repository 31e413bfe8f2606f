"""What is found out about one trained run: evidence, weights and pictures, left to be published."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.bar import RunBar
from worker.reporter import Reporter
from worker.run import Run

if TYPE_CHECKING:
    from bimt_engine.analysis.evidence import Evidence
    from bimt_engine.datasets.dataset import Dataset
    from bimt_engine.training.loop import Training


def examine(run: Run, dataset: Dataset, training: Training, *, reporter: Reporter, bar: RunBar) -> None:
    """Gather the evidence for the network that the training shows, draw it, and say that the run has a result.

    Raises Stopped.
    """
    reporter.turn_to([run])

    def gathered(fraction: float, note: str) -> None:
        reporter.stop_if_asked()
        reporter.progress([run], bar.evidence(fraction), note)

    gathered(0.0, "the evidence begins")
    # After the training, which needs none of it: nearly half of all that the engine imports.
    from bimt_engine.analysis.evidence import gather_evidence
    from bimt_engine.exports.weights import weights_file

    began = time.monotonic()
    network = training.network
    evidence = gather_evidence(network, dataset, run.spec, seed=run.seed, progress=gathered)
    weights = weights_file(network, evidence.network, spec=run.spec, seed=run.seed, dataset=dataset)
    files = {"weights.safetensors": reporter.leave(f"{run.id}-weights.safetensors", weights)}
    figures = {
        name: reporter.leave(f"{run.id}-{name}", body)
        for name, body in _pictures(run, evidence, dataset, reporter, bar)
    }
    reporter.evidence_seconds = time.monotonic() - began
    result = {
        "document": evidence.document(),
        "dataset": {
            "task": dataset.task,
            "features": list(dataset.feature_names),
            "targets": list(dataset.target_names),
            "train": len(dataset.train_inputs),
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
    reporter.voice.say("result", run=run.id, file=reporter.leave(f"{run.id}-result.json", json.dumps(result).encode()))
    run.left = False


def _pictures(
    run: Run, evidence: Evidence, dataset: Dataset, reporter: Reporter, bar: RunBar
) -> Iterator[tuple[str, bytes]]:
    """Every picture of the album, as SVG and as PNG. Raises Stopped."""
    from bimt_engine.figures.album import album
    from bimt_engine.figures.render import to_png, to_svg

    reporter.progress([run], bar.pictures(0), "pictures")
    pictures = album(evidence, dataset)
    for number, (name, picture) in enumerate(pictures.items()):
        reporter.stop_if_asked()
        reporter.progress([run], bar.pictures(number / len(pictures)), f"pictures: {name.replace('-', ' ')}")
        yield f"{name}.svg", to_svg(picture)
        yield f"{name}.png", to_png(picture)
