"""Torch modules as users write them, one of every kind that `attach` is to follow."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm beside a shortcut."""

    def __init__(self, entered: int, left: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entered, left, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(left)
        self.conv2 = nn.Conv2d(left, left, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(left)
        self.shortcut = nn.Conv2d(entered, left, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class ResidualCnn(nn.Module):
    """Two residual blocks, max pooling, flatten, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2 = ResidualBlock(1, 5), ResidualBlock(5, 6)
        self.read_out = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.block1(x), 2)
        x = functional.max_pool2d(self.block2(x), 2)
        return self.read_out(x.flatten(1))


class GroupNormCnn(nn.Module):
    """Channels that are normed in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(3, 6)
        self.conv2, self.read_out = nn.Conv2d(6, 5, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(functional.gelu(self.norm(self.conv1(x))))
        return self.read_out(functional.relu(x).mean((2, 3)))


class LastStep(nn.Module):
    """A recurrent layer, and a norm and a linear layer on what it says at the end."""

    def __init__(self, recurrent: nn.RNNBase, norm: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent, self.norm, self.read_out = recurrent, norm, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        return self.read_out(self.norm(states[:, -1]))


class GruCell(nn.Module):
    """A gated recurrent network written by hand: gates are chunks of one projection."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.read_in, self.recur = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        self.read_out = nn.Linear(hidden, outputs)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.hidden)
        for time in range(x.shape[1]):
            reset, update, new = self.read_in(x[:, time]).chunk(3, dim=-1)
            reset2, update2, new2 = self.recur(state).chunk(3, dim=-1)
            update = torch.sigmoid(update + update2)
            state = (1 - update) * torch.tanh(new + torch.sigmoid(reset + reset2) * new2) + update * state
        return self.read_out(state)


class EncoderClassifier(nn.Module):
    """nn.TransformerEncoderLayer between two linear layers."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        self.read_in = nn.Linear(3, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
        self.read_out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(self.encoder(self.read_in(x)).mean(1))


class GptBlock(nn.Module):
    """GPT-2: one projection for query, key and value, pre-norm, GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, time, width)))
        return x + self.drop(self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))


class Gpt(nn.Module):
    """Token and position embeddings, one block, and the token embedding again as the read-out."""

    def __init__(self, tokens: int = 11, width: int = 8, heads: int = 2, context: int = 6) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tokens, width), nn.Embedding(context, width)
        self.block = GptBlock(width, heads)
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.ln_f(self.block(x)))


class RmsNorm(nn.Module):
    """RMSNorm as Llama's code writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """Llama: RMSNorm, rotary positions, grouped-query attention with normed queries and keys, gated MLP."""

    def __init__(self, tokens: int = 13, width: int = 12, heads: int = 4, groups: int = 2, size: int = 4) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, size
        self.embed = nn.Embedding(tokens, width)
        self.norm1, self.norm2, self.norm3 = RmsNorm(width), RmsNorm(width), RmsNorm(width)
        self.q_norm, self.k_norm = RmsNorm(size), RmsNorm(size)
        self.q_proj = nn.Linear(width, heads * size, bias=False)
        self.k_proj = nn.Linear(width, groups * size, bias=False)
        self.v_proj = nn.Linear(width, groups * size, bias=False)
        self.o_proj = nn.Linear(heads * size, width, bias=False)
        self.gate, self.up = nn.Linear(width, 10, bias=False), nn.Linear(width, 10, bias=False)
        self.down, self.head = nn.Linear(10, width, bias=False), nn.Linear(width, tokens, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        time, half = x.shape[-2], self.size // 2
        angle = torch.arange(time)[:, None] / 100 ** (torch.arange(half) / half)
        angle = torch.cat((angle, angle), -1).to(x.dtype)
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * angle.cos() + turned * angle.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        batch, time, _ = x.shape
        here = self.norm1(x)
        q = self.q_norm(self.q_proj(here).view(batch, time, self.heads, self.size)).transpose(1, 2)
        k = self.k_norm(self.k_proj(here).view(batch, time, self.groups, self.size)).transpose(1, 2)
        v = self.v_proj(here).view(batch, time, self.groups, self.size).transpose(1, 2)
        q, k = self.rotated(q), self.rotated(k)
        repeat = self.heads // self.groups
        k, v = (
            t[:, :, None]
            .expand(batch, self.groups, repeat, time, self.size)
            .reshape(batch, self.heads, time, self.size)
            for t in (k, v)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(self.size)
        scores = scores + torch.full((time, time), -math.inf, dtype=x.dtype).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, -1)
        x = x + self.o_proj(mixed)
        here = self.norm2(x)
        x = x + self.down(functional.silu(self.gate(here)) * self.up(here))
        return self.head(self.norm3(x))


class FusedLlama(nn.Module):
    """One projection for queries, keys and values, rotary positions, gate and up in one matrix, a tied read-out."""

    def __init__(self, tokens: int = 13, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.embed = nn.Embedding(tokens, width)
        self.norm1, self.norm2, self.norm3 = RmsNorm(width), RmsNorm(width), RmsNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 18, bias=False), nn.Linear(9, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        half = self.size // 2
        angle = torch.arange(x.shape[-2])[:, None] / 100 ** (torch.arange(half) / half)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        x = x + self.down(functional.silu(gate) * up)
        return functional.linear(self.norm3(x), self.embed.weight)


class RawParameters(nn.Module):
    """Matrices without modules, in both orders of their axes."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(4, 9)), nn.Parameter(torch.randn(9))
        self.w2 = nn.Parameter(torch.randn(6, 9))
        self.w3 = nn.Parameter(torch.randn(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.w1 + self.b1)
        hidden = torch.einsum("bi,oi->bo", hidden, self.w2).sin()
        return torch.einsum("bi,io->bo", hidden, self.w3)


class SharedTwice(nn.Module):
    """One linear layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.read_in, self.shared, self.read_out = nn.Linear(4, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.read_in(x))
        return self.read_out(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class TiedAutoencoder(nn.Module):
    """A matrix and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.weight, self.bias).relu(), self.weight.t())


class Concatenated(nn.Module):
    """Two branches side by side: a column range of one matrix for each."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.read_out = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read_out(torch.cat((torch.relu(self.left(x)), torch.tanh(self.right(x))), -1))


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 7), nn.SiLU(), nn.Dropout(0.2), nn.Linear(7, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)
    )


def weight_normed() -> nn.Module:
    first, second = weight_norm(nn.Linear(4, 7)), weight_norm(nn.Linear(7, 5))
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(5, 2))


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 9, 3, padding=1, groups=3),
        nn.ReLU(),
        nn.Conv2d(9, 5, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 4, 2),
    )


def numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(vocabulary: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


def scikit_learn() -> nn.Module:
    """scikit-learn's perceptron, by way of ONNX, with the scores before its probabilities."""
    import numpy as np
    from sklearn.neural_network import MLPClassifier

    from bimt_engine.networks.files.reading import read_network

    skl2onnx = pytest.importorskip("skl2onnx")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    fitted = MLPClassifier((7, 5), max_iter=2000, tol=0.01, random_state=0).fit(x, draw.integers(3, size=60))
    return read_network(skl2onnx.to_onnx(fitted, x[:1]).SerializeToString(), "onnx", scores=True)


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "perceptron": (perceptron, numbers(6, 4)),
    "residual cnn": (ResidualCnn, numbers(6, 1, 8, 8)),
    "depthwise separable": (depthwise, numbers(6, 2, 5, 5)),
    "grouped convolution": (grouped, numbers(6, 2, 4, 4)),
    "group norm": (GroupNormCnn, numbers(6, 2, 5, 5)),
    "gru": (lambda: LastStep(nn.GRU(3, 6, batch_first=True), nn.Identity(), 6), numbers(6, 5, 3)),
    "lstm and layer norm": (lambda: LastStep(nn.LSTM(3, 6, batch_first=True), nn.LayerNorm(6), 6), numbers(6, 5, 3)),
    "two directions": (
        lambda: LastStep(nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=True), nn.Identity(), 10),
        numbers(6, 4, 3),
    ),
    "gru by hand": (lambda: GruCell(3, 5, 2), numbers(6, 3, 3)),
    "encoder layer": (EncoderClassifier, numbers(6, 4, 3)),
    "encoder layer, norm first": (lambda: EncoderClassifier(norm_first=True), numbers(6, 4, 3)),
    "gpt": (Gpt, tokens(11, 6, 5)),
    "llama": (Llama, tokens(13, 6, 5)),
    "fused llama": (FusedLlama, tokens(13, 6, 5)),
    "raw parameters": (RawParameters, numbers(6, 4)),
    "weight norm": (weight_normed, numbers(6, 4)),
    "shared twice": (SharedTwice, numbers(6, 4)),
    "tied autoencoder": (TiedAutoencoder, numbers(6, 8)),
    "concatenated": (Concatenated, numbers(6, 4)),
    "scikit-learn": (scikit_learn, numbers(6, 4)),
}
"""Name -> how it is made, and inputs for it; axis 0 holds the examples."""


def made(name: str, *, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A module of the zoo at float64, with inputs."""
    build, inputs = ZOO[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double(), inputs()
