"""The method as a textbook would write it, without one trick: what the engine is timed and tested against.

Automatic differentiation through everything; the cost computed from positions at every step; torch.optim.AdamW; the
test set looked at after every step; and an exchange of two neurons is tried by making it, adding up the whole cost
and taking it back. It shares nothing with the engine's training but the networks it trains and where their neurons sit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.networks.wiring import NeuronLayer
from bimt_engine.spec import CostSpec, TrainingSpec


class Oracle:
    """One network in plain training. Everything is recomputed whenever it is needed."""

    def __init__(self, network: Network, dataset: Dataset, training: TrainingSpec, *, seed: int = 0) -> None:
        self.network, self.training = network, training
        self.parameters = dict(network.named_parameters())
        self.dtype = next(network.parameters()).dtype
        self.loss = training.loss or dataset.default_loss
        self.classes = dataset.targets
        self.predicted = dataset.predicted_positions
        self.train = self._inputs(dataset.train_inputs), torch.as_tensor(dataset.train_targets)
        self.test = self._inputs(dataset.test_inputs), torch.as_tensor(dataset.test_targets)
        self.generator = torch.Generator().manual_seed(seed)
        rule = training.optimiser
        self.optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=rule.learning_rate,
            betas=(rule.beta1, rule.beta2),
            eps=rule.epsilon,
            weight_decay=rule.weight_decay,
        )

    def step(self, cost_strength: float, *, bias_cost: bool = True) -> tuple[float, float, float]:
        """One step and a look at how it goes: training loss, test loss, accuracy on the test examples."""
        inputs, targets = self._batch(*self.train)
        self.optimiser.zero_grad()
        loss = self.prediction_loss(self.network(inputs), targets)
        (loss + cost_strength * self.cost(bias_cost=bias_cost)).backward()
        self.optimiser.step()
        inputs, targets = self._batch(*self.test)
        outputs = self.network(inputs)
        test_loss = self.prediction_loss(outputs, targets)
        right = (outputs.argmax(-1) == targets).float().mean() if targets.dim() == 1 else torch.zeros(())
        return loss.item(), test_loss.item(), right.item()

    def prediction_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the spec, over the predicted time steps only."""
        if self.predicted is not None:
            outputs, targets = outputs[:, list(self.predicted)], targets[:, list(self.predicted)]
        if self.loss == "cross_entropy":
            return functional.cross_entropy(outputs, targets)
        if targets.dim() == 1:
            targets = functional.one_hot(targets, self.classes)
        return functional.mse_loss(outputs, targets.to(self.dtype))

    def cost(self, *, bias_cost: bool = True) -> Tensor:
        """Σ |w| · (locality · length + layer spacing), and the layer spacing for each bias and embedding."""
        rule: CostSpec = self.training.cost
        wiring = self.network.wiring
        last = wiring.output_layer.name
        total = torch.zeros((), dtype=self.dtype)

        def reduced(values: Tensor) -> Tensor:
            return values.mean() if rule.reduction == "mean" else values.sum()

        for weights in wiring.weight_layers:
            matrix = self.parameters[weights.parameter]
            source, target = wiring.layer(weights.source).positions, wiring.layer(weights.target).positions
            if weights.source_copies > 1:
                source = source.repeat(weights.source_copies, 1)
            if weights.target_copies > 1:
                target = target.repeat(weights.target_copies, 1)
            axes = min(source.shape[1], target.shape[1])
            length = (target[:, None, :axes] - source[None, :, :axes]).abs().sum(-1).to(self.dtype)
            pays_length = weights.pays_length and (rule.last_layer_locality or weights.target != last)
            price = rule.locality * length + rule.layer_spacing if pays_length else rule.layer_spacing
            total = total + reduced(matrix.abs() * price)
            if bias_cost and weights.bias is not None:
                total = total + rule.layer_spacing * reduced(self.parameters[weights.bias].abs())
        for name in (*wiring.embeddings, *wiring.offsets):
            total = total + rule.layer_spacing * reduced(self.parameters[name].abs())
        return total

    def relocate(self, candidates: int) -> int:
        """One pass: each of the most important neurons of each layer tries every place and takes the best.

        Returns how many exchanges were tried.
        """
        return sum(
            self.relocate_layer(layer, candidates) for layer in self.network.wiring.neuron_layers if layer.movable
        )

    def relocate_layer(self, layer: NeuronLayer, candidates: int, *, only: int | None = None) -> int:
        """The pass through one layer. only: stop after so many neurons. Returns how many exchanges were tried."""
        tried = 0
        with torch.no_grad():
            chosen = torch.flip(self.importance(layer).argsort(stable=True), (0,))[:candidates]
            for slot in chosen.tolist()[:only]:
                costs = []
                for other in range(layer.neurons):
                    self.exchange(layer, slot, other)
                    costs.append(self.cost().item())
                    self.exchange(layer, slot, other)
                    tried += 1
                best = min(costs)
                self.exchange(layer, slot, next(i for i, cost in enumerate(costs) if cost <= best * (1 + 1e-13)))
        return tried

    def importance(self, layer: NeuronLayer) -> Tensor:
        """Σ|w in| + Σ|w out| for each slot."""
        total = torch.zeros(layer.neurons, dtype=torch.float64)
        for weights in self.network.wiring.weight_layers:
            matrix = self.parameters[weights.parameter].detach().abs().double()
            if weights.target == layer.name:
                total += matrix.sum(1).reshape(weights.target_copies, -1).sum(0)
            if weights.source == layer.name:
                total += matrix.sum(0).reshape(weights.source_copies, -1).sum(0)
        return total

    def exchange(self, layer: NeuronLayer, slot: int, other: int) -> None:
        """The neurons of two slots are exchanged, with all their weights.

        Adam's moments stay, but for those of an embedding: the published code leaves the embedding as it is and changes
        the input order alone, so there the moments still belong to their columns.
        """
        if slot == other:
            return
        for port in layer.ports:
            parameter = self.parameters[port.parameter]
            tensors = [parameter.data]
            if port.parameter in self.network.wiring.embeddings:
                tensors += [one for one in self.optimiser.state[parameter].values() if one.shape == parameter.shape]
            for tensor in (one.movedim(port.axis, 0) for one in tensors):
                for copy in range(port.copies):
                    here, there = copy * layer.neurons + slot, copy * layer.neurons + other
                    kept = tensor[here].clone()
                    tensor[here] = tensor[there]
                    tensor[there] = kept
        order = self.network.orders[layer.name]
        order[slot], order[other] = order[other].item(), order[slot].item()

    def _inputs(self, values: object) -> Tensor:
        tensor = torch.as_tensor(values)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _batch(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """All examples, or a batch of them."""
        size = self.training.batch_size
        if size is None or size >= len(inputs):
            return inputs, targets
        chosen = torch.randint(len(inputs), (size,), generator=self.generator)
        return inputs[chosen], targets[chosen]
