"""Reading an ONNX file as data: nodes, constants, input and output, or one sentence on why it is refused.

Only the protobuf message is read: no other file, no custom operator, nothing that runs. Which operators there are, and
what they compute, is in onnx_network.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bimt_engine.errors import BimtError

MAX_BYTES = 512 << 20
MAX_PARAMETERS = 100_000_000
MAX_NODES = 20_000
MAX_RANK = 6
MAX_NAME = 200  # characters
FIRST_OPSET, LAST_OPSET = 13, 26  # before 13 several operators took attributes where they take inputs now

FLOATS: dict[int, np.dtype[Any]] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.DOUBLE: np.dtype(np.float64)}
INTEGERS: dict[int, np.dtype[Any]] = {
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.BOOL: np.dtype(np.bool_),
}

# scikit-learn's converter ends a classifier with the name of the likeliest class. What leads there is cut off.
LABEL_OPERATORS = {"ArgMax": "", "ZipMap": "ai.onnx.ml", "ArrayFeatureExtractor": "ai.onnx.ml"}
STANDARD = ("", "ai.onnx")


class NetworkFileError(BimtError):
    """The file of a network cannot be used. Its text is one sentence for the one who uploaded it."""


@dataclass(frozen=True)
class Node:
    """One operator of the graph.

    inputs       names of tensors; "" where an optional input is left out
    attributes   numbers, texts, lists of them, and arrays
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class OnnxGraph:
    """What a file says that passed all checks.

    nodes       in the order of the computation, without those that lead to the name of a class only
    constants   initialisers and the values of Constant nodes
    declared    names of the initialisers among them
    shape       of the input; None for an axis of free length. The first axis is the batch.
    fixed_rows  length of the batch where the file states one; it is taken as free all the same
    output      name of the one output
    notes       sentences on what was cut off
    doubled     constants with two columns here for the difference of which the file has one: see before_probabilities
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    declared: frozenset[str]
    input: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    fixed_rows: int | None
    output: str
    opset: int
    producer: str
    notes: tuple[str, ...]
    doubled: frozenset[str] = frozenset()

    @property
    def operators(self) -> dict[str, int]:
        """How often each operator is used."""
        return dict(sorted(Counter(node.operator for node in self.nodes).items()))


def read_onnx(content: bytes) -> OnnxGraph:
    """The graph of an ONNX file. Raises NetworkFileError, whatever the bytes are."""
    file = _parsed(content)
    opset = _opset(file)
    _refuse_what_is_no_graph(file)
    constants = dict(_initialisers(file.graph))
    declared = frozenset(constants)
    nodes, scores, notes = _without_labels(file.graph)
    _refuse_nodes(nodes)
    for node in nodes:
        if node.op_type == "Constant":
            for made, value in _constant(node).items():
                if made in constants:
                    raise NetworkFileError(f"Two tensors are called {_quoted(made)}; each needs a name of its own.")
                constants[made] = value
    inputs = [one for one in file.graph.input if one.name not in declared]
    name, (rows, *shape), dtype = _input(inputs)
    plain = tuple(
        Node(one.op_type, tuple(one.input), tuple(one.output), _attributes(one))
        for one in nodes
        if one.op_type != "Constant"
    )
    plain = _with_copies(plain, constants)
    _refuse_disorder(plain, {name, *constants}, declared | {name})
    output = _output({one.name for one in file.graph.output} | scores, plain)
    needed = tuple(_that_lead_to(output, plain))
    last = needed[-1]
    if last.operator == "Reshape" and constants.get(last.inputs[1], np.zeros(0)).tolist() == [-1, 1]:
        notes.append("The last Reshape, which puts the outputs of all rows into one column, is left out.")
        output, needed = last.inputs[0], needed[:-1]
    used = {one for node in needed for one in node.inputs}
    if not needed or name not in used:
        raise NetworkFileError(f"Output {_quoted(output)} does not depend on the input {_quoted(name)}.")
    constants = {key: value for key, value in constants.items() if key in used}
    producer = f"{file.producer_name} {file.producer_version}".strip()[:MAX_NAME]
    return OnnxGraph(
        nodes=needed,
        constants=constants,
        declared=declared & used,
        input=name,
        shape=(None, *shape),
        dtype=dtype,
        fixed_rows=rows,
        output=output,
        opset=opset,
        producer=producer,
        notes=tuple(notes),
    )


def before_probabilities(graph: OnnxGraph) -> OnnxGraph:
    """The same graph with scores in place of probabilities at its end: their softmax is what it was before.

    That is without a softmax over the last axis. Two classes are written by scikit-learn's converter as
    (1 - σ(z), σ(z)) of one output z = h·w + b; here there are two, h·(-w/2, w/2) + (-b/2, b/2).
    """
    note = "The network ends in probabilities: here in the scores before them, as the cross entropy takes them."
    last, made = graph.nodes[-1], {name: node for node in graph.nodes for name in node.outputs}
    if last.operator == "Softmax" and last.attributes.get("axis", -1) in (-1, 1) and len(graph.nodes) > 1:
        return replace(graph, nodes=graph.nodes[:-1], output=last.inputs[0], notes=(*graph.notes, note))
    end = tuple(node.operator for node in graph.nodes[-5:])
    if end != ("MatMul", "Add", "Sigmoid", "Sub", "Concat") or len(last.inputs) != 2:
        return graph
    product, add, sigmoid, less, _ = graph.nodes[-5:]
    one, w, b = (graph.constants.get(name) for name in (less.inputs[0], product.inputs[1], add.inputs[1]))
    chained = made.get(add.inputs[0]) is product and made.get(sigmoid.inputs[0]) is add
    chained &= less.inputs[1] == last.inputs[1] == sigmoid.outputs[0] and last.inputs[0] == less.outputs[0]
    if (
        not chained
        or one is None
        or w is None
        or b is None
        or (one != 1).any()
        or w.shape[-1] != 1
        or b.shape[-1:] != (1,)
    ):
        return graph
    doubled = {product.inputs[1]: w, add.inputs[1]: b}
    halves = {name: np.concatenate([-array / 2, array / 2], axis=-1) for name, array in doubled.items()}
    return replace(
        graph,
        nodes=graph.nodes[:-3],
        constants={**graph.constants, **halves},
        output=add.outputs[0],
        doubled=frozenset(doubled),
        notes=(*graph.notes, note),
    )


def with_parameters(content: bytes, parameters: Mapping[str, np.ndarray]) -> bytes:
    """The same file with other numbers in these initialisers and constants; all else stays as it was.

    parameters   by the name of an initialiser or of a Constant node's output, each of the shape that it has there
    Raises KeyError for a name that the file does not have.
    """
    file = _parsed(content)
    tensors = {tensor.name: tensor for tensor in file.graph.initializer}
    for node in file.graph.node:
        if node.op_type == "Constant" and node.output:
            tensors.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    copies = {node.output[0]: node for node in file.graph.node if node.op_type == "Identity" and node.output}
    for name, array in parameters.items():
        if name not in tensors and name in copies:  # see _with_copies: from now on it has numbers of its own
            copy = copies[name]
            tensors[name] = file.graph.initializer.add()
            tensors[name].CopyFrom(tensors[copy.input[0]])
            tensors[name].name = name
            file.graph.node.remove(copy)
        old = tensors[name]
        if tuple(old.dims) != array.shape:
            raise ValueError(f"`{name}` has the shape {tuple(old.dims)} in the file, not {array.shape}.")
        new = numpy_helper.from_array(np.ascontiguousarray(array, dtype=FLOATS[old.data_type]), old.name)
        old.CopyFrom(new)
    return file.SerializeToString()


# --- the checks ---


def _parsed(content: bytes) -> ModelProto:
    if len(content) > MAX_BYTES:
        raise NetworkFileError(f"The file has {len(content)} bytes; at most {MAX_BYTES} are read.")
    try:
        file = onnx.load_model_from_string(content)
        file.ByteSize()
    except Exception:  # of protobuf there are several, by its implementation; all say the same
        raise NetworkFileError("The file is not ONNX, or damaged: it cannot be read as a protobuf message.") from None
    _refuse_names_that_are_no_text(file.graph)
    if not file.graph.node:
        raise NetworkFileError("The file has no graph with nodes in it; export the network as ONNX again.")
    return file


def _refuse_names_that_are_no_text(graph: GraphProto) -> None:
    """protobuf gives bytes for a text that is no UTF-8."""
    texts = [text for node in graph.node for text in (node.op_type, node.domain, *node.input, *node.output)]
    texts += [text for node in graph.node for one in node.attribute for text in (one.name, one.ref_attr_name)]
    texts += [one.name for part in (graph.initializer, graph.input, graph.output) for one in part]
    if not all(isinstance(text, str) for text in texts):
        raise NetworkFileError("The file is damaged: a name in it is not text.")


def _opset(file: ModelProto) -> int:
    versions = [one.version for one in file.opset_import if one.domain in STANDARD]
    if len(versions) != 1:
        raise NetworkFileError("The file does not say which version of ONNX's operators it uses; export it again.")
    if not FIRST_OPSET <= versions[0] <= LAST_OPSET:
        sentence = f"The file uses version {versions[0]} of ONNX's operators; {FIRST_OPSET} to {LAST_OPSET} are read."
        raise NetworkFileError(f"{sentence} Export it again with such an opset_version.")
    return int(versions[0])


def _refuse_what_is_no_graph(file: ModelProto) -> None:
    if file.functions:
        raise NetworkFileError(
            f"The file defines functions of its own, such as {_quoted(file.functions[0].name)}; export it inlined."
        )
    if file.training_info:
        raise NetworkFileError("The file carries a training procedure; export the network for inference.")
    if file.graph.sparse_initializer:
        raise NetworkFileError("The file has sparse initialisers; export them as ordinary tensors.")
    if len(file.graph.node) > MAX_NODES:
        raise NetworkFileError(f"The graph has {len(file.graph.node)} nodes; at most {MAX_NODES} are read.")


def _initialisers(graph: GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    seen: set[str] = set()
    total = 0
    for tensor in graph.initializer:
        if tensor.name in seen or not tensor.name:
            raise NetworkFileError(f"Two initialisers are called {_quoted(tensor.name)}; each needs a name of its own.")
        seen.add(tensor.name)
        total += _size(tensor)
        if total > MAX_PARAMETERS:
            raise NetworkFileError(f"The network has {total} parameters or more; at most {MAX_PARAMETERS} are read.")
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.STRING:  # names of classes
            yield tensor.name, _array(tensor)


def _size(tensor: TensorProto) -> int:
    """How many numbers a tensor declares, before any of them is read."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise NetworkFileError(
            f"The numbers of {_quoted(tensor.name)} lie in another file; export the network as one file, without "
            "external data."
        )
    if len(tensor.dims) > MAX_RANK or any(length < 0 for length in tensor.dims):
        raise NetworkFileError(f"Tensor {_quoted(tensor.name)} has the impossible shape {list(tensor.dims)[:20]}.")
    return prod(int(length) for length in tensor.dims)


def _array(tensor: TensorProto) -> np.ndarray:
    dtype = (FLOATS | INTEGERS).get(tensor.data_type)
    if dtype is None:
        kind = _type_name(tensor.data_type)
        raise NetworkFileError(
            f"Tensor {_quoted(tensor.name)} holds {kind}; numbers are read as float32, float64, int64, int32 and bool."
        )
    size = _size(tensor)
    if size > MAX_PARAMETERS:
        raise NetworkFileError(
            f"Tensor {_quoted(tensor.name)} declares {size} numbers; at most {MAX_PARAMETERS} are read."
        )
    kept = {
        1: tensor.float_data,
        7: tensor.int64_data,
        6: tensor.int32_data,
        9: tensor.int32_data,
        11: tensor.double_data,
    }
    given = len(tensor.raw_data) if tensor.HasField("raw_data") else len(kept[tensor.data_type]) * dtype.itemsize
    if given != size * dtype.itemsize:
        raise NetworkFileError(
            f"Tensor {_quoted(tensor.name)} declares {size} numbers, not {given // dtype.itemsize}; it is damaged."
        )
    return np.array(numpy_helper.to_array(tensor))


def _refuse_nodes(nodes: list[NodeProto]) -> None:
    """No other domain, no graph inside a node."""
    for node in nodes:
        if node.domain not in STANDARD:
            raise NetworkFileError(
                f"Operator {_quoted(node.op_type)} is of the domain {_quoted(node.domain)}; only ONNX's own are read."
            )
        for one in node.attribute:
            if one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or one.HasField("g") or one.graphs:
                raise NetworkFileError(
                    f"Operator {_quoted(node.op_type)} holds a graph of its own, as loops and conditions do; export "
                    "the network without them."
                )
            if one.ref_attr_name:
                raise NetworkFileError(f"An attribute of {_quoted(node.op_type)} refers to a function's argument.")


def _constant(node: NodeProto) -> dict[str, np.ndarray]:
    if len(node.attribute) != 1 or len(node.output) != 1:
        raise NetworkFileError("A node `Constant` needs one value and one output.")
    [value] = node.attribute
    if value.type == AttributeProto.TENSOR:
        return {node.output[0]: _array(value.t)}
    if value.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        return {node.output[0]: np.asarray(helper.get_attribute_value(value), np.float32)}
    if value.type in (AttributeProto.INT, AttributeProto.INTS):
        return {node.output[0]: np.asarray(helper.get_attribute_value(value), np.int64)}
    raise NetworkFileError(f"Constant {_quoted(node.output[0])} is neither a tensor nor numbers.")


def _attributes(node: NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in node.attribute:
        if one.type == AttributeProto.TENSOR:
            found[one.name] = _array(one.t)
        elif one.type == AttributeProto.STRING:
            found[one.name] = one.s.decode("utf-8", "replace")
        elif one.type == AttributeProto.STRINGS:
            found[one.name] = [text.decode("utf-8", "replace") for text in one.strings]
        elif one.type in (AttributeProto.INT, AttributeProto.FLOAT):
            found[one.name] = helper.get_attribute_value(one)
        elif one.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            found[one.name] = list(helper.get_attribute_value(one))
        else:
            raise NetworkFileError(
                f"Attribute {_quoted(one.name)} of {_quoted(node.op_type)} is of no kind that is read."
            )
    return found


def _input(inputs: list[Any]) -> tuple[str, tuple[int | None, ...], np.dtype[Any]]:
    """Name, shape and type of the one input."""
    if len(inputs) != 1:
        names = ", ".join(_quoted(one.name) for one in inputs[:5]) or "none"
        raise NetworkFileError(f"The network needs exactly one input; this file has {len(inputs)}: {names}.")
    [one] = inputs
    kind = one.type.tensor_type
    dtype = (
        FLOATS | {TensorProto.INT64: INTEGERS[TensorProto.INT64], TensorProto.INT32: INTEGERS[TensorProto.INT32]}
    ).get(kind.elem_type)
    if dtype is None:
        kind_name = _type_name(kind.elem_type)
        raise NetworkFileError(
            f"Input {_quoted(one.name)} is of {kind_name}; numbers or the numbers of tokens are read."
        )
    shape = tuple(
        int(axis.dim_value) if axis.HasField("dim_value") and axis.dim_value > 0 else None for axis in kind.shape.dim
    )
    if not kind.HasField("shape") or not 2 <= len(shape) <= 5:
        raise NetworkFileError(
            f"Input {_quoted(one.name)} needs a shape of two to five axes, the batch first; it has {len(shape)}."
        )
    free = [axis for axis, length in enumerate(shape) if axis and length is None]
    is_sequence = len(shape) == 3 or (len(shape) == 2 and dtype.kind == "i")
    if free and not (free == [1] and is_sequence):
        raise NetworkFileError(
            f"Input {_quoted(one.name)} leaves axis {free[0]} open; only the batch, and the time of a sequence, may "
            "be. Export it with fixed sizes."
        )
    return one.name, shape, dtype


def _refuse_disorder(nodes: tuple[Node, ...], known: set[str], fixed: set[str] | frozenset[str]) -> None:
    """Every tensor has one origin, and it comes before its use."""
    known, made = set(known), set(fixed)
    all_made = {name for node in nodes for name in node.outputs}
    for node in nodes:
        for name in node.inputs:
            if name and name not in known:
                if name in all_made:
                    raise NetworkFileError(
                        f"Tensor {_quoted(name)} is used before it is computed: the graph has a cycle."
                    )
                raise NetworkFileError(
                    f"Tensor {_quoted(name)} is used by `{node.operator[:60]}` and computed nowhere."
                )
        for name in filter(None, node.outputs):
            if name in made or name in known:
                raise NetworkFileError(f"Two tensors are called {_quoted(name)}; each needs a name of its own.")
            made.add(name)
            known.add(name)


def _with_copies(nodes: tuple[Node, ...], constants: dict[str, np.ndarray]) -> tuple[Node, ...]:
    """The nodes without those that copy a constant whose numbers are all equal, such as a bias of zeros.

    torch's exporter writes equal parameters once, and copies the others from it. Copies of drawn numbers are shared on
    purpose, as the embedding that is read out with.
    """
    kept = []
    for node in nodes:
        array = constants.get(node.inputs[0]) if node.operator == "Identity" and node.inputs else None
        if array is None or array.dtype.kind != "f" or not array.size or (array != array.flat[0]).any():
            kept.append(node)
        elif node.outputs[0] not in constants:
            constants[node.outputs[0]] = array.copy()
    return tuple(kept)


def _without_labels(graph: GraphProto) -> tuple[list[NodeProto], set[str], list[str]]:
    """The nodes without those that need the name of the likeliest class; what those read; what was cut off."""
    dropped: set[str] = set()
    kept: list[NodeProto] = []
    cut: set[str] = set()
    scores: set[str] = set()
    for node in graph.node:
        starts = LABEL_OPERATORS.get(node.op_type, "-") == node.domain
        if starts or dropped & set(node.input):
            dropped |= set(node.output)
            cut.add(node.op_type)
            scores |= set(node.input) if starts else set()
        else:
            kept.append(node)
    names = ", ".join(sorted(name for name in cut if name in LABEL_OPERATORS))
    sentence = f"The end of the graph that names the likeliest class ({names}) is left out: outputs are the scores."
    return kept, scores, [sentence] if cut else []


def _output(ends: set[str], nodes: tuple[Node, ...]) -> str:
    """The name of the one output: where the graph ends, or where its end was cut off."""
    computed = {name for node in nodes for name in node.outputs}
    there = sorted(ends & computed)
    if len(there) != 1:
        names = ", ".join(_quoted(name) for name in there[:5]) or "none"
        raise NetworkFileError(f"The network needs exactly one output; this file has {len(there)}: {names}.")
    return there[0]


def _that_lead_to(output: str, nodes: tuple[Node, ...]) -> list[Node]:
    needed, found = {output}, []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            found.append(node)
            needed |= set(node.inputs) - {""}
    return found[::-1]


def _type_name(number: int) -> str:
    return TensorProto.DataType.Name(number).lower() if number in TensorProto.DataType.values() else f"type {number}"


def _quoted(name: str) -> str:
    shown = "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in name[:60])
    return f"`{shown}`"
