"""The operators of ONNX that are read, as functions onto torch: (call, inputs) -> output, or several."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimt_engine.networks.files.onnx_file import MAX_RANK, NetworkFileError, Node

if TYPE_CHECKING:
    from bimt_engine.networks.files.onnx_network import OnnxNetwork

Value = Tensor | np.ndarray  # an activation, or sizes and other numbers that do not depend on the inputs


class Call:
    """What an operator knows of its node."""

    def __init__(self, network: OnnxNetwork, node: Node) -> None:
        self.network, self.node = network, node
        self.tensor = network.tensor

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)

    def list_of(self, value: Any, name: str) -> list[Any]:
        """Whole numbers that must not depend on the data: axes, sizes. That of the batch may be a symbol of torch."""
        if isinstance(value, Tensor):
            raise NetworkFileError(
                f"`{self.node.operator}` takes its {name} from the data; only fixed ones are known here."
            )
        return np.asarray(value).reshape(-1).tolist()


def _pointwise(function: Callable[..., Any], numbers: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """An operator of one or two inputs, each element alone; `numbers` does the same with sizes."""

    def compute(call: Call, *values: Value) -> Value:
        if not any(isinstance(one, Tensor) for one in values):
            if numbers is None:
                return function(*(call.tensor(one) for one in values))
            return np.asarray(numbers(*values))
        rank = max(one.dim() for one in values if isinstance(one, Tensor))
        return function(*(_operand(call, one, rank) for one in values))

    return compute


def _operand(call: Call, value: Value, rank: int) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= rank:
        return value.reshape(-1).tolist()[0]
    return call.tensor(value)


def _divide(a: Any, b: Any) -> Any:
    whole = all(isinstance(one, int) or (isinstance(one, Tensor) and not one.is_floating_point()) for one in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else operator.truediv(a, b)


def _divide_numbers(a: np.ndarray, b: np.ndarray) -> Any:
    is_float = any(isinstance(one, float) for one in [*a.reshape(-1).tolist(), *b.reshape(-1).tolist()])
    return a / b if is_float else a // b


def _compare(function: Callable[..., Any]) -> Callable[..., Any]:
    return _pointwise(function, lambda a, b: np.asarray(function(a, b), dtype=bool))


def _alone(function: Callable[..., Any], **attributes: Any) -> Callable[..., Any]:
    """An activation; `attributes`: names in ONNX with their defaults, in the order of torch's arguments."""
    return lambda call, x: function(call.tensor(x), *(call.get(name, value) for name, value in attributes.items()))


def _sqrt(call: Call, x: Value) -> Value:
    return x.sqrt() if isinstance(x, Tensor) else np.asarray(np.asarray(x, dtype=float) ** 0.5)


def _clip(call: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    ends = [None if one is None else _operand(call, one, x.dim()) for one in (low, high)]
    return torch.clamp(x, *ends)


def _gemm(call: Call, a: Tensor, b: Tensor, c: Any = None) -> Tensor:
    a, b = call.tensor(a), call.tensor(b)
    a = a.t() if call.get("transA") else a
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    bias = None if c is None else call.tensor(c)
    if call.get("transB") and alpha == beta == 1.0 and (bias is None or bias.dim() == 1):
        return F.linear(a, b, bias)
    product = torch.matmul(a, b.t() if call.get("transB") else b)
    product = product if alpha == 1.0 else product * alpha
    return product if bias is None else product + (bias if beta == 1.0 else bias * beta)


def _matmul(call: Call, a: Any, b: Any) -> Tensor:
    return torch.matmul(call.tensor(a), call.tensor(b))


def _conv(call: Call, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    weight = call.tensor(weight)
    count = weight.dim() - 2
    strides, dilations = call.get("strides", [1] * count), call.get("dilations", [1] * count)
    begin, end = _pads(call, x, list(weight.shape[2:]), strides, dilations)
    if begin != end:
        x = F.pad(x, _both_ends(begin, end))
        begin = [0] * count
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[count]
    given = None if bias is None else call.tensor(bias)
    return function(x, weight, given, strides, begin, dilations, call.get("group", 1))


def _pads(
    call: Call, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis."""
    count, how = len(kernel), call.get("auto_pad", "NOTSET")
    pads = [int(one) for one in call.get("pads", [0] * (2 * count))]
    if how in ("NOTSET", "VALID"):
        pads = pads if how == "NOTSET" else [0] * (2 * count)
        return pads[:count], pads[count:]
    total = [
        max((math.ceil(size / stride) - 1) * stride + (length - 1) * spread + 1 - size, 0)
        for size, stride, length, spread in zip(x.shape[2:], strides, kernel, dilations, strict=True)
    ]
    less, more = [one // 2 for one in total], [one - one // 2 for one in total]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _both_ends(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """As torch's pad takes them: the last axis first."""
    return [one for pair in zip(reversed(begin), reversed(end), strict=True) for one in pair]


def _pool(kind: str) -> Callable[..., Any]:
    def compute(call: Call, x: Tensor) -> Tensor:
        kernel = call.get("kernel_shape")
        count = len(kernel)
        strides, dilations = call.get("strides", [1] * count), call.get("dilations", [1] * count)
        begin, end = _pads(call, x, kernel, strides, dilations)
        ceil = bool(call.get("ceil_mode", 0))
        counted = bool(call.get("count_include_pad", 0))
        if begin != end or any(pad > length // 2 for pad, length in zip(begin, kernel, strict=True)):
            if (kind == "avg" and not counted) or ceil:
                raise NetworkFileError(f"`{call.node.operator}` with uneven padding is not known here.")
            x = F.pad(x, _both_ends(begin, end), value=-math.inf if kind == "max" else 0.0)
            begin = [0] * count
        if kind == "max":
            return {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[count](
                x, kernel, strides, begin, dilations, ceil
            )
        if any(one != 1 for one in dilations):
            raise NetworkFileError("`AveragePool` with dilations is not known here.")
        return {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[count](x, kernel, strides, begin, ceil, counted)

    return compute


def _batch_norm(call: Call, x: Tensor, scale: Any, bias: Any, mean: Any, variance: Any) -> Tensor:
    if call.get("training_mode"):
        raise NetworkFileError("`BatchNormalization` is in training mode; export the network for inference.")
    mean, variance, scale, bias = (call.tensor(one) for one in (mean, variance, scale, bias))
    training, momentum = call.network.training, 1.0 - call.get("momentum", 0.9)
    return F.batch_norm(x, mean, variance, scale, bias, training, momentum, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Any, bias: Any = None) -> Tensor:
    shape = list(x.shape[call.get("axis", -1) :])
    return F.layer_norm(
        x, shape, call.tensor(scale), None if bias is None else call.tensor(bias), call.get("epsilon", 1e-5)
    )


def _rms_norm(call: Call, x: Tensor, scale: Any) -> Tensor:
    return F.rms_norm(x, list(x.shape[call.get("axis", -1) :]), call.tensor(scale), call.get("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, scale: Any, bias: Any) -> Tensor:
    return F.instance_norm(x, weight=call.tensor(scale), bias=call.tensor(bias), eps=call.get("epsilon", 1e-5))


def _prelu(call: Call, x: Tensor, slope: Any) -> Tensor:
    slope = call.tensor(slope)
    return torch.where(x > 0, x, x * slope)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def compute(call: Call, x: Any, axes: Any = None) -> Value:
        x = call.tensor(x)
        axes = call.get("axes") if axes is None else call.list_of(axes, "axes")
        if not axes:
            if call.get("noop_with_empty_axes"):
                return x
            axes = list(range(x.dim()))
        return function(x, axes, bool(call.get("keepdims", 1)))

    return compute


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    if axis != 1:
        raise NetworkFileError("`Flatten` that joins the batch with another axis is not known here.")
    return torch.flatten(x, 1) if x.dim() > 1 else x.unsqueeze(1)


def _reshape(call: Call, x: Value, shape: Any) -> Value:
    sizes = call.list_of(shape, "shape")
    if not call.get("allowzero"):
        sizes = [x.shape[axis] if _is(size, 0) else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes) if isinstance(x, Tensor) else np.reshape(x, sizes)


def _is(size: Any, number: int) -> bool:
    """Whether a size is that number. One that depends on the batch is not."""
    return isinstance(size, int) and size == number


def _transpose(call: Call, x: Value) -> Value:
    order = call.get("perm") or list(reversed(range(x.ndim)))
    return x.permute(order) if isinstance(x, Tensor) else x.transpose(order)


def _squeeze(call: Call, x: Value, axes: Any = None) -> Value:
    where = [axis for axis in range(x.ndim) if _is(x.shape[axis], 1)] if axes is None else call.list_of(axes, "axes")
    for axis in sorted((axis % x.ndim for axis in where), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(call: Call, x: Value, axes: Any) -> Value:
    where = call.list_of(axes, "axes")
    rank = x.ndim + len(where)
    for axis in sorted(axis % rank for axis in where):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _concat(call: Call, *parts: Value) -> Value:
    axis = call.get("axis")
    if any(isinstance(one, Tensor) for one in parts):
        return torch.cat([call.tensor(one) for one in parts], axis)
    return np.concatenate([np.asarray(one, dtype=object) for one in parts], axis)


def _split(call: Call, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = call.get("axis", 0)
    if sizes is not None:
        return tuple(torch.split(x, call.list_of(sizes, "sizes"), axis))
    count = call.get("num_outputs", len(call.node.outputs))
    return tuple(torch.split(x, math.ceil(x.shape[axis] / count), axis))


def _slice(call: Call, x: Value, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Value:
    begin, end = call.list_of(starts, "start"), call.list_of(ends, "end")
    where = list(range(len(begin))) if axes is None else call.list_of(axes, "axes")
    strides = [1] * len(begin) if steps is None else call.list_of(steps, "steps")
    taken: list[Any] = [slice(None)] * x.ndim
    for axis, first, last, stride in zip(where, begin, end, strides, strict=True):
        if isinstance(x, Tensor) and stride < 1:
            raise NetworkFileError("`Slice` backwards is not known here.")
        stop = None if _is(last, last) and last >= 2**31 - 1 else last
        taken[axis] = slice(None if first == 0 else first, stop, None if stride == 1 else stride)
    return x[tuple(taken)]


def _gather(call: Call, x: Value, index: Any) -> Value:
    axis = call.get("axis", 0)
    if not isinstance(x, Tensor) and not isinstance(index, Tensor):
        return np.asarray(np.take(x, np.asarray(index, dtype=np.int64), axis))
    x = call.tensor(x)
    if isinstance(index, np.ndarray) and index.ndim == 0:
        return x.select(axis, int(index))
    index = call.tensor(index)
    if axis == 0 and x.dim() == 2:
        return F.embedding(index, x)
    axis %= x.dim()
    chosen = x.index_select(axis, index.reshape(-1))
    return chosen if index.dim() == 1 else chosen.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _expand(call: Call, x: Any, shape: Any) -> Value:
    sizes = call.list_of(shape, "shape")
    if not isinstance(x, Tensor) and x.ndim == 0 and len(sizes) == 1 and all(isinstance(size, int) for size in sizes):
        return np.broadcast_to(x, sizes)
    x = call.tensor(x)
    short = len(sizes) - x.dim()
    sizes = [1] * -short + sizes
    there = [1] * short + list(x.shape)
    return x.expand([has if _is(size, 1) else size for size, has in zip(sizes, there, strict=True)])


def _pad(call: Call, x: Tensor, pads: Any, value: Any = None, axes: Any = None) -> Tensor:
    if call.get("mode", "constant") != "constant":
        raise NetworkFileError("`Pad` that repeats or mirrors the edge is not known here.")
    sizes = call.list_of(pads, "pads")
    where = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in call.list_of(axes, "axes")]
    begin, end = [0] * x.dim(), [0] * x.dim()
    for place, axis in enumerate(where):
        begin[axis], end[axis] = sizes[place], sizes[place + len(where)]
    number = 0.0 if value is None else float(np.asarray(value).reshape(-1).tolist()[0])
    return F.pad(x, _both_ends(begin, end), value=number)


def _shape(call: Call, x: Value) -> np.ndarray:
    sizes = list(x.shape)[call.get("start", 0) : call.get("end", None)]
    found = np.empty(len(sizes), dtype=object)
    found[:] = sizes
    return found


def _cast(call: Call, x: Value) -> Value:
    kinds = {1: torch.float32, 11: torch.float64, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    to = call.get("to")
    if to not in kinds:
        raise NetworkFileError("`Cast` to a type other than float32, float64, int32, int64 and bool is not known here.")
    if isinstance(x, Tensor):
        kind = call.network.float_kind(kinds[to]) if to in (1, 11) else kinds[to]
        return x if x.dtype == kind else x.to(kind)
    if to in (1, 11) or any(isinstance(one, float) for one in x.reshape(-1).tolist()):
        return np.asarray(x, dtype=float if to in (1, 11) else np.int64)
    return x


def _constant_of_shape(call: Call, shape: Any) -> Value:
    value = call.get("value", np.zeros(1, np.float32))
    sizes = call.list_of(shape, "shape")
    if value.dtype.kind != "f" and len(sizes) == 1 and isinstance(sizes[0], int) and sizes[0] <= MAX_RANK:
        return np.full(sizes, value.reshape(-1)[0])
    return torch.full(sizes, value.reshape(-1).tolist()[0], dtype=torch.from_numpy(value).dtype)


def _range(call: Call, *ends: Any) -> Tensor:
    start, stop, step = (call.list_of(one, "ends")[0] for one in ends)
    return torch.arange(start, stop, step)


def _where(call: Call, condition: Any, a: Any, b: Any) -> Value:
    if not any(isinstance(one, Tensor) for one in (condition, a, b)):
        return np.asarray(np.where(np.asarray(condition, dtype=bool), a, b))
    return torch.where(call.tensor(condition), _operand(call, a, MAX_RANK), _operand(call, b, MAX_RANK))


def _trilu(call: Call, x: Any, diagonal: Any = None) -> Tensor:
    place = 0 if diagonal is None else call.list_of(diagonal, "diagonal")[0]
    function = torch.triu if call.get("upper", 1) else torch.tril
    return function(call.tensor(x), place)


def _extreme(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def compute(call: Call, *values: Any) -> Tensor:
        result = call.tensor(values[0])
        for one in values[1:]:
            result = function(result, call.tensor(one))
        return result

    return compute


def _same(call: Call, x: Value, *_: Any) -> Value:
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    # products
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    # element by element
    "Add": _pointwise(operator.add, operator.add),
    "Sub": _pointwise(operator.sub, operator.sub),
    "Mul": _pointwise(operator.mul, operator.mul),
    "Div": _pointwise(_divide, _divide_numbers),
    "Pow": _pointwise(operator.pow, operator.pow),
    "Mod": _pointwise(operator.mod, operator.mod),
    "Neg": _pointwise(operator.neg, operator.neg),
    "Equal": _compare(operator.eq),
    "Less": _compare(operator.lt),
    "LessOrEqual": _compare(operator.le),
    "Greater": _compare(operator.gt),
    "GreaterOrEqual": _compare(operator.ge),
    "And": _compare(operator.and_),
    "Or": _compare(operator.or_),
    "Not": _alone(torch.logical_not),
    "Where": _where,
    "Max": _extreme(torch.maximum),
    "Min": _extreme(torch.minimum),
    "Clip": _clip,
    "Abs": _alone(torch.abs),
    "Sqrt": _sqrt,
    "Reciprocal": _alone(torch.reciprocal),
    "IsNaN": _alone(torch.isnan),
    **{name: _alone(getattr(torch, name.lower())) for name in ("Exp", "Log", "Erf", "Sin", "Cos", "Tanh", "Sigmoid")},
    # activations
    "Relu": _alone(torch.relu),
    "LeakyRelu": _alone(F.leaky_relu, alpha=0.01),
    "Elu": _alone(F.elu, alpha=1.0),
    "Celu": _alone(F.celu, alpha=1.0),
    "Gelu": lambda call, x: F.gelu(x, approximate=call.get("approximate", "none")),
    "Mish": _alone(F.mish),
    "Softplus": _alone(F.softplus),
    "Softsign": _alone(F.softsign),
    "HardSwish": _alone(F.hardswish),
    "PRelu": _prelu,
    "Softmax": _alone(torch.softmax, axis=-1),
    "LogSoftmax": _alone(torch.log_softmax, axis=-1),
    # norms and pools
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "GlobalAveragePool": lambda call, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda call, x: x.amax(list(range(2, x.dim())), keepdim=True),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    # shapes
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Pad": _pad,
    "Shape": _shape,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Trilu": _trilu,
    "Identity": _same,
    "Dropout": _same,
}
