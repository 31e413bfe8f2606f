"""Refit: the kept weights alone, without the cost that had shrunk them, from where they are to the nearest best fit.

Two ways to one answer. Small perceptrons are nonlinear least squares with a few dozen unknowns: Levenberg-Marquardt in
float64 converges in a handful of steps where a gradient method needs thousands. Everything else takes L-BFGS on
autograd gradients, of a large perceptron on its live neurons alone, so that it costs only what is left. Cross entropy
goes the same way with the Gauss-Newton (Fisher) matrix in place of JᵀJ.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional

from bimt_engine.analysis.context import LossName, loss_per_example, one_hot, weighted
from bimt_engine.analysis.evaluator import Array, Masks, Values
from bimt_engine.analysis.numpy_mlp import forward, split
from bimt_engine.networks.network import ACTIVATIONS, Network
from bimt_engine.networks.wiring import Chain

RIDGE = 5e-8  # of the loss scale, on half the squared weights: keeps weights finite that the data do not determine
DAMPING = 1e-3  # where Levenberg-Marquardt starts, as a share of the curvature of each unknown


@dataclass(frozen=True)
class Refitted:
    """Parameters after a refit, their loss on the training examples, and how many examples' passes it took."""

    values: Values
    loss: float
    passes: int
    curvature: Array | None = None  # of the summed loss in the unknowns, weights first; Levenberg-Marquardt only


@dataclass(frozen=True)
class LeastSquaresProblem:
    """The examples of a least-squares refit, in slot order."""

    inputs: Array
    targets: Array  # (N, outputs) or slot of the label (N,)
    activation: str
    loss: LossName
    ridge: float  # on half the squared unknowns, in units of the mean loss
    weights: Array | None = None  # of the outputs' squared errors, in slot order; None: 1 each
    counted: Array | None = None  # how much each example counts, (N,); None: 1 each

    def losses(self, values: Mapping[str, Array]) -> float:
        """The loss of these values on these examples."""
        weights, biases = split(values)
        outputs = forward(weights, biases, self.inputs, self.activation)[0][-1]
        each = loss_per_example(outputs, self.targets, self.loss, self.weights)
        return float(each.mean() if self.counted is None else (each * self.counted).mean())


class _LiveParameters:
    """The live part of a masked perceptron as small dense matrices, and the way back to full size."""

    def __init__(self, values: Mapping[str, Array], masks: Masks) -> None:
        self.weights, self.biases = split(values)
        layers = len(self.weights)
        weight_masks = [masks[f"weights.{i}"] for i in range(layers)]
        bias_masks = [masks[f"biases.{i}"] for i in range(layers)]
        used = [weight_masks[0].any(axis=0)]
        used += [
            weight_masks[i].any(axis=1) | bias_masks[i] | (weight_masks[i + 1].any(axis=0) if i + 1 < layers else True)
            for i in range(layers)
        ]
        self.live = [np.flatnonzero(u) for u in used]
        self.blocks = [np.ix_(self.live[i + 1], self.live[i]) for i in range(layers)]
        small = [m[block] for m, block in zip(weight_masks, self.blocks, strict=True)]
        self.places = [np.nonzero(m) for m in small]
        self.bias_places = [np.flatnonzero(m[self.live[i + 1]]) for i, m in enumerate(bias_masks)]
        self.shapes = [m.shape for m in small]
        sizes = [len(p[0]) for p in self.places] + [len(p) for p in self.bias_places]
        self.cuts = np.cumsum([0, *sizes])

    def pack(self) -> Array:
        """The unknowns: kept weights layer by layer, row by row, then kept biases."""
        parts = [w[block][p] for w, block, p in zip(self.weights, self.blocks, self.places, strict=True)]
        parts += [b[self.live[i + 1]][p] for i, (b, p) in enumerate(zip(self.biases, self.bias_places, strict=True))]
        return np.concatenate(parts)

    def unpack(self, unknowns: Array) -> tuple[list[Array], list[Array]]:
        """Weights and biases of the small matrices."""
        layers = len(self.places)
        weights, biases = [], []
        for i in range(layers):
            weight = np.zeros(self.shapes[i])
            weight[self.places[i]] = unknowns[self.cuts[i] : self.cuts[i + 1]]
            weights.append(weight)
            bias = np.zeros(self.shapes[i][0])
            bias[self.bias_places[i]] = unknowns[self.cuts[layers + i] : self.cuts[layers + i + 1]]
            biases.append(bias)
        return weights, biases

    def expand(self, unknowns: Array) -> Values:
        """Full-size parameters; whatever is not kept is 0."""
        values: Values = {}
        for i, (weight, bias) in enumerate(zip(*self.unpack(unknowns), strict=True)):
            full_weight, full_bias = np.zeros_like(self.weights[i]), np.zeros_like(self.biases[i])
            full_weight[self.blocks[i]] = weight
            full_bias[self.live[i + 1]] = bias
            values[f"weights.{i}"], values[f"biases.{i}"] = full_weight, full_bias
        return values

    def jacobian(self, weights: list[Array], seen: list[Array], slopes: list[Array]) -> Array:
        """Of every output of every example in every unknown: (N, outputs, unknowns)."""
        layers = len(weights)
        outputs = weights[-1].shape[0]
        back = np.broadcast_to(np.eye(outputs), (seen[0].shape[0], outputs, outputs))
        parts: list[Array] = [np.empty(0)] * (2 * layers)
        for i in reversed(range(layers)):
            rows, columns = self.places[i]
            parts[i] = back[:, :, rows] * seen[i][:, None, columns]
            parts[layers + i] = back[:, :, self.bias_places[i]]
            if i:
                back = (back @ weights[i]) * slopes[i - 1][:, None, :]
        return np.concatenate(parts, axis=2)


def refit_least_squares(
    problem: LeastSquaresProblem,
    values: Mapping[str, Array],
    masks: Masks,
    *,
    steps: int = 30,
    min_gain: float = 1e-4,
    abandon_above: float | None = None,
) -> Refitted:
    """The nearest best fit of the kept weights and biases, by Levenberg-Marquardt with a slight ridge.

    steps           trials at most.
    min_gain        stop once a step gains less than this share of what there is.
    abandon_above   stop early when the loss stands above this and falls by less than a tenth a step: a trial removal
                    that has no prospect need not be polished.
    """
    compact = _LiveParameters(values, masks)
    inputs = problem.inputs[:, compact.live[0]]
    outputs_live = compact.live[-1]
    count = problem.targets.shape[0] * (1 if problem.loss == "cross_entropy" else outputs_live.size)
    ridge = problem.ridge * count / (1.0 if problem.loss == "cross_entropy" else 2.0)
    act = problem.activation
    target_rows = one_hot(problem.targets, outputs_live.size)  # every output neuron is live: it must be answered

    def evaluate(unknowns: Array) -> tuple[float, list[Array], list[Array], list[Array]]:
        weights, biases = compact.unpack(unknowns)
        with np.errstate(over="ignore", invalid="ignore"):  # a step too far is noticed by its loss and taken back
            seen, slopes = forward(weights, biases, inputs, act)
            if problem.loss == "cross_entropy":
                each = loss_per_example(seen[-1], problem.targets, "cross_entropy")
                total = float(each.sum() if problem.counted is None else each @ problem.counted)
            else:
                squares = weighted((seen[-1] - target_rows) ** 2, problem.weights)
                if problem.counted is not None:
                    squares = squares * problem.counted[:, None]
                total = 0.5 * float(squares.sum())
        return total, weights, seen, slopes

    unknowns = compact.pack()
    total, weights, seen, slopes = evaluate(unknowns)
    objective = total + 0.5 * ridge * float(unknowns @ unknowns)
    to_loss = (1.0 if problem.loss == "cross_entropy" else 2.0) / count
    damping, tried, curvature = DAMPING, 0, None
    while True:
        jacobian = compact.jacobian(weights, seen, slopes)
        if problem.loss == "cross_entropy":
            p = softmax(seen[-1], axis=1)
            residual = p - target_rows
            curved = p[:, :, None] * (jacobian - (p[:, None, :] @ jacobian))
        else:
            residual, curved = weighted(seen[-1] - target_rows, problem.weights), jacobian
            if problem.weights is not None:
                curved = jacobian * problem.weights[:, None]
        if problem.counted is not None:
            residual, curved = residual * problem.counted[:, None], curved * problem.counted[:, None, None]
        flat = jacobian.reshape(-1, unknowns.size)
        curvature = flat.T @ curved.reshape(-1, unknowns.size)
        curvature[np.diag_indices_from(curvature)] += ridge
        gradient = flat.T @ residual.reshape(-1) + ridge * unknowns
        diagonal = np.diag(curvature) + 1e-8 * np.trace(curvature) / max(1, unknowns.size)
        gained = 0.0
        while tried < steps and damping < 1e8:
            tried += 1
            step = _solve(curvature + np.diag(damping * diagonal), gradient)
            if step is not None:
                new_total, new_weights, new_seen, new_slopes = evaluate(unknowns - step)
                new_unknowns = unknowns - step
                new_objective = new_total + 0.5 * ridge * float(new_unknowns @ new_unknowns)
                if new_objective < objective:
                    gained = (objective - new_objective) / objective
                    unknowns, total, objective = new_unknowns, new_total, new_objective
                    weights, seen, slopes = new_weights, new_seen, new_slopes
                    damping = max(damping / 5, 1e-9)
                    break
            damping *= 4
        loss = total * to_loss
        if gained < min_gain or tried >= steps or (abandon_above is not None and loss > abandon_above and gained < 0.1):
            return Refitted(compact.expand(unknowns), loss, tried, curvature)


def _solve(matrix: Array, right: Array) -> Array | None:
    """The solution of a symmetric system, None where the matrix is not positive or holds infinities."""
    try:
        step = cho_solve(cho_factor(matrix, overwrite_a=True, check_finite=False), right, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    return step if np.isfinite(step).all() else None


def removal_costs(refitted: Refitted, masks: Masks) -> Array:
    """What the summed loss gains, to second order, when one kept weight goes and all others are refitted.

    This is the optimal brain surgeon's saliency w² / (2 [H⁻¹]ₘₘ) with the Gauss-Newton matrix for H; one number per
    kept weight, in the order of `kept_weights`.
    """
    compact = _LiveParameters(refitted.values, masks)
    unknowns = compact.pack()
    curvature = refitted.curvature
    if curvature is None:
        raise ValueError("Removal costs need the curvature of a least-squares refit.")
    jitter = 1e-9 * np.trace(curvature) / max(1, unknowns.size)
    inverse = np.linalg.inv(curvature + jitter * np.eye(unknowns.size))
    weights = compact.cuts[len(compact.places)]
    return 0.5 * unknowns[:weights] ** 2 / np.diag(inverse)[:weights]


def kept_weights(masks: Masks) -> list[tuple[str, int, int]]:
    """(parameter, row, column) of every kept weight of a perceptron, layer by layer, row by row."""
    layers = sum(name.startswith("weights.") for name in masks)
    return [
        (f"weights.{i}", int(row), int(column))
        for i in range(layers)
        for row, column in zip(*np.nonzero(masks[f"weights.{i}"]), strict=True)
    ]


class GradientProblem:
    """The examples of a refit by gradient, for any network; values in, loss and gradient out."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Array | torch.Tensor,
        targets: Array | torch.Tensor,
        *,
        loss: LossName,
        ridge: float,
        time_steps: tuple[int, ...] | None = None,
        weights: Array | None = None,
        counted: Array | None = None,
    ) -> None:
        """The examples as rows.

        network    a copy of its own, which is overwritten.
        time_steps  sequences: the time steps that count; the targets hold these alone, side by side.
        weights     what the squared error of each output is multiplied by; None: 1 each.
        counted     how much each example counts, of tables; None: 1 each.
        """
        self.network = network
        self.parameters = dict(network.named_parameters())
        self.trained = [name for name, parameter in self.parameters.items() if parameter.requires_grad]
        first = next(iter(self.parameters.values()))
        self.inputs = torch.as_tensor(inputs)
        if self.inputs.is_floating_point():
            self.inputs = self.inputs.to(first.dtype)
        self.targets = torch.as_tensor(targets)  # of text (N, steps) labels
        if self.targets.is_floating_point():
            self.targets = self.targets.to(first.dtype)
        self.loss: LossName = loss
        self.ridge = ridge
        self.time_steps = time_steps
        self.weights = weights
        self.counted = counted

    def of(self, network: nn.Module, inputs: Tensor) -> GradientProblem:
        """The same examples for another network, which takes them in another form."""
        return GradientProblem(
            network,
            inputs,
            self.targets,
            loss=self.loss,
            ridge=self.ridge,
            time_steps=self.time_steps,
            weights=self.weights,
            counted=self.counted,
        )

    def every(self, step: int) -> GradientProblem:
        """The same network on evenly spaced examples; this problem itself for a step of 1."""
        if step == 1:
            return self
        thinned = copy.copy(self)
        thinned.inputs, thinned.targets = self.inputs[::step], self.targets[::step]
        if self.counted is not None:
            thinned.counted = self.counted[::step] / self.counted[::step].mean()
        return thinned

    def load(self, values: Mapping[str, Array]) -> None:
        """Give the network these parameters."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(values[name]))

    def loss_now(self) -> torch.Tensor:
        """The loss of the values loaded last."""
        outputs, targets = self.network(self.inputs), self.targets
        if self.time_steps is not None:
            outputs = outputs[:, list(self.time_steps)]
            if targets.dim() == 2 and not targets.is_floating_point():  # a label for each step
                return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
            outputs = outputs.flatten(1)  # as the targets are
        if self.counted is not None:
            return self._weighted_loss(outputs, targets)
        if self.loss == "cross_entropy":
            return functional.cross_entropy(outputs, targets)
        if targets.ndim == 1:
            targets = functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
        if self.weights is not None:
            return (torch.from_numpy(self.weights).to(outputs.dtype) * (outputs - targets) ** 2).mean()
        return functional.mse_loss(outputs, targets)

    def _weighted_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert self.counted is not None
        if self.loss == "cross_entropy":
            each = functional.cross_entropy(outputs, targets, reduction="none")
        else:
            if targets.ndim == 1:
                targets = functional.one_hot(targets, outputs.shape[-1])
            squares = (outputs - targets.to(outputs.dtype)) ** 2
            each = (squares if self.weights is None else squares * torch.from_numpy(self.weights)).mean(-1)
        return (torch.from_numpy(self.counted).to(outputs.dtype) * each).mean()

    def losses(self, values: Mapping[str, Array]) -> float:
        """The loss of these values on these examples."""
        self.load(values)
        with torch.no_grad():
            return float(self.loss_now())


def refit_by_gradient(problem: GradientProblem, values: Mapping[str, Array], masks: Masks, *, steps: int) -> Refitted:
    """The nearest best fit of whatever the masks keep, by L-BFGS on autograd gradients; `steps` passes at most."""
    names = problem.trained
    kept = {name: masks[name] if name in masks else np.ones(values[name].shape, bool) for name in names}
    start = {name: np.where(kept[name], value, 0.0) if name in kept else value for name, value in values.items()}
    ridge = problem.ridge

    def expand(unknowns: Array) -> Values:
        full, here = dict(start), 0
        for name in names:
            count = int(kept[name].sum())
            full[name] = np.zeros(kept[name].shape)
            full[name][kept[name]] = unknowns[here : here + count]
            here += count
        return full

    def objective(unknowns: Array) -> tuple[float, Array]:
        problem.load(expand(unknowns))
        for parameter in problem.parameters.values():
            parameter.grad = None
        loss = problem.loss_now()
        loss.backward()
        gradient = np.concatenate([_gradient(problem.parameters[name])[kept[name]] for name in names])
        return loss.item() + 0.5 * ridge * float(unknowns @ unknowns), gradient + ridge * unknowns

    first = np.concatenate([start[name][kept[name]] for name in names])
    if steps == 0 or first.size == 0:
        return Refitted(start, problem.losses(start), 0)
    options = {"maxfun": steps, "maxiter": steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-9}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    best = expand(found.x)
    return Refitted(best, problem.losses(best), int(found.nfev))


def _gradient(parameter: torch.nn.Parameter) -> Array:
    if parameter.grad is None:
        return np.zeros(tuple(parameter.shape))
    return parameter.grad.double().cpu().numpy()


class CompactMlp(nn.Module):
    """The same computation between live neurons only. Parameters have the names they have in the whole network.

    places   parameter -> index of its live entries in the whole one.
    """

    def __init__(self, whole: Network, chain: Chain, masks: Masks) -> None:
        super().__init__()
        layers = len(chain.weights)
        inputs = masks["weights.0"].any(axis=0).reshape(chain.copies, -1).any(axis=0)
        live = [np.flatnonzero(inputs)]
        live += [np.flatnonzero(masks[f"weights.{i}"].any(axis=0)) for i in range(1, layers)]
        live.append(np.arange(whole.wiring.output_layer.neurons))
        columns = np.concatenate([live[0] + copy * inputs.size for copy in range(chain.copies)])
        self.places: dict[str, tuple[Array, ...]] = {}
        for i in range(layers):
            self.places[f"weights.{i}"] = np.ix_(live[i + 1], columns if i == 0 else live[i])
            self.places[f"biases.{i}"] = (live[i + 1],)
        embedded = chain.embedding is not None
        if embedded:
            self.places["embedding"] = np.ix_(np.arange(whole.embedding.shape[0]), live[0])
        shapes = {name: np.empty(p.shape)[self.places[name]].shape for name, p in whole.named_parameters()}
        dtype = whole.weights[0].dtype
        self.weights = nn.ParameterList([torch.empty(shapes[f"weights.{i}"], dtype=dtype) for i in range(layers)])
        self.biases = nn.ParameterList([torch.empty(shapes[f"biases.{i}"], dtype=dtype) for i in range(layers)])
        self.embedding = nn.Parameter(torch.empty(shapes["embedding"], dtype=dtype)) if embedded else None
        self.activation = ACTIVATIONS[chain.activation]
        self.read = None if embedded else whole.input_order[torch.from_numpy(live[0])]
        self.leave = torch.argsort(whole.output_order)

    def inputs_of(self, x: Tensor) -> Tensor:
        """What it takes of the inputs of the whole network: those of its neurons, or all tokens."""
        return x if self.read is None else x.index_select(-1, self.read)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of the data's targets, of what `inputs_of` gives."""
        here = self.embedding[x].flatten(1) if self.embedding is not None else x
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            here = nn.functional.linear(here, weight, bias)
            if number < last:
                here = self.activation(here)
        return here.index_select(-1, self.leave)


def refit_compact(problem: GradientProblem, values: Mapping[str, Array], masks: Masks, *, steps: int) -> Refitted:
    """As `refit_by_gradient`, on the live part of a perceptron; what is not live stays as it is. Others: the whole."""
    whole = problem.network
    chain = whole.wiring.chain if isinstance(whole, Network) else None
    if chain is None or not all(masks[name].any() for name in chain.weights):
        return refit_by_gradient(problem, values, masks, steps=steps)
    assert isinstance(whole, Network)
    compact = CompactMlp(whole, chain, masks)
    part = problem.of(compact, compact.inputs_of(problem.inputs))
    small = {name: values[name][place] for name, place in compact.places.items()}
    small_masks = {name: masks[name][place] for name, place in compact.places.items() if name in masks}
    found = refit_by_gradient(part, small, small_masks, steps=steps)
    full: Values = {
        name: np.where(masks[name], value, 0.0) if name in masks else value.copy() for name, value in values.items()
    }
    for name, place in compact.places.items():
        full[name][place] = found.values[name]
    return Refitted(full, found.loss, found.passes)
