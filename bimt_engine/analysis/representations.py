"""The real irreducible representations of any finite group, and how a function on the group divides among them.

A function on a group of order n is a vector of R^n, and the group acts on R^n by translations. R^n is the orthogonal
sum of subspaces, one for each real irreducible representation, and the action on each is a multiple of that
representation. Of Z_n these are the frequencies, so what is done here is the Fourier transform of the group.
(arXiv 2305.08746, section 3.3)

All of it is found from the Cayley table alone. The projections onto the subspaces are convolutions with functions that
are constant on classes of conjugate elements and equal at an element and its inverse. These functions commute, so they
are the common eigenvectors of a few symmetric matrices that are no larger than the number of classes.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from bimt_engine.data.kinds.groups import generators

RepresentationType = Literal["real", "complex", "quaternionic"]
COMMUTANT = {"real": 1, "complex": 2, "quaternionic": 4}  # real dimension of what commutes with a representation

SAME = 1e-4  # eigenvalues closer than this, over √n, are separated by another matrix; the gap costs so many digits
MOST_MATRICES = 100  # two eigenvalues stay together with a probability of about SAME each time
EXACT = 1e-8  # largest error of what is found, checked before it is given back
CONSTANT = 1e-20  # of the mean square: a variance below is rounding


@dataclass(frozen=True)
class Representation:
    """A real irreducible representation of a group of order n.

    name        "trivial", "frequency 3", "sign", "3-dimensional a".
    dimension   of the real matrices; for the complex type twice that of the complex representation.
    type        what commutes with it: only numbers (real), a complex plane, or the quaternions.
    character   the trace of each element's matrix.
    basis       orthonormal, of its subspace of the functions on the group; its columns are the dimension times the
                multiplicity in R^n.
    frequency   of an abelian group: how often it turns around along each independent generator; () of others.
    """

    name: str
    dimension: int
    type: RepresentationType
    character: Float[np.ndarray, " n"]
    basis: Float[np.ndarray, "n _"]
    frequency: tuple[int, ...] = ()

    @property
    def kernel(self) -> Bool[np.ndarray, " n"]:
        """The elements that it maps to the identity matrix."""
        return np.asarray(np.abs(self.character - self.dimension) < 1e-6 * self.dimension)


@dataclass(frozen=True)
class Group:
    """What is read off a Cayley table.

    table           table[a, b] = a · b. identity: the number of 1.
    inverse         of each element. element_orders: the least k > 0 with g^k = 1.
    class_of        the number of each element's class of conjugate elements; classes are numbered by the order of
                    their elements, their size and their first element, so that the identity's is 0.
    generators      elements whose products are all elements.
    """

    table: Int[np.ndarray, "n n"]
    identity: int
    inverse: Int[np.ndarray, " n"]
    element_orders: Int[np.ndarray, " n"]
    class_of: Int[np.ndarray, " n"]
    generators: tuple[int, ...]

    @classmethod
    def of(cls, cayley: NDArray[np.integer]) -> Group:
        """The group of a Cayley table. Raises ValueError for a table without identity or inverses."""
        table: NDArray[np.int64] = np.asarray(cayley, np.int64)
        everything = np.arange(len(table))
        neutral = np.flatnonzero((table == everything).all(axis=1))
        if len(neutral) != 1:
            raise ValueError("this table is not that of a group: it has no identity; check it with check_group_table")
        identity = int(neutral[0])
        inverse = np.argmax(table == identity, axis=1)
        if not (table[everything, inverse] == identity).all():
            raise ValueError("this table is not that of a group: an element has no inverse")
        orders, power = np.zeros(len(table), np.int64), everything.copy()
        for exponent in range(1, len(table) + 1):
            orders[(power == identity) & (orders == 0)] = exponent
            power = table[power, everything]
        conjugates = table[table, inverse[:, None]]  # [x, g]: x · g · x⁻¹
        first = conjugates.min(axis=0)
        sizes = np.bincount(first, minlength=len(table))
        ranked = sorted(set(first.tolist()), key=lambda g: (orders[g], sizes[g], g))
        number = {g: i for i, g in enumerate(ranked)}
        class_of = np.array([number[g] for g in first.tolist()])
        return cls(table, identity, inverse, orders, class_of, tuple(generators(table)))

    @property
    def order(self) -> int:
        """How many elements it has."""
        return len(self.table)

    @property
    def abelian(self) -> bool:
        """Whether a · b = b · a for all elements."""
        return bool((self.table == self.table.T).all())

    @property
    def classes(self) -> list[Int[np.ndarray, " _"]]:
        """The elements of each class of conjugate elements."""
        return [np.flatnonzero(self.class_of == number) for number in range(int(self.class_of.max()) + 1)]

    def cosets(self, subgroup: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The number of each element's coset g · H, counted from 0 in the order of their first elements."""
        first = self.table[:, subgroup].min(axis=1)
        return np.unique(first, return_inverse=True)[1].reshape(-1)


def representations(table: NDArray[np.integer]) -> tuple[Representation, ...]:
    """All real irreducible representations of the group of this Cayley table: the trivial one first, then by dimension.

    Equal for equal tables, bit for bit on one machine. Of a cyclic group they are in the order of their frequencies,
    counted for its first generator, which in Z_n is 1.
    Raises ValueError where the table is not that of a group, and ArithmeticError where the checks of what was found
    fail: subspaces orthonormal and invariant, together all of R^n, characters orthogonal.
    """
    array = np.ascontiguousarray(table, np.int64)
    return _representations(array.tobytes(), len(array))


def shares(
    values: Float[np.ndarray, "n columns"], representations: Sequence[Representation]
) -> Float[np.ndarray, "columns representations"]:
    """The share of each column's variance in each representation; the trivial one, which holds the mean, has none.

    values   functions on the group, one in each column. A constant one has no variance, and its shares are 0.
    """
    values = np.asarray(values, np.float64)
    power = np.stack([((part.basis.T @ values) ** 2).sum(axis=0) for part in representations], axis=1)
    power[:, 0] = 0.0
    total = power.sum(axis=1)
    counts = total > CONSTANT * (values**2).sum(axis=0)
    return np.asarray(np.where(counts[:, None], power / np.where(counts, total, 1.0)[:, None], 0.0))


def matrices(table: NDArray[np.integer], representation: Representation) -> Float[np.ndarray, "n dimension dimension"]:
    """The orthogonal matrix of each element, up to the choice of a basis; matrices[a] @ matrices[b] = matrices[a · b].

    Right translations commute with the left ones by which the group acts, so an eigenspace of a symmetric sum of them
    is invariant. Where its eigenvalues are apart, each eigenspace is one copy of the representation.
    """
    group, basis, dimension = Group.of(table), representation.basis, representation.dimension
    copies = basis.shape[1] // dimension
    draw, best, widest = np.random.default_rng(0), basis[:, :dimension], -1.0
    for _ in range(8 if copies > 1 else 0):
        weights = draw.normal(size=group.order)
        weights += weights[group.inverse]
        translated = weights[group.table[group.inverse]] @ basis  # [x]: Σ_y weights(x⁻¹ y) basis(y)
        eigenvalues, vectors = np.linalg.eigh(basis.T @ translated)
        ends = eigenvalues.reshape(copies, dimension)[:, [0, -1]]
        gaps = np.diff(np.concatenate([[-np.inf], ends.reshape(-1), [np.inf]]))[::2]
        around = np.minimum(gaps[:-1], gaps[1:])
        copy = int(around.argmax())
        if around[copy] > widest:
            widest, best = float(around[copy]), basis @ vectors[:, copy * dimension : (copy + 1) * dimension]
    moved = best[group.table[group.inverse]]  # [g, x]: best(g⁻¹ x)
    return np.asarray(np.einsum("xi,gxj->gij", best, moved))


# --- how they are found ---------------------------------------------------------------------------


@lru_cache(maxsize=4)  # evidence, pictures and operations of one run ask for the same group
def _representations(content: bytes, order: int) -> tuple[Representation, ...]:
    group = Group.of(np.frombuffer(content, np.int64).reshape(order, order))
    found = [_from_projection(group, projection) for projection in _projections(group)]
    found = _named(group, found)
    _check(group, found)
    for part in found:
        part.character.flags.writeable = part.basis.flags.writeable = False
    return tuple(found)


def _projections(group: Group) -> list[Float[np.ndarray, " n"]]:
    """Functions e with e * e = e, one for each representation: convolution with e projects onto its subspace."""
    pairs = np.minimum(group.class_of, group.class_of[group.inverse])
    pair_of, sizes = np.unique(pairs, return_inverse=True, return_counts=True)[1:]
    pair_of = pair_of.reshape(-1)
    indicators = np.zeros((group.order, len(sizes)))
    indicators[np.arange(group.order), pair_of] = 1 / np.sqrt(sizes[pair_of])
    quotients = group.table[:, group.inverse]  # [x, z]: x · z⁻¹
    draw = np.random.default_rng(0)
    blocks = [np.eye(len(sizes))]
    for _ in range(MOST_MATRICES):
        if len(blocks) == len(sizes):
            break
        random = (draw.normal(size=len(sizes)) / np.sqrt(sizes))[pair_of]
        operator = indicators.T @ random[quotients] @ indicators
        blocks = [part for block in blocks for part in _eigenspaces(block, operator, SAME * np.sqrt(group.order))]
    else:
        raise ArithmeticError(f"the representations of this group of order {group.order} could not be separated")
    functions = indicators @ np.concatenate(blocks, axis=1)
    # e = c · f for the eigenvector f of length 1, and e(1) = Σ e² as e is its own convolution: c = f(1).
    return list((functions * functions[group.identity]).T)


def _eigenspaces(
    block: Float[np.ndarray, "n width"], operator: Float[np.ndarray, "n n"], same: float
) -> list[Float[np.ndarray, "n _"]]:
    """The eigenspaces of a symmetric matrix within an invariant subspace; eigenvalues closer than `same` are one."""
    if block.shape[1] == 1:
        return [block]
    eigenvalues, vectors = np.linalg.eigh(block.T @ operator @ block)
    cuts = np.flatnonzero(np.diff(eigenvalues) > same) + 1
    return [block @ part for part in np.split(vectors, cuts, axis=1)]


def _from_projection(group: Group, projection: Float[np.ndarray, " n"]) -> Representation:
    """The representation, without its name, whose subspace the convolution with this function projects onto."""
    width = round(group.order * projection[group.identity])
    everything = np.arange(group.order)
    # Frobenius and Schur: Σ e(g²) is the degree of the complex representation for the real type, 0 for the complex
    # one, which is a pair of conjugate representations, and minus the degree for the quaternionic one.
    squares = float(projection[group.table[everything, everything]].sum())
    kind: RepresentationType = "complex" if abs(squares) < 0.5 else "real" if squares > 0 else "quaternionic"
    degree = round(np.sqrt(width / 2 if kind == "complex" else width))
    character = projection * (group.order / degree) * (2 if kind == "quaternionic" else 1)
    matrix = projection[group.table[:, group.inverse]]
    spread = np.random.default_rng(0).normal(size=(group.order, width))
    basis = np.linalg.qr(matrix @ np.linalg.qr(matrix @ spread)[0])[0]
    return Representation("", degree if kind == "real" else 2 * degree, kind, character, basis)


def _check(group: Group, found: Sequence[Representation]) -> None:
    basis = np.concatenate([part.basis for part in found], axis=1)
    if basis.shape[1] != group.order:
        raise ArithmeticError(f"the representations hold {basis.shape[1]} dimensions of {group.order}")
    errors = [np.abs(basis.T @ basis - np.eye(group.order)).max()]
    characters = np.stack([part.character for part in found])
    norms = np.diag([float(COMMUTANT[part.type]) for part in found])
    errors.append(np.abs(characters @ characters.T / group.order - norms).max())
    for part in found:
        moved = part.basis[group.table[list(group.generators)]]
        errors.append(np.abs(moved - part.basis @ (part.basis.T @ moved)).max(initial=0.0))
        errors.append(abs(part.character[group.identity] - part.dimension))
    if (error := float(max(errors))) > EXACT:
        raise ArithmeticError(f"the representations of this group are wrong by {error:.1g}, more than {EXACT:g}")


# --- their names ----------------------------------------------------------------------------------


def _named(group: Group, found: Sequence[Representation]) -> list[Representation]:
    """The representations in their order, with names."""
    if group.abelian:
        frequencies = _frequencies(group, found)
        ranked = sorted(zip(found, frequencies, strict=True), key=lambda pair: (pair[0].dimension, pair[1]))
        return [replace(part, name=_frequency_name(of), frequency=of) for part, of in ranked]
    first = [int(members[0]) for members in group.classes]

    def rank(part: Representation) -> tuple[bool, int, str, list[float]]:
        character = np.round(part.character[first], 6)
        return not part.kernel.all(), part.dimension, part.type, (-character).tolist()

    ranked_parts = sorted(found, key=rank)
    alike: dict[int, list[Representation]] = {}
    for part in ranked_parts[1:]:
        alike.setdefault(part.dimension, []).append(part)
    names = ["trivial"]
    for dimension, parts in alike.items():
        if len(parts) == 1:
            names.append("sign" if dimension == 1 else f"{dimension}-dimensional")
        else:
            names += [f"{dimension}-dimensional {_letter(number)}" for number in range(len(parts))]
    return [replace(part, name=name) for part, name in zip(ranked_parts, names, strict=True)]


def _frequencies(group: Group, found: Sequence[Representation]) -> list[tuple[int, ...]]:
    """Of an abelian group: the frequency of each representation along each of its independent generators.

    A frequency and its negative are one real representation, which has the smaller of the two.
    """
    orders, coordinates = _coordinates(group)
    every = np.array(list(np.ndindex(*orders)))
    turns = (every / np.array(orders)) @ coordinates.T
    waves = np.cos(2 * np.pi * turns)
    return [tuple(every[int((waves @ part.character > group.order / 2).argmax())].tolist()) for part in found]


def _coordinates(group: Group) -> tuple[tuple[int, ...], Int[np.ndarray, "n generators"]]:
    """An abelian group as a product of cyclic ones: their orders, and the exponents of each element.

    An element of the greatest order among those that have only 1 in common with what is generated already generates
    another factor. Factors are in the reverse order of their generators' numbers: in a table of pairs (a, b), counted
    b first, that of a comes first.
    """
    generators: list[int] = []
    reached = np.zeros(group.order, bool)
    reached[group.identity] = True
    for element in sorted(range(group.order), key=lambda g: (-group.element_orders[g], g)):
        powers = [group.identity]
        while len(powers) < group.element_orders[element]:
            powers.append(int(group.table[powers[-1], element]))
        if len(powers) > 1 and not reached[powers[1:]].any():
            generators.append(element)
            reached[group.table[np.flatnonzero(reached)[:, None], powers]] = True
    generators.sort(reverse=True)
    orders = tuple(int(group.element_orders[g]) for g in generators)
    coordinates = np.zeros((group.order, len(orders)), np.int64)
    for exponents in np.ndindex(*orders):
        element = group.identity
        for generator, exponent in zip(generators, exponents, strict=True):
            for _ in range(exponent):
                element = int(group.table[element, generator])
        coordinates[element] = exponents
    return orders, coordinates


def _frequency_name(frequency: tuple[int, ...]) -> str:
    if not any(frequency):
        return "trivial"
    return f"frequency {frequency[0]}" if len(frequency) == 1 else f"frequency ({', '.join(map(str, frequency))})"


def _letter(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = string.ascii_lowercase[rest] + name
    return name
