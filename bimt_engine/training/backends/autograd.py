"""The stepper for any network on any device: plain automatic differentiation, which the others are tested against.

Its optimiser takes one step on a flat vector: AdamW as published, or its proximal variant, which gives true zeros.
Both are written out here once, as the truth that the faster steppers are tested against. With g the gradient of the
prediction loss, p = λ · price, and s = sign(θ) with sign(0) = 0:

adamw      the penalty is part of the gradient: h = g + p·s; m and v are the moments of h;
           θ ← θ·(1 − lr·decay) − lr · m̂ / (√v̂ + ε).
proximal   m follows g alone, v follows h = g + p·s (so that a weight without gradient keeps a sane step size);
           θ ← θ·(1 − lr·decay) − d·m̂ with d = lr / (√v̂ + ε), then θ ← sign(θ) · max(|θ| − d·p, 0).
           A weight stays at zero exactly as long as |m̂| ≤ p, which is the condition of the minimum itself.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.data.dataset import Dataset
from bimt_engine.networks.network import Network
from bimt_engine.spec import OptimiserSpec, TrainingSpec
from bimt_engine.training.backends import Stepper
from bimt_engine.training.batches import TensorData
from bimt_engine.training.state import TrainingState

Flat = Float[Tensor, "*R P"]


def optimiser_step(
    spec: OptimiserSpec,
    theta: Flat,
    gradient: Flat,
    first_moment: Flat,
    second_moment: Flat,
    *,
    step: int,
    price: Float[Tensor, "... P"],
) -> None:
    """One update in place.

    gradient   of the prediction loss alone; overwritten.
    step       how many updates came before this one, for the bias correction.
    price      λ times what an entry costs; (P,) or one row per replica.
    """
    number = step + 1
    correction1 = 1 - spec.beta1**number
    correction2 = math.sqrt(1 - spec.beta2**number)
    if spec.weight_decay:
        decay = 1 - spec.learning_rate * spec.weight_decay
    if spec.kind == "proximal":
        first_moment.lerp_(gradient, 1 - spec.beta1)
        gradient.addcmul_(theta.sign(), price)
    else:
        gradient.addcmul_(theta.sign(), price)
        first_moment.lerp_(gradient, 1 - spec.beta1)
    second_moment.mul_(spec.beta2).addcmul_(gradient, gradient, value=1 - spec.beta2)
    root = second_moment.sqrt().div_(correction2).add_(spec.epsilon)
    if spec.weight_decay:
        theta.mul_(decay)
    theta.addcdiv_(first_moment, root, value=-spec.learning_rate / correction1)
    if spec.kind == "proximal":
        torch.mul(theta.sign(), (theta.abs() - spec.learning_rate * price / root).clamp_(min=0), out=theta)


class AutogradStepper(Stepper):
    """Many optimiser steps in place, one replica after another."""

    name = "autograd"
    side_by_side = False

    @staticmethod
    def supports(network: Network, dataset: Dataset, training: TrainingSpec) -> str | None:
        """Any network: None."""
        return None

    def __init__(self, state: TrainingState, data: TensorData, training: TrainingSpec) -> None:
        self.state, self.data, self.training = state, data, training
        self.parameters = list(state.network.parameters())
        layout = zip(self.parameters, state.layout, strict=True)
        self.fixed = [place.slice for parameter, place in layout if not parameter.requires_grad]
        self.gradient = torch.zeros_like(state.theta[0])

    def advance(self, steps: int, *, price: Float[Tensor, "... P"]) -> None:
        """Take so many steps. price: λ · price of every entry, (P,) or one row per replica."""
        state = self.state
        for replica in range(state.replicas):
            self._advance_one(replica, steps, price if price.dim() == 1 else price[replica])
        state.step += steps

    def losses(self, *, everything: bool = False) -> list[dict[str, float]]:
        """Prediction loss and accuracy on both parts, for each replica."""
        return self.data.evaluate_replicas(self.state, everything=everything)

    def _advance_one(self, replica: int, steps: int, price: Float[Tensor, " P"]) -> None:
        state, data = self.state, self.data
        theta, first, second = state.theta[replica], state.first_moment[replica], state.second_moment[replica]
        frozen = None if state.mask is None else ~state.mask[replica]
        batches = data.batches(state.step, steps)
        chosen = None if batches is None else torch.from_numpy(batches[replica]).to(theta.device)
        whole = data.chosen(replica, None) if chosen is None else None
        gradient = self.gradient
        with state.showing(replica) as network:
            network.train()
            for parameter, place in zip(self.parameters, state.layout, strict=True):
                if parameter.requires_grad:
                    parameter.grad = gradient[place.slice].view(place.shape)
            for number in range(steps):
                rows = None if chosen is None else chosen[number]
                inputs, targets = whole or data.chosen(replica, rows)
                loss = data.prediction_loss(network(inputs), targets, replica, data.weights_of(replica, rows))
                gradient.zero_()
                loss.backward()
                with torch.no_grad():
                    if frozen is not None:
                        gradient.masked_fill_(frozen, 0.0)
                    running = [theta[entries].clone() for entries in self.fixed]
                    optimiser_step(
                        self.training.optimiser, theta, gradient, first, second, step=state.step + number, price=price
                    )
                    for entries, value in zip(self.fixed, running, strict=True):
                        theta[entries] = value  # no weight decay of a running statistic or a fixed table
            for parameter in self.parameters:
                parameter.grad = None
            network.eval()
