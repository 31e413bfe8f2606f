"""Embeddings: rings appear where frequencies are, and nowhere else; strips and features show what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from bimt_engine.analysis.representations import matrices, representations
from bimt_engine.data.kinds.groups import multiplication
from bimt_engine.figures.charts import draw_features
from bimt_engine.figures.embedding import (
    TALLEST,
    draw_embedding,
    draw_strips,
    principal_parts,
    representation_parts,
    stacked,
    token_colours,
)
from bimt_engine.figures.style import to_png, to_svg

TOKENS = 59
ANGLE = 2 * np.pi * np.arange(TOKENS) / TOKENS
RANDOM = np.random.default_rng(0)
MODULO = multiplication("Z59")[1]


def rings(*frequencies: int, width: int = 12) -> np.ndarray:
    """Waves of these frequencies in random directions, the first the strongest."""
    waves = [np.stack([np.cos(k * ANGLE), np.sin(k * ANGLE)], axis=1) / (i + 1) for i, k in enumerate(frequencies)]
    turned, _ = np.linalg.qr(RANDOM.normal(size=(width, width)))
    return np.pad(np.concatenate(waves, axis=1), ((0, 0), (0, width - 2 * len(frequencies)))) @ turned + 0.3


def planted(group: str, *parts: str, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """An embedding of the first column of each element's matrix in these representations, turned; and the table."""
    _, table = multiplication(group)
    of = {part.name: part for part in representations(table)}
    columns = np.concatenate([matrices(table, of[name])[:, :, 0] for name in parts], axis=1)
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return np.pad(columns, ((0, 0), (0, width - columns.shape[1]))) @ turned + 0.3, table


def test_each_frequency_has_its_plane_on_which_the_tokens_form_a_ring():
    parts = representation_parts(rings(4, 11), MODULO)
    assert [part.frequency for part in parts] == [4, 11]
    assert sum(part.share for part in parts) == pytest.approx(1)
    for part in parts:
        assert part.shown == pytest.approx(part.share)
        radius = np.hypot(*part.points.T)
        np.testing.assert_allclose(radius, radius.mean(), rtol=1e-9)
        turn = np.diff(np.unwrap(np.arctan2(part.points[:, 1], part.points[:, 0])))
        step = 2 * np.pi * part.frequency / TOKENS
        np.testing.assert_allclose(np.abs(turn), min(step, 2 * np.pi - step), rtol=1e-6)


def test_along_a_ring_the_colours_go_once_round():
    [part] = representation_parts(rings(4), MODULO)
    colours, meaning = token_colours(TOKENS, MODULO, part)
    around = np.argsort(np.arctan2(part.points[:, 1], part.points[:, 0]))
    steps = np.abs(np.diff(colours[around], axis=0)).sum(axis=1)
    assert steps.max() < 0.2
    assert meaning == ""


def test_noise_has_no_frequencies():
    for seed in range(20):
        assert representation_parts(np.random.default_rng(seed).normal(size=(TOKENS, 16)), MODULO) == []


def test_of_noise_no_ring_is_drawn_even_where_a_part_is():
    noise = np.random.default_rng(0).normal(size=(24, 16))
    part = representation_parts(noise, multiplication("S4")[1])[0]
    radius = np.linalg.norm(part.points, axis=1)
    assert radius.std() > 0.2 * radius.mean()


@pytest.mark.parametrize(
    ("group", "names", "directions"),
    [
        ("S4", ("3-dimensional a", "2-dimensional", "sign"), [3, 2, 1]),
        ("D5", ("2-dimensional b",), [2]),
        ("Q8", ("4-dimensional",), [3]),
        ("Z6xZ6", ("frequency (1, 2)",), [2]),
    ],
)
def test_a_planted_representation_is_found_with_a_panel_of_its_dimension(group, names, directions):
    embedding, table = planted(group, *names)
    parts = representation_parts(embedding, table)
    assert sorted(part.name for part in parts) == sorted(names)
    assert sorted((part.points.shape[1] for part in parts), reverse=True) == directions
    assert sum(part.share for part in parts) == pytest.approx(1)
    for part in parts:
        if part.representation.dimension <= 3:
            radius = np.linalg.norm(part.points, axis=1)
            np.testing.assert_allclose(radius, radius.mean(), rtol=1e-9)
    shown = [axes.get_title() for axes in draw_embedding(embedding, multiplication(group)[0], table).axes]
    assert all(any(title.startswith(f"{name}:") for title in shown) for name in names)


def test_tokens_that_a_representation_does_not_tell_apart_have_one_colour_one_point_and_one_list():
    embedding, table = planted("S4", "2-dimensional")
    [part] = representation_parts(embedding, table)
    colours, meaning = token_colours(24, table, part)
    assert "kernel of “2-dimensional”, 4 elements" in meaning
    assert len(np.unique(colours, axis=0)) == len(np.unique(part.points.round(9), axis=0)) == 6
    for number in range(6):
        assert len(np.unique(colours[part.alike == number], axis=0)) == 1
    names = multiplication("S4")[0]
    figure = draw_embedding(embedding, names, table)
    lists = [set(text.get_text().split("\n")) for text in figure.axes[0].texts]
    assert {"1234", "2143", "3412", "4321"} in lists
    assert meaning in figure.get_supxlabel()


def test_strips_name_the_representation_that_holds_the_most():
    names, table = multiplication("S4")
    alone = np.stack([representations(table)[1].character, np.zeros(24)], axis=1)
    labels = [axes.get_ylabel() for axes in draw_strips(alone, names, table).axes]
    assert labels == ["[0] sign\n100%"]


def test_principal_parts_hold_all_the_variance_when_there_is_little():
    points = np.zeros((24, 5))
    points[:, :2] = RANDOM.normal(size=(24, 2))
    (part,) = principal_parts(points)
    assert part.share == pytest.approx(1)


@pytest.mark.parametrize(
    "embedding",
    [rings(4, 11, 24), RANDOM.normal(size=(24, 8)), np.zeros((5, 3)), np.ones((3, 1)), RANDOM.normal(size=(300, 2))],
)
def test_any_embedding_can_be_drawn(embedding):
    names = [f"token {i}" for i in range(len(embedding))]
    table = np.add.outer(np.arange(len(names)), np.arange(len(names))) % len(names)
    for group in (None, table):
        assert to_png(draw_embedding(embedding, names, group, title="rings"))
        assert to_png(draw_strips(embedding, names, group, title="strips"))


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
