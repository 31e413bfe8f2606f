"""One optimiser step on a flat vector: AdamW as published, or its proximal variant, which gives true zeros.

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

from bimt_engine.spec import OptimiserSpec

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
