"""The report over unpicked seeds: from a recipe to JSON and a page of pictures."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.spec import EvidenceSpec
from bimt_engine.training.loop import Training
from measurements import methods
from measurements.reproduce import merge, summary, write_page
from measurements.rows import Row, experiments, kept_connections, run_experiment


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Two seeds of the first recipe, shorter and smaller than it says; as JSON would give them back."""
    asked = experiments("independence", 2, evidence=True)
    short = asked[0].spec.training.model_copy(update={"steps": 400})
    spec = asked[0].spec.model_copy(
        update={
            "training": short,
            "network": MlpNetwork(hidden=[5]),
            "evidence": EvidenceSpec(refit_steps=10, random_groups=20, leiden_seeds=2),
        }
    )
    return [json.loads(json.dumps(run_experiment(replace(experiment, spec=spec)))) for experiment in asked]


def test_a_report_holds_every_seed_s_value_and_their_median(rows: list[Row]) -> None:
    entry = summary("independence", list(reversed(rows)))
    assert entry["seeds"] == 2
    assert entry["metric"] == "test_prediction_loss"
    assert entry["values"] == [row["evidence"]["metrics"]["test_prediction_loss"] for row in rows]
    assert entry["median"] == pytest.approx(sum(entry["values"]) / 2)
    assert entry["worst"] == max(entry["values"])
    assert entry["seconds_cpu"] > 0


@pytest.mark.parametrize("pruned", [True, False])
def test_the_page_shows_a_picture_of_every_seed(rows: list[Row], pruned: bool, tmp_path: Path) -> None:
    kept = {"kept": {"connections": 7, "threshold": 0.01, "nonzero": 9}}
    shown = [row if pruned else {key: row[key] for key in row if key != "evidence"} | kept for row in rows]
    page = tmp_path / "page.html"
    write_page(page, {"independence": shown}, {"independence": summary("independence", shown)})
    pictures = re.findall(r"base64,([^\"]+)", page.read_text(encoding="utf-8"))
    assert len(pictures) == 2
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_connections_that_change_nothing_are_not_counted() -> None:
    experiment = experiments("independence", 1, evidence=False)[0]
    dataset = make_dataset(experiment.spec.dataset, seed=0)
    network = Training.begin(experiment.spec, dataset, seed=0).network
    with torch.no_grad():
        for number, weight in enumerate(network.weights):
            weight.zero_()
            weight[0, 0], weight[1, 1] = 2.0, 1e-5 * number
    before = [weight.detach().clone() for weight in network.weights]
    kept = kept_connections(network, dataset, experiment.spec.training)
    assert (kept["connections"], kept["nonzero"]) == (3, 5)
    assert all(torch.equal(weight, whole) for weight, whole in zip(network.weights, before, strict=True))


def test_a_report_on_one_recipe_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    merge(path, {"one": 1, "two": 2})
    assert merge(path, {"two": 3}) == {"one": 1, "two": 3}
    assert json.loads(path.read_text(encoding="utf-8")) == {"one": 1, "two": 3}


def test_every_method_is_relaid_before_its_wiring_is_told() -> None:
    told = []
    for method in ("l1", "bimt"):
        (experiment,) = methods.asked(method, 1)
        short = experiment.spec.training.model_copy(update={"steps": 400})
        told.append(run_experiment(replace(experiment, spec=experiment.spec.model_copy(update={"training": short}))))
    report = {row["recipe"].removeprefix("independence_"): methods.summary([row]) for row in told}
    assert report["l1"]["relaid_wiring"]["median"] < report["l1"]["wiring"]["median"]
    # Nothing moved its neurons while it was trained: even so short a training is laid out a tenth too long, and more.
    assert report["l1"]["wiring_efficiency"]["median"] > 1.1
    assert 1.0 <= report["bimt"]["wiring_efficiency"]["median"] < report["l1"]["wiring_efficiency"]["median"]
    assert set(methods.METHODS) == {"vanilla", "l1", "l1_local", "l1_swap", "bimt"}
    assert methods.table(report).row_count == 2
