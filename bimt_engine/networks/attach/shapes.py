"""Rules for operators that give the same entries in another shape, in parts or side by side."""

from __future__ import annotations

from typing import Any

from torch import fx

from bimt_engine.networks.attach.axes import Axes, axis, cut, pin, pinned_axis, reshape, size_of, total
from bimt_engine.networks.attach.walk import (
    NotCovered,
    Walk,
    arguments,
    broadcast,
    dims_of,
    hint_of,
    operator_name,
    sizes,
    where,
)


def reshaped(walk: Walk, node: fx.Node) -> Axes:
    """The same entries in the same order."""
    return reshape(walk.axes(node.args[0]), sizes(node), where(node))


def transposed(walk: Walk, node: fx.Node) -> Axes:
    """Axes in another order."""
    here = list(walk.axes(node.args[0]))
    args = arguments(node)
    name = operator_name(node)
    if name == "permute":
        return [here[dim] for dim in args["dims"]]
    first, second = (args["dim0"], args["dim1"]) if "dim0" in args else (-1, -2)
    if len(here) > 1:
        here[first], here[second] = here[second], here[first]
    return here


def unsqueezed(walk: Walk, node: fx.Node) -> Axes:
    """A new axis of one entry."""
    here = list(walk.axes(node.args[0]))
    here.insert(int(arguments(node)["dim"]) % (len(here) + 1), ())
    return here


def squeezed(walk: Walk, node: fx.Node) -> Axes:
    """Axes of one entry go."""
    here = walk.axes(node.args[0])
    dims = dims_of(arguments(node).get("dim"), len(here))
    return [one for number, one in enumerate(here) if not (number in dims and size_of(one) == 1)]


def expanded(walk: Walk, node: fx.Node) -> Axes:
    """An axis of one entry is repeated: all copies are equal."""
    here, wanted = walk.axes(node.args[0]), sizes(node)
    here = [()] * (len(wanted) - len(here)) + list(here)
    return [one if size_of(one) == size else axis(size) for one, size in zip(here, wanted, strict=True)]


def repeated(walk: Walk, node: fx.Node) -> Axes:
    """Copies of a whole axis after one another; `repeat_interleave`: of every entry."""
    here, wanted = list(walk.axes(node.args[0])), sizes(node)
    interleaved = operator_name(node) == "repeat_interleave"
    if interleaved and arguments(node).get("dim") is None:
        raise NotCovered("without an axis")
    here = [()] * (len(wanted) - len(here)) + here
    made: Axes = []
    for one, size in zip(here, wanted, strict=True):
        copies = axis(size // size_of(one)) if size != size_of(one) else ()
        made.append((*one, *copies) if interleaved else (*copies, *one))
    return made


def selected(walk: Walk, node: fx.Node) -> Axes:
    """One entry of an axis."""
    here, args = list(walk.axes(node.args[0])), arguments(node)
    dim = args["dim"] % len(here)
    pin(here[dim], f"{where(node)}: one entry of axis {dim} is taken", copies=True)
    return here[:dim] + here[dim + 1 :]


def unbound(walk: Walk, node: fx.Node) -> list[Axes]:
    """All entries of an axis, each apart."""
    here, args = list(walk.axes(node.args[0])), arguments(node)
    dim = args["dim"] % len(here)
    pin(here[dim], f"{where(node)}: the entries of axis {dim} are taken apart", copies=True)
    return [here[:dim] + here[dim + 1 :] for _ in node.meta["val"]]


def sliced(walk: Walk, node: fx.Node) -> Axes:
    """A stretch of an axis."""
    here, args = list(walk.axes(node.args[0])), arguments(node)
    dim = args["dim"] % len(here)
    size, after = size_of(here[dim]), sizes(node)[dim]
    if after == size and args.get("step", 1) == 1:
        return here
    start = args.get("start") or 0
    if args.get("step", 1) != 1 or not isinstance(start, int):
        pin(here[dim], f"{where(node)}: every so many entries of axis {dim} are taken")
        here[dim] = pinned_axis(after, f"{where(node)}: every so many entries of axis {dim} are taken")
        return here
    start = max(start + size, 0) if start < 0 else min(start, size)
    rest = cut(here[dim], start, where(node))[1]
    here[dim] = cut(rest, after, where(node))[0]
    return here


def divided(walk: Walk, node: fx.Node) -> list[Axes]:
    """Stretches of an axis one after another."""
    here, args = list(walk.axes(node.args[0])), arguments(node)
    dim = args.get("dim", 0) % len(here)
    rest, made = here[dim], []
    for part in node.meta["val"]:
        first, rest = cut(rest, hint_of(part.shape[dim], node), where(node))
        made.append([*here[:dim], first, *here[dim + 1 :]])
    return made


def joined(walk: Walk, node: fx.Node) -> Axes:
    """One after another along an axis."""
    args = arguments(node)
    parts = [walk.axes(n) for n in args["tensors"] if walk.axes(n)]
    dim = args.get("dim", 0) % len(parts[0])
    made = broadcast([[*axes[:dim], (), *axes[dim + 1 :]] for axes in parts], where(node))
    made[dim] = total([axes[dim] for axes in parts])
    return made


def stacked(walk: Walk, node: fx.Node) -> Axes:
    """Side by side along a new axis."""
    args = arguments(node)
    made = broadcast([walk.axes(n) for n in args["tensors"]], where(node))
    dim = args.get("dim", 0) % (len(made) + 1)
    made.insert(dim, pinned_axis(len(args["tensors"]), f"{where(node)}: tensors side by side", copies=True))
    return made


def taken(walk: Walk, node: fx.Node) -> Any:
    """One of several results."""
    values = walk.values.get(node.args[0])  # type: ignore[arg-type]
    return values[node.args[1]] if isinstance(values, list) else None  # type: ignore[index]
