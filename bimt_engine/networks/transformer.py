"""A causal transformer whose residual stream is one neuron layer with many ports.

    x ← x + attention(x), x ← x + mlp(x), block after block

The published network has neither positions nor norms, and its data need none. (arXiv 2305.08746, section 3.4)

Neuron layers: input, residual, then attention{b} and hidden{b} of each block, output; every activation is (batch, time,
neurons). Parameters: read_in, attend.{b} (query, key, value), gather.{b} (out of the heads), expand.{b}, contract.{b},
read_out, each with `.weight` and `.bias`; with layer_norm also norms.{0…2·blocks}; with learnt positions `positions`,
(time, width), which is added to the stream. Norms are not applied otherwise.

Of text each token is a neuron of the input layer, 1 where it stands and 0 elsewhere: column t of `read_in.weight` is
the vector of token t, looked up rather than multiplied. So a token's vector is made of connections, which are priced,
pruned and drawn like all others.

Tied, the read-out is the token embedding transposed: one tensor, `read_out.weight`, (tokens, width), which pays once, as
the connections of the read-out, and whose rows are looked up as the tokens' vectors. Then there is no read-in, and the
stream itself is the input layer, as that of any network with an embedding: its neurons are dimensions of tokens.
(Press & Wolf, arXiv 1608.05859)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.errors import SpecError
from bimt_engine.networks.architecture import (
    Activation,
    Architecture,
    Draw,
    Float,
    Network,
    ParameterGroup,
    Tap,
    Tensor,
)
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring

ROLES = ("query", "key", "value")  # rows of one neuron that lie in one matrix, a layer's width apart
QKV = len(ROLES)
MLP_WIDTH = 4  # hidden neurons per residual neuron
NORM_EPSILON = 1e-5  # as in `nn.LayerNorm`
STREAM = {False: "residual", True: "input"}  # tied or not: the neuron layer that the stream is


class TransformerNetwork(Architecture):
    """A causal transformer whose residual stream is one neuron layer."""

    kind: Literal["transformer"] = "transformer"
    width: int = Field(default=32, ge=1, le=1024)
    blocks: int = Field(default=2, ge=1, le=24)
    heads: int = Field(default=1, ge=1, le=64)
    layer_norm: bool = False
    activation: Activation = "gelu_tanh"
    norm: Literal["layer", "rms"] = Field(
        default="layer",
        exclude_if=lambda norm: norm == "layer",
        description="With `layer_norm`; rms: divided by the root mean square alone, not centred, and without a bias.",
    )
    positions: bool = Field(
        default=False, exclude_if=lambda positions: not positions, description="A learnt vector for each time step."
    )
    tied: bool = Field(
        default=False,
        exclude_if=lambda tied: not tied,
        description="Of text: the read-out is the token embedding transposed, one tensor that pays once.",
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TransformerNetwork:
        if self.width % self.heads:
            raise ValueError(f"`heads` ({self.heads}) must divide `width` ({self.width}).")
        return self

    @property
    def as_published(self) -> bool:
        """Whether it computes what the published network does: no norms, no positions, nothing tied."""
        return not (self.layer_norm or self.positions or self.tied)

    def misfit(self, examples: Examples) -> str:
        """Sequences alone; with `tied` text alone."""
        if examples not in ("sequences", "text"):
            return "A `transformer` reads sequences, but these data are single examples: ask for an mlp."
        if self.tied and examples != "text":
            return "`tied` is for text, where outputs are the tokens that are read: leave it out."
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The transformer of this spec. Raises SpecError unless the data are sequences."""
        from bimt_engine.networks.network import Network

        if sentence := self.misfit(data.examples):
            raise SpecError(sentence)
        if self.tied and data.inputs != data.targets:
            raise SpecError(f"`tied` needs as many classes as tokens, but there are {data.targets} and {data.inputs}.")
        width, blocks = self.width, range(self.blocks)
        parameters: dict[str, Tensor] = {}

        def affine(name: str, rows: int, columns: int) -> None:
            parameters[f"{name}.weight"] = draw.uniform(rows, columns, fan_in=columns)
            parameters[f"{name}.bias"] = draw.uniform(rows, fan_in=columns)

        if not self.tied:
            affine("read_in", width, data.inputs)
        if data.is_text and not self.tied:  # a token's vector has entries of about ±1/√width, as the stream's other terms have
            parameters["read_in.weight"] = draw.uniform(width, data.inputs, fan_in=width)
        for name, rows, columns in (
            ("attend", QKV * width, width),
            ("gather", width, width),
            ("expand", MLP_WIDTH * width, width),
            ("contract", width, MLP_WIDTH * width),
        ):
            for block in blocks:
                affine(f"{name}.{block}", rows, columns)
        affine("read_out", data.targets, width)
        if self.layer_norm:
            for number in range(2 * self.blocks + 1):
                parameters[f"norms.{number}.weight"] = draw.full(width, value=1.0)
                if self.norm == "layer":
                    parameters[f"norms.{number}.bias"] = draw.full(width, value=0.0)
        if self.positions:
            parameters["positions"] = draw.uniform(data.steps, width, fan_in=width)
        norm_parts = {"layer": ("weight", "bias"), "rms": ("weight",)}[self.norm] if self.layer_norm else ()
        wiring = transformer_wiring(
            data.inputs,
            data.targets,
            width,
            self.blocks,
            self.heads,
            norm_parts=norm_parts,
            positions=self.positions,
            tied=self.tied,
        )
        return Network(self, wiring, parameters)

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """The stream is tapped whenever it has changed: a hook holds all along, what is recorded is its last state."""
        from torch.nn.functional import layer_norm, rms_norm

        from bimt_engine.networks.network import ACTIVATIONS

        act = ACTIVATIONS[self.activation]

        def normed(stream: Tensor, number: int) -> Tensor:
            if not self.layer_norm:
                return stream
            norm = network.norms[number]
            if self.norm == "rms":
                return rms_norm(stream, (self.width,), weight=norm.weight, eps=NORM_EPSILON)
            return layer_norm(stream, (self.width,), weight=norm.weight, bias=norm.bias, eps=NORM_EPSILON)

        residual = STREAM[self.tied]
        if self.tied:
            stream = network.read_out.weight[network.output_order.argsort()[x]]
        elif x.is_floating_point() or tap.hook is not None or tap.activations is not None:
            here = x if x.is_floating_point() else _one_hot(network, x)
            stream = _affine(network.read_in, tap("input", network.permute_inputs(here)))
        else:  # the same numbers, without the rows of zeros and ones
            stream = network.read_in.weight.t()[network.input_order.argsort()[x]] + network.read_in.bias
        if self.positions:
            stream = stream + network.positions[: x.shape[1]]
        stream = tap(residual, stream)
        for block in range(self.blocks):
            mixed = attention(_affine(network.attend[block], normed(stream, 2 * block)), self.heads)
            mixed = tap(f"attention{block + 1}", mixed)
            stream = tap(residual, stream + _affine(network.gather[block], mixed))
            hidden = act(_affine(network.expand[block], normed(stream, 2 * block + 1)))
            hidden = tap(f"hidden{block + 1}", hidden)
            stream = tap(residual, stream + _affine(network.contract[block], hidden))
        outputs = _affine(network.read_out, normed(stream, 2 * self.blocks))
        return network.permute_outputs(tap("output", outputs))


def _one_hot(network: Network, x: Tensor) -> Tensor:
    from torch.nn.functional import one_hot

    weight = network.read_in.weight
    return one_hot(x, weight.shape[1]).to(weight.dtype)


def _affine(part: ParameterGroup, x: Tensor) -> Tensor:
    from torch.nn.functional import linear

    return linear(x, part.weight, part.bias)


def attention(rows: Float[Tensor, "batch time qkv"], heads: int) -> Float[Tensor, "batch time width"]:
    """What the heads read, side by side: causal, scores divided by the root of a head's width.

    rows   queries, keys and values of all heads, one width after another.
    """
    import torch

    batch, time, size = rows.shape[0], rows.shape[1], rows.shape[2] // (QKV * heads)
    query, key, value = rows.view(batch, time, QKV, heads, size).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(size)
    future = torch.ones(time, time, dtype=torch.bool, device=rows.device).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, time, heads * size)


def transformer_wiring(
    inputs: int,
    outputs: int,
    width: int,
    blocks: int,
    heads: int,
    *,
    norm_parts: Sequence[str] = (),
    positions: bool = False,
    tied: bool = False,
) -> Wiring:
    """Every layer on a line of length 1; the residual stream is one layer that all blocks read and write.

    norm_parts   the parameters of each norm; (): there are no norms.
    tied         the stream is the input layer, and nothing reads into it: tokens are looked up in the read-out.
    """
    from bimt_engine.networks.geometry import line

    def layer(name: str, neurons: int, *ports: Port, blocks: int = 1, mixes: bool = False) -> NeuronLayer:
        return NeuronLayer(name, line(neurons), ports, blocks=blocks, axis=2, samples=(1,), mixes=mixes)

    stream = STREAM[tied]
    residual = [] if tied else [Port("read_in.weight", 0), Port("read_in.bias", 0)]
    inner: list[NeuronLayer] = []
    weights = [] if tied else [WeightLayer("read_in.weight", "input", stream, bias="read_in.bias")]
    for block in range(blocks):
        attention, hidden = f"attention{block + 1}", f"hidden{block + 1}"
        attend, gather, expand, contract = (f"{name}.{block}" for name in ("attend", "gather", "expand", "contract"))
        residual += [Port(f"{attend}.weight", 1), Port(f"{gather}.weight", 0), Port(f"{gather}.bias", 0)]
        residual += [Port(f"{expand}.weight", 1), Port(f"{contract}.weight", 0), Port(f"{contract}.bias", 0)]
        ports = (Port(f"{attend}.weight", 0, QKV), Port(f"{attend}.bias", 0, QKV), Port(f"{gather}.weight", 1))
        inner.append(layer(attention, width, *ports, blocks=heads, mixes=True))
        ports = (Port(f"{expand}.weight", 0), Port(f"{expand}.bias", 0), Port(f"{contract}.weight", 1))
        inner.append(layer(hidden, MLP_WIDTH * width, *ports))
        weights += [
            WeightLayer(f"{attend}.weight", stream, attention, target_fold=QKV, bias=f"{attend}.bias", roles=ROLES),
            WeightLayer(f"{gather}.weight", attention, stream, bias=f"{gather}.bias"),
            WeightLayer(f"{expand}.weight", stream, hidden, bias=f"{expand}.bias"),
            WeightLayer(f"{contract}.weight", hidden, stream, bias=f"{contract}.bias"),
        ]
    norms = range(2 * blocks + 1)
    residual += [Port(f"norms.{number}.{part}", 0) for number in norms for part in norm_parts]
    if positions:
        residual.append(Port("positions", 1))
    residual.append(Port("read_out.weight", 1))
    weights.append(WeightLayer("read_out.weight", stream, "output", bias="read_out.bias"))
    ends = [] if tied else [layer("input", inputs, Port("read_in.weight", 1))]
    return Wiring(
        (
            *ends,
            layer(stream, width, *residual),
            *inner,
            layer("output", outputs, Port("read_out.weight", 0), Port("read_out.bias", 0)),
        ),
        tuple(weights),
        offsets=("positions",) if positions else (),
    )
