"""A downloaded network as a torch module that gives the service's own numbers. Only this file needs torch.

The file says what the network is; here stands how each kind computes, and nothing of how it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights_file import RawTensor, WeightsError, read_weights

if TYPE_CHECKING:
    import pandas

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
    "U8": torch.uint8,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class LoadedNetwork(nn.Module):
    """A network of the service.

        network(x)         what the network computes, in the units it was trained in; of sequences, at every step
        network.predict(x) what the service predicts, from and to the units of the data: inputs are standardised,
                           outputs scaled back; of sequences, the predicted steps

    feature_names, target_names   in the order of columns of x and of what comes out; for a classifier the classes
    masks                         parameter → which of its entries were kept
    spec, seed                    how it was trained
    The parameters have the names of the file, so `state_dict()` can be compared with it; all of torch applies.
    """

    def __init__(self, tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
        super().__init__()
        self.spec: dict[str, Any] = said["spec"]
        self.seed: int = said["seed"]
        self.data: dict[str, Any] = said["data"]
        self.kind: str = self.spec["network"]["kind"]
        if self.kind not in COMPUTE:
            raise WeightsError(f"This client knows no `{self.kind}` network; a newer one may.")
        self.feature_names: list[str] = list(self.data["feature_names"])  # lists: pandas takes a tuple for one key
        self.target_names: list[str] = list(self.data["target_names"])
        self.masks = {name.removeprefix("mask."): kept for name, kept in tensors.items() if name.startswith("mask.")}
        # The outputs sit in slots that training may have exchanged; so do the inputs, unless they are tokens.
        self.register_buffer("input_order", tensors["order.input"])
        self.register_buffer("output_places", torch.argsort(tensors["order.output"]))
        for name in self.masks:
            _put(self, name, nn.Parameter(tensors[name]))
        for part, scaling in (("input", self.data["input_scaling"]), ("target", self.data["target_scaling"])):
            for name in ("mean", "std"):
                value = torch.tensor(scaling[name], dtype=torch.float64) if scaling else None
                self.register_buffer(f"{part}_{name}", value)

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[self.spec["network"]["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in the order of `target_names`; inputs in the order of `feature_names`, standardised if they were."""
        if x.is_floating_point():
            x = x.to(self.get_parameter(next(iter(self.masks))).dtype)
        return COMPUTE[self.kind](self, x).index_select(-1, self.get_buffer("output_places"))

    @torch.no_grad()
    def predict(self, x: Tensor | Sequence[Any] | pandas.DataFrame) -> Tensor:
        """What the service would predict for these rows, as they stand in the data.

        x   columns in the order of `feature_names`; of a data frame they are found by their names
        Regression: values of the targets. Classification: the probability of every class. Of sequences, the predicted
        steps only: (rows, steps, targets).
        """
        given: Any = x
        if hasattr(given, "columns"):
            given = given[self.feature_names].to_numpy()
        kind = torch.float64 if self.data["tokens"] is None else torch.int64
        rows = given.to(kind) if isinstance(given, Tensor) else torch.tensor(given, dtype=kind)
        if self.data["input_scaling"]:
            rows = (rows - self.get_buffer("input_mean")) / self.get_buffer("input_std")
        return self._said(self(rows))

    def _said(self, outputs: Tensor) -> Tensor:
        """What the network computes, in the units of the data, at the steps that were to be predicted."""
        if self.data["predicted_positions"] is not None:
            outputs = outputs[:, self.data["predicted_positions"]]
        if self.data["task"] == "classification":
            return outputs.softmax(-1)
        if self.data["target_scaling"]:
            outputs = outputs * self.get_buffer("target_std") + self.get_buffer("target_mean")
        return outputs

    def enter(self, x: Tensor) -> Tensor:
        """Inputs in the order of the data, brought into that of the slots."""
        return x.index_select(-1, self.get_buffer("input_order"))

    def linear(self, x: Tensor, weight: str, bias: str | None) -> Tensor:
        return functional.linear(x, self.get_parameter(weight), None if bias is None else self.get_parameter(bias))

    def affine(self, x: Tensor, name: str) -> Tensor:
        return self.linear(x, f"{name}.weight", f"{name}.bias")


def load_network(content: bytes, *, trained: bool = False) -> LoadedNetwork:
    """The network of a weights file.

    trained   as training left it, before anything was pruned
    Raises WeightsError when the bytes are something else.
    """
    raw, said = read_weights(content)
    tensors = {name: _as_tensor(tensor) for name, tensor in raw.items()}
    if trained:
        tensors |= {name.removeprefix("trained."): t for name, t in tensors.items() if name.startswith("trained.")}
    try:
        network = LoadedNetwork(tensors, said)
    except KeyError as missing:
        raise WeightsError(f"The file lacks {missing}, which its network needs.") from missing
    return network.eval()


def _as_tensor(raw: RawTensor) -> Tensor:
    if not len(raw.data):
        return torch.empty(raw.shape, dtype=DTYPES[raw.dtype])
    return torch.frombuffer(bytearray(raw.data), dtype=DTYPES[raw.dtype]).reshape(raw.shape)


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """The parameter under its dotted name: `attend.0.weight` is `weight` of `0` of `attend`."""
    *path, last = name.split(".")
    for step in path:
        if step not in module._modules:
            module.add_module(step, nn.Module())
        module = module.get_submodule(step)
    module.register_parameter(last, parameter)


# --- what each kind computes ------------------------------------------------------------------------------


def _mlp(network: LoadedNetwork, x: Tensor) -> Tensor:
    """y = W_L(… σ(W_0 x + b_0) …) + b_L; token vectors lie side by side."""
    if network.data["tokens"] is not None:
        here = network.get_parameter("embedding")[x]
        if x.shape[-1] > 1:
            here = here.flatten(-2)
    else:
        here = network.enter(x)
    last = sum(name.startswith("weights.") for name in network.masks) - 1
    for number in range(last + 1):
        here = network.linear(here, f"weights.{number}", f"biases.{number}")
        if number < last:
            here = network.activation(here)
    return here


def _recurrent(network: LoadedNetwork, x: Tensor) -> Tensor:
    """h_t = σ(read_in x_t + recur h_{t-1} + bias), y_t = read_out h_t + bias, with h_0 = 0."""
    driven = network.linear(network.enter(x), "read_in", "hidden_bias")
    hidden = torch.zeros_like(driven[:, 0])
    states = []
    for time in range(x.shape[1]):
        hidden = network.activation(driven[:, time] + network.linear(hidden, "recur", None))
        states.append(hidden)
    return network.linear(torch.stack(states, dim=1), "read_out", "output_bias")


def _transformer(network: LoadedNetwork, x: Tensor) -> Tensor:
    """x ← x + attention(x), x ← x + mlp(x), block after block; no positional encoding."""
    spec = network.spec["network"]

    def normed(stream: Tensor, number: int) -> Tensor:
        if not spec["layer_norm"]:
            return stream
        weight, bias = (network.get_parameter(f"norms.{number}.{part}") for part in ("weight", "bias"))
        return functional.layer_norm(stream, weight.shape, weight, bias)

    stream = network.affine(network.enter(x), "read_in")
    for block in range(spec["blocks"]):
        mixed = _attention(network.affine(normed(stream, 2 * block), f"attend.{block}"), spec["heads"])
        stream = stream + network.affine(mixed, f"gather.{block}")
        hidden = network.activation(network.affine(normed(stream, 2 * block + 1), f"expand.{block}"))
        stream = stream + network.affine(hidden, f"contract.{block}")
    return network.affine(normed(stream, 2 * spec["blocks"]), "read_out")


def _attention(rows: Tensor, heads: int) -> Tensor:
    """What the heads read, side by side: causal. `rows` holds queries, keys and values, a width apart."""
    batch, time, width = rows.shape[0], rows.shape[1], rows.shape[2] // 3
    query, key, value = rows.view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(width // heads)
    future = torch.ones(time, time, dtype=torch.bool, device=rows.device).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, time, width)


COMPUTE: dict[str, Callable[[LoadedNetwork, Tensor], Tensor]] = {
    "mlp": _mlp,
    "grid_mlp": _mlp,
    "recurrent": _recurrent,
    "transformer": _transformer,
}
