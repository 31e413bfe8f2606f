"""Tracing a network as an ONNX graph while it computes: each call of torch adds the nodes that compute the same.

An architecture need not know of it: every network made of the operations at the end of this file can be exported.
torch's own exporter can do more, and imports compilers for seconds before it begins.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bimt_engine.errors import BimtError

OPSET = 20  # the first that has Gelu
IR_VERSION = 10  # of the same year, so that a runtime that knows the operations reads the file
BATCH = 2  # rows of the example


class NotExportable(BimtError):
    """The network uses an operation that is not in `OPERATIONS`."""


class OnnxTracer(TorchFunctionMode):
    """The graph of what is computed inside of `with OnnxTracer(network, x) as tracer:`.

    x   an example of two rows. The first axis is the batch, here and in every tensor that is reshaped from it.
    Raises NotExportable for an operation that is not known here.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.called: dict[int, str] = {id(parameter): name for name, parameter in network.named_parameters()}
        self.computed: dict[int, Tensor] = {}  # kept, so that no other tensor gets the id of one of them
        self._compute(x, "x")

    def model(self, outputs: Tensor) -> onnx.ModelProto:
        """The graph that ends here: input `x`, output `y`, the batch axis free."""
        [x] = [tensor for tensor in self.computed.values() if self.called[id(tensor)] == "x"]
        last = helper.make_node("Identity", [self.name(outputs)], ["y"])
        ends = [_described("x", x)], [_described("y", outputs)]
        graph = helper.make_graph([*self.nodes, last], "network", *ends, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bimt")

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; gives the name of what it computes."""
        output = f"{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def name(self, value: Any) -> str:
        """What a value is called in the graph: something computed, or else a constant."""
        return self.called[id(value)] if id(value) in self.computed else self.constant(value)

    def constant(self, value: Any, *, transposed: bool = False) -> str:
        """A parameter under its own name, or any other number or array that does not depend on the inputs."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        whole = getattr(value, "_base", None)  # a kernel is a view of the matrix that it is kept in
        name = self.called.get(id(value)) or self.called.get(id(whole), f"constant.{len(self.constants)}")
        name += ".transposed" if transposed else ""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array.T.copy() if transposed else array, name)
        return name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        result = func(*args, **named)
        if "input" in named:  # what torch calls the first argument of most functions
            args = (named.pop("input"), *args)
        given = _flat((*args, *named.values()))
        tensors = [result] if isinstance(result, Tensor) else result if isinstance(result, tuple | list) else []
        if not any(isinstance(each, Tensor) for each in tensors) or not any(map(self._knows, given)):
            return result  # a shape, or something that the inputs have no part in
        operation = OPERATIONS.get(func.__name__)
        if operation is None:
            raise NotExportable(f"This network cannot be written as ONNX: it uses `{func.__name__}`.")
        try:
            inspect.signature(operation).bind(self, result, *args, **named)
        except TypeError as wrong:
            raise NotExportable(
                f"This network cannot be written as ONNX: its call of `{func.__name__}` is unusual: {wrong}."
            ) from None
        names = operation(self, result, *args, **named)
        for tensor, name in zip(tensors, [names] if isinstance(names, str) else names, strict=True):
            self._compute(tensor, name)
        return result

    def _compute(self, tensor: Tensor, name: str) -> None:
        self.computed[id(tensor)], self.called[id(tensor)] = tensor, name

    def _knows(self, value: Any) -> bool:
        return id(value) in self.computed


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


def _described(name: str, example: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _kind(example), ["batch", *example.shape[1:]])


def _kind(example: Tensor) -> int:
    return int(helper.np_dtype_to_tensor_dtype(example.detach().numpy().dtype))


# --- operations: (the tracer, torch's result, torch's arguments) -> the name or names of the result in the graph ---


def _linear(t: OnnxTracer, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    product = t.node("MatMul", t.name(x), t.constant(weight, transposed=True))
    return product if bias is None else t.node("Add", product, t.constant(bias))


def _silu(t: OnnxTracer, y: Tensor, x: Tensor, inplace: bool = False) -> str:
    return t.node("Mul", t.name(x), t.node("Sigmoid", t.name(x)))


def _gelu(t: OnnxTracer, y: Tensor, x: Tensor, approximate: str = "none") -> str:
    return t.node("Gelu", t.name(x), approximate=approximate)


def _layer_norm(t: OnnxTracer, y: Tensor, x: Tensor, shape: Any, *, weight: Tensor, bias: Tensor, eps: float) -> str:
    named = t.name(x), t.constant(weight), t.constant(bias)
    return t.node("LayerNormalization", *named, axis=-len(shape), epsilon=eps)


def _rms_norm(t: OnnxTracer, y: Tensor, x: Tensor, shape: Any, *, weight: Tensor, eps: float) -> str:
    axes = t.constant(np.arange(-len(shape), 0))
    mean = t.node("ReduceMean", t.node("Mul", t.name(x), t.name(x)), axes)
    root = t.node("Sqrt", t.node("Add", mean, t.constant(np.asarray(eps, np.float32))))
    return t.node("Mul", t.node("Div", t.name(x), root), t.constant(weight))


def _conv2d(
    t: OnnxTracer, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0
) -> str:
    named = [t.name(x), t.constant(weight), *([] if bias is None else [t.constant(bias)])]
    return t.node("Conv", *named, strides=_pair(stride), pads=2 * _pair(padding))


def _batch_norm(
    t: OnnxTracer,
    y: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    **how: Any,
) -> str:
    named = (t.constant(value) for value in (weight, bias, mean, variance))
    return t.node("BatchNormalization", t.name(x), *named, epsilon=eps)


def _pool(kind: str) -> Callable[..., Any]:
    def write(t: OnnxTracer, y: Tensor, x: Tensor, size: Any, *rest: Any, **how: Any) -> str:
        return t.node(kind, t.name(x), kernel_shape=_pair(size), strides=_pair(size))

    return write


def _pair(number: Any) -> list[int]:
    return [int(number)] * 2 if isinstance(number, int) else [int(each) for each in number]


def _softmax(t: OnnxTracer, y: Tensor, x: Tensor, dim: int) -> str:
    return t.node("Softmax", t.name(x), axis=dim)


def _masked_fill(t: OnnxTracer, y: Tensor, x: Tensor, mask: Tensor, value: float) -> str:
    return t.node("Where", t.name(mask), t.constant(np.asarray(value, np.float32)), t.name(x))


def _index_select(t: OnnxTracer, y: Tensor, x: Tensor, dim: int, index: Tensor) -> str:
    return t.node("Gather", t.name(x), t.name(index), axis=dim)


def _item(t: OnnxTracer, y: Tensor, x: Tensor, index: Any) -> str:
    if isinstance(index, Tensor) and index.dtype == torch.int64:
        return t.node("Gather", t.name(x), t.name(index), axis=0)
    parts = index if isinstance(index, tuple) else (index,)
    name, axis = t.name(x), 0
    for part in parts:
        if part is None and axis > 0:
            name = t.node("Unsqueeze", name, t.constant(np.array([axis], np.int64)))
            axis += 1
        elif isinstance(part, int) and not isinstance(part, bool) and axis > 0:
            name = t.node("Gather", name, t.constant(np.int64(part)), axis=axis)
        elif isinstance(part, slice) and (axis > 0 or part == slice(None)):
            name = _slice(t, name, part, axis)
            axis += 1
        else:
            raise NotExportable(
                f"This network cannot be written as ONNX: it takes the part {index!r} of an activation."
            )
    return name


def _slice(t: OnnxTracer, name: str, part: slice, axis: int) -> str:
    """Some entries of one axis. An end that is not given is the largest number, as ONNX has it."""
    if part == slice(None):
        return name
    ends = (part.start or 0, np.iinfo(np.int64).max if part.stop is None else part.stop, axis, part.step or 1)
    return t.node("Slice", name, *(t.constant(np.array([end], np.int64)) for end in ends))


def _parts(t: OnnxTracer, y: Any, x: Tensor, sizes: Any, dim: int = 0) -> list[str]:
    """Of `split` and `chunk`: the sizes are read from what torch has made."""
    ends = np.cumsum([0, *(part.shape[dim] for part in y)]).tolist()
    axis = dim % x.dim()
    if axis == 0:
        raise NotExportable("This network cannot be written as ONNX: it takes the batch apart.")
    return [_slice(t, t.name(x), slice(start, end), axis) for start, end in itertools.pairwise(ends)]


def _cat(t: OnnxTracer, y: Tensor, parts: Any, dim: int = 0) -> str:
    return t.node("Concat", *(t.name(part) for part in parts), axis=dim)


def _rsub(t: OnnxTracer, y: Tensor, x: Tensor, other: Any) -> str:
    return _both("Sub")(t, y, other, x)


def _unbind(t: OnnxTracer, y: Any, x: Tensor, dim: int = 0) -> list[str]:
    return [t.node("Gather", t.name(x), t.constant(np.int64(i)), axis=dim) for i in range(len(y))]


def _stack(t: OnnxTracer, y: Tensor, parts: Any, dim: int = 0) -> str:
    axis = t.constant(np.array([dim], np.int64))
    return t.node("Concat", *(t.node("Unsqueeze", t.name(part), axis) for part in parts), axis=dim)


def _reshape(t: OnnxTracer, y: Tensor, x: Tensor, *shape: Any) -> str:
    if y.shape[0] != x.shape[0]:
        raise NotExportable("This network cannot be written as ONNX: it joins the batch with another axis.")
    return t.node("Reshape", t.name(x), t.constant(np.array([0, *y.shape[1:]], np.int64)))  # 0: as it comes


def _permute(t: OnnxTracer, y: Tensor, x: Tensor, *axes: int) -> str:
    return t.node("Transpose", t.name(x), perm=list(axes))


def _transpose(t: OnnxTracer, y: Tensor, x: Tensor, one: int, other: int) -> str:
    axes = list(range(x.dim()))
    axes[one], axes[other] = axes[other], axes[one]
    return t.node("Transpose", t.name(x), perm=axes)


def _new_zeros(t: OnnxTracer, y: Tensor, x: Tensor, *shape: Any, **how: Any) -> str:
    return t.constant(y[:1])  # one row for all of the batch


def _to(t: OnnxTracer, y: Tensor, x: Tensor, dtype: torch.dtype) -> str:
    return t.node("Cast", t.name(x), to=_kind(y))


def _log1p(t: OnnxTracer, y: Tensor, x: Tensor) -> str:
    return t.node("Log", t.node("Add", t.name(x), t.constant(np.ones((), y.detach().numpy().dtype))))


def _where(t: OnnxTracer, y: Tensor, condition: Tensor, one: Tensor, other: Tensor) -> str:
    return t.node("Where", t.name(condition), t.name(one), t.name(other))


def _alone(kind: str) -> Callable[..., Any]:
    return lambda t, y, x, **how: t.node(kind, t.name(x))


def _both(kind: str) -> Callable[..., Any]:
    def write(t: OnnxTracer, y: Tensor, one: Any, other: Any) -> str:
        return t.node(kind, *(t.name(v if isinstance(v, Tensor) else np.asarray(v, np.float32)) for v in (one, other)))

    return write


OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "silu": _silu,
    "gelu": _gelu,
    "relu": _alone("Relu"),
    "tanh": _alone("Tanh"),
    "sigmoid": _alone("Sigmoid"),
    "neg": _alone("Neg"),
    "__neg__": _alone("Neg"),
    "isnan": _alone("IsNaN"),
    **dict.fromkeys(("eq", "__eq__"), _both("Equal")),
    **dict.fromkeys(("gt", "__gt__"), _both("Greater")),
    "where": _where,
    "log1p": _log1p,
    "exp": _alone("Exp"),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "max_pool2d": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "softmax": _softmax,
    "masked_fill": _masked_fill,
    "index_select": _index_select,
    "__getitem__": _item,
    "unbind": _unbind,
    "stack": _stack,
    "cat": _cat,
    **dict.fromkeys(("chunk", "split"), _parts),
    "permute": _permute,
    "transpose": _transpose,
    "new_zeros": _new_zeros,
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten"), _reshape),
    "to": _to,
    "add": _both("Add"),
    "sub": _both("Sub"),
    **dict.fromkeys(("rsub", "__rsub__"), _rsub),
    "mul": _both("Mul"),
    "div": _both("Div"),
    "matmul": _both("MatMul"),
}
