"""The evidence for a user's own module: their data as they feed it, and the same analyses as for any network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from bimt_engine.analysis.communities import NULLS
from bimt_engine.analysis.context import MAX_EXAMPLES, LossName
from bimt_engine.analysis.evidence import Progress, Questions, gather_evidence
from bimt_engine.analysis.report import Evidence
from bimt_engine.data.dataset import Dataset
from bimt_engine.errors import DataError
from bimt_engine.networks.attach import Attached
from bimt_engine.networks.attach.traced import network_of
from bimt_engine.spec import EvidenceSpec

Examples = Iterable[Any] | TorchDataset[Any]
"""A DataLoader or any other iterable of batches (inputs, targets), or a torch Dataset of single examples."""


def sample_of(
    net: Attached,
    *,
    train: Examples,
    test: Examples,
    validation: Examples | None = None,
    feature_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> Dataset:
    """At most so many examples of each part, drawn by the seed, as the analyses take them.

    Batches are gone through once and only what is drawn is kept, so the whole data never lie in memory. Targets that
    are integers are classes. Images are laid flat, channel after channel. Without `validation` the test part is
    validated on as well, so that nothing is held back from what is chosen.

    Raises DataError where inputs or targets have another shape than the analyses know.
    """
    parts = {"train": train, "validation": validation, "test": test}
    drawn = {
        name: _drawn(source, examples, np.random.default_rng([seed, number]), name)
        for number, (name, source) in enumerate(parts.items())
        if source is not None
    }
    inputs, targets = drawn["train"]
    classes = not targets.is_floating_point()
    if targets.dim() > (1 if classes else 3):
        raise DataError(
            f"Targets of the shape {tuple(targets.shape[1:])} for each example cannot be examined: give one class for "
            "each example, or numbers."
        )
    outputs = net.wiring.output_layer.neurons
    numbers = tuple(str(number) for number in range(outputs))
    names = tuple(target_names or (numbers if classes else tuple(f"y{int(n) + 1}" for n in numbers)))
    if len(names) != outputs:
        raise DataError(f"{len(names)} target names were given, but the network has {outputs} outputs: name each once.")
    tokens = None if inputs.is_floating_point() else max(int(x.max()) for x, _ in drawn.values()) + 1
    features = tuple(feature_names or _feature_names(tuple(inputs.shape[1:])))
    arrays = {name: (_inputs(x), _targets(y, classes)) for name, (x, y) in drawn.items()}
    held = arrays.get("validation", (None, None))
    return Dataset(
        *arrays["train"],
        *arrays["test"],
        task="classification" if classes else "regression",
        feature_names=features,
        target_names=names,
        tokens=tokens,
        validation_inputs=held[0],
        validation_targets=held[1],
    )


def evidence_of(
    net: Attached,
    data: Dataset,
    *,
    evidence: EvidenceSpec | None = None,
    loss: LossName | None = None,
    cost_strength: float | None = None,
    seed: int = 0,
    nulls: int = NULLS,
    progress: Progress = lambda fraction, note: None,
) -> Evidence:
    """Prune the module's present weights and test what is left, as for any network; the module is not changed.

    data    from `sample_of`.
    loss    by which is pruned; None: cross entropy of classes, mean squared error of numbers.
    nulls   chance graphs that the communities are compared with.
    Raises AttachError for modules whose activations cannot be seen (see `network_of`).
    """
    questions = Questions(evidence or EvidenceSpec(), net.cost_spec, loss=loss, cost_strength=cost_strength)
    return gather_evidence(network_of(net), data, questions, seed=seed, nulls=nulls, progress=progress)


def _drawn(source: Any, count: int, generator: np.random.Generator, name: str) -> tuple[Tensor, Tensor]:
    """A uniform draw of examples without replacement, in the order in which they come."""
    if isinstance(source, TorchDataset) and hasattr(source, "__len__"):
        chosen = generator.permutation(len(source))[:count]
        kept = [_pair(source[int(number)], name) for number in np.sort(chosen)]
    else:
        places: list[tuple[int, tuple[Tensor, Tensor]]] = []
        for number, example in enumerate(_each(source, name)):
            if number < count:
                places.append((number, example))
            elif (place := int(generator.integers(number + 1))) < count:
                places[place] = (number, example)
        kept = [example for _, example in sorted(places, key=lambda placed: placed[0])]
    if not kept:
        raise DataError(f"The {name} part has no examples.")
    return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])


def _each(source: Iterable[Any], name: str) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in source:
        inputs, targets = _pair(batch, name)
        for x, y in zip(inputs, targets, strict=True):
            yield x.detach().cpu().clone(), y.detach().cpu().clone()


def _pair(given: Any, name: str) -> tuple[Tensor, Tensor]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise DataError(f"The {name} part must give pairs (inputs, targets), but gives {type(given).__name__}.")
    return torch.as_tensor(given[0]), torch.as_tensor(given[1])


def _inputs(x: Tensor) -> np.ndarray:
    """(N, inputs), (N, time, channels) or images laid flat, float64; tokens as integers."""
    if x.dim() > 3:
        x = x.flatten(1)
    return x.double().numpy() if x.is_floating_point() else x.long().numpy()


def _targets(y: Tensor, classes: bool) -> np.ndarray:
    if classes:
        return y.long().numpy()
    return (y[:, None] if y.dim() == 1 else y).double().numpy()


def _feature_names(shape: tuple[int, ...]) -> Iterator[str]:
    """Columns, channels of a sequence, or pixels of an image."""
    if len(shape) < 3:
        return (f"x{number + 1}" for number in range(shape[-1]))
    names = ["pixel"] if shape[0] == 1 else [f"channel{number + 1}" for number in range(shape[0])]
    places = list(product(*(range(size) for size in shape[1:])))
    return (f"{name}[{','.join(map(str, place))}]" for name in names for place in places)
