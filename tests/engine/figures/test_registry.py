"""The figures of a run are those that say something about it; every figure of the registry has its sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bimt_engine.analysis.evidence import gather_evidence
from bimt_engine.analysis.job import pareto
from bimt_engine.analysis.statements.network import FIGURE_LABELS
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.figures.registry import JOB_FIGURES, RUN_FIGURES, draw_run_figures, embedding_of
from bimt_engine.figures.style import to_png
from bimt_engine.networks.mlp import GridMlpNetwork, MlpNetwork
from bimt_engine.networks.network import build_network
from bimt_engine.spec import EvidenceSpec, Spec
from tests.engine.makers import table_data, token_data


def evidence_of(network, data):
    spec = Spec(
        dataset=FormulaData(formulas=["x1"], inputs=1),
        network=network,
        evidence=EvidenceSpec(tolerance=1e-6, refit_steps=5, random_groups=0, leiden_seeds=1),
    )
    built = build_network(network, data, precision="float64", generator=torch.Generator().manual_seed(0))
    return gather_evidence(built, data, spec, seed=0, nulls=0)


def image_data() -> Dataset:
    random = np.random.default_rng(0)
    images = random.uniform(size=(40, 16))
    labels = (images[:, :8].sum(1) > images[:, 8:].sum(1)).astype(np.int64)
    names = tuple(f"pixel[{row},{column}]" for row in range(4) for column in range(4))
    return Dataset(images[:20], labels[:20], images[20:], labels[20:], "classification", names, ("low", "high"))


ALWAYS = {"network", "prune-curve", "effects", "ranks"}
CASES = {
    "numbers": (MlpNetwork(hidden=[5]), table_data(), ALWAYS | {"fit"}),
    "plane": (MlpNetwork(hidden=[5]), table_data(2, 2, classes=True), ALWAYS | {"decision"}),
    "tokens": (MlpNetwork(hidden=[5], embedding_width=3), token_data(), ALWAYS | {"embedding", "strips"}),
    "images": (GridMlpNetwork(hidden=[6]), image_data(), ALWAYS | {"features"}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_run_gets_the_pictures_that_say_something_about_it(case):
    network, data, expected = CASES[case]
    evidence = evidence_of(network, data)
    pictures = draw_run_figures(evidence, data)
    if not evidence.modules:  # an untrained network may be pruned to nothing
        expected = expected - {"effects", "embedding"}
    assert set(pictures) - {"strips"} == expected - {"strips"}
    assert all(to_png(figure) for figure in pictures.values())
    if case == "tokens" and evidence.modules:
        assert embedding_of(evidence, data).shape[0] == data.tokens


def test_every_figure_has_a_sentence_and_every_sentence_a_figure():
    assert set(FIGURE_LABELS) == set(RUN_FIGURES) | set(JOB_FIGURES)


def test_the_sweep_of_a_job_is_drawn_from_its_stored_document():
    points = [
        {"run": str(i), "cost_strength": 10.0**-i, "seed": 0, "loss": 0.1 / (i + 1), "wiring": float(i + 1)}
        for i in range(4)
    ]
    drawn = JOB_FIGURES["pareto"](pareto(points))
    assert drawn is not None
    assert to_png(drawn)
    assert JOB_FIGURES["pareto"](pareto(points[:1])) is None
