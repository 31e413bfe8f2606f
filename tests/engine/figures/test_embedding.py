"""Embeddings: rings appear where frequencies are, and nowhere else; strips and features show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from bimt_engine.figures.embedding import (
    TALLEST,
    draw_embedding,
    draw_strips,
    frequency_planes,
    principal_planes,
    stacked,
)
from bimt_engine.figures.features import draw_features
from bimt_engine.figures.style import to_png, to_svg

TOKENS = 59
ANGLE = 2 * np.pi * np.arange(TOKENS) / TOKENS
RANDOM = np.random.default_rng(0)
NAMES = tuple(map(str, range(TOKENS)))


def rings(*frequencies: int, width: int = 12) -> np.ndarray:
    """Waves of these frequencies in random directions, the first the strongest."""
    waves = [np.stack([np.cos(k * ANGLE), np.sin(k * ANGLE)], axis=1) / (i + 1) for i, k in enumerate(frequencies)]
    turned, _ = np.linalg.qr(RANDOM.normal(size=(width, width)))
    return np.pad(np.concatenate(waves, axis=1), ((0, 0), (0, width - 2 * len(frequencies)))) @ turned + 0.3


def test_each_frequency_has_its_plane_on_which_the_tokens_form_a_ring():
    planes = frequency_planes(rings(4, 11))
    assert [plane.frequency for plane in planes] == [4, 11]
    assert sum(plane.share for plane in planes) == pytest.approx(1)
    for plane in planes:
        radius = np.hypot(*plane.points.T)
        np.testing.assert_allclose(radius, radius.mean(), rtol=1e-9)
        turn = np.diff(np.unwrap(np.arctan2(plane.points[:, 1], plane.points[:, 0])))
        step = 2 * np.pi * plane.frequency / TOKENS
        np.testing.assert_allclose(np.abs(turn), min(step, 2 * np.pi - step), rtol=1e-6)


def test_noise_has_no_frequencies():
    for seed in range(20):
        assert frequency_planes(np.random.default_rng(seed).normal(size=(TOKENS, 16))) == []


def test_principal_planes_hold_all_the_variance_when_there_is_little():
    points = np.zeros((24, 5))
    points[:, :2] = RANDOM.normal(size=(24, 2))
    (plane,) = principal_planes(points)
    assert plane.share == pytest.approx(1)


@pytest.mark.parametrize(
    "embedding",
    [rings(4, 11, 24), RANDOM.normal(size=(24, 8)), np.zeros((5, 3)), np.ones((3, 1)), RANDOM.normal(size=(300, 2))],
)
def test_any_embedding_can_be_drawn(embedding):
    names = [f"token {i}" for i in range(len(embedding))]
    assert to_png(draw_embedding(embedding, names, title="rings"))
    assert to_png(draw_strips(embedding, names, title="strips"))


def test_tokens_that_are_not_told_apart_form_a_stack():
    places, levels = stacked(np.array([0.0, 1.0, 0.001, 0.5, 0.0]))
    assert sorted(levels[[0, 2, 4]]) == [0, 1, 2]
    assert len(set(places[[0, 2, 4]])) == 1
    assert levels[[1, 3]].tolist() == [0, 0]


def test_of_a_high_stack_the_number_is_told():
    values = np.zeros((20, 1))
    values[3] = 1
    texts = [text.get_text() for text in draw_strips(values, [f"t{i}" for i in range(20)]).axes[0].texts]
    assert texts == ["19 tokens", "t3"]
    assert TALLEST < 19


def test_features_show_the_important_neurons_first_and_leave_out_those_of_none():
    weights = np.zeros((5, 12))
    weights[3] = 2.0
    weights[1, 4] = -1.0
    figure = draw_features(weights, (3, 4), names=[f"n{i}" for i in range(5)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["n3", "n1"]
    assert shown[0].images[0].get_array().shape == (3, 4)
    assert to_svg(figure)
    assert to_png(draw_features(np.zeros((2, 4)), (2, 2)))
