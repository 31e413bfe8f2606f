"""A network's predictions for rows of numbers, tokens or sequences; the probe that a browser runs; token embeddings.

Rows and predictions are in the units of the data, scaled on the way as in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bimt_engine.analysis.context import AnalysisContext
from bimt_engine.analysis.modules.interventions import mean_activations
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.encoding import TableEncoding, UnreadableCell
from bimt_engine.errors import BimtError
from bimt_engine.exports.weights import SavedNetwork
from bimt_engine.networks.network import Network, in_units_of_data

MAX_PROBLEMS = 20  # in one answer
MAX_NAMED = 20  # columns in one sentence
MAX_EXAMPLES = 2_000  # of a probe
MAX_NUMBERS = 4_000_000  # of a probe, weights and examples together; a browser takes no more at once


class Refusal(BimtError):
    """What was asked cannot be answered, by no fault of ours.

    problems   (JSON Pointer into what was asked, sentence) for every bad field.
    """

    def __init__(self, sentence: str, *, problems: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.problems = problems


def predict(network: Network, data: Dataset, rows: Sequence[Any], *, network_inputs: bool = False) -> dict[str, Any]:
    """The network's answers, in the units of the data; for classes, the probabilities and the likeliest.

    data   shape, names and scalings; no rows are looked at.
    rows   each a list in the order of the features, or an object by their names; for tokens, numbers or names; for
           sequences, a list of time steps; for text, the text itself.
    network_inputs   add the rows as the network reads them: encoded, and scaled as in training.

    Raises Refusal, with a pointer to every row that cannot be read, and to every number for which there is no answer.
    """
    inputs = _read(data, rows)
    with torch.no_grad():
        outputs = in_units_of_data(network, data, torch.from_numpy(inputs)).numpy()
    if not np.isfinite(outputs).all():
        raise _too_far(data, rows, inputs, outputs)
    response: dict[str, Any] = {"features": list(data.column_names), "targets": list(data.predicted_names)}
    if network_inputs:
        encoded = inputs if data.encoding is None else data.encoding.apply(inputs)
        scaled = encoded if data.input_scaling is None else data.input_scaling.apply(encoded)
        response["network_inputs"] = scaled.tolist()
    if data.task == "classification":
        likeliest = np.array(data.target_names, object)[outputs.argmax(axis=-1)].tolist()  # for text, of each step
        return response | {"probabilities": outputs.tolist(), "labels": likeliest}
    levels = {
        answer.name: np.array(answer.levels, object)[outputs[:, place].argmax(axis=-1)].tolist()
        for answer, place in zip(data.answers, data.answer_places, strict=True)
        if answer.levels
    }
    return response | {"outputs": outputs.tolist()} | ({"levels": levels} if levels else {})


def _too_far(data: Dataset, rows: Sequence[Any], inputs: np.ndarray, outputs: np.ndarray) -> Refusal:
    """Of every row whose answer is no number: the one of its numbers that is farthest from what was learned on."""
    finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    if data.encoding is not None:
        return _too_far_encoded(data, rows, inputs, finite)
    with np.errstate(over="ignore"):
        distances = np.abs(inputs if data.input_scaling is None else data.input_scaling.apply(inputs))
    problems = []
    for number in np.flatnonzero(~finite)[:MAX_PROBLEMS].tolist():
        at = np.argwhere(distances[number] == distances[number].max())[0].tolist()
        sentence = (
            f"{_cell(data, at)} of row {number} (the first is 0) is {inputs[number][*at]:g}: the network's answer "
            "to that is no number any more. Ask with numbers nearer to those that it was trained on."
        )
        problems.append((f"/inputs/{number}{_pointer(data, rows[number], at)}", sentence))
    return Refusal(problems[0][1], problems=tuple(problems))


def _too_far_encoded(data: Dataset, rows: Sequence[Any], codes: np.ndarray, finite: np.ndarray) -> Refusal:
    """The same where columns are encoded: the column one of whose inputs is farthest."""
    assert data.encoding is not None
    with np.errstate(over="ignore"):
        inputs = data.encoding.apply(codes)
        distances = np.abs(inputs if data.input_scaling is None else data.input_scaling.apply(inputs))
    problems = []
    for number in np.flatnonzero(~finite)[:MAX_PROBLEMS].tolist():
        at = int(data.column_of[distances[number].argmax()])
        sentence = (
            f"Column `{data.column_names[at]}` of row {number} (the first is 0) is too far away: the network's answer "
            "to that is no number any more. Ask with values nearer to those that it was trained on."
        )
        problems.append((f"/inputs/{number}/{_place(data, rows[number], at)}", sentence))
    return Refusal(problems[0][1], problems=tuple(problems))


def _place(data: Dataset, row: Any, column: int) -> str:
    """The last step of a pointer to a cell: the column's name in an object, its number in a list."""
    if isinstance(row, Mapping):
        return data.column_names[column].replace("~", "~0").replace("/", "~1")
    return str(column)


def _cell(data: Dataset, at: Sequence[int]) -> str:
    """How a person calls one number of a row."""
    return f"Column `{data.feature_names[at[-1]]}`" + (f" at step {at[0]}" if len(at) > 1 else "")


def _pointer(data: Dataset, row: Any, at: Sequence[int]) -> str:
    """Where one number stands in its row, as it was sent."""
    if isinstance(row, Mapping):
        return "/" + data.feature_names[at[-1]].replace("~", "~0").replace("/", "~1")
    return "".join(f"/{index}" for index in at)


class _BadRow(ValueError):
    """A row that cannot be read. `pointer` leads from the row to what is wrong in it."""

    def __init__(self, sentence: str, pointer: str = "") -> None:
        super().__init__(sentence)
        self.pointer = pointer


def _read(data: Dataset, rows: Sequence[Any]) -> np.ndarray:
    """The rows as an array of the shape that the network reads."""
    shape = data.train_inputs.shape[1:]
    read: list[np.ndarray] = []
    problems: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        try:
            if data.encoding is not None:
                read.append(_encoded_row(data, data.encoding, row))
            elif data.tokens is not None:
                read.append(_token_row(data, row))
            else:
                read.append(_number_row(data, row, shape))
        except _BadRow as error:
            problems.append((f"/inputs/{number}{error.pointer}", str(error)))
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise Refusal(problems[0][1], problems=tuple(problems))
    return np.stack(read)


def _number_row(data: Dataset, row: Any, shape: tuple[int, ...]) -> np.ndarray:
    sent, row = row, _in_order(data, row)
    names = [*data.feature_names[:8], *(["…"] if len(data.feature_names) > 8 else [])]
    expected = f"{len(data.feature_names)} numbers ({', '.join(names)})"
    if len(shape) > 1:
        expected = " × ".join(map(str, shape)) + " numbers"
    try:
        values = np.array(row, np.float64)
    except OverflowError:  # a whole number of more than 308 digits
        values = np.frompyfunc(_infinite_at_most, 1, 1)(np.array(row, object)).astype(np.float64)
    except (TypeError, ValueError):
        raise _BadRow(f"A row has {expected}; this one holds something else.") from None
    if values.shape != shape:
        raise _BadRow(f"A row has {expected}; this one has the shape {' × '.join(map(str, values.shape))}.")
    for at in np.argwhere(~np.isfinite(values)).tolist():
        raise _BadRow(f"{_cell(data, at)} holds no number that can be computed with.", _pointer(data, sent, at))
    return values


def _encoded_row(data: Dataset, encoding: TableEncoding, row: Any) -> np.ndarray:
    """A row of cells, one for each column, as its codes."""
    cells = _in_order(data, row) if isinstance(row, Mapping | list | tuple) else []
    if len(cells) != len(encoding.names):
        names = ", ".join(encoding.names[:8]) + (", …" if len(encoding.names) > 8 else "")
        held = f"has {len(cells)}" if isinstance(row, list | tuple) else "holds something else"
        raise _BadRow(f"A row has {len(encoding.names)} values ({names}); this one {held}.")
    codes: list[float] = []
    for number, (column, cell) in enumerate(zip(encoding.columns, cells, strict=True)):
        try:
            codes += column.code_cells(cell)
        except UnreadableCell as error:
            raise _BadRow(str(error), f"/{_place(data, row, number)}") from None
    return np.array(codes, np.float64)


def _infinite_at_most(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _token_row(data: Dataset, row: Any) -> np.ndarray:
    if isinstance(row, str) and data.is_text:
        row = list(row.encode())
    if isinstance(row, Mapping) and data.is_text:
        raise _BadRow(f"A row has {data.steps} tokens, in their order; this one is an object.")
    row, count = _in_order(data, row), data.tokens or 0
    names = {name: i for i, name in enumerate(data.target_names)} if count == data.targets else {}
    if len(row) != (length := data.train_inputs.shape[1]):
        raise _BadRow(f"A row has {length} tokens; this one has {len(row)}.")
    found = [names.get(token) if isinstance(token, str) else token for token in row]
    for said, token in zip(row, found, strict=True):
        if isinstance(token, bool) or not isinstance(token, int | float):
            raise _BadRow(f"There is no token {said!r}; they count from 0 to {count - 1}.")
        if token != int(token) or not 0 <= token < count:
            raise _BadRow(f"There is no token {said!r}; they count from 0 to {count - 1}.")
    return np.array(found, np.int64)


def _named(names: Sequence[str]) -> str:
    """The first names in a sentence, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"`{name}`" for name in names[:MAX_NAMED]) + more


def _in_order(data: Dataset, row: Any) -> list[Any]:
    if not isinstance(row, Mapping):
        return list(row)
    missing = [name for name in data.column_names if name not in row]
    extra = [str(name) for name in row if name not in data.column_names]
    if missing or extra:
        wrong = [f"is without {_named(missing)}"] if missing else []
        wrong += [f"has {_named(extra)} too much"] if extra else []
        raise _BadRow(f"A row by name needs exactly {_named(data.column_names)}; this one {' and '.join(wrong)}.")
    return [row[name] for name in data.column_names]


# --- the probe and the embedding ------------------------------------------------------------------------


def probe_document(saved: SavedNetwork, dataset: Dataset) -> dict[str, Any]:
    """Weights of the pruned network in slot order, the orders, and validation examples as the network reads them.

    Arrays are {"shape", "values"}: flat, the last axis running fastest, nine digits. Where the validation examples are
    few, training examples follow them; `held_out` is how many come before these. `means` are what an intervention holds
    a neuron at: of each layer, one list for each time that its activation is tapped; None of a network that a browser
    does not compute. Raises Refusal for a network that is too
    large for a browser.
    """
    network = saved.network
    context = AnalysisContext.of(
        network,
        dataset,
        loss=saved.spec.training.loss,
        balance_outputs=saved.spec.balances_outputs,
        seed=saved.seed,
    )
    parameters = {name: p.detach().numpy() for name, p in network.named_parameters()}
    held_out, trained = dataset.part("validation"), dataset.part("train")
    inputs, targets = (np.concatenate(pair) for pair in zip(held_out, trained, strict=True))
    of_weights = sum(p.size for p in parameters.values())
    each = inputs[0].size + targets[0].size if len(inputs) else 1
    count = min(MAX_EXAMPLES, len(inputs), (MAX_NUMBERS - of_weights) // each)
    if of_weights > MAX_NUMBERS:
        raise Refusal(f"This network has {of_weights} weights; a browser gets at most {MAX_NUMBERS} numbers.")
    return {
        "format": "bimt-probe/1",
        "network": saved.spec.network.model_dump(mode="json"),
        "task": dataset.task,
        "loss": saved.spec.training.loss or dataset.default_loss,
        "features": list(dataset.feature_names),
        "targets": list(dataset.target_names),
        "tokens": dataset.tokens,
        "input_scaling": dataset.input_scaling and dataset.input_scaling.to_json(),
        "target_scaling": dataset.target_scaling and dataset.target_scaling.to_json(),
        "layers": [
            {
                "name": layer.name,
                "neurons": layer.neurons,
                "copies": layer.copies,
                "positions": np.asarray(layer.positions).tolist(),
            }
            for layer in network.wiring.neuron_layers
        ],
        "connections": [
            {"parameter": one.parameter, "source": one.source, "target": one.target, "bias": one.bias}
            for one in network.wiring.weight_layers
        ],
        "parameters": {name: _array(p) for name, p in parameters.items()},
        "orders": {name: order.tolist() for name, order in network.orders.items()},
        "steps": None if context.general.time_steps is None else list(context.general.time_steps),
        "output_weights": None if context.weights is None else context.weights.tolist(),
        "label_groups": [list(group) for group in dataset.label_groups],
        "means": {layer: [_digits(mean) for mean in calls] for layer, calls in mean_activations(context).items()},
        "examples": {
            "count": count,
            "of_held_out": len(held_out[0]),
            "held_out": min(count, len(held_out[0])),
            "inputs": _array(inputs[:count]),
            "targets": _array(targets[:count]),
        },
    }


def embedding_document(saved: SavedNetwork, group: NDArray[np.int64] | None) -> dict[str, Any]:
    """The vector of each token, the dimensions that the network still reads, their parts by representation.

    group   Cayley table of the tokens; None: they are no group, and there are no parts.
    Raises Refusal where the network has no embedding.
    """
    from bimt_engine.figures.embedding import representation_parts  # brings matplotlib, which few operations need

    parameters = {name: p.detach().numpy() for name, p in saved.network.named_parameters()}
    if saved.data.tokens is None or "embedding" not in parameters or "weights.0" not in saved.masks:
        raise Refusal("This network reads numbers, not tokens: it has no embedding.")
    embedding = parameters["embedding"]
    kept = saved.masks["weights.0"].any(dim=0)
    read = kept.reshape(-1, embedding.shape[1]).any(dim=0).numpy()
    parts = representation_parts(embedding[:, read], group) if read.any() and group is not None else []
    names = saved.data.target_names if saved.data.tokens == saved.data.targets else range(saved.data.tokens)
    order = saved.network.input_order.tolist()
    return {
        "tokens": [str(name) for name in names],
        "dimensions": [
            {"slot": slot, "neuron": neuron, "read": bool(used)}
            for slot, (neuron, used) in enumerate(zip(order, read.tolist(), strict=True))
        ],
        "vectors": embedding.tolist(),
        "planes": [
            {
                "name": part.name,
                "frequency": part.frequency,
                "share": part.share,
                "points": part.points.tolist(),
            }
            for part in parts
        ],
    }


def _array(values: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(values.shape),
        "values": _digits(values) if values.dtype.kind == "f" else values.ravel().tolist(),
    }


def _digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in values.ravel().tolist()]
