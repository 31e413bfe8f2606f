"""Small networks and data for the engine's tests: one of every architecture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.synthetic import FormulaData
from bimt_engine.networks.conv import ConvNetwork
from bimt_engine.networks.mlp import GridMlpNetwork, MlpNetwork
from bimt_engine.networks.network import Network, build_network
from bimt_engine.networks.recurrent import GruNetwork, RecurrentNetwork
from bimt_engine.networks.transformer import TransformerNetwork
from bimt_engine.spec import NetworkSpec, Spec, TrainingSpec


def table_data(
    inputs: int = 4, targets: int = 2, *, examples: int = 24, seed: int = 0, classes: bool = False
) -> Dataset:
    """Numbers in, smooth functions of them (or the number of the largest) out."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-1, 1, (2 * examples, inputs))
    mixed = np.sin(2 * x @ draw.normal(size=(inputs, targets)))
    y = mixed.argmax(1) if classes else mixed
    return Dataset(
        x[:examples],
        y[:examples],
        x[examples:],
        y[examples:],
        task="classification" if classes else "regression",
        feature_names=tuple(f"x{number + 1}" for number in range(inputs)),
        target_names=tuple(f"y{number + 1}" for number in range(targets)),
    )


def token_data(tokens: int = 6, *, seed: int = 0) -> Dataset:
    """All pairs (a, b) with the label a + b mod tokens."""
    pairs = np.array([(a, b) for a in range(tokens) for b in range(tokens)], dtype=np.int64)
    pairs = np.random.default_rng(seed).permutation(pairs)
    labels = pairs.sum(1) % tokens
    cut = 2 * len(pairs) // 3
    return Dataset(
        pairs[:cut],
        labels[:cut],
        pairs[cut:],
        labels[cut:],
        task="classification",
        feature_names=("a", "b"),
        target_names=tuple(str(number) for number in range(tokens)),
        tokens=tokens,
        group=np.add.outer(np.arange(tokens), np.arange(tokens)) % tokens,
    )


def sequence_data(channels: int = 2, targets: int = 2, *, time: int = 3, examples: int = 16, seed: int = 0) -> Dataset:
    """Short sequences; the targets are running means of mixed channels; the last time step counts."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(2 * examples, time, channels))
    running = np.cumsum(x, axis=1) / np.arange(1, time + 1)[:, None]
    y = running @ draw.normal(size=(channels, targets))
    return Dataset(
        x[:examples],
        y[:examples],
        x[examples:],
        y[examples:],
        task="regression",
        feature_names=tuple(f"c{number + 1}" for number in range(channels)),
        target_names=tuple(f"y{number + 1}" for number in range(targets)),
        predicted_positions=(time - 1,),
    )


def image_data(side: int = 4, classes: int = 3, *, examples: int = 24, seed: int = 0) -> Dataset:
    """Noise with one bright row in each image; the class is which third of the image the row lies in."""
    draw = np.random.default_rng(seed)
    images = draw.uniform(0, 0.5, (2 * examples, side, side))
    rows = draw.integers(side, size=2 * examples)
    images[np.arange(2 * examples), rows] += 0.5
    x, y = images.reshape(2 * examples, -1), rows * classes // side
    return Dataset(
        x[:examples],
        y[:examples],
        x[examples:],
        y[examples:],
        task="classification",
        feature_names=tuple(f"pixel[{row},{column}]" for row in range(side) for column in range(side)),
        target_names=tuple(str(number) for number in range(classes)),
    )


def text_data(tokens: int = 5, *, time: int = 4, examples: int = 16, seed: int = 0) -> Dataset:
    """Windows of a text in which each token is the sum of the two before it, and one in eight is drawn."""
    draw = np.random.default_rng(seed)
    text = list(draw.integers(tokens, size=2))
    for _ in range(2 * examples * (time + 1)):
        text.append(draw.integers(tokens) if draw.random() < 0.125 else (text[-1] + text[-2]) % tokens)
    windows = np.array(text[2:], np.int64).reshape(2 * examples, time + 1)
    names = tuple(f"token{number}" for number in range(tokens))
    train, test = windows[:examples], windows[examples:]
    return Dataset(
        train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:], "classification", names, names, tokens=tokens
    )


ARCHITECTURES: dict[str, Callable[[], tuple[NetworkSpec, Dataset]]] = {
    "mlp": lambda: (MlpNetwork(hidden=[7, 5]), table_data()),
    "deep mlp": lambda: (MlpNetwork(hidden=[6, 5, 4], activation="tanh", geometry="box"), table_data(3, 3)),
    "shallow mlp": lambda: (MlpNetwork(hidden=[]), table_data(5, 4)),
    "classifier": lambda: (MlpNetwork(hidden=[8], activation="relu"), table_data(3, 4, classes=True)),
    "embedded mlp": lambda: (MlpNetwork(hidden=[6, 6], embedding_width=4), token_data()),
    "grid mlp": lambda: (GridMlpNetwork(hidden=[9, 8]), table_data(12, 5)),
    "transformer": lambda: (TransformerNetwork(width=8, blocks=2, heads=2), sequence_data()),
    "normed transformer": lambda: (TransformerNetwork(width=6, blocks=1, heads=3, layer_norm=True), sequence_data()),
    "text transformer": lambda: (
        TransformerNetwork(width=6, blocks=1, heads=2, layer_norm=True, norm="rms", positions=True),
        text_data(),
    ),
    "tied transformer": lambda: (
        TransformerNetwork(width=6, blocks=2, heads=2, layer_norm=True, positions=True, tied=True),
        text_data(),
    ),
    "llama": lambda: (
        TransformerNetwork(
            width=16,
            blocks=1,
            heads=4,
            key_value_heads=2,
            hidden=9,
            activation="silu",
            gated=True,
            rotary=100.0,
            layer_norm=True,
            norm="rms",
            norm_epsilon=1e-6,
            biases=False,
            tied=True,
        ),
        text_data(),
    ),
    "conv": lambda: (ConvNetwork(channels=[3, 4]), image_data()),
    "plain conv": lambda: (
        ConvNetwork(channels=[3], residual=False, batch_norm=False, pooling="mean", activation="tanh"),
        image_data(),
    ),
    "recurrent": lambda: (RecurrentNetwork(hidden=6), sequence_data(3, 2)),
    "gru": lambda: (GruNetwork(hidden=5), sequence_data(3, 2)),
}


def build(name: str, *, seed: int = 0, precision: str = "float64") -> tuple[Network, Dataset]:
    """A network of one of the architectures above, with data that fit it."""
    spec, data = ARCHITECTURES[name]()
    generator = torch.Generator().manual_seed(seed)
    return build_network(spec, data, precision=precision, generator=generator), data


def spec_for(name: str, **training: object) -> tuple[Spec, Dataset]:
    """A whole spec for one of the architectures. Its data part is a placeholder: the data are handed in."""
    network, data = ARCHITECTURES[name]()
    return Spec(
        dataset=FormulaData(formulas=["x1"], inputs=1), network=network, training=TrainingSpec(**training)
    ), data
