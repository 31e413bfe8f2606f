"""A convolutional network for images: convolution, batch norm, residual connection, pooling. Not in the paper.

For each stage s, on images (batch, channels, rows, columns):

    stream = σ(norm(enter.s ∗ x)),  stream ← stream + norm(back.s ∗ σ(norm(inner.s ∗ stream))),  x = pool(stream)

and at the end y = read_out · flatten(x) + bias. The channel is the neuron; its pixels are samples of it. A kernel is
kept as a matrix with one column for each tap and source channel (column `tap · channels + channel`), so that its taps
are source copies: a connection between two channels is one, which costs the sum of |w| over its taps. Flattening makes
copies as well, one of the channels for each pixel. The stream of a stage is one neuron layer that two convolutions
write.

Batch norm divides a channel by its own spread, so the cost can shrink the kernels before it without end: it decides
which connections stay, not how large they are. Gains and running statistics follow the channel when it moves.

Parameters: NAME.s.weight and NAME.s.bias for enter, inner and back; with batch norm also .gain, and the running
statistics .mean and .variance, which take no gradient; read_out.weight, read_out.bias.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.errors import SpecError
from bimt_engine.networks.architecture import (
    Activation,
    Architecture,
    Draw,
    Float,
    Geometry,
    Network,
    ParameterGroup,
    Tap,
    Tensor,
    Width,
)
from bimt_engine.networks.wiring import NeuronLayer, Port, WeightLayer, Wiring

PIXELS = (2, 3)  # axes of every activation but the last
MOMENTUM = 0.1  # of the running statistics, as in `nn.BatchNorm2d`
EPSILON = 1e-5  # the same
STATISTICS = {"mean": 0.0, "variance": 1.0}
POOLED = 2  # pixels on a side that become one


class ConvNetwork(Architecture):
    """A convolutional network for square images: stages of convolution, batch norm, residual connection and pooling."""

    kind: Literal["conv"] = "conv"
    channels: list[Width] = Field(default=[8, 16], min_length=1, max_length=8, description="Channels of each stage.")
    kernel: int = Field(default=3, ge=1, le=9, description="Taps on a side; odd.")
    residual: bool = Field(default=True, description="Two more convolutions in each stage, added to its stream.")
    batch_norm: bool = True
    pooling: Literal["max", "mean"] = "max"
    activation: Activation = "relu"
    geometry: Geometry = Field(default="line", description="Where the channels lie.")
    colours: int = Field(default=1, ge=1, le=64, description="Channels of the image; the data hold one after another.")

    @field_validator("kernel")
    @classmethod
    def _kernel_has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"`kernel` ({kernel}) must be odd, so that an image keeps its size.")
        return kernel

    def misfit(self, examples: Examples) -> str:
        """Pixels alone; whether they are square shows in their number."""
        if examples != "numbers":
            return "A `conv` network reads square images, which these data are not: ask for another network."
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """The convolutional network of this spec. Raises SpecError unless the inputs are square images."""
        from bimt_engine.networks.network import Network

        size = self.image_size(data)
        taps, width = self.kernel**2, self.colours
        parameters: dict[str, Tensor] = {}

        def convolution(name: str, rows: int, columns: int) -> None:
            parameters[f"{name}.weight"] = draw.uniform(rows, taps * columns, fan_in=taps * columns)
            parameters[f"{name}.bias"] = draw.uniform(rows, fan_in=taps * columns)
            if self.batch_norm:
                parameters[f"{name}.bias"].zero_()  # what shifts the normed channel
                parameters[f"{name}.gain"] = draw.full(rows, value=1.0)
                for statistic, start in STATISTICS.items():
                    parameters[f"{name}.{statistic}"] = draw.full(rows, value=start)

        for stage, channels in enumerate(self.channels):
            convolution(f"enter.{stage}", channels, width)
            if self.residual:
                convolution(f"inner.{stage}", channels, channels)
                convolution(f"back.{stage}", channels, channels)
            width, size = channels, pooled(size)
        parameters["read_out.weight"] = draw.uniform(data.targets, width * size**2, fan_in=width * size**2)
        parameters["read_out.bias"] = draw.uniform(data.targets, fan_in=width * size**2)
        return Network(self, conv_wiring(self, data.targets, pixels=size**2), parameters)

    def image_size(self, data: Dataset) -> int:
        """Pixels on a side of the data's images. Raises SpecError where they are none."""
        size = math.isqrt(data.inputs // self.colours)
        if data.is_sequence or data.tokens is not None or size**2 * self.colours != data.inputs:
            raise SpecError(
                f"A `conv` network reads square images of {self.colours} colours, but an example here is "
                f"{data.inputs} inputs of another kind: ask for another network, or set `colours`."
            )
        return size

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """Stage after stage; the stream is tapped before and after its residual part."""
        from torch.nn import functional

        from bimt_engine.networks.network import ACTIVATIONS

        act = ACTIVATIONS[self.activation]
        pool = functional.max_pool2d if self.pooling == "max" else functional.avg_pool2d
        size = math.isqrt(x.shape[-1] // self.colours)
        image = x.reshape(x.shape[0], self.colours, size, size)
        here = tap("input", image.index_select(1, network.input_order))
        for stage in range(len(self.channels)):
            stream = tap(f"stage{stage + 1}", act(self._convolved(network.enter[stage], here, network.training)))
            if self.residual:
                inner = act(self._convolved(network.inner[stage], stream, network.training))
                inner = tap(f"block{stage + 1}", inner)
                stream = stream + self._convolved(network.back[stage], inner, network.training)
                stream = tap(f"stage{stage + 1}", stream)
            size = pooled(size)
            here = pool(stream, POOLED) if size < stream.shape[-1] else stream
        pixels = here.permute(0, 2, 3, 1).flatten(1)
        outputs = functional.linear(pixels, network.read_out.weight, network.read_out.bias)
        return network.permute_outputs(tap("output", outputs))

    def _convolved(
        self, part: ParameterGroup, image: Float[Tensor, "batch source rows columns"], training: bool
    ) -> Float[Tensor, "batch target rows columns"]:
        """One convolution with its norm; the image keeps its size."""
        from torch.nn import functional

        kernel = part.weight.view(-1, self.kernel, self.kernel, image.shape[1]).permute(0, 3, 1, 2)
        if not self.batch_norm:
            return functional.conv2d(image, kernel, part.bias, padding=self.kernel // 2)
        made = functional.conv2d(image, kernel, padding=self.kernel // 2)
        return functional.batch_norm(made, part.mean, part.variance, part.gain, part.bias, training, MOMENTUM, EPSILON)


def pooled(size: int) -> int:
    """Pixels on a side after pooling; an image of one pixel stays as it is."""
    return max(1, size // POOLED)


def conv_wiring(spec: ConvNetwork, targets: int, *, pixels: int) -> Wiring:
    """input → stage1 (⟲ through block1) → stage2 … → output.

    pixels   of each channel where the last stage is flattened.
    """
    from bimt_engine.networks.geometry import place_layers

    taps = spec.kernel**2
    entered = [*(f"enter.{stage}" for stage in range(len(spec.channels))), "read_out"]
    copies = [taps] * len(spec.channels) + [pixels]
    places = place_layers([spec.colours, *spec.channels, targets], [spec.geometry] * (len(spec.channels) + 2))

    def written(name: str) -> list[Port]:
        parts = ["weight", "bias", "gain"] if spec.batch_norm and name != "read_out" else ["weight", "bias"]
        ports = [Port(f"{name}.{part}", 0) for part in parts]
        if "gain" in parts:
            ports += [Port(f"{name}.{statistic}", 0, buffer=True) for statistic in STATISTICS]
        return ports

    # The colours stay where the data have them.
    layers = [
        NeuronLayer("input", places[0], (Port("enter.0.weight", 1, taps),), movable=False, samples=PIXELS),
    ]
    weights = [WeightLayer("enter.0.weight", "input", "stage1", source_copies=taps, bias="enter.0.bias")]
    for stage in range(len(spec.channels)):
        stream, block = f"stage{stage + 1}", f"block{stage + 1}"
        onward = f"{entered[stage + 1]}.weight"
        ports = [*written(entered[stage]), Port(onward, 1, copies[stage + 1])]
        if spec.residual:
            inner, back = f"inner.{stage}", f"back.{stage}"
            ports += [Port(f"{inner}.weight", 1, taps), *written(back)]
            within = (*written(inner), Port(f"{back}.weight", 1, taps))
            layers.append(NeuronLayer(stream, places[stage + 1], tuple(ports), samples=PIXELS))
            layers.append(NeuronLayer(block, places[stage + 1], within, samples=PIXELS))
            weights.append(WeightLayer(f"{inner}.weight", stream, block, source_copies=taps, bias=f"{inner}.bias"))
            weights.append(WeightLayer(f"{back}.weight", block, stream, source_copies=taps, bias=f"{back}.bias"))
        else:
            layers.append(NeuronLayer(stream, places[stage + 1], tuple(ports), samples=PIXELS))
        after = f"stage{stage + 2}" if stage + 1 < len(spec.channels) else "output"
        bias = f"{entered[stage + 1]}.bias"
        weights.append(WeightLayer(onward, stream, after, source_copies=copies[stage + 1], bias=bias))
    layers.append(NeuronLayer("output", places[-1], tuple(written("read_out")), activation="identity"))
    return Wiring(tuple(layers), tuple(weights))
