"""A weights file as a torch module with the same outputs as the service's. Only this module needs torch.

The file is a safetensors file; its metadata says what the network is, `FORWARD` computes each kind. Nothing of the
training is here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .columns import inputs_of
from .errors import NotInstalled, WeightsError
from .resource import install_hint

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise NotInstalled(f"bimt.networks needs {error.name}: {install_hint('torch')}", name=error.name) from None

if TYPE_CHECKING:
    import pandas

FORMAT = "bimt-network/1"
STATISTICS = (".mean", ".variance")  # ends of the names of running statistics, which take no gradient
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class LoadedNetwork(nn.Module):
    """A network of the service.

        network(x)         what the network computes, in the units it was trained in; for sequences, at every step
        network.predict(x) what the service predicts, from and to the units of the data: inputs are standardised,
                           outputs scaled back; for sequences, the predicted steps

    feature_names, target_names   in the order of columns of x and of what comes out; for a classifier the classes
    column_names                  of the table that `predict` takes rows of; the feature names where each is a column
    masks                         parameter → which of its entries were kept
    spec, seed                    how it was trained
    Parameters have the names of the file; the module can be trained, moved and saved like any other.
    """

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        super().__init__()
        self.spec: dict[str, Any] = metadata["spec"]
        self.seed: int = metadata["seed"]
        self.data: dict[str, Any] = metadata["data"]
        self.kind: str = self.spec["network"]["kind"]
        if self.kind not in FORWARD:
            raise WeightsError(f"This client knows no `{self.kind}` network; a newer one may.")
        self.feature_names: list[str] = list(self.data["feature_names"])  # pandas takes a tuple for one key
        self.target_names: list[str] = list(self.data["target_names"])
        encoding = self.data.get("encoding")
        self.column_names = [column["name"] for column in encoding] if encoding else self.feature_names
        self.masks = {name.removeprefix("mask."): kept for name, kept in tensors.items() if name.startswith("mask.")}
        # Training may have moved outputs to other slots, and inputs too unless they are tokens.
        self.register_buffer("input_order", tensors["order.input"])
        self.register_buffer("output_places", torch.argsort(tensors["order.output"]))
        for name in self.masks:
            _put(self, name, nn.Parameter(tensors[name], requires_grad=not name.endswith(STATISTICS)))
        for part, scaling in (("input", self.data["input_scaling"]), ("target", self.data["target_scaling"])):
            for name in ("mean", "std"):
                value = torch.tensor(scaling[name], dtype=torch.float64) if scaling else None
                self.register_buffer(f"{part}_{name}", value)

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """The activation function of the spec."""
        return ACTIVATIONS[self.spec["network"]["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of `target_names`; inputs in the order of `feature_names`, standardised if they were."""
        if x.is_floating_point():
            x = x.to(self.get_parameter(next(iter(self.masks))).dtype)
        return FORWARD[self.kind](self, x).index_select(-1, self.get_buffer("output_places"))

    @torch.no_grad()
    def predict(self, x: Tensor | Sequence[Any] | pandas.DataFrame) -> Tensor:
        """What the service would predict for these rows, as they stand in the data.

        x   columns in the order of `column_names`; those of a data frame are found by name. For a table that has
            categories, dates or gaps, rows of cells as they stand in the file
        Regression: values of the targets. Classification: the probability of every class. For sequences, the predicted
        steps only: (rows, steps, targets).
        """
        given: Any = x
        if hasattr(given, "columns"):
            given = given[self.column_names].to_numpy()
        if self.data.get("encoding"):
            given = inputs_of(self.data["encoding"], given.tolist() if hasattr(given, "tolist") else given)
        kind = torch.float64 if self.data["tokens"] is None else torch.int64
        rows = given.to(kind) if isinstance(given, Tensor) else torch.tensor(given, dtype=kind)
        if self.data["input_scaling"]:
            rows = (rows - self.get_buffer("input_mean")) / self.get_buffer("input_std")
        return self._in_data_units(self(rows))

    def _in_data_units(self, outputs: Tensor) -> Tensor:
        """Outputs in the units of the data, classes as probabilities, at the predicted steps."""
        if self.data["predicted_positions"] is not None:
            outputs = outputs[:, self.data["predicted_positions"]]
        if self.data["task"] == "classification":
            return outputs.softmax(-1)
        if self.data["target_scaling"]:
            outputs = outputs * self.get_buffer("target_std") + self.get_buffer("target_mean")
        at = 0
        for answer in self.data.get("answers") or ():  # a logarithm is undone; levels have an output each
            if answer.get("median") is not None:
                outputs[..., at] = (outputs[..., at].exp() - 1) * answer["median"]
            at += len(answer.get("levels") or [None])
        return outputs

    def permute_inputs(self, x: Tensor) -> Tensor:
        """Inputs in the order of the slots, given in the order of the data."""
        return x.index_select(-1, self.get_buffer("input_order"))

    def linear(self, x: Tensor, weight: str, bias: str | None) -> Tensor:
        """x Wᵀ + b, with the parameters of these names."""
        return functional.linear(x, self.get_parameter(weight), None if bias is None else self.get_parameter(bias))

    def affine(self, x: Tensor, name: str) -> Tensor:
        """The same with the parameters `NAME.weight` and `NAME.bias`."""
        return self.linear(x, f"{name}.weight", f"{name}.bias")


def load_network(content: bytes, *, trained: bool = False) -> LoadedNetwork:
    """The network of a weights file.

    trained   the network before pruning
    Raises WeightsError where the bytes are no such file.
    """
    tensors, metadata = read_weights(content)
    if trained:
        tensors |= {name.removeprefix("trained."): t for name, t in tensors.items() if name.startswith("trained.")}
    try:
        network = LoadedNetwork(tensors, metadata)
    except KeyError as missing:
        raise WeightsError(f"The file lacks {missing}, which its network needs.") from missing
    return network.eval()


def read_weights(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and the metadata of the service: `spec`, `seed`, `data`. Raises WeightsError."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise WeightsError(f"This is no safetensors file, or it is damaged ({error}): download it again.") from error
    # The library has checked the header; it gives the metadata of files on disk only.
    length = int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {}).get("bimt", "{}"))
    except ValueError as error:
        raise WeightsError(f"The metadata of the file is damaged ({error}): download it again.") from error
    found = metadata.get("format", "no format at all") if isinstance(metadata, dict) else "no format at all"
    if found != FORMAT:
        raise WeightsError(f"The file names {found}; this client reads {FORMAT}. A newer client may read it.")
    return tensors, metadata


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """The parameter under its dotted name: `attend.0.weight` is `weight` of `0` of `attend`."""
    *path, last = name.split(".")
    for step in path:
        if step not in module._modules:
            module.add_module(step, nn.Module())
        module = module.get_submodule(step)
    module.register_parameter(last, parameter)


# --- the forward pass of each kind ---------------------------------------------------------------------------


def _mlp(network: LoadedNetwork, x: Tensor) -> Tensor:
    """y = W_L(… σ(W_0 x + b_0) …) + b_L; the vectors of tokens are concatenated."""
    if network.data["tokens"] is not None:
        hidden = network.get_parameter("embedding")[x]
        if x.shape[-1] > 1:
            hidden = hidden.flatten(-2)
    else:
        hidden = network.permute_inputs(x)
    last = sum(name.startswith("weights.") for name in network.masks) - 1
    for number in range(last + 1):
        hidden = network.linear(hidden, f"weights.{number}", f"biases.{number}")
        if number < last:
            hidden = network.activation(hidden)
    return hidden


def _recurrent(network: LoadedNetwork, x: Tensor) -> Tensor:
    """h_t = σ(read_in x_t + recur h_{t-1} + bias), y_t = read_out h_t + bias, with h_0 = 0."""
    driven = network.linear(network.permute_inputs(x), "read_in", "hidden_bias")
    hidden = torch.zeros_like(driven[:, 0])
    states = []
    for time in range(x.shape[1]):
        hidden = network.activation(driven[:, time] + network.linear(hidden, "recur", None))
        states.append(hidden)
    return network.linear(torch.stack(states, dim=1), "read_out", "output_bias")


def _gru(network: LoadedNetwork, x: Tensor) -> Tensor:
    """As `nn.GRU` with one layer: reset, update and candidate rows, h_t = (1 - z) n + z h_{t-1}, with h_0 = 0."""
    driven = network.linear(network.permute_inputs(x), "read_in", "hidden_bias")
    hidden = torch.zeros_like(driven[:, 0].chunk(3, -1)[0])
    states = []
    for time in range(x.shape[1]):
        of_input = driven[:, time].chunk(3, -1)
        of_state = network.linear(hidden, "recur", "recur_bias").chunk(3, -1)
        reset, update = (torch.sigmoid(of_input[gate] + of_state[gate]) for gate in range(2))
        candidate = torch.tanh(of_input[2] + reset * of_state[2])
        hidden = (1 - update) * candidate + update * hidden
        states.append(hidden)
    return network.linear(torch.stack(states, dim=1), "read_out", "output_bias")


def _transformer(network: LoadedNetwork, x: Tensor) -> Tensor:
    """x ← x + attention(x), x ← x + mlp(x), block after block; tokens are looked up, learnt positions added."""
    spec = network.spec["network"]

    def normed(stream: Tensor, number: int) -> Tensor:
        if not spec["layer_norm"]:
            return stream
        weight = network.get_parameter(f"norms.{number}.weight")
        if spec.get("norm") == "rms":
            return functional.rms_norm(stream, weight.shape, weight, 1e-5)
        return functional.layer_norm(stream, weight.shape, weight, network.get_parameter(f"norms.{number}.bias"))

    if x.is_floating_point():
        stream = network.affine(network.permute_inputs(x), "read_in")
    else:
        table, places = network.get_parameter("read_in.weight").t(), torch.argsort(network.get_buffer("input_order"))
        stream = table[places[x]] + network.get_parameter("read_in.bias")
    if spec.get("positions"):
        stream = stream + network.get_parameter("positions")[: x.shape[1]]
    for block in range(spec["blocks"]):
        mixed = _attention(network.affine(normed(stream, 2 * block), f"attend.{block}"), spec["heads"])
        stream = stream + network.affine(mixed, f"gather.{block}")
        hidden = network.activation(network.affine(normed(stream, 2 * block + 1), f"expand.{block}"))
        stream = stream + network.affine(hidden, f"contract.{block}")
    return network.affine(normed(stream, 2 * spec["blocks"]), "read_out")


def _attention(rows: Tensor, heads: int) -> Tensor:
    """Causal attention, the heads concatenated. `rows` holds queries, keys and values, one width each."""
    batch, time, width = rows.shape[0], rows.shape[1], rows.shape[2] // 3
    query, key, value = rows.view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(width // heads)
    future = torch.ones(time, time, dtype=torch.bool, device=rows.device).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, time, width)


def _conv(network: LoadedNetwork, x: Tensor) -> Tensor:
    """Stages on square images: convolution, residual block, pooling; at the end y = read_out · flatten(x) + bias."""
    spec = network.spec["network"]
    pool = functional.max_pool2d if spec["pooling"] == "max" else functional.avg_pool2d
    size = math.isqrt(x.shape[-1] // spec["colours"])
    image = x.reshape(-1, spec["colours"], size, size).index_select(1, network.get_buffer("input_order"))
    for stage in range(len(spec["channels"])):
        stream = network.activation(_convolved(network, f"enter.{stage}", image))
        if spec["residual"]:
            inner = network.activation(_convolved(network, f"inner.{stage}", stream))
            stream = stream + _convolved(network, f"back.{stage}", inner)
        image = pool(stream, 2) if stream.shape[-1] > 1 else stream
    return network.affine(image.permute(0, 2, 3, 1).flatten(1), "read_out")


def _convolved(network: LoadedNetwork, name: str, image: Tensor) -> Tensor:
    """One convolution that keeps the size, with its batch norm. Column `tap · channels + channel` of the weight."""
    spec = network.spec["network"]
    taps = spec["kernel"]
    kernel = network.get_parameter(f"{name}.weight").view(-1, taps, taps, image.shape[1]).permute(0, 3, 1, 2)
    bias = network.get_parameter(f"{name}.bias")
    if not spec["batch_norm"]:
        return functional.conv2d(image, kernel, bias, padding=taps // 2)
    mean, variance, gain = (network.get_parameter(f"{name}.{part}") for part in ("mean", "variance", "gain"))
    convolved = functional.conv2d(image, kernel, padding=taps // 2)
    return functional.batch_norm(convolved, mean, variance, gain, bias, training=network.training)


FORWARD: dict[str, Callable[[LoadedNetwork, Tensor], Tensor]] = {
    "mlp": _mlp,
    "grid_mlp": _mlp,
    "recurrent": _recurrent,
    "gru": _gru,
    "transformer": _transformer,
    "conv": _conv,
}
