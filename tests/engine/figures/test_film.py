"""The film: neurons glide to where they go, take their connections along, and end where the training ended."""

from __future__ import annotations

import io
import tempfile

import imageio_ffmpeg
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from bimt_engine.figures.film import (
    FRAMES_PER_SECOND,
    LAST,
    MAX_FRAMES,
    MAX_SNAPSHOTS,
    MOVING,
    STILL,
    _Segments,
    _thinned,
    draw_film,
    instants,
    write_film,
)
from bimt_engine.networks.network import Network
from bimt_engine.training.state import Snapshot
from tests.engine.makers import ARCHITECTURES, build


def snapshots_of(network: Network, count: int = 3, seed: int = 0) -> list[Snapshot]:
    """Random weights; the second snapshot has its neurons in other slots."""
    random = np.random.default_rng(seed)
    wiring = network.wiring
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    snapshots = []
    for number in range(count):
        orders = {
            layer.name: random.permutation(layer.neurons) if number == 1 else np.arange(layer.neurons)
            for layer in wiring.neuron_layers
        }
        weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        snapshots.append(Snapshot(100 * number, weights, orders))
    return snapshots


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_film_of_any_architecture_has_even_frames_of_one_size(architecture):
    network, data = build(architecture)
    names = {"input": data.feature_names, "output": data.target_names}
    frames = list(draw_film(snapshots_of(network, count=2), network.wiring, names=names))
    assert len(frames) >= 1 + STILL + LAST
    assert {frame.shape for frame in frames} == {(640, 800, 3)}
    assert not np.array_equal(frames[0], frames[-1])


def test_lines_lie_where_a_path_for_each_would_lie():
    """Outside truth: matplotlib's own collection, which is handed every line."""
    random = np.random.default_rng(3)
    ends, colours, widths = random.random((40, 2, 2)), random.random((40, 4)), 0.3 + 3 * random.random(40)
    ours = _Segments()
    ours.show(ends, colours, widths)
    pictures = []
    for lines in (ours, LineCollection(ends, colors=colours, linewidths=widths)):
        canvas = FigureCanvasAgg(Figure(figsize=(3, 2), dpi=100))
        canvas.figure.add_axes((0, 0, 1, 1)).add_collection(lines)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()).astype(int))
    assert pictures[0].std() > 10
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_a_movement_changes_places_but_no_connection():
    """Outside truth: the network's own exchange rule. The same network in another order is the same by identity."""
    network, _ = build("mlp")
    first = snapshots_of(network, count=1)[0]
    wiring = network.wiring
    random = np.random.default_rng(1)
    orders = {layer.name: random.permutation(layer.neurons) for layer in wiring.neuron_layers}
    weights = {name: value.copy() for name, value in first.weights.items()}
    for layer in wiring.neuron_layers:
        for port in layer.ports:  # the neuron of identity order[slot] now sits in slot
            weights[port.parameter] = np.take(weights[port.parameter], orders[layer.name], axis=port.axis)
    states = list(instants([first, Snapshot(100, weights, orders)], wiring))
    for state in states:
        for joint in wiring.weight_layers:
            np.testing.assert_allclose(state.weights[joint.parameter], first.weights[joint.parameter], rtol=1e-6)
    assert len(states) == 1 + MOVING + LAST
    for layer in wiring.neuron_layers:
        ended = np.asarray(layer.positions)[np.argsort(orders[layer.name])]
        np.testing.assert_array_equal(states[-1].positions[layer.name], ended)


def test_neurons_glide_between_their_slots_and_are_marked_only_on_the_way():
    network, _ = build("mlp")
    states = list(instants(snapshots_of(network), network.wiring))
    assert any(moved.any() for moved in states[2].moving.values())
    assert not any(moved.any() for state in (states[0], states[-1]) for moved in state.moving.values())
    for name, start in states[0].positions.items():
        path = np.array([state.positions[name] for state in states[: 1 + MOVING]])
        assert (np.diff(path, axis=0) * np.sign(path[-1] - start) >= -1e-12).all()  # no neuron turns round on the way


def test_the_film_tells_step_and_loss_and_both_formats_can_be_played():
    network, _ = build("mlp")
    history = [
        {"step": step, "prediction_loss": 1 / (1 + step), "cost_strength": 0.1, "test_prediction_loss": 1.0}
        for step in (0, 100, 200)
    ]
    frames = list(draw_film(snapshots_of(network), network.wiring, history=history))
    mp4, gif = write_film(frames)
    assert (mp4, gif) == write_film(frames)  # the same bytes
    assert mp4[4:8] == b"ftyp"
    assert gif[:6] == b"GIF89a"
    with Image.open(io.BytesIO(gif)) as opened:
        assert opened.n_frames > 3
    count, seconds = read_back(mp4)
    assert count == len(frames)
    assert seconds == pytest.approx(len(frames) / FRAMES_PER_SECOND, abs=0.1)


def read_back(mp4: bytes) -> tuple[int, float]:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(mp4)
        file.flush()
        return imageio_ffmpeg.count_frames_and_secs(file.name)


def test_a_film_of_nothing_or_of_uneven_frames_is_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        write_film([])
    with pytest.raises(RuntimeError, match="ffmpeg could not write"):
        write_film([np.zeros((33, 33, 3), dtype=np.uint8)] * 5)


def test_a_long_training_is_thinned_out():
    network, _ = build("shallow mlp")
    states = list(instants(snapshots_of(network, count=2) * 1, network.wiring))
    assert len(states) < MAX_FRAMES
    snapshots = snapshots_of(network, count=400)
    shown = _thinned(snapshots)
    assert len(shown) == MAX_SNAPSHOTS
    assert (shown[0], shown[-1]) == (snapshots[0], snapshots[-1])
