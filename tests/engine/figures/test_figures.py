"""The other pictures: each shows the numbers it was given, and the same numbers give the same bytes."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from bimt_engine.figures.charts import draw_decision, draw_effects, draw_fit, draw_weight_ranks, r_squared
from bimt_engine.figures.curves import draw_curves, draw_pareto, draw_prune_curve, phases_of, unbettered
from bimt_engine.figures.network import draw_network
from bimt_engine.figures.style import to_png, to_svg
from tests.engine.figures.makers import line_graph

HISTORY = [
    {
        "step": step,
        "cost_strength": 0.001 if step < 500 else 0.01,
        "prediction_loss": 1 / (step + 1),
        "test_prediction_loss": 2 / (step + 1),
        "connection_cost": 30.0 - step / 50,
        "train_accuracy": step / 1000,
        "test_accuracy": step / 2000,
    }
    for step in range(0, 1001, 100)
]
CURVE = [
    {"connections": 520, "train_loss": 0.01, "held_out_loss": 0.02, "modules": 1, "refitted": False},
    *(
        {
            "connections": k,
            "train_loss": 1e-4 if k >= 19 else 1.0,
            "held_out_loss": 2e-4,
            "modules": 2,
            "refitted": True,
        }
        for k in range(30, 12, -1)
    ),
]
EFFECTS = {
    "modules": ["A", "B"],
    "outputs": ["y1", "y2"],
    "judged_by": "mean",
    "measure": "share of variance",
    "matrices": {"mean": [[0.97, 1e-7], [None, 0.5]]},
    "p_holm": [[0.01, 0.01], [None, 0.04]],  # of the output that A leaves alone, p is no claim to be framed
}
RANDOM = np.random.default_rng(0)
TRUE = RANDOM.normal(size=(50, 3))


def predict(points):
    return np.stack([points[:, 0], -points[:, 0]], axis=1)


PICTURES = {
    "network": lambda: draw_network(line_graph(), title="network"),
    "curves": lambda: draw_curves(HISTORY, title="curves"),
    "prune curve": lambda: draw_prune_curve(CURVE, chosen=19, limits={"train_loss": 1e-3}, title="prune"),
    "effects": lambda: draw_effects(EFFECTS, title="effects"),
    "fit": lambda: draw_fit(TRUE, TRUE + 0.1, ["y1", "y2", "y3"], title="fit"),
    "decision": lambda: draw_decision(
        predict, TRUE[:, :2], (TRUE[:, 0] < 0).astype(np.int64), feature_names=["x1", "x2"], class_names=["a", "b"]
    ),
    "ranks": lambda: draw_weight_ranks({"weights.0": TRUE, "weights.1": TRUE * 0}, kept=9),
    "pareto": lambda: draw_pareto(
        [{"cost_strength": 10.0**-i, "connections": 10 * i + 5, "test_prediction_loss": 0.1**i} for i in range(4)]
    ),
}


@pytest.mark.parametrize("name", list(PICTURES))
def test_the_same_numbers_give_the_same_bytes(name):
    assert to_svg(PICTURES[name]()) == to_svg(PICTURES[name]())
    assert to_png(PICTURES[name]()) == to_png(PICTURES[name]())


def test_another_process_gives_the_same_bytes_and_none_asks_for_a_screen():
    code = (
        "import sys, hashlib; from tests.engine.figures.makers import line_graph;"
        "from bimt_engine.figures.network import draw_network; from bimt_engine.figures.style import to_png, to_svg;"
        "figure = draw_network(line_graph());"
        "print(hashlib.sha256(to_svg(figure)).hexdigest(), hashlib.sha256(to_png(figure)).hexdigest());"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    environ = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    figure = draw_network(line_graph())
    assert runs[0].stdout.split() == [hashlib.sha256(write(figure)).hexdigest() for write in (to_svg, to_png)]


def test_settings_of_matplotlib_are_left_as_they_were():
    before = dict(matplotlib.rcParams)
    for name in ("network", "curves", "effects"):
        to_svg(PICTURES[name]())
    assert dict(matplotlib.rcParams) == before


def test_svg_tells_no_date_and_names_no_font():
    svg = to_svg(PICTURES["network"]()).decode()
    assert "<dc:date>" not in svg
    assert "font-family" not in svg


@pytest.mark.parametrize(
    "history", [[], HISTORY[:1], [{"step": 0, "prediction_loss": 0.0}, {"step": 5, "prediction_loss": 0.0}]]
)
def test_a_training_that_has_hardly_begun_can_be_drawn(history):
    assert to_png(draw_curves(history))


def test_phases_begin_where_the_cost_strength_changes():
    assert phases_of(HISTORY) == [(0, 500, 0.001), (500, 1000, 0.01)]


def test_curves_show_accuracy_only_where_there_is_one():
    assert len(draw_curves(HISTORY).axes) == 3
    plain = [{key: value for key, value in row.items() if "accuracy" not in key} for row in HISTORY]
    figure = draw_curves(plain)
    assert [axes.get_ylabel() for axes in figure.axes] == ["prediction loss", "connection cost"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [row["prediction_loss"] for row in plain]


def test_the_knee_stands_where_the_network_was_cut():
    figure = PICTURES["prune curve"]()
    assert "k* = 19" in [text.get_text() for text in figure.axes[0].texts]
    assert any(np.array_equal(line.get_xdata(), [19, 19]) for line in figure.axes[0].lines)
    assert figure.axes[0].xaxis_inverted()


@pytest.mark.parametrize("curve", [[], CURVE[:1], CURVE[1:2]])
def test_a_curve_of_one_point_or_none_can_be_drawn(curve):
    assert to_png(draw_prune_curve(curve))


def test_effects_are_written_into_their_cells_and_framed_where_chance_is_ruled_out():
    axes = PICTURES["effects"]().axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.97", "1e-7", "–", "0.50"]
    assert len(axes.patches) == 2


def test_groups_have_rows_below_the_modules_and_stand_for_one_that_is_the_whole_network():
    groups = [{"name": name, "effects": effects} for name, effects in (("A1", [0.7, 0.2]), ("A2", [0.1, 0.9]))]
    one = {"modules": ["A"], "outputs": ["y1", "y2"], "matrices": {"mean": [[1.0, 1.0]]}, "p_holm": [[0.01, 0.01]]}
    for effects, given, rows, framed in (
        (one, groups, ["A1", "A2"], 0),
        (EFFECTS, groups[:1], ["A", "B", "A1"], 2),
        (one, [{"name": "A1", "effects": [0.7]}], ["A"], 2),  # a stored list that was cut off is not drawn
    ):
        axes = draw_effects(effects, groups=given).axes[0]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == rows
        assert len(axes.patches) == framed
    axes = draw_effects(one, groups=groups).axes[0]
    assert (axes.get_ylabel(), [text.get_text() for text in axes.texts]) == ("group", ["0.70", "0.20", "0.10", "0.90"])


@pytest.mark.parametrize(("modules", "outputs"), [(1, 1), (0, 2), (3, 60), (12, 12)])
def test_effects_of_any_size_can_be_drawn(modules, outputs):
    matrix = RANDOM.uniform(size=(modules, outputs)).tolist()
    names = [chr(65 + i) for i in range(modules)]
    effects = {"modules": names, "outputs": [f"class {i}" for i in range(outputs)], "matrices": {"mean": matrix}}
    assert to_png(draw_effects(effects))


def test_r_squared_is_one_for_the_truth_and_zero_for_the_mean():
    truth = TRUE[:, 0]
    assert r_squared(truth, truth) == 1
    assert r_squared(truth, np.full_like(truth, truth.mean())) == pytest.approx(0)
    assert np.isnan(r_squared(np.ones(3), np.ones(3)))


def test_the_pareto_front_holds_the_runs_that_none_betters():
    x, y = np.array([1.0, 2, 3, 2, 4]), np.array([5.0, 3, 3, 4, 1])
    assert unbettered(x, y).tolist() == [0, 1, 4]
    assert to_png(draw_pareto([]))
    assert to_png(draw_pareto([{"cost_strength": 0.0, "connections": 3, "test_prediction_loss": 0.0}]))


def test_true_zeros_have_a_rank_too():
    axes = draw_weight_ranks({"w": np.array([[1.0, 0.0], [0.5, 0.0]])}).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 0.5, 1e-8, 1e-8]


def test_long_names_of_targets_stay_within_their_panels() -> None:
    long = "Carbon dioxide concentration in the large lecture hall in ppm"
    figure = draw_fit(TRUE, TRUE + 0.1, [long, long, "y3"])
    figure.canvas.draw()
    titles = [(axes, axes.get_title(loc="left")) for axes in figure.axes[:3]]
    boxes = [
        next(each for each in axes.findobj(Text) if each.get_text() == title).get_window_extent()
        for axes, title in titles
    ]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    assert ["\n" in title for _, title in titles] == [True, True, False]
