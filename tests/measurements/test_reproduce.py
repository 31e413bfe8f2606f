"""The report over seeds 0, 1, …: from a recipe to JSON and a page of pictures."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bimt_engine.data.registry import make_dataset
from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.spec import EvidenceSpec
from bimt_engine.training.loop import Training
from measurements import methods
from measurements.reproduce import merge, summary, write_page
from measurements.rows import Row, experiments, kept_connections, run_experiment
from measurements.truth import Trial, run
from measurements.truth_cases import CASES


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


def test_methods_are_compared_seed_by_seed_on_networks_that_were_relaid(monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {
        "network": {"hidden": [8, 8]},
        "training": {"steps": 400},
        "evidence": {"refit_steps": 50, "random_groups": 20},
    }
    short = replace(CASES["independence"], changes=small)
    monkeypatch.setitem(CASES, "independence", short)
    rows = [run(Trial("independence", method, seed)) for method in ("l1", "bimt", "l1_swap") for seed in (0, 1)]
    for row in rows:
        assert row["wiring"]["relaid_wiring"] <= row["wiring"]["wiring"]
    report = methods.compared(rows) | {"factors": dict.fromkeys(methods.METHODS, 1.0)}
    wiring = [methods.figures(row)["relaid_wiring"] for row in rows]
    told = report["tests"]["locality and relocation"]["relaid_wiring"]
    assert told["difference"] == pytest.approx((wiring[2] + wiring[3] - wiring[4] - wiring[5]) / 2)
    assert told["low"] <= told["difference"] <= told["high"]
    assert told["of"] == 2
    assert set(methods.METHODS) == {"vanilla", "l1", "l1_local", "l1_swap", "bimt"}
    assert methods.table("independence", report).row_count == 4  # three methods, and one pair


def test_a_method_s_cost_is_matched_on_seeds_that_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of each method the factor whose median loss is nearest to that of bimt at 1; bimt itself is not changed."""

    def rows_of(trials: list[Trial], folder: Path, **_: object) -> list[dict[str, Any]]:
        assert {trial.seed for trial in trials}.isdisjoint(range(100))
        loss = {"bimt": 1.0, "l1": 0.5, "l1_local": 2.0, "l1_swap": 1.1}
        return [
            {"method": t.method, "cost_factor": t.cost_factor, "metrics": {"validation_prediction_loss": loss[t.method]
             * t.cost_factor, "connections": 1}, "wiring": {"relaid_wiring": 1.0}, "scores": {"ours": {"ari": 1.0}},
             "trees": {"homogeneity": 1.0}}
            for t in trials
        ]  # fmt: skip

    monkeypatch.setattr(methods, "rows_of", rows_of)
    found = methods.matched("independence", tmp_path, 1)
    assert found == {"bimt": 1.0, "l1": 2.0, "l1_local": 0.5, "l1_swap": 1.0, "vanilla": 1.0}
