"""An ONNX graph as a torch module: its weights are parameters, its operators those of one table.

    module = OnnxNetwork(read_onnx(content))
    module(x)                     # as a runtime computes it, to 1e-5
    module.onnx(content)          # the same file with the module's numbers

`forward` is a straight line of torch operations without a decision that depends on data, so torch.export reads it.
Sizes are computed as numbers beside the tensors, as the graph does it for a batch of free length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bimt_engine.networks.files.onnx_file import MAX_RANK, NetworkFileError, Node, OnnxGraph, with_parameters
from bimt_engine.networks.files.onnx_operators import OPERATORS, Call, Value

MAX_ACTIVATIONS = 100_000_000  # numbers of one activation of the trial
TRIAL_STEPS = 5  # of a sequence of free length

# Inputs of an operator that are trained where they are constant. Others, such as tables of cosines, stay as they are.
TRAINED_INPUTS = {
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Conv": (1, 2),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "Gather": (0,),
    "Add": (0, 1),
    "Mul": (0, 1),
}
RECURRENT = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}
# Where torch's gates stand among those of ONNX: GRU z r h → r z n, LSTM i o f c → i f c o.
GATES = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
THROUGH = {"Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast"}


class OnnxNetwork(nn.Module):
    """The network of an ONNX graph. Raises NetworkFileError where it cannot be computed as it stands.

    graph   from onnx_file.read_onnx

    Trained are constants in places of weights (TRAINED_INPUTS), of two numbers or more or of a declared initialiser,
    and every recurrent layer; the factor of a Mul only where it scales one axis. Statistics of a batch norm are
    buffers. Names keep letters and digits; all else becomes `_`.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        unknown = sorted(set(graph.operators) - set(OPERATORS) - set(RECURRENT))
        if unknown:
            names = ", ".join(f"`{name[:60]}`" for name in unknown[:5])
            raise NetworkFileError(f"The network uses operators that are not known here: {names}.")
        self.graph = graph
        self.called: dict[str, str] = {}  # names in the file → of parameters and buffers here
        self._names = {id(value): name for name, value in graph.constants.items()}  # the graph keeps the arrays
        self._recurrent: dict[int, str] = {}  # number of a node → name of its module here
        self._zero_states: frozenset[int] = frozenset()
        self._add_recurrent()
        self._add_tensors()
        self._float_kind = self._float_kind_now()
        self.output_shape: tuple[int | None, ...] = self._try()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for inputs of the shape that the file declares, any number of rows."""
        return self._run(x)[self.graph.output]  # type: ignore[return-value]

    def example(self, rows: int) -> Tensor:
        """Inputs of the right shape, the same ones every time: normal numbers, or tokens."""
        shape = [rows, *(TRIAL_STEPS if length is None else length for length in self.graph.shape[1:])]
        draw = np.random.default_rng(0)
        if self.graph.dtype.kind == "i":
            return torch.from_numpy(draw.integers((self.vocabulary() or 1), size=shape).astype(self.graph.dtype))
        return torch.from_numpy(draw.normal(size=shape).astype(self.graph.dtype))

    def onnx(self, content: bytes) -> bytes:
        """The file that this network was read from, with the parameters and statistics that it has now."""
        arrays = {name: self._tensor_called(name).detach().cpu().numpy() for name in self.called}
        for number, name in self._recurrent.items():
            arrays |= _recurrent_arrays(self.graph.nodes[number], getattr(self, name))
        arrays |= {name: arrays[name][..., 1:] - arrays[name][..., :1] for name in self.graph.doubled}
        constants = self.graph.constants
        changed = {name: one for name, one in arrays.items() if constants[name].dtype.kind == "f" and one.ndim}
        return with_parameters(content, changed)

    def header(self) -> dict[str, Any]:
        """What the header says of the file: operators, parameters, shapes. Plain data."""
        graph = self.graph
        names = [[name, list(value.shape)] for name, value in self.named_parameters()]
        return {
            "opset": graph.opset,
            "producer": graph.producer,
            "operators": graph.operators,
            "parameters": sum(value.numel() for value in self.parameters()),
            "tensors": names[:1000],
            "input": {"name": graph.input, "type": graph.dtype.name, "shape": list(graph.shape)},
            "output": {"name": graph.output, "shape": list(self.output_shape)},
            "notes": list(graph.notes),
        }

    def vocabulary(self) -> int | None:
        """How many tokens there are: rows of the smallest table that the input is looked up in. None: numbers."""
        if self.graph.dtype.kind != "i":
            return None
        names, rows = {self.graph.input}, []
        for node in self.graph.nodes:
            if node.operator in THROUGH and names & set(node.inputs):
                names |= set(node.outputs)
            elif node.operator == "Gather" and node.inputs[1] in names:
                found = self._constant(node.inputs[0])
                rows.append(1 if found is None or not found.ndim else found.shape[0])
        return min(rows, default=1)

    # --- building ---

    def _add_recurrent(self) -> None:
        used = [name for node in self.graph.nodes for name in node.inputs]
        for number, node in enumerate(self.graph.nodes):
            if node.operator in RECURRENT:
                weights = [name for name in node.inputs[1:4] if name]
                if any(name not in self.graph.constants or used.count(name) > 1 for name in weights):
                    raise NetworkFileError(
                        f"The weights of `{node.operator}` are computed or shared; export them as constants."
                    )
                self._recurrent[number] = f"{node.operator.lower()}_{number}"
                setattr(self, self._recurrent[number], _recurrent_module(node, self.graph.constants))

    def _add_tensors(self) -> None:
        trained = _trained(self.graph)
        recurrent = {name for number in self._recurrent for name in self.graph.nodes[number].inputs[1:4]}
        taken = set(dir(self))
        for name, array in self.graph.constants.items():
            if name in recurrent:
                continue
            mine = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:100] or "_"
            mine = mine if mine[0].isalpha() else f"p{mine}"
            while mine in taken or mine in self._parameters or mine in self._buffers:
                mine += "_"
            tensor = torch.from_numpy(array.copy())
            if name in trained:
                self.register_parameter(mine, nn.Parameter(tensor))
            else:
                self.register_buffer(mine, tensor)
            self.called[name] = mine

    def _constant(self, name: str) -> np.ndarray | None:
        for node in self.graph.nodes:
            if node.operator == "Identity" and name in node.outputs:
                name = node.inputs[0]
        return self.graph.constants.get(name)

    def _try(self) -> tuple[int | None, ...]:
        """The shape of the outputs, the batch first. Raises NetworkFileError where a trial does not work."""
        try:
            return self._trial()
        except NetworkFileError as error:
            if (rows := self.graph.fixed_rows) is None:
                raise
            hint = f"The file was exported for batches of {rows} rows; export it with a free batch axis."
            raise NetworkFileError(f"{error} {hint}") from None

    def _trial(self) -> tuple[int | None, ...]:
        training = self.training
        self.eval()
        with torch.no_grad():
            self._zero_states = self._find_zero_states()
            x = self.example(3)
            values = self._run(x, checked=True)
            y = values[self.graph.output]
            if not isinstance(y, Tensor) or not y.is_floating_point():
                raise NetworkFileError("The output is not made of numbers that depend on the input.")
            if y.dim() < 1 or y.shape[0] != 3:
                raise NetworkFileError(
                    f"The first axis of the output is not the batch: 3 rows give the shape {list(y.shape)}."
                )
            alone = self.tensor(self._run(x[1:2], checked=True)[self.graph.output])
            if not torch.allclose(alone, y[1:2], rtol=1e-3, atol=1e-4, equal_nan=True):
                raise NetworkFileError(
                    "One row of the batch changes the output of another; the batch must be the first axis."
                )
        if self._float_kind is None:
            if (broken := _not_finite(self.graph)) is not None:
                raise NetworkFileError(f"The weights `{broken[:60]}` hold infinities or what is no number (NaN).")
            raise NetworkFileError("The network has no weights that could be trained.")
        self.train(training)
        free = self.graph.shape[1:2] == (None,) and y.dim() > 2 and y.shape[1] == TRIAL_STEPS
        return (None, *((None,) if free else ()), *y.shape[2 if free else 1 :])

    def _find_zero_states(self) -> frozenset[int]:
        """Recurrent nodes whose first state is zero, whatever the input: nothing is given to torch for those."""
        depends = {self.graph.input}
        for node in self.graph.nodes:
            if node.operator != "Shape" and depends & set(node.inputs):
                depends |= set(node.outputs)
        values = self._run(self.example(2), checked=True) if self._recurrent else {}
        found = []
        for number in self._recurrent:
            states = [name for name in self.graph.nodes[number].inputs[5:7] if name]
            arrays = [np.asarray(self._value(name, values), dtype=float) for name in states if name not in depends]
            if len(arrays) == len(states) and not any(array.any() for array in arrays):
                found.append(number)
        return frozenset(found)

    # --- computing ---

    def _run(self, x: Tensor, *, checked: bool = False) -> dict[str, Value]:
        """Every tensor by name. `checked`: what cannot be computed, or is too large, becomes a NetworkFileError."""
        values: dict[str, Value] = {self.graph.input: x}
        for number, node in enumerate(self.graph.nodes):
            weights = node.inputs[1:4] if number in self._recurrent else ()
            given = [None if not name or name in weights else self._value(name, values) for name in node.inputs]
            try:
                if number in self._recurrent:
                    made = self._recur(number, node, given)
                else:
                    made = OPERATORS[node.operator](Call(self, node), *given)
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                NotImplementedError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                if not checked or isinstance(error, NetworkFileError):
                    raise
                raise _not_computable(node, error) from None
            results = made if isinstance(made, tuple | list) else (made,)
            values.update((name, one) for name, one in zip(node.outputs, results, strict=False) if name)
            if checked:
                _refuse_large(node, results)
        return values

    def _value(self, name: str, values: Mapping[str, Value]) -> Value:
        if name in values:
            return values[name]
        constant = self.graph.constants.get(name)
        if constant is None:
            raise NetworkFileError(f"Tensor `{name[:60]}`, a second output of its operator, is not computed here.")
        mine = self.called.get(name)
        if mine in self._parameters or (constant.dtype.kind == "f" and constant.size > 1):
            return self._tensor_called(name)
        return constant

    def _tensor_called(self, name: str) -> Tensor:
        return getattr(self, self.called[name])

    def float_kind(self, written: torch.dtype) -> torch.dtype:
        """The type of numbers for one that the file names: the same, unless the module was converted as a whole."""
        now = self._float_kind_now()
        return written if now is None or now == self._float_kind else now

    def _float_kind_now(self) -> torch.dtype | None:
        return next((value.dtype for value in self.parameters()), None)

    def tensor(self, value: Value) -> Tensor:
        """A value as a tensor: a constant of the file is a buffer."""
        if isinstance(value, Tensor):
            return value
        if (name := self._names.get(id(value))) is not None:
            return self._tensor_called(name)
        kinds = {
            "b": torch.bool,
            "i": torch.int64,
            "f": torch.float64 if self.graph.dtype.itemsize == 8 else torch.float32,
        }
        flat = value.reshape(-1).tolist()
        kind = (
            value.dtype.kind
            if value.dtype.kind in kinds
            else ("f" if any(isinstance(one, float) for one in flat) else "i")
        )
        return torch.tensor(value.tolist(), dtype=kinds[kind])

    def _recur(self, number: int, node: Node, given: Sequence[Any]) -> tuple[Tensor, ...]:
        """Y of (steps, directions, rows, hidden), then the last states."""
        module = getattr(self, self._recurrent[number])
        if len(given) > 4 and given[4] is not None:
            raise NetworkFileError(f"`{node.operator}` with lengths of its own for every row is not known here.")
        states = tuple(self.tensor(one) for one in given[5:7] if one is not None)
        if number in self._zero_states or not states:
            out, last = module(given[0])
        else:
            out, last = module(given[0], states if node.operator == "LSTM" else states[0])
        ways = 2 if module.bidirectional else 1
        steps, rows, _ = out.shape
        y = out.unsqueeze(1) if ways == 1 else out.reshape(steps, rows, ways, -1).permute(0, 2, 1, 3)
        return (y, *last) if node.operator == "LSTM" else (y, last)


def _trained(graph: OnnxGraph) -> set[str]:
    """Names of the constants that are parameters."""
    origin = {name: name for name in graph.constants}
    found = set()
    for node in graph.nodes:
        if node.operator in THROUGH and node.inputs[0] in origin:
            origin.update((name, origin[node.inputs[0]]) for name in node.outputs)
        for place in TRAINED_INPUTS.get(node.operator, ()):
            name = origin.get(node.inputs[place]) if place < len(node.inputs) else None
            if name is None:
                continue
            array = graph.constants[name]
            is_weight = array.dtype.kind == "f" and array.ndim > 0 and bool(np.isfinite(array).all())
            scales_one_axis = node.operator != "Mul" or sum(length > 1 for length in array.shape) == 1
            if is_weight and scales_one_axis and (array.size > 1 or name in graph.declared):
                found.add(name)
    return found


def _not_finite(graph: OnnxGraph) -> str | None:
    """The name of constants of which one is no finite number; None: all are."""
    return next((n for n, a in graph.constants.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)


def _not_computable(node: Node, error: Exception) -> NetworkFileError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return NetworkFileError(
        f"`{node.operator}`, which computes `{node.outputs[0][:60]}`, does not fit its inputs: {reason}."
    )


def _refuse_large(node: Node, results: Sequence[Any]) -> None:
    for one in results:
        if isinstance(one, Tensor | np.ndarray):
            size = math.prod(one.shape)
            if len(one.shape) > MAX_RANK or size > MAX_ACTIVATIONS:
                raise NetworkFileError(
                    f"`{node.operator}` makes a tensor of the shape {list(one.shape)}, which is too large."
                )


# --- recurrent layers ---


def _recurrent_module(node: Node, constants: Mapping[str, np.ndarray]) -> nn.Module:
    """torch's layer with the weights of the node, gates in torch's order."""
    kind, said = node.operator, node.attributes
    hidden, way = said.get("hidden_size"), said.get("direction", "forward")
    ways = 2 if way == "bidirectional" else 1
    defaults = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}[kind]
    functions = said.get("activations") or defaults * ways
    plain = functions == defaults * ways or (kind == "RNN" and functions == ["Relu"] * ways)
    peepholes = len(node.inputs) > 7 and node.inputs[7]
    if way == "reverse" or said.get("layout") or "clip" in said or peepholes or not plain:
        raise NetworkFileError(
            f"`{kind}` in reverse, clipped, with peepholes, another layout or other activations is not known here."
        )
    if kind == "GRU" and not said.get("linear_before_reset"):
        raise NetworkFileError(
            "`GRU` resets before the product; only the kind of torch (linear_before_reset = 1) is known here."
        )
    read, recur = constants[node.inputs[1]], constants[node.inputs[2]]
    gates = len(GATES[kind])
    hidden = hidden or recur.shape[-1]
    if read.ndim != 3 or read.shape[:2] != (ways, gates * hidden) or recur.shape != (ways, gates * hidden, hidden):
        raise NetworkFileError(
            f"The weights of `{kind}` have the shapes {list(read.shape)} and {list(recur.shape)}, which do not fit."
        )
    bias = constants[node.inputs[3]] if len(node.inputs) > 3 and node.inputs[3] else None
    if bias is not None and bias.shape != (ways, 2 * gates * hidden):
        raise NetworkFileError(f"The bias of `{kind}` has the shape {list(bias.shape)}, which does not fit.")
    more = {"nonlinearity": functions[0].lower()} if kind == "RNN" else {}
    dtype = torch.from_numpy(read[:0]).dtype
    module = RECURRENT[kind](read.shape[2], hidden, bias=bias is not None, bidirectional=ways == 2, dtype=dtype, **more)
    state = {}
    for number, ending in zip(range(ways), ("_l0", "_l0_reverse"), strict=False):
        state[f"weight_ih{ending}"] = _gates(read[number], GATES[kind])
        state[f"weight_hh{ending}"] = _gates(recur[number], GATES[kind])
        if bias is not None:
            first, second = np.split(bias[number], 2)
            state[f"bias_ih{ending}"], state[f"bias_hh{ending}"] = (
                _gates(first, GATES[kind]),
                _gates(second, GATES[kind]),
            )
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


def _recurrent_arrays(node: Node, module: nn.Module) -> dict[str, np.ndarray]:
    """The weights as the node has them, by the names in the file."""
    back = np.argsort(GATES[node.operator]).tolist()
    state = {name: _gates(value.detach().cpu().numpy(), back) for name, value in module.named_parameters()}
    endings = ("_l0", "_l0_reverse") if module.bidirectional else ("_l0",)
    found = {
        node.inputs[1]: np.stack([state[f"weight_ih{ending}"] for ending in endings]),
        node.inputs[2]: np.stack([state[f"weight_hh{ending}"] for ending in endings]),
    }
    if module.bias:
        found[node.inputs[3]] = np.stack(
            [np.concatenate([state[f"bias_ih{ending}"], state[f"bias_hh{ending}"]]) for ending in endings]
        )
    return found


def _gates(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    parts = np.split(array, len(order))
    return np.concatenate([parts[number] for number in order])
