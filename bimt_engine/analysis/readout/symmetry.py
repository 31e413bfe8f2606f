"""Symmetry tests on the functions of a network: which inputs act apart, and which only together as one number.

All tests are numerical and in the order and units of the data: mixed differences for additive separability, the
spread of gradients for invariance. They say what the network computes where data are, whatever the picture looks like.
What is large and what is small is judged in the units of the network, where columns of different kinds compare: a
kilogram and a kelvin do not. Results are in the units of the data: a sum of standardised columns is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bimt_engine.analysis.context import AnalysisContext, DataUnits
from bimt_engine.analysis.evaluator import Values
from bimt_engine.analysis.numpy_mlp import NumpyMlp, forward, split
from bimt_engine.analysis.report import CombinationDocument, SymmetryDocument
from bimt_engine.analysis.statements.formulas import combination
from bimt_engine.data.dataset import Dataset

Inputs = Float[np.ndarray, "N inputs"]
Function = Callable[[Inputs], Float[np.ndarray, " N"]]
"""One output of a network as a function of its inputs."""

SEPARATE = 5e-3  # of the variance: two inputs whose mixed difference is smaller act additively
SYMMETRIC = 0.05  # a direction along which the function moves less than this share of what it moves across is dead
UNREAD = 1e-6  # of the mean squared gradient: an input with less is not read
NICE = tuple(sorted({sign * n / d for n in range(1, 7) for d in (1, 2, 3, 4) for sign in (1, -1)} | {0.0}, key=abs))


@dataclass(frozen=True)
class Combined:
    """Inputs that the function reads as one number u = Σ coefficient · input only.

    asymmetry   how much the function still moves along the directions that leave u alone, as a share of how much it
                moves along u (root mean squares); 0 for a single input.
    """

    inputs: tuple[int, ...]
    coefficients: tuple[float, ...]
    asymmetry: float

    def of(self, inputs: Inputs) -> Float[np.ndarray, " N"]:
        """The number u for each example."""
        return inputs[:, list(self.inputs)] @ np.array(self.coefficients)


def perceptron_of(subject: AnalysisContext) -> NumpyMlp | None:
    """The network as arrays; None where it is more than a perceptron on plain numbers, which alone is read out."""
    return subject.plain


def function_of(plain: NumpyMlp, values: Values, output: int) -> Function:
    """One output of a perceptron as a function of inputs in the order of the data."""
    weights, biases = split(values)
    slot = int(np.argsort(plain.output_order)[output])
    return lambda x: forward(weights, biases, x[:, plain.input_order], plain.activation)[0][-1][:, slot]


def gradients(plain: NumpyMlp, values: Values, inputs: Inputs) -> Float[np.ndarray, "N outputs inputs"]:
    """The derivative of every output in every input, both in the order of the data."""
    weights, biases = split(values)
    _, slopes = forward(weights, biases, inputs[:, plain.input_order], plain.activation)
    back = np.broadcast_to(np.eye(len(biases[-1])), (len(inputs), len(biases[-1]), len(biases[-1])))
    for number in reversed(range(len(weights))):
        back = back @ weights[number]
        if number:
            back = back * slopes[number - 1][:, None, :]
    return back[:, np.argsort(plain.output_order)][:, :, np.argsort(plain.input_order)]


def interactions(
    function: Function,
    inputs: Inputs,
    *,
    generator: np.random.Generator,
    columns: Sequence[Sequence[int]] | None = None,
) -> Float[np.ndarray, "inputs inputs"]:
    """For every two inputs, E[(f - f_i' - f_j' + f_ij')²] / (4 Var f), a prime meaning: taken from another example.

    0 where the two act additively, 1 for the product of two independent inputs of mean 0.
    columns   the inputs of each column, where several inputs are one; the matrix then is of columns.
    """
    columns = columns or [[number] for number in range(inputs.shape[1])]
    count = len(columns)
    other = inputs[generator.permutation(len(inputs))]
    base = function(inputs)
    variance = float(base.var())
    found = np.zeros((count, count))
    if variance == 0:
        return found

    def exchanged(*numbers: int) -> Float[np.ndarray, " N"]:
        mixed = inputs.copy()
        own = [i for number in numbers for i in columns[number]]
        mixed[:, own] = other[:, own]
        return function(mixed)

    single = [exchanged(i) for i in range(count)]
    for i in range(count):
        for j in range(i):
            mixed = base - single[i] - single[j] + exchanged(i, j)
            found[i, j] = found[j, i] = float((mixed**2).mean()) / (4 * variance)
    return found


def additive_blocks(mixed: Float[np.ndarray, "inputs inputs"], read: list[int]) -> list[list[int]]:
    """The inputs that are read, divided so that no two parts interact."""
    left, blocks = set(read), []
    while left:
        block, new = set(), {min(left)}
        while new:
            block |= new
            new = {j for i in new for j in left if mixed[i, j] > SEPARATE} - block
        left -= block
        blocks.append(sorted(block))
    return blocks


def with_others_at_medians(inputs: Inputs, block: list[int]) -> Inputs:
    """The inputs with all columns but those of the block at their medians."""
    alone = np.tile(np.median(inputs, axis=0), (len(inputs), 1))
    alone[:, block] = inputs[:, block]
    return alone


def combined_inputs(
    gradient: Inputs, block: list[int], *, units: Float[np.ndarray, " inputs"] | None = None
) -> list[Combined]:
    """The numbers through which a function reads the inputs of a block: as few as the gradients allow.

    gradient   of one output. Two inputs are one number when their gradients always point the same way.
    units      the units of the network, measured in those of the data; None: they are the same.
    """
    units = np.ones(gradient.shape[1]) if units is None else units
    left, found = list(block), []
    while left:
        group = [left.pop(0)]
        for other in list(left):
            if _combined(gradient, [*group, other], units).asymmetry <= SYMMETRIC:
                group.append(other)
                left.remove(other)
        found.append(_combined(gradient, group, units))
    return found


def _combined(gradient: Inputs, group: list[int], units: Float[np.ndarray, " inputs"]) -> Combined:
    if len(group) == 1:
        return Combined((group[0],), (1.0,), 0.0)
    unit = units[group]
    scaled = gradient[:, group] * unit
    spread = scaled.T @ scaled / len(gradient)
    direction = np.linalg.eigh(spread)[1][:, -1]
    if (np.abs(direction) < 1e-3 * np.abs(direction).max()).any():
        return Combined(tuple(group), tuple(direction.tolist()), float("inf"))  # one of them is hardly read at all
    weights = direction / unit
    weights = weights / weights[0]
    simple = np.array([snapped(c, 0.1) for c in weights.tolist()])
    if _asymmetry(spread, simple * unit) <= SYMMETRIC:  # judged along x1 - x2, say, not along what fits a little better
        weights = simple
    return Combined(tuple(group), tuple(weights.tolist()), _asymmetry(spread, weights * unit))


def _asymmetry(spread: Float[np.ndarray, "axes axes"], direction: Float[np.ndarray, " axes"]) -> float:
    """Root mean square motion across a direction as a share of that along it."""
    unit = direction / np.linalg.norm(direction)
    along = float(unit @ spread @ unit)
    return float(np.sqrt(max(float(np.trace(spread)) - along, 0.0) / max(along, 1e-300)))


def snapped(number: float, tolerance: float) -> float:
    """The nearest simple fraction, if it is near enough; else the number."""
    nearest = min(NICE, key=lambda nice: abs(nice - number))
    return nearest if abs(nearest - number) <= tolerance * max(abs(nearest), 0.1) else number


def read_inputs(gradient: Inputs) -> list[int]:
    """The inputs that a function reads: those along which it moves."""
    size = (gradient**2).mean(axis=0)
    return [int(i) for i in np.flatnonzero(size > UNREAD * max(float(size.sum()), 1e-300))]


def symmetry_report(subject: AnalysisContext, values: Values, *, seed: int) -> list[SymmetryDocument]:
    """For each output: which inputs it reads, how they separate, and through which numbers it reads them.

    In the units of the data; empty for networks other than perceptrons on plain numbers. Of tables, reading and
    separating are reported of columns, each exchanged with all its inputs; sums are of inputs.
    """
    plain, units = perceptron_of(subject), DataUnits.of(subject)
    column_of, column_names = subject.dataset.column_of, subject.dataset.column_names
    members = [np.flatnonzero(column_of == number).tolist() for number in range(len(column_names))]
    if plain is None:
        return []
    values, inputs = units.folded(plain, values), units.raw_inputs(subject.train)
    slopes = gradients(plain, values, inputs)
    reports: list[SymmetryDocument] = []
    for output in range(slopes.shape[1]):
        function, gradient = function_of(plain, values, output), slopes[:, output]
        inputs_read = read_inputs(gradient * units.inputs.std)
        read = sorted({int(column_of[i]) for i in inputs_read})
        mixed = interactions(function, inputs, generator=np.random.default_rng([seed, 6]), columns=members)
        parts = additive_blocks(mixed, read)
        blocks = [[i for number in part for i in members[number] if i in inputs_read] for part in parts]
        through = [combined_inputs(gradient, block, units=units.inputs.std) for block in blocks]
        alone = [function(with_others_at_medians(inputs, block)) for block in blocks]
        variance = float(function(inputs).var())
        reports.append(
            {
                "reads": [column_names[i] for i in read],
                "additive_parts": [[column_names[i] for i in part] for part in parts],
                "part_shares": [float(part.var()) / variance if variance > 0 else 0.0 for part in alone],
                "through": [combined_document(c, subject.dataset) for sums in through for c in sums],
                "interactions": mixed.tolist(),
            }
        )
    return reports


def combined_document(combined: Combined, data: Dataset) -> CombinationDocument:
    """The same with the names of the inputs and of their columns, and the sum as text."""
    inputs = [data.feature_names[i] for i in combined.inputs]
    return {
        "inputs": inputs,
        "columns": data.columns_of(combined.inputs),
        "coefficients": list(combined.coefficients),
        "asymmetry": combined.asymmetry,
        "reading": combination(inputs, combined.coefficients),
    }
