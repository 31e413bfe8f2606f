"""Axes are taken apart and put together as tensors are, and what is known of a part is known wherever it lies."""

from __future__ import annotations

import torch

from bimt_engine.networks.attach.axes import (
    axis,
    cut,
    key_of,
    lattices,
    leaves,
    offsets,
    pin,
    pinned_axis,
    reshape,
    size_of,
    total,
    unify,
)


def shape(axes) -> list[int]:
    return [size_of(one) for one in axes]


def test_an_axis_that_is_viewed_is_a_product_wherever_it_lies() -> None:
    rows = axis(12)
    heads, size = reshape([rows], [3, 4], "view")
    other = axis(12)
    unify(rows, other, "add")
    assert [leaf.size for leaf in leaves(other)] == [3, 4]
    [lattice] = lattices(other)
    assert key_of(lattice) == tuple(leaves((*heads, *size)))
    assert offsets(lattice, key_of(lattice)).tolist() == [list(range(12))]


def test_flattened_pixels_are_copies_of_their_channel() -> None:
    channels, pixels = axis(2), pinned_axis(3, "slides", copies=True)
    [columns] = reshape([channels, pixels], [6], "flatten")
    [lattice] = lattices(columns)
    assert key_of(lattice) == channels
    assert offsets(lattice, channels).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_cut_is_seen_at_an_axis_that_was_unified_before_and_after() -> None:
    rows, before, after = axis(9), axis(9), axis(9)
    unify(rows, before, "add")
    first, rest = cut(rows, 3, "split")
    second, third = cut(rest, 3, "split")
    unify(after, rows, "add")
    for one in (before, after):
        assert [leaf.size for leaf in leaves(one)] == [3, 3, 3]
    pin(second, "why")
    assert [leaf.free for leaf in leaves(after)] == [True, False, True]
    assert [lattice.offset for lattice in lattices(total([third, first]))] == [0, 3]


def test_two_halves_that_are_exchanged_and_added_are_one_class() -> None:
    whole = axis(8)
    left, right = cut(whole, 4, "slice")
    unify(whole, total([right, left]), "add")
    one, other = leaves(whole)
    assert one is other
    [key] = {key_of(lattice) for lattice in lattices(whole)}
    assert torch.cat([offsets(lattice, key) for lattice in lattices(whole)]).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_axes_that_are_divided_differently_are_pinned_on_both_sides() -> None:
    one, other = axis(12), axis(12)
    reshape([one], [3, 4], "view")
    reshape([other], [4, 3], "view")
    unify(one, other, "add in here")
    for side in (one, other):
        assert all(not leaf.free for leaf in leaves(side))
        assert "add in here" in next(iter(leaves(side))).pins[-1]


def test_a_view_that_does_not_divide_its_axes_pins_them() -> None:
    a, b = axis(4), axis(6)
    made = reshape([a, b], [3, 8], "view")
    assert shape(made) == [3, 8]
    assert not any(leaf.free for one in (a, b, *made) for leaf in leaves(one))


def test_axes_of_one_entry_come_and_go() -> None:
    a, b = axis(4), axis(6)
    made = reshape([a, b], [4, 1, 6, 1], "view")
    assert shape(made) == [4, 1, 6, 1]
    assert (made[0], made[2]) == (a, b)
    assert unify(axis(1), a, "broadcast") == a
    assert shape(reshape(made, [24], "flatten")) == [24]
