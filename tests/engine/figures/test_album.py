"""Every run gets the pictures that say something about it."""

from __future__ import annotations

import pytest

from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.datasets.catalogue import make_dataset
from bimt_engine.figures.album import album
from bimt_engine.figures.render import to_svg
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training

FORMULA = {"kind": "formula", "inputs": 2, "formulas": ["x1**2", "x2"], "train": 40, "test": 20}
MOONS = {"kind": "two_moons", "train": 40, "test": 20}
GROUP = {"kind": "group", "group": "Z3"}


@pytest.mark.parametrize(
    ("data", "embedding", "pictures"),
    [
        (FORMULA, None, {"network", "prune-curve", "effects", "fit"}),
        (MOONS, None, {"network", "prune-curve", "effects", "decision"}),
        (GROUP, 4, {"network", "prune-curve", "effects"}),
    ],
    ids=["formula", "moons", "group"],
)
def test_the_album_holds_what_fits_the_data(data: dict, embedding: int | None, pictures: set[str]) -> None:
    fields = {
        "dataset": data,
        "network": {"kind": "mlp", "hidden": [4], "embedding_width": embedding},
        "training": {"steps": 300, "log_every": 100, "snapshot_every": None},
        "evidence": {"random_groups": 5, "leiden_seeds": 2},
    }
    spec = Spec.model_validate(fields).expanded()
    dataset = make_dataset(spec.dataset, seed=0)
    training = Training.begin(spec, dataset, seed=0)
    list(training.moments())
    evidence = gather_evidence(training.network, dataset, spec, seed=0)
    drawn = album(evidence, dataset)
    assert set(drawn) in (pictures, pictures - {"effects"})  # so short a training may leave no module
    assert all(to_svg(figure).startswith(b"<?xml") for figure in drawn.values())
