"""What a run found, made known: its files first, then one transaction, and only while the job is ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from store.files import Files, StoredFile
from store.runs import RunResult

# What runs are listed by, taken from the metrics where the evidence has it; the first that is there names the test.
TEST_METRICS = {"classification": ("test_accuracy", "test_prediction_loss"), "regression": ("test_prediction_loss",)}


def read_result(path: Path, files: Files) -> RunResult:
    """The result that the training process left, its files put into the store."""
    said = json.loads(path.read_text())
    document = said["document"]
    graph = document["graph"]
    nodes, connections = len(graph["nodes"]), len(graph.get("edges", graph.get("links", [])))
    communities = document.get("communities") or {}
    return RunResult(
        metrics=document["metrics"],
        summary=_summary(said, connections),
        graph={"neurons": nodes, "connections": connections, "body": graph},
        clusterings=_clusterings(document["modules"], communities),
        modules=document["modules"],
        effects=document["effects"],
        prune_curve=document["prune_curve"],
        bodies={
            "communities": communities,
            "readout": document.get("readout") or {},
            "dataset": said["dataset"],
        },
        files=_put(said["files"], path.parent, files),
        figures=_put(said["figures"], path.parent, files),
        stepper=said["stepper"],
        device=said["device"],
        replicas=said["replicas"],
        training_seconds=said["training_seconds"],
        evidence_seconds=said["evidence_seconds"],
    )


def _put(names: dict[str, str], folder: Path, files: Files) -> dict[str, StoredFile]:
    return {name: files.put_path(folder / file) for name, file in names.items()}


def _summary(said: dict[str, Any], connections: int) -> dict[str, Any]:
    document, metrics = said["document"], said["document"]["metrics"]
    modules = document["modules"]
    name = next((name for name in TEST_METRICS[said["dataset"]["task"]] if name in metrics), None)
    selectivities = [module["selectivity"] for module in modules if module.get("selectivity") is not None]
    return {
        "test_metric_name": name,
        "test_metric": metrics.get(name) if name else None,
        "connections": connections,
        "modules": len(modules),
        "modularity": (document.get("communities") or {}).get("modularity"),
        "selectivity": sum(selectivities) / len(selectivities) if selectivities else None,
        "connection_cost": metrics.get("connection_cost"),
    }


def _clusterings(modules: list[dict[str, Any]], communities: dict[str, Any]) -> list[dict[str, Any]]:
    """The ways in which the neurons were grouped: by what hangs together, and by Leiden's communities."""
    groups = {module["name"]: module["neurons"] for module in modules}
    found = [{"method": "components", "modules": len(groups), "modularity": None, "body": {"groups": groups}}]
    if communities:
        members = communities.get("groups") or communities.get("communities") or []
        found.append(
            {
                "method": "leiden",
                "modules": len(members),
                "modularity": communities.get("modularity"),
                "body": communities,
            }
        )
    return found
