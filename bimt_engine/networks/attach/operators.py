"""What every operator does to the axes of its tensors: one table, from operator to rule.

A rule says which axes are the same, which are contracted and which are copies of others. An operator without a rule
pins every axis that it reads and makes. To add one: a rule, and its names in the table at the end.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from bimt_engine.networks.attach import shapes
from bimt_engine.networks.attach.axes import Axes, Axis, axis, pin, pinned_axis, reshape, size_of, total, unify
from bimt_engine.networks.attach.walk import (
    NotCovered,
    Rule,
    Walk,
    WeightUse,
    arguments,
    broadcast,
    dims_of,
    hint_of,
    operator_name,
    sizes,
    tensors_in,
    where,
)

UNIFORM = frozenset(
    {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor"}
    | {"zeros_like", "ones_like", "full_like", "empty_like"}
)


def same(walk: Walk, node: fx.Node) -> Axes:
    """The first tensor's axes, whatever else is given."""
    return list(walk.axes(node.args[0]))


def elementwise(walk: Walk, node: fx.Node) -> Axes:
    """Entry by entry, smaller tensors repeated."""
    read = [n for n in tensors_in([*node.args, *node.kwargs.values()]) if isinstance(walk.values.get(n), list)]
    made = broadcast([walk.axes(n) for n in read], where(node))
    if operator_name(node) in ("add", "sub") and len(read) == 2:
        for one, other in (read, read[::-1]):
            if walk.is_weight(other) and len(walk.axes(other)) == 1:
                walk.add_bias(one, other)
    return made


def fresh_uniform(walk: Walk, node: fx.Node) -> Axes:
    """All entries are equal, so that any order of them is the same."""
    return [axis(size) for size in sizes(node)]


def fresh_constant(walk: Walk, node: fx.Node) -> Axes:
    """Entries that differ and are no parameter."""
    reason = f"{where(node)} makes a constant that differs along axis"
    return [pinned_axis(size, f"{reason} {number}") for number, size in enumerate(sizes(node))]


def along(walk: Walk, node: fx.Node) -> Any:
    """What is done along one axis depends on the order of its entries."""
    args = arguments(node)
    first = walk.axes(node.args[0])
    reason = f"{where(node)} depends on the order along axis"
    dims = dims_of(args.get("dim", args.get("dims", -1 if first else None)), len(first)) if first else []
    for dim in dims:
        pin(first[dim], f"{reason} {dim}")
    shapes = node.meta["val"]
    outputs = shapes if isinstance(shapes, list | tuple) else [shapes]
    made = []
    for output in outputs:
        wanted = [hint_of(size, node) for size in output.shape]
        kept = [one for number, one in enumerate(first) if number not in dims or len(wanted) == len(first)]
        made.append(
            [
                one if size_of(one) == size else pinned_axis(size, f"{reason} {number}")
                for number, (one, size) in enumerate(zip(kept, wanted, strict=True))
            ]
        )
    for other in tensors_in([*node.args[1:], *node.kwargs.values()]):
        for number, one in enumerate(walk.axes(other)):
            pin(one, f"{reason} {number}")
    return made if isinstance(shapes, list | tuple) else made[0]


def triangle(walk: Walk, node: fx.Node) -> Axes:
    """A part of a matrix, which depends on the order of both of its axes."""
    axes = walk.axes(node.args[0])
    for number, one in enumerate(axes[-2:]):
        pin(one, f"{where(node)} depends on the order along axis {len(axes) - 2 + number}")
    return list(axes)


def reduced(walk: Walk, node: fx.Node) -> Any:
    """A symmetric function of all entries along some axes."""
    args, axes = arguments(node), walk.axes(node.args[0])
    if "other" in args:
        return elementwise(walk, node)
    dims, keep = dims_of(args.get("dim"), len(axes)), bool(args.get("keepdim", False))
    made = [() if number in dims else one for number, one in enumerate(axes) if keep or number not in dims]
    value = node.meta["val"]
    if isinstance(value, list | tuple):  # with the places of the largest: these depend on the order
        for dim in dims:
            pin(axes[dim], f"{where(node)} says where along axis {dim}")
        return [list(made) for _ in value]
    return made


def linear(walk: Walk, node: fx.Node) -> Axes:
    """y = x Wᵀ + b."""
    args = arguments(node)
    x, weight, bias = args["input"], args["weight"], args.get("bias")
    here, matrix = walk.axes(x), walk.axes(weight)
    reason = where(node)
    unify(here[-1], matrix[1], reason)
    out = matrix[0]
    if bias is not None:
        unify(out, walk.axes(bias)[0], reason)
    if walk.is_weight(weight):
        walk.add_use(WeightUse(weight, (0,), (1,), here[-1], reads=x, made=node, bias=bias))
    return [*here[:-1], out]


def matmul(walk: Walk, node: fx.Node) -> Axes:
    """A product of matrices, or of many side by side."""
    args = arguments(node)
    a = next(args[name] for name in ("mat1", "batch1", "self") if name in args)
    b = next(args[name] for name in ("mat2", "batch2", "other", "vec") if name in args)
    left, right = walk.axes(a), walk.axes(b)
    reason = where(node)
    if len(left) < 1 or len(right) < 1:
        raise NotCovered("it has no axes")
    inner = -2 if len(right) > 1 else -1
    unify(left[-1], right[inner], reason)
    made = [*broadcast([left[:-2], right[:-2]], reason), *left[-2:-1], *(right[-1:] if len(right) > 1 else [])]
    bias = args["self"] if "mat1" in args or "batch1" in args else None
    if bias is not None:
        made = broadcast([made, walk.axes(bias)], reason)
        bias = bias if walk.is_weight(bias) and len(walk.axes(bias)) == 1 else None
    if walk.is_weight(b) and not walk.is_weight(a) and len(right) == 2:
        walk.add_use(WeightUse(b, (1,), (0,), left[-1], reads=a, made=node, bias=bias))
    elif walk.is_weight(a) and not walk.is_weight(b) and len(left) == 2:
        walk.add_use(WeightUse(a, (0,), (1,), right[inner], reads=b, made=node))
    elif not walk.is_weight(a) and not walk.is_weight(b):
        walk.scores[node] = left[-1]
        if (scored := _scores_behind(walk, a)) is not None and len(right) > 1:
            walk.attentions.append((walk.scores[scored], right[-1]))
    return made


def _scores_behind(walk: Walk, node: fx.Node) -> fx.Node | None:
    """The product of two activations that this one was made of entry by entry."""
    here: fx.Node | None = node
    while here is not None and here not in walk.scores:
        rule = RULES.get(operator_name(here))
        read = [n for n in here.all_input_nodes if n in walk.inputs] if rule in (elementwise, same) else []
        here = read[0] if read else None
    return here


def einsum(walk: Walk, node: fx.Node) -> Axes:
    """A product by letters; operands with the same letter share an axis."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])  # type: ignore[arg-type]
    if "." in equation or "->" not in equation:
        raise NotCovered("an equation with an ellipsis, or without what it gives")
    sides, result = equation.split("->")
    letters = sides.split(",")
    named: dict[str, Axis] = {}
    for of, tensor in zip(letters, operands, strict=True):
        for letter, one in zip(of, walk.axes(tensor), strict=True):
            named[letter] = unify(named.get(letter, one), one, where(node))
    if len(operands) == 2:
        for (of, weight), (others, x) in (
            zip(letters, operands, strict=True),
            zip(letters[::-1], operands[::-1], strict=True),
        ):
            if walk.is_weight(weight) and not walk.is_weight(x):
                columns = [letter for letter in of if letter in others and letter not in result]
                rows = [letter for letter in of if letter in result and letter not in others]
                if len(columns) + len(rows) == len(of) and columns and rows:
                    source = tuple(atom for letter in columns for atom in named[letter])
                    use = WeightUse(
                        weight, tuple(map(of.index, rows)), tuple(map(of.index, columns)), source, reads=x, made=node
                    )
                    walk.add_use(use)
    return [named[letter] for letter in result]


def convolution(walk: Walk, node: fx.Node) -> Axes:
    """Channels are neurons; the pixels slide."""
    args = arguments(node)
    x, weight, bias = args["input"], args["weight"], args.get("bias")
    turned = bool(args.get("transposed", False)) or "transpose" in operator_name(node)
    here, kernel = walk.axes(x), walk.axes(weight)
    groups, reason = int(args.get("groups", 1)), where(node)
    if len(here) != len(kernel):
        raise NotCovered("without an axis for examples")
    for number, taps in enumerate(kernel[2:], start=2):
        pin(taps, f"{reason} slides along axis {number} of its kernel", copies=True)
    rows, columns = (1, 0) if turned else (0, 1)
    if groups > 1 and turned:
        raise NotCovered("transposed, with groups")
    out = kernel[rows]
    if groups == 1:
        unify(here[1], kernel[columns], reason)
    else:
        entered, left = size_of(here[1]) // groups, size_of(out) // groups
        into = reshape([here[1]], [groups, entered], reason)
        outof = reshape([out], [groups, left], reason)
        unify(into[0], outof[0], reason)
        unify(into[1], kernel[columns], reason)
    if bias is not None:
        unify(out, walk.axes(bias)[0], reason)
    # A depthwise kernel joins a channel to itself: no connection between neurons.
    if walk.is_weight(weight) and not (groups > 1 and size_of(here[1]) == size_of(out) == groups):
        walk.add_use(WeightUse(weight, (rows,), (columns,), here[1], groups, reads=x, made=node, bias=bias))
    return [here[0], out, *_slid(walk, node, here, 2)]


def _slid(walk: Walk, node: fx.Node, here: Axes, first: int) -> Axes:
    """Axes along which a window slides, before and after: their entries are copies of the same neurons."""
    reason = f"{where(node)} slides along axis"
    for number, one in enumerate(here[first:], start=first):
        pin(one, f"{reason} {number}", copies=True)
    return [
        pinned_axis(size, f"{reason} {number}", copies=True)
        for number, size in enumerate(sizes(node)[first:], start=first)
    ]


def window(kept: int) -> Rule:
    """Windows (pooling, resizing) slide along the last `kept` axes."""

    def rule(walk: Walk, node: fx.Node) -> Any:
        here = walk.axes(node.args[0])
        first = len(here) - kept
        value = node.meta["val"]
        if isinstance(value, list | tuple):
            raise NotCovered("with the places of the largest")
        return [*here[:first], *_slid(walk, node, here, first)]

    return rule


def padded(walk: Walk, node: fx.Node) -> Axes:
    """More entries at the ends of the last axes."""
    args, here = arguments(node), walk.axes(node.args[0])
    last = len(args["pad"]) // 2
    first = len(here) - last
    reason = f"{where(node)} lengthens axis"
    made = list(here)
    for number, size in enumerate(sizes(node)):
        if number >= first and size != size_of(here[number]):
            pin(here[number], f"{reason} {number}", copies=True)
            made[number] = pinned_axis(size, f"{reason} {number}", copies=True)
    return made


def batch_norm(walk: Walk, node: fx.Node) -> Axes:
    """Gain, shift and running statistics lie along the channels. The shift is the bias of what came before."""
    args, here = arguments(node), walk.axes(node.args[0])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if args.get(name) is not None:
            unify(here[1], walk.axes(args[name])[0], where(node))
    if args.get("bias") is not None:
        walk.add_bias(node.args[0], args["bias"])  # type: ignore[arg-type]
    return list(here)


def layer_norm(walk: Walk, node: fx.Node) -> Axes:
    """Symmetric over the last axes; gain and shift lie along them."""
    args, here = arguments(node), walk.axes(node.args[0])
    for name in ("weight", "bias"):
        if args.get(name) is not None:
            broadcast([here, walk.axes(args[name])], where(node))
    return list(here)


def group_norm(walk: Walk, node: fx.Node) -> Axes:
    """Symmetric within each group of channels, and between groups."""
    args, here = arguments(node), walk.axes(node.args[0])
    groups = int(args["num_groups"])
    if groups > 1 and groups < size_of(here[1]):
        reshape([here[1]], [groups, size_of(here[1]) // groups], where(node))
    for name in ("weight", "bias"):
        if args.get(name) is not None:
            unify(here[1], walk.axes(args[name])[0], where(node))
    return list(here)


def prelu(walk: Walk, node: fx.Node) -> Axes:
    """One slope for each channel, or one for all."""
    here, slope = walk.axes(node.args[0]), walk.axes(node.args[1])
    if len(here) > 1:
        unify(here[1], slope[0], where(node))
    return list(here)


def weight_norm(walk: Walk, node: fx.Node) -> Axes:
    """A direction times a length for each row."""
    return broadcast([walk.axes(node.args[0]), walk.axes(node.args[1])], where(node))


def embedding(walk: Walk, node: fx.Node) -> Axes:
    """Rows of a table are looked up."""
    args = arguments(node)
    table, index = walk.axes(args["weight"]), walk.axes(args["indices"])
    pin(table[0], f"{where(node)}: tokens are looked up along axis 0")
    return [*index, table[1]]


def looked_up(walk: Walk, node: fx.Node) -> Axes:
    """x[:, index]: the axis that is indexed stays, and what is made runs along the index."""
    args = arguments(node)
    here = walk.axes(args["self"])
    if "indices" in args:
        given = [(number, index) for number, index in enumerate(args["indices"]) if index is not None]
        if len(given) != 1 or given[0][1].meta["val"].dtype == torch.bool:
            raise NotCovered("several indices, or a mask")
        [(number, index)] = given
    else:
        number, index = args["dim"] % len(here), args["index"]
    pin(here[number], f"{where(node)}: axis {number} is indexed")
    return [*here[:number], *walk.axes(index), *here[number + 1 :]]


def attention(walk: Walk, node: fx.Node) -> Axes:
    """softmax(q kᵀ) v: q and k share an axis, and v keeps its own."""
    args = arguments(node)
    q, k, v = (walk.axes(args[name]) for name in ("query", "key", "value"))
    reason = where(node)
    if args.get("enable_gqa") and size_of(q[-3]) != size_of(k[-3]):
        groups = size_of(k[-3])
        heads = reshape([q[-3]], [groups, size_of(q[-3]) // groups], reason)
        unify(heads[0], unify(k[-3], v[-3], reason), reason)
        batch = [*broadcast([q[:-3], k[:-3], v[:-3]], reason), q[-3]]
    else:
        batch = broadcast([q[:-2], k[:-2], v[:-2]], reason)
    unify(q[-1], k[-1], reason)
    unify(k[-2], v[-2], reason)
    walk.attentions.append((q[-1], v[-1]))
    if args.get("attn_mask") is not None:
        broadcast([[*batch, q[-2], k[-2]], walk.axes(args["attn_mask"])], reason)
    if args.get("is_causal"):
        for one in (q[-2], k[-2]):
            pin(one, f"{reason} is causal", copies=True)
    return [*batch, q[-2], v[-1]]


GATES: dict[str, tuple[str, ...]] = {
    "gru": ("reset", "update", "new"),
    "lstm": ("input", "forget", "cell", "output"),
    "rnn_tanh": (),
    "rnn_relu": (),
}


def recurrent(walk: Walk, node: fx.Node) -> Any:
    """GRU, LSTM and plain recurrence: gates are copies of the hidden neurons, which lie on both sides of one matrix."""
    args, name = arguments(node), operator_name(node)
    if "input" not in args or "params" not in args:
        raise NotCovered("packed sequences")
    params, gates = list(args["params"]), GATES[name]
    per = 4 if args["has_biases"] else 2
    directions = 2 if args["bidirectional"] else 1
    if len(params) != per * directions * args["num_layers"]:
        raise NotCovered("with projections")
    here, reason = walk.axes(args["input"]), where(node)
    states = [args["hx"]] if isinstance(args["hx"], fx.Node) else list(args["hx"])
    feature, read, hidden_axes = here[-1], args["input"], []
    for layer in range(args["num_layers"]):
        found: list[Axis] = []
        for direction in range(directions):
            start = per * (layer * directions + direction)
            own = params[start : start + per]
            hidden = walk.axes(own[1])[1]
            unify(feature, walk.axes(own[0])[1], reason)
            for tensor in own:
                rows = walk.axes(tensor)[0]
                if gates:
                    apart = reshape([rows], [len(gates), size_of(hidden)], reason)
                    pin(apart[0], f"{reason}: gates lie side by side", copies=True)
                    rows = apart[1]
                unify(rows, hidden, reason)
            bias = own[2] if per == 4 else None
            reads = read if layer == 0 else None
            walk.add_use(WeightUse(own[0], (0,), (1,), feature, reads=reads, made=node, bias=bias, roles=gates))
            again = own[3] if per == 4 else None
            walk.add_use(WeightUse(own[1], (0,), (1,), hidden, bias=again, roles=gates))
            found.append(hidden)
        hidden_axes += found
        feature = total(found)
    batch = here[0] if args["batch_first"] else here[1]
    time = here[1] if args["batch_first"] else here[0]
    pin(time, f"{reason} goes along the time axis", copies=True)
    last = hidden_axes[0]
    ends = [user for user in node.users if user.target is operator.getitem and user.args[1] != 0 and user.users]
    given = [state for state in states if operator_name(state) not in UNIFORM]
    if ends or given:  # one tensor holds the states of all layers, so these share one order
        for other in hidden_axes[1:]:
            last = unify(last, other, reason)
        for state in given:
            unify(walk.axes(state)[-1], last, reason)
    count = len(hidden_axes)
    state_axes = [pinned_axis(count, f"{reason}: states of several layers", copies=True), batch, last]
    return [[*here[:-1], feature], *[list(state_axes) for _ in states]]


def nothing(walk: Walk, node: fx.Node) -> None:
    """Checks and sizes: no tensor."""


def _table(*entries: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in entries for name in names.split()}


RULES: dict[str, Rule] = _table(
    (
        elementwise,
        "add sub rsub mul div true_divide floor_divide remainder fmod pow neg abs sign exp exp2 expm1 log log2 log10 "
        "log1p sqrt rsqrt square reciprocal sin cos tan tanh asin acos atan atan2 sinh cosh sigmoid logit erf erfc "
        "relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign softshrink hardshrink threshold hardtanh "
        "hardsigmoid hardswish log_sigmoid clamp clamp_min clamp_max clip maximum minimum where masked_fill lerp "
        "addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or "
        "bitwise_not isnan isinf isfinite floor ceil round trunc frac nan_to_num copy fill softmax log_softmax "
        "_softmax _log_softmax dropout feature_dropout alpha_dropout __and__ __or__ sinc",
    ),
    (same, "clone contiguous detach alias to _to_copy type_as lift_fresh_copy zero"),
    (fresh_uniform, " ".join(sorted(UNIFORM))),
    (fresh_constant, "arange linspace eye"),
    (along, "cumsum cumprod sort argsort topk flip roll argmax argmin gather scatter index_add index_copy multinomial"),
    (triangle, "tril triu"),
    (reduced, "mean sum amax amin max min var std prod norm linalg_vector_norm logsumexp any all var_mean std_mean"),
    (linear, "linear"),
    (matmul, "matmul mm bmm mv addmm baddbmm"),
    (einsum, "einsum"),
    (convolution, "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d"),
    (window(1), "max_pool1d avg_pool1d adaptive_avg_pool1d"),
    (window(2), "max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d"),
    (window(3), "max_pool3d avg_pool3d adaptive_avg_pool3d"),
    (padded, "pad constant_pad_nd"),
    (batch_norm, "batch_norm instance_norm"),
    (layer_norm, "layer_norm rms_norm"),
    (group_norm, "group_norm"),
    (weight_norm, "_weight_norm"),
    (prelu, "prelu"),
    (embedding, "embedding"),
    (looked_up, "index index_select"),
    (attention, "scaled_dot_product_attention"),
    (recurrent, "gru lstm rnn_tanh rnn_relu"),
    (shapes.reshaped, "view reshape _unsafe_view flatten unflatten view_as"),
    (shapes.transposed, "permute transpose swapaxes t numpy_T mT"),
    (shapes.unsqueezed, "unsqueeze"),
    (shapes.squeezed, "squeeze"),
    (shapes.expanded, "expand expand_as broadcast_to"),
    (shapes.repeated, "repeat repeat_interleave"),
    (shapes.selected, "select"),
    (shapes.unbound, "unbind"),
    (shapes.sliced, "slice narrow"),
    (shapes.divided, "split split_with_sizes chunk tensor_split"),
    (shapes.joined, "cat concat"),
    (shapes.stacked, "stack"),
    (shapes.taken, "getitem"),
    (nothing, "sym_size sym_numel _assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"),
)
"""Operator -> what it does to axes."""
