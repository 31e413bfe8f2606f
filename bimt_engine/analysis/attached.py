"""The evidence for a user's own module: their data as they feed it, and the same analyses as for any network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from bimt_engine.data.encoding import EncodedColumn, TableEncoding
from bimt_engine.errors import DataError
from bimt_engine.networks.attach import Attached
from bimt_engine.networks.attach.traced import network_of
from bimt_engine.networks.attach.walk import sizes
from bimt_engine.networks.uploaded import join_columns
from bimt_engine.spec import EvidenceSpec

Examples = Iterable[Any] | TorchDataset[Any]
"""A DataLoader or any other iterable of batches (inputs, targets), or a torch Dataset of single examples.

Inputs of a network that takes several are a tuple of them: ((a, b), targets).
"""


def sample_of(
    net: Attached,
    *,
    train: Examples,
    test: Examples,
    validation: Examples | None = None,
    feature_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> Dataset:
    """At most so many examples of each part, drawn by the seed, as the analyses take them.

    Batches are gone through once and only what is drawn is kept, so the whole data never lie in memory. Targets that
    are integers are classes: one for each example or, where the network answers at every time step, one for each step.
    Images are laid flat, channel after channel, and several inputs side by side. Without `validation` the test part is
    validated on as well, so that nothing is held back from what is chosen.

    columns   of a table: column -> the levels of a category, each an input of its own, in their order; () for a column
              that is one number. A category is one neuron of the graph, resampled and named as a whole, as in the
              service. None: each input is a column.
    Raises DataError where inputs or targets have another shape than the analyses know, or classes that are no outputs.
    """
    parts = {"train": train, "validation": validation, "test": test}
    drawn = {
        name: _drawn(source, examples, np.random.default_rng([seed, number]), name)
        for number, (name, source) in enumerate(parts.items())
        if source is not None
    }
    inputs, targets = drawn["train"]
    classes = not targets.is_floating_point()
    outputs = net.wiring.output_layer.neurons
    _check_targets(net, drawn, classes=classes)
    numbers = tuple(str(number) for number in range(outputs))
    names = tuple(target_names or (numbers if classes else tuple(f"y{int(n) + 1}" for n in numbers)))
    if len(names) != outputs:
        raise DataError(f"{len(names)} target names were given, but the network has {outputs} outputs: name each once.")
    tokens = None if inputs.is_floating_point() else max(int(x.max()) for x, _ in drawn.values()) + 1
    if columns is not None and feature_names is not None:
        raise DataError("Give `feature_names` or `columns`, which name the inputs too.")
    encoding = None if columns is None else _encoding(columns, tuple(inputs.shape[1:]))
    if tokens is not None and classes and targets.dim() == 2:  # text: each token is a feature
        features = tuple(feature_names or (f"token{number}" for number in range(tokens)))
        if len(features) < tokens:
            raise DataError(f"{len(features)} feature names were given, but there are tokens up to {tokens - 1}.")
        tokens = len(features)
    else:
        named = _feature_names(net, tuple(inputs.shape[1:])) if encoding is None else encoding.inputs
        features = tuple(feature_names or named)
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
        encoding=encoding,
    )


def _check_targets(net: Attached, drawn: Mapping[str, tuple[Tensor, Tensor]], *, classes: bool) -> None:
    """Raises DataError for targets of another shape than the outputs', and for classes that are none of them."""
    (inputs, targets), layer = drawn["train"], net.wiring.output_layer
    shape, wanted = tuple(targets.shape[1:]), (1 if classes else 2) + len(layer.samples)
    if len(layer.samples) > 1 or (layer.samples and layer.axis != 2):
        raise DataError(
            "The network's outputs must be (examples, outputs) or (examples, steps, outputs): give those by a permute."
        )
    if targets.dim() != wanted and (classes or (targets.dim(), wanted) != (1, 2)):
        where = "each time step of an example" if layer.samples else "each example"
        raise DataError(
            f"Targets of the shape {shape} for each example cannot be examined: give "
            f"{'one class' if classes else 'numbers'} for {where}, as the network answers."
        )
    if layer.samples and (inputs.dim() < 2 or inputs.shape[1] != targets.shape[1]):
        raise DataError(
            f"There are targets for {targets.shape[1]} time steps, and an example has {inputs.shape[1]}: one for each."
        )
    for name, (_, labels) in drawn.items() if classes else ():
        wrong = labels[(labels < 0) | (labels >= layer.neurons)]
        if len(wrong):
            raise DataError(
                f"The {name} part has the class {int(wrong[0])}, and the network has the outputs 0 to "
                f"{layer.neurons - 1}: leave examples out that are not to count."
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
    network = network_of(net)
    join_columns(network, data, net.geometry)
    return gather_evidence(network, data, questions, seed=seed, nulls=nulls, progress=progress)


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
    inputs = given[0]
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(each, Tensor) for each in inputs):
        if not all(each.is_floating_point() and each.dim() == inputs[0].dim() for each in inputs):
            raise DataError(f"The {name} part gives several inputs that are not all rows of numbers.")
        inputs = torch.cat(list(inputs), -1)
    return torch.as_tensor(inputs), torch.as_tensor(given[1])


def _inputs(x: Tensor) -> np.ndarray:
    """(N, inputs), (N, time, channels) or images laid flat, float64; tokens as integers."""
    if x.dim() > 3:
        x = x.flatten(1)
    return x.double().numpy() if x.is_floating_point() else x.long().numpy()


def _targets(y: Tensor, classes: bool) -> np.ndarray:
    if classes:
        return y.long().numpy()
    return (y[:, None] if y.dim() == 1 else y).double().numpy()


def _encoding(columns: Mapping[str, Sequence[str]], shape: tuple[int, ...]) -> TableEncoding:
    """The columns of a table whose inputs were made by the user."""
    found = TableEncoding(
        tuple(
            EncodedColumn(name, "category", levels=tuple(levels)) if levels else EncodedColumn(name, "number")
            for name, levels in columns.items()
        )
    )
    if shape != (len(found.inputs),):
        raise DataError(f"`columns` name {len(found.inputs)} inputs, but an example has the shape {shape}.")
    return found


def _feature_names(net: Attached, shape: tuple[int, ...]) -> Iterable[str]:
    """Columns, those of several inputs by the names of these, channels of a sequence, or pixels of an image."""
    given = net.derived.given if net.derived is not None else []
    if len(given) > 1 and len(shape) == 1 and all(len(sizes(node)) == 2 for node in given):
        return (f"{node.name}{number + 1}" for node in given for number in range(sizes(node)[1]))
    if len(shape) < 3:
        return (f"x{number + 1}" for number in range(shape[-1]))
    names = ["pixel"] if shape[0] == 1 else [f"channel{number + 1}" for number in range(shape[0])]
    places = list(product(*(range(size) for size in shape[1:])))
    return (f"{name}[{','.join(map(str, place))}]" for name in names for place in places)
