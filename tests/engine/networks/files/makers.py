"""Networks of others: torch modules, and the ONNX files that torch's exporter makes of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions and a batch norm beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.norm(torch.relu(self.first(torch.relu(x)))))


class Read(nn.Module):
    """A recurrent layer that is read out at every step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0])


class CausalBlock(nn.Module):
    """A block as in GPT-2: attention to what came before, then a perceptron."""

    def __init__(self, tokens: int = 11, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.place = nn.Embedding(tokens, width), nn.Embedding(6, width)
        self.norm, self.qkv, self.join = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.out = nn.Linear(width, tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, steps = tokens.shape
        x = self.embed(tokens) + self.place(torch.arange(steps))
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.view(rows, steps, self.heads, -1).transpose(1, 2) for part in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.join(mixed.transpose(1, 2).reshape(rows, steps, -1))
        return self.out(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """torch's own encoder layer over tokens, with a raw parameter for the places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 16), nn.Parameter(torch.randn(6, 16))
        self.layer, self.out = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.layer(self.embed(tokens) + self.place))


def _cnn() -> nn.Module:
    ends = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    blocks = nn.Conv2d(1, 4, 3, padding=1), ResidualBlock(4), nn.MaxPool2d(2), ResidualBlock(4)
    network = nn.Sequential(*blocks, *ends)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return network


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "perceptron": lambda: (nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(2, 5)),
    "residual cnn": lambda: (_cnn(), torch.randn(2, 1, 8, 8)),
    "separable": lambda: (
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.SiLU(), nn.Conv2d(8, 3, 1), nn.AvgPool2d(2), nn.Flatten()),
        torch.randn(2, 4, 6, 6),
    ),
    "gru": lambda: (Read(nn.GRU(3, 8, batch_first=True)), torch.randn(2, 5, 3)),
    "two grus": lambda: (Read(nn.GRU(3, 8, num_layers=2, batch_first=True)), torch.randn(2, 5, 3)),
    "lstm": lambda: (Read(nn.LSTM(3, 8, batch_first=True, bidirectional=True)), torch.randn(2, 5, 3)),
    "rnn": lambda: (Read(nn.RNN(3, 8, batch_first=True)), torch.randn(2, 5, 3)),
    "causal block": lambda: (CausalBlock(), torch.randint(0, 11, (2, 6))),
    "encoder": lambda: (Encoder(), torch.randint(0, 11, (2, 6))),
}


def exported(network: nn.Module, x: Tensor, *, free: bool = True) -> bytes:
    axes = {"dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}} if free else {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (x,),
            file,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            **axes,
        )
    return file.getvalue()


def said_by(content: bytes, x: Tensor | np.ndarray, output: int = 0) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: np.asarray(x)})[output])


def model(
    nodes: list[onnx.NodeProto] | None = None,
    *,
    shape: tuple[Any, ...] = ("batch", 3),
    constants: dict[str, np.ndarray] | None = None,
    domain: str | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """y = x · w, unless other nodes are given."""
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"w": np.ones((3, 2), np.float32)} if constants is None else constants
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets)
