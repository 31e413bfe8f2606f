"""Small runs that are trained and examined in this process, published as a worker would, for pages that compute."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bimt_engine.analysis.evidence import Questions, gather_evidence
from bimt_engine.data.registry import make_dataset
from bimt_engine.exports.weights import weights_file
from bimt_engine.figures.registry import RUN_FIGURES
from bimt_engine.figures.style import to_svg
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from store import jobs, runs
from tests.api.makers import House, now
from worker.recorder import read_result

TRAINING: dict[str, Any] = {
    "steps": 200,
    "log_every": 50,
    "snapshot_every": 100,
    "phases": [{"until": 1.0, "cost_strength": 0.01}],
}
EVIDENCE: dict[str, Any] = {"tolerance": 0.02, "refit_steps": 50, "random_groups": 20, "leiden_seeds": 2}
SEQUENCES = {"kind": "two_memories", "time": 4, "train": 60, "test": 60}
SPECS: dict[str, dict[str, Any]] = {
    "mlp": {
        "dataset": {"kind": "formula", "formulas": ["x1*x1", "x2+x3"], "inputs": 3, "train": 60, "test": 60, "seed": 7},
        "network": {"kind": "mlp", "hidden": [6]},
        "training": TRAINING | {"steps": 1500, "snapshot_every": 500},
    },
    "recurrent": {
        "dataset": SEQUENCES,
        "network": {"kind": "recurrent", "hidden": 6},
        "training": TRAINING | {"steps": 600},
    },
    "gru": {"dataset": SEQUENCES, "network": {"kind": "gru", "hidden": 4}, "training": TRAINING},
    "transformer": {
        "dataset": {"kind": "in_context_regression", "sequences": 200},
        "network": {"kind": "transformer", "width": 4, "blocks": 1},
        "training": TRAINING,
    },
    "grid": {
        "dataset": {"kind": "digits"},
        "network": {"kind": "grid_mlp", "hidden": [9]},
        "training": TRAINING | {"batch_size": 50, "loss": "mse"},
    },
}
SUM = "sum of two squares"  # one piece with two groups inside
ONE_PIECE: dict[str, Any] = {
    "dataset": {"kind": "formula", "formulas": ["x1*x1+x2*x2"], "inputs": 2, "train": 100, "test": 60, "seed": 7},
    "network": {"kind": "mlp", "hidden": [8]},
    "training": TRAINING | {"steps": 3000, "phases": [{"until": 1.0, "cost_strength": 0.003}]},
}


def publish_trained(house: House, folder: Path, name: str) -> str:
    """The id of a new run of one of SPECS, or of SUM."""
    spec = Spec.model_validate((SPECS | {SUM: ONE_PIECE})[name] | {"evidence": EVIDENCE})
    data = make_dataset(spec.dataset, seed=0)
    training = Training.begin(spec, data, seed=0)
    updates = list(training.updates())
    questions = replace(Questions.of(spec), baselines=name == "mlp")  # as of a table that was uploaded
    found = gather_evidence(training.network, data, questions, seed=0)
    written = {"weights": weights_file(training.network, found.network, spec=spec, seed=0, dataset=data)}
    for drawn in ("network", "fit"):
        if (figure := RUN_FIGURES[drawn](found, data)) is not None:
            written[f"{drawn}.svg"] = to_svg(figure)
    for file, content in written.items():
        (folder / file).write_bytes(content)
    told = {"task": data.task, "features": list(data.feature_names), "targets": list(data.target_names)}
    result = {
        "document": found.document(),
        "dataset": told | {"train": len(data.train_inputs), "test": len(data.test_inputs)},
        "files": {"weights.safetensors": "weights"},
        "figures": {file: file for file in written if file.endswith(".svg")},
        "stepper": "kernel",
        "device": "cpu",
        "replicas": 1,
        "training_seconds": 1.0,
        "evidence_seconds": 1.0,
    }
    (folder / "result.json").write_text(json.dumps(result))
    with house.database.write() as rows:
        job = jobs.submit(
            rows,
            team_id=house.teams["ours"],
            member_id=house.members["ours", "submitter"],
            name=name,
            tags=(),
            spec=spec.model_dump(mode="json"),
            runs=[
                {
                    "seed": 0,
                    "cost_strength": None,
                    "spec": spec.expanded().model_dump(mode="json"),
                    "steps": spec.training.steps,
                    "method": spec.training.method,
                    "dataset_kind": spec.dataset.kind,
                }
            ],
            now=now(),
        )
        claim = jobs.claim(rows, job.id, worker="test@here", now=now(), lease_seconds=600)
    assert claim is not None
    (run,) = claim.runs
    published = read_result(folder / "result.json", house.files)
    with house.database.write() as rows:
        runs.start(rows, claim, run.id, now())
        runs.append_history(rows, claim, run.id, [dict(u.row) for u in updates if u.row])
        for update in updates:
            if update.snapshot is not None:
                kept = house.files.put_bytes(update.snapshot.to_bytes())
                runs.append_snapshot(rows, claim, run.id, update.snapshot.step, kept, now=now())
        runs.publish(rows, claim, run.id, published, now())
        jobs.finish(rows, claim, state="succeeded", now=now())
    return str(run.id)
