"""The written-out optimiser against torch's, and the proximal variant against the condition of the minimum."""

from __future__ import annotations

import pytest
import torch

from bimt_engine.spec import OptimiserSpec
from bimt_engine.training.backends.autograd import optimiser_step


def test_adamw_agrees_with_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    spec = OptimiserSpec(learning_rate=3e-3, beta1=0.8, beta2=0.99, epsilon=1e-7, weight_decay=0.1)
    ours = torch.randn(50, generator=draw, dtype=torch.float64)
    theirs = torch.nn.Parameter(ours.clone())
    reference = torch.optim.AdamW([theirs], lr=3e-3, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.1)
    first, second = torch.zeros_like(ours), torch.zeros_like(ours)
    price = torch.rand(50, generator=draw, dtype=torch.float64)
    for step in range(100):
        gradient = torch.randn(50, generator=draw, dtype=torch.float64)
        theirs.grad = gradient + price * theirs.detach().sign()
        reference.step()
        optimiser_step(spec, ours, gradient, first, second, step=step, price=price)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_the_subgradient_of_zero_is_zero() -> None:
    theta = torch.zeros(3, dtype=torch.float64)
    moments = torch.zeros(2, 3, dtype=torch.float64)
    optimiser_step(
        OptimiserSpec(), theta, torch.zeros_like(theta), moments[0], moments[1], step=0, price=torch.ones_like(theta)
    )
    assert torch.equal(theta, torch.zeros_like(theta))


@pytest.mark.parametrize("seed", range(3))
def test_the_proximal_variant_ends_at_the_minimum_of_the_lasso(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(40, 12, generator=draw, dtype=torch.float64)
    truth = torch.zeros(12, dtype=torch.float64)
    truth[:3] = torch.tensor([1.0, -2.0, 0.5])
    values = matrix @ truth + 0.1 * torch.randn(40, generator=draw, dtype=torch.float64)
    price = torch.full((12,), 0.1, dtype=torch.float64)

    def gradient_at(theta: torch.Tensor) -> torch.Tensor:
        return matrix.T @ (matrix @ theta - values) / 40

    theta = torch.randn(12, generator=draw, dtype=torch.float64)
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for rate in (1e-2, 1e-3, 1e-4):
        spec = OptimiserSpec(kind="proximal", learning_rate=rate)
        for step in range(3000):
            optimiser_step(spec, theta, gradient_at(theta), first, second, step=step + 1000, price=price)
    zero, slope = theta == 0, gradient_at(theta)
    assert zero.sum() >= 6
    assert (slope[zero].abs() <= price[zero]).all()
    torch.testing.assert_close(slope[~zero], -(price * theta.sign())[~zero], rtol=0, atol=2e-3)
