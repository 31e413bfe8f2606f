"""A causal transformer whose residual stream is one neuron layer with many ports.

    x ← x + attention(x), x ← x + mlp(x), block after block

The published network has neither positions nor norms, and its data need none. (arXiv 2305.08746, section 3.4)

Neuron layers: input, residual, then attention{b} and hidden{b} of each block, output; every activation is (batch, time,
neurons). Parameters: read_in, attend.{b} (query, key, value), gather.{b} (out of the heads), expand.{b}, contract.{b},
read_out, each with `.weight` and, with biases, `.bias`; with layer_norm also norms.{0…2·blocks}; with learnt positions
`positions`, (time, width), which is added to the stream. Norms are not applied otherwise.

Of text each token is a neuron of the input layer, 1 where it stands and 0 elsewhere: column t of `read_in.weight` is
the vector of token t, looked up rather than multiplied. So a token's vector is made of connections, which are priced,
pruned and drawn like all others.

Tied, the read-out is the token embedding transposed: one tensor, `read_out.weight`, (tokens, width), counted once, as
the connections of the read-out, and whose rows are looked up as the tokens' vectors. Then there is no read-in, and the
stream itself is the input layer, as that of any network with an embedding: its neurons are dimensions of tokens. (Press
& Wolf, arXiv 1608.05859)

With fewer heads of keys and values than of queries, so many query heads share one: they are copies of one neuron, as
rows of `attend` (query after query, then key and value, each of all shared heads) and as columns of `gather`. With
rotary positions the pairs of a head's queries and keys stay together, so that only whole heads are exchanged. Gated, a
hidden neuron has two rows of `expand`, and is act(gate) · up. (Llama: arXiv 2302.13971; grouped queries: 2305.13245)
"""

from __future__ import annotations

import math
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
    Width,
)
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring

ROLES = ("query", "key", "value")  # rows of one neuron that lie in one matrix, a layer's width apart
QKV = len(ROLES)
MLP_WIDTH = 4  # hidden neurons per residual neuron
NORM_EPSILON = 1e-5  # as in `nn.LayerNorm`
GATES = ("gate", "up")  # rows of one hidden neuron, where it is gated
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
        description="For text: the read-out is the token embedding transposed, one tensor whose cost counts once.",
    )
    rotary: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        exclude_if=lambda rotary: rotary is None,
        description="Base of rotary positions, by which queries and keys are turned; null: none.",
    )
    key_value_heads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        exclude_if=lambda heads: heads is None,
        description="Heads of keys and values, each shared by equally many heads of queries; null: as many as `heads`.",
    )
    gated: bool = Field(
        default=False, exclude_if=lambda gated: not gated, description="Hidden neurons are activation(gate) · up."
    )
    hidden: Width | None = Field(
        default=None, exclude_if=lambda hidden: hidden is None, description="Hidden neurons; null: four times `width`."
    )
    biases: bool = Field(default=True, exclude_if=lambda biases: biases, description="False: weights alone.")
    norm_epsilon: float = Field(
        default=NORM_EPSILON,
        gt=0,
        le=1e-2,
        exclude_if=lambda epsilon: epsilon == NORM_EPSILON,
        description="What is added to the variance, or mean square, that a norm divides by.",
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TransformerNetwork:
        if self.width % self.heads:
            raise ValueError(f"`heads` ({self.heads}) must divide `width` ({self.width}).")
        if self.heads % self.shared_heads:
            raise ValueError(f"`key_value_heads` ({self.shared_heads}) must divide `heads` ({self.heads}).")
        if self.rotary is not None and self.head_size % 2:
            raise ValueError(
                f"`rotary` turns pairs, but a head has {self.head_size} neurons: an even number is needed."
            )
        return self

    @property
    def shared_heads(self) -> int:
        """Heads of keys and values."""
        return self.key_value_heads or self.heads

    @property
    def head_size(self) -> int:
        """Neurons of one head."""
        return self.width // self.heads

    @property
    def queries(self) -> int:
        """Heads of queries for each head of keys and values."""
        return self.heads // self.shared_heads

    @property
    def hidden_width(self) -> int:
        """Hidden neurons of a block."""
        return self.hidden or MLP_WIDTH * self.width

    @property
    def norm_parts(self) -> tuple[str, ...]:
        """The parameters of each norm; (): there are no norms."""
        return {"layer": ("weight", "bias"), "rms": ("weight",)}[self.norm] if self.layer_norm else ()

    @property
    def as_published(self) -> bool:
        """Whether it computes what the published network does: no norms, no positions, nothing of later ones."""
        later = self.tied or self.gated or self.rotary is not None or not self.biases or self.queries > 1
        return not (later or self.layer_norm or self.positions or self.hidden or self.norm_epsilon != NORM_EPSILON)

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
            if self.biases:
                parameters[f"{name}.bias"] = draw.uniform(rows, fan_in=columns)

        if not self.tied:
            affine("read_in", width, data.inputs)
        if (
            data.is_text and not self.tied
        ):  # a token's vector has entries of about ±1/√width, as the stream's other terms have
            parameters["read_in.weight"] = draw.uniform(width, data.inputs, fan_in=width)
        for name, rows, columns in (
            ("attend", (self.queries + 2) * self.shared_heads * self.head_size, width),
            ("gather", width, width),
            ("expand", self.hidden_width * (len(GATES) if self.gated else 1), width),
            ("contract", width, self.hidden_width),
        ):
            for block in blocks:
                affine(f"{name}.{block}", rows, columns)
        affine("read_out", data.targets, width)
        if self.layer_norm:
            for number in range(2 * self.blocks + 1):
                for part in self.norm_parts:
                    parameters[f"norms.{number}.{part}"] = draw.full(width, value=float(part == "weight"))
        if self.positions:
            parameters["positions"] = draw.uniform(data.steps, width, fan_in=width)
        wiring = transformer_wiring(self, data.inputs, data.targets)
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
                return rms_norm(stream, (self.width,), weight=norm.weight, eps=self.norm_epsilon)
            return layer_norm(stream, (self.width,), weight=norm.weight, bias=norm.bias, eps=self.norm_epsilon)

        residual = STREAM[self.tied]
        if self.tied:
            stream = network.read_out.weight[network.output_order.argsort()[x]]
        elif x.is_floating_point() or tap.hook is not None or tap.activations is not None:
            here = x if x.is_floating_point() else _one_hot(network, x)
            stream = _affine(network.read_in, tap("input", network.permute_inputs(here)))
        else:  # the same numbers, without the rows of zeros and ones
            stream = network.read_in.weight.t()[network.input_order.argsort()[x]]
            stream = stream + network.read_in.bias if self.biases else stream
        if self.positions:
            stream = stream + network.positions[: x.shape[1]]
        stream = tap(residual, stream)
        for block in range(self.blocks):
            mixed = self._mixed(_affine(network.attend[block], normed(stream, 2 * block)))
            mixed = tap(f"attention{block + 1}", mixed)
            mixed = mixed.flatten(2) if self.queries > 1 else mixed
            stream = tap(residual, stream + _affine(network.gather[block], mixed))
            rows = _affine(network.expand[block], normed(stream, 2 * block + 1))
            if self.gated:
                gate, up = rows.chunk(len(GATES), -1)
                hidden = act(gate) * up
            else:
                hidden = act(rows)
            hidden = tap(f"hidden{block + 1}", hidden)
            stream = tap(residual, stream + _affine(network.contract[block], hidden))
        outputs = _affine(network.read_out, normed(stream, 2 * self.blocks))
        return network.permute_outputs(tap("output", outputs))

    def _mixed(self, rows: Float[Tensor, "batch time rows"]) -> Float[Tensor, "batch time ..."]:
        """What the heads read: (batch, time, width), or where query heads share, (batch, time, queries, neurons)."""
        if self.queries == 1 and self.rotary is None:
            return attention(rows, self.heads)
        mixed = shared_attention(rows, self.queries, self.shared_heads, self.rotary)
        return mixed if self.queries > 1 else mixed.flatten(2)


def _one_hot(network: Network, x: Tensor) -> Tensor:
    from torch.nn.functional import one_hot

    weight = network.read_in.weight
    return one_hot(x, weight.shape[1]).to(weight.dtype)


def _affine(part: ParameterGroup, x: Tensor) -> Tensor:
    from torch.nn.functional import linear

    return linear(x, part.weight, part.bias if "bias" in part._parameters else None)


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


def shared_attention(
    rows: Float[Tensor, "batch time rows"], queries: int, heads: int, rotary: float | None
) -> Float[Tensor, "batch time queries neurons"]:
    """The same where several heads of queries share one of keys and values, and positions may be rotary.

    rows   queries, one set of all shared heads after another, then keys, then values.
    """
    import torch

    batch, time, size = rows.shape[0], rows.shape[1], rows.shape[2] // ((queries + 2) * heads)
    apart = rows.view(batch, time, queries + 2, heads, size)
    query, key, value = (part.permute(0, 2, 3, 1, 4) for part in apart.split((queries, 1, 1), dim=2))
    if rotary is not None:
        query, key = _turned(query, rotary), _turned(key, rotary)
    scores = query @ key.transpose(-2, -1) / math.sqrt(size)
    future = torch.ones(time, time, dtype=torch.bool, device=rows.device).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return (weights @ value).permute(0, 3, 1, 2, 4).reshape(batch, time, queries, heads * size)


def _turned(x: Float[Tensor, "*many time size"], base: float) -> Float[Tensor, "*many time size"]:
    """Each pair (i, i + size/2) turned by time · base^(-2i/size). (RoFormer: arXiv 2104.09864; halves as in Llama)"""
    import torch

    time, size = x.shape[-2], x.shape[-1]
    pairs = torch.arange(0, size, 2, dtype=torch.float64, device=x.device)
    angle = torch.arange(time, dtype=torch.float64, device=x.device)[:, None] * base ** (-pairs / size)
    angle = torch.cat((angle, angle), -1)
    first, second = x.chunk(2, -1)
    return x * angle.cos().to(x.dtype) + torch.cat((-second, first), -1) * angle.sin().to(x.dtype)


def transformer_wiring(spec: TransformerNetwork, inputs: int, outputs: int) -> Wiring:
    """Every layer on a line of length 1; the residual stream is one layer that all blocks read and write.

    Tied, the stream is the input layer, and nothing reads into it: tokens are looked up in the read-out.
    """
    from bimt_engine.networks.geometry import line

    queries, gates = spec.queries, GATES if spec.gated else ()
    roles = ROLES if queries == 1 else (*(f"query{number + 1}" for number in range(queries)), *ROLES[1:])
    stream = STREAM[spec.tied]
    ports: dict[str, list[Port]] = {}  # neuron layer -> what runs along it
    weights: list[WeightLayer] = []

    def affine(name: str, source: str, target: str, *, copies: int = 1, roles: tuple[str, ...] = ()) -> None:
        target_copies = len(roles) or 1
        bias = f"{name}.bias" if spec.biases else None
        ports.setdefault(target, []).append(Port(f"{name}.weight", 0, target_copies))
        ports[target] += [Port(bias, 0, target_copies)] if bias is not None else []
        ports.setdefault(source, []).append(Port(f"{name}.weight", 1, copies))
        weights.append(WeightLayer(f"{name}.weight", source, target, copies, target_copies, bias=bias, roles=roles))

    if not spec.tied:
        affine("read_in", "input", stream)
    for block in range(spec.blocks):
        attention, hidden = f"attention{block + 1}", f"hidden{block + 1}"
        affine(f"attend.{block}", stream, attention, roles=roles)
        affine(f"gather.{block}", attention, stream, copies=queries)
        affine(f"expand.{block}", stream, hidden, roles=gates)
        affine(f"contract.{block}", hidden, stream)
    norms = range(2 * spec.blocks + 1)
    ports[stream] += [Port(f"norms.{number}.{part}", 0) for number in norms for part in spec.norm_parts]
    if spec.positions:
        ports[stream].append(Port("positions", 1))
    affine("read_out", stream, "output")

    def layer(name: str, neurons: int) -> NeuronLayer:
        if not name.startswith("attention"):
            return NeuronLayer(name, line(neurons), tuple(ports[name]), axis=2, samples=(1,))
        return NeuronLayer(
            name,
            line(neurons),
            tuple(ports[name]),
            blocks=spec.shared_heads,
            axis=2 if queries == 1 else 3,
            samples=(1,) if queries == 1 else (1, 2),
            mixes=True,
            moves="all" if spec.rotary is None else "blocks",
        )

    inner = []
    for block in range(spec.blocks):
        inner.append(layer(f"attention{block + 1}", spec.shared_heads * spec.head_size))
        inner.append(layer(f"hidden{block + 1}", spec.hidden_width))
    ends = [] if spec.tied else [layer("input", inputs)]
    return Wiring(
        (*ends, layer(stream, spec.width), *inner, layer("output", outputs)),
        tuple(weights),
        offsets=("positions",) if spec.positions else (),
    )
