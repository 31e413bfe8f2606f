"""Identities of axes: which axes of which tensors run along the same neurons.

An axis is a product of atoms, the outermost first, as a flattened tensor lies in memory. An atom is a set of entries
that no operator has taken apart yet. When one does, the atom becomes a product (heads · neurons of a head) or a sum
(query rows, then key rows), and every axis that it stands in is taken apart with it. Two axes that an operator treats
as one are unified, part by part. What is known of an atom is thus known at every tensor that has it: which atoms are
equal, and which are pinned, with the reason.

Whatever cannot be matched is pinned on both sides: entries that stay where they are are always right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from jaxtyping import Int64
from torch import Tensor

Axis = tuple["Atom", ...]
"""The atoms of one axis, outermost first; the empty product has one entry."""

Axes = list[Axis]
"""The axes of one tensor."""

Key = tuple["Atom", ...]
"""What a neuron layer is made of: its leaves, outermost first."""


@dataclass(eq=False)
class Atom:
    """A set of entries that move together as one index, until an operator takes it apart.

    size     how many entries.
    same     the atom that this one was found to be equal to; None: it stands for itself.
    factors  what it is a product of; None: it is none.
    terms    what it is a sum of, in order; None: it is none.
    pins     why its entries must stay where they are; (): they may move.
    copies   True: its entries are no neurons but copies of some (pixels of a channel, time steps, gates).
    """

    size: int
    same: Atom | None = None
    factors: Axis | None = None
    terms: tuple[Axis, ...] | None = None
    pins: list[str] = field(default_factory=list)
    copies: bool = False

    def found(self) -> Atom:
        """The atom that stands for this one."""
        here = self
        while here.same is not None:
            here = here.same
        if self is not here:
            self.same = here  # shortens the way for the next call
        return here

    @property
    def leaf(self) -> bool:
        """Whether it has not been taken apart."""
        return self.factors is None and self.terms is None

    @property
    def free(self) -> bool:
        """Whether its entries may move."""
        return not self.pins


def axis(size: int) -> Axis:
    """A new axis of which nothing is known."""
    return (Atom(size),)


def size_of(one: Axis) -> int:
    """How many entries an axis has."""
    return prod(atom.size for atom in one)


def factors(one: Axis) -> list[Atom]:
    """The atoms of an axis as far as they are known, products taken apart: leaves and sums."""
    found: list[Atom] = []
    for atom in one:
        here = atom.found()
        found += factors(here.factors) if here.factors is not None else [here]
    return found


def leaves(one: Axis) -> Iterator[Atom]:
    """Every leaf in an axis."""
    for atom in factors(one):
        if atom.terms is None:
            yield atom
        else:
            for term in atom.terms:
                yield from leaves(term)


def pin(one: Axis, reason: str, *, copies: bool = False) -> None:
    """Its entries stay where they are. `copies`: and they are no neurons of their own."""
    for leaf in leaves(one):
        if reason not in leaf.pins:
            leaf.pins.append(reason)
        leaf.copies |= copies


def pinned_axis(size: int, reason: str, *, copies: bool = False) -> Axis:
    """A new axis whose entries stay where they are."""
    made = axis(size)
    pin(made, reason, copies=copies)
    return made


def total(terms: Sequence[Axis]) -> Axis:
    """The axis in which these lie one after another."""
    kept = [term for term in terms if size_of(term)]
    return kept[0] if len(kept) == 1 else (Atom(sum(map(size_of, kept)), terms=tuple(kept)),)


# --- unify ----------------------------------------------------------------------------------------


def unify(one: Axis, other: Axis, reason: str) -> Axis:
    """One axis for both, which an operator treats as the same; an axis of size 1 is repeated along the other.

    reason   why both are pinned where they cannot be matched.
    """
    if size_of(one) != size_of(other):
        return other if size_of(one) == 1 else one
    if size_of(one) == 1:
        if one and other:
            _unite(one[0], other[0], reason)
        return one or other
    mine, theirs = (_of_size(factors(a)) for a in (one, other))
    while mine and theirs:
        a, b = mine.pop().found(), theirs.pop().found()
        if a.size == b.size:
            _unite(a, b, reason)
            # uniting may have taken apart what is still to come: look again
            mine, theirs = _of_size(factors(tuple(mine))), _of_size(factors(tuple(theirs)))
            continue
        large, small, rest = (a, b, mine) if a.size > b.size else (b, a, theirs)
        (theirs if a.size > b.size else mine).append(small)
        if large.leaf and large.size % small.size == 0:
            rest += _split(large, large.size // small.size, small.size)
        else:
            for left in (*mine, *theirs, large):
                pin((left,), f"{reason}: the two axes are divided differently")
            break
    return one


def _of_size(atoms: list[Atom]) -> list[Atom]:
    return [atom for atom in atoms if atom.size > 1]


def _unite(a: Atom, b: Atom, reason: str) -> None:
    a, b = a.found(), b.found()
    if a is b:
        return
    if not a.leaf:
        a, b = b, a
    if a.leaf:
        a.same = b
        for why in a.pins:
            pin((b,), why)
        if a.copies:
            for leaf in leaves((b,)):
                leaf.copies = True
    elif a.factors is not None and b.factors is not None:
        unify(a.factors, b.factors, reason)
    elif a.terms is not None and b.terms is not None:
        ours, theirs = list(a.terms), list(b.terms)
        while ours and theirs:
            first, second = ours.pop(0), theirs.pop(0)
            if size_of(first) > size_of(second):
                first, rest = cut(first, size_of(second), reason)
                ours.insert(0, rest)
            elif size_of(first) < size_of(second):
                second, rest = cut(second, size_of(first), reason)
                theirs.insert(0, rest)
            unify(first, second, reason)
        a.terms, a.same = None, b
    else:
        for each in (a, b):
            pin((each,), f"{reason}: one is divided into parts, the other into a product")


def _split(atom: Atom, outer: int, inner: int) -> list[Atom]:
    """Take a leaf apart into a product."""
    parts = [Atom(outer, pins=list(atom.pins), copies=atom.copies), Atom(inner, pins=list(atom.pins))]
    parts[1].copies = atom.copies
    atom.factors = tuple(parts)
    return parts


# --- take apart and put together ------------------------------------------------------------------


def cut(one: Axis, at: int, reason: str) -> tuple[Axis, Axis]:
    """The first `at` entries of an axis and the rest."""
    if at in (0, size_of(one)):
        empty: Axis = (Atom(0),)
        return (empty, one) if at == 0 else (one, empty)
    atoms = _of_size(factors(one))
    if len(atoms) > 1:
        inner = prod(atom.size for atom in atoms[1:])
        if at % inner == 0:
            first, second = cut((atoms[0],), at // inner, reason)
            return (*first, *atoms[1:]), (*second, *atoms[1:])
        pin(one, f"{reason}: the cut goes through a product")
        return pinned_axis(at, reason), pinned_axis(size_of(one) - at, reason)
    [atom] = atoms
    if atom.terms is None:
        parts = [Atom(part, pins=list(atom.pins), copies=atom.copies) for part in (at, atom.size - at)]
        atom.terms = ((parts[0],), (parts[1],))
        return atom.terms[0], atom.terms[1]
    before: list[Axis] = []
    after: list[Axis] = []
    passed = 0
    for term in atom.terms:
        here = min(max(at - passed, 0), size_of(term))
        first, second = cut(term, here, reason)
        before.append(first)
        after.append(second)
        passed += size_of(term)
    return total(before), total(after)


def reshape(axes: Axes, sizes: Sequence[int], reason: str) -> Axes:
    """The axes of a tensor that is seen in another shape, entries in the same order."""
    made: Axes = []
    rest = list(axes)
    wanted = list(sizes)
    while rest or wanted:
        if rest and wanted and size_of(rest[0]) == wanted[0]:
            made.append(rest.pop(0))
            wanted.pop(0)
            continue
        if rest and size_of(rest[0]) == 1:
            rest.pop(0)
            continue
        if wanted and wanted[0] == 1:
            made.append(axis(1))
            wanted.pop(0)
            continue
        taken, asked = [rest.pop(0)], [wanted.pop(0)]
        while (have := prod(map(size_of, taken))) != (want := prod(asked)):
            if have < want:
                taken.append(rest.pop(0))
            else:
                asked.append(wanted.pop(0))
        made += _regroup(taken, asked, reason)
    return made


def _regroup(taken: Axes, asked: Sequence[int], reason: str) -> Axes:
    """Axes whose product has these sizes."""
    atoms = _of_size([atom for one in taken for atom in factors(one)])
    made: Axes = []
    for size in asked:
        here: list[Atom] = [Atom(1)] if size == 1 else []
        left = size
        while left > 1:
            atom = atoms.pop(0).found()
            if not atom.leaf and atom.factors is not None:
                atoms = [*atom.factors, *atoms]
            elif left % atom.size == 0:
                here.append(atom)
                left //= atom.size
            elif atom.leaf and atom.size % left == 0:
                atoms = [*_split(atom, left, atom.size // left), *atoms]
            else:
                for one in taken:
                    pin(one, f"{reason}: the new axes do not divide the old ones")
                return [pinned_axis(n, reason) for n in asked]
        made.append(tuple(here))
    return made


# --- where entries lie ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Lattice:
    """Entries of an axis that run along leaves: entry `offset + Σ index · stride`."""

    offset: int
    steps: tuple[tuple[Atom, int], ...]

    @property
    def atoms(self) -> Axis:
        """The leaves, outermost first."""
        return tuple(atom for atom, _ in self.steps)


def lattices(one: Axis, stride: int = 1) -> list[Lattice]:
    """How the entries of an axis run along its leaves: one lattice, or several where there is a sum."""
    found = [Lattice(0, ())]
    for atom in reversed(factors(one)):
        if atom.terms is None:
            here = [Lattice(0, ((atom, stride),))]
        else:
            here, passed = [], 0
            for term in atom.terms:
                here += [Lattice(each.offset + passed * stride, each.steps) for each in lattices(term, stride)]
                passed += size_of(term)
        found = [Lattice(a.offset + b.offset, a.steps + b.steps) for a in here for b in found]
        stride *= atom.size
    return found


def key_of(lattice: Lattice) -> Key:
    """The neurons that a lattice runs along, copies left out."""
    atoms = lattice.atoms
    for kept in ([a for a in atoms if not a.copies and a.size > 1], [a for a in atoms if a.size > 1], atoms):
        if kept:
            return tuple(kept)
    return ()


def offsets(lattice: Lattice, key: Key) -> Int64[Tensor, "copies neurons"]:
    """The entries of a lattice: one row for each copy, one column for each neuron."""
    strides: dict[int, int] = {}
    rest: list[tuple[Atom, int]] = []
    for atom, stride in lattice.steps:
        if any(atom is mine for mine in key) and id(atom) not in strides:
            strides[id(atom)] = stride
        else:
            rest.append((atom, stride))
    neurons = _grid([(atom, strides[id(atom)]) for atom in key])
    return lattice.offset + _grid(rest)[:, None] + neurons[None, :]


def _grid(steps: Sequence[tuple[Atom, int]]) -> Int64[Tensor, " entries"]:
    made = torch.zeros(1, dtype=torch.int64)
    for atom, stride in steps:
        made = (made[:, None] + stride * torch.arange(atom.size)[None, :]).reshape(-1)
    return made


@dataclass(frozen=True)
class Along:
    """Where a neuron layer lies on one axis of one tensor: entry `at[copy, neuron]` of the axis.

    blocks   True: the axis has one entry for each block, not for each neuron (a temperature of every head).
    """

    tensor: str
    axis: int
    at: Int64[Tensor, "copies entries"]
    buffer: bool = False
    blocks: bool = False

    def order(self, neurons: Int64[Tensor, " neurons"]) -> Int64[Tensor, " entries"]:
        """Where its entries come from when the neurons take this order."""
        if not self.blocks:
            return neurons
        size = neurons.numel() // self.at.shape[1]
        return neurons[::size] // size
