"""A causal transformer whose residual stream is one neuron layer with many ports.

No positional encoding: the published network has none, and its data need none. (arXiv 2305.08746, section 3.4)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bimt_engine.datasets.dataset import Dataset
from bimt_engine.errors import SpecError
from bimt_engine.networks.geometry import line
from bimt_engine.networks.network import ACTIVATIONS, Edit, Network, new_bias, new_weight, note
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring
from bimt_engine.spec import TransformerNetwork

QKV = 3  # query, key and value rows of one neuron lie in one matrix, a layer's width apart
MLP_WIDTH = 4  # hidden neurons per residual neuron


class Affine(nn.Module):
    """A weight and a bias, drawn as `nn.Linear` draws them but by a generator of ours."""

    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = new_weight(rows, columns, dtype=dtype, generator=generator)
        self.bias = new_bias(rows, columns, dtype=dtype, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Transformer(Network):
    """x ← x + attention(x), x ← x + mlp(x), block after block.

    Neuron layers: input, residual, then attention{b} and hidden{b} of each block, output. Parameters:
    read_in, attend.{b} (query, key, value), gather.{b} (out of the heads), expand.{b}, contract.{b}, read_out,
    each with `.weight` and `.bias`; with layer_norm also norms.{0…2·blocks}. Norms are not applied otherwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        layer_norm: bool,
        activation: str,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        super().__init__(transformer_wiring(inputs, outputs, width, blocks, heads, layer_norm=layer_norm))
        self.width, self.blocks, self.heads = width, blocks, heads
        self.layer_norm, self.activation = layer_norm, activation

        def affine(rows: int, columns: int) -> Affine:
            return Affine(rows, columns, dtype=dtype, generator=generator)

        self.read_in = affine(width, inputs)
        self.attend = nn.ModuleList([affine(QKV * width, width) for _ in range(blocks)])
        self.gather = nn.ModuleList([affine(width, width) for _ in range(blocks)])
        self.expand = nn.ModuleList([affine(MLP_WIDTH * width, width) for _ in range(blocks)])
        self.contract = nn.ModuleList([affine(width, MLP_WIDTH * width) for _ in range(blocks)])
        self.read_out = affine(outputs, width)
        if layer_norm:
            self.norms = nn.ModuleList([nn.LayerNorm(width, dtype=dtype) for _ in range(2 * blocks + 1)])

    def _compute(self, x: Tensor, edit: Edit | None, seen: dict[str, Tensor] | None) -> Tensor:
        act = ACTIVATIONS[self.activation]
        here = note("input", self._enter(x), edit, seen)
        # The stream is noted whenever it has changed: an edit holds all along, what is seen is its last state.
        stream = note("residual", self.read_in(here), edit, seen)
        for block in range(self.blocks):
            mixed = self._attention(self._normed(stream, 2 * block), block)
            mixed = note(f"attention{block + 1}", mixed, edit, seen)
            stream = note("residual", stream + self.gather[block](mixed), edit, seen)
            hidden = act(self.expand[block](self._normed(stream, 2 * block + 1)))
            hidden = note(f"hidden{block + 1}", hidden, edit, seen)
            stream = note("residual", stream + self.contract[block](hidden), edit, seen)
        outputs = self.read_out(self._normed(stream, 2 * self.blocks))
        return self._leave(note("output", outputs, edit, seen))

    def _normed(self, stream: Tensor, number: int) -> Tensor:
        return self.norms[number](stream) if self.layer_norm else stream

    def _attention(self, stream: Tensor, block: int) -> Tensor:
        """What the heads read, side by side: causal, scores divided by the root of a head's width."""
        batch, time, width = stream.shape
        size = width // self.heads
        rows = self.attend[block](stream).view(batch, time, QKV, self.heads, size)
        query, key, value = rows.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(size)
        future = torch.ones(time, time, dtype=torch.bool, device=stream.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return (weights @ value).transpose(1, 2).reshape(batch, time, width)


def transformer_wiring(
    inputs: int, outputs: int, width: int, blocks: int, heads: int, *, layer_norm: bool = False
) -> Wiring:
    """Every layer on a line of length 1; the residual stream is one layer that all blocks read and write."""
    residual = [Port("read_in.weight", 0), Port("read_in.bias", 0)]
    inner: list[NeuronLayer] = []
    weights = [WeightLayer("read_in.weight", "input", "residual", bias="read_in.bias")]
    for block in range(blocks):
        attention, hidden = f"attention{block + 1}", f"hidden{block + 1}"
        attend, gather, expand, contract = (f"{name}.{block}" for name in ("attend", "gather", "expand", "contract"))
        residual += [Port(f"{attend}.weight", 1), Port(f"{gather}.weight", 0), Port(f"{gather}.bias", 0)]
        residual += [Port(f"{expand}.weight", 1), Port(f"{contract}.weight", 0), Port(f"{contract}.bias", 0)]
        ports = (Port(f"{attend}.weight", 0, QKV), Port(f"{attend}.bias", 0, QKV), Port(f"{gather}.weight", 1))
        inner.append(NeuronLayer(attention, line(width), ports, blocks=heads))
        ports = (Port(f"{expand}.weight", 0), Port(f"{expand}.bias", 0), Port(f"{contract}.weight", 1))
        inner.append(NeuronLayer(hidden, line(MLP_WIDTH * width), ports))
        weights += [
            WeightLayer(f"{attend}.weight", "residual", attention, target_fold=QKV, bias=f"{attend}.bias"),
            WeightLayer(f"{gather}.weight", attention, "residual", bias=f"{gather}.bias"),
            WeightLayer(f"{expand}.weight", "residual", hidden, bias=f"{expand}.bias"),
            WeightLayer(f"{contract}.weight", hidden, "residual", bias=f"{contract}.bias"),
        ]
    if layer_norm:
        norms = range(2 * blocks + 1)
        residual += [Port(f"norms.{number}.{part}", 0) for number in norms for part in ("weight", "bias")]
    residual.append(Port("read_out.weight", 1))
    weights.append(WeightLayer("read_out.weight", "residual", "output", bias="read_out.bias"))
    return Wiring(
        (
            NeuronLayer("input", line(inputs), (Port("read_in.weight", 1),)),
            NeuronLayer("residual", line(width), tuple(residual)),
            *inner,
            NeuronLayer("output", line(outputs), (Port("read_out.weight", 0), Port("read_out.bias", 0))),
        ),
        tuple(weights),
    )


def build_transformer(
    spec: TransformerNetwork, dataset: Dataset, *, dtype: torch.dtype, generator: torch.Generator
) -> Transformer:
    """The transformer of this spec, as wide at both ends as the data. Raises SpecError unless these are sequences."""
    if not dataset.is_sequence:
        raise SpecError("A `transformer` reads sequences, but these data are single examples: ask for an mlp.")
    return Transformer(
        dataset.inputs,
        dataset.targets,
        width=spec.width,
        blocks=spec.blocks,
        heads=spec.heads,
        layer_norm=spec.layer_norm,
        activation=spec.activation,
        dtype=dtype,
        generator=generator,
    )
