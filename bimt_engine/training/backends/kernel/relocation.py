"""Relocation decided by the compiled kernel: the decisions of training/relocation.py, two to ten times faster.

Why it is kept beside the numpy path: docs/decisions/0020-compiled-relocation.md.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from ctypes import Structure, byref, c_double, c_int32, c_int64, c_void_p
from math import prod

import numpy as np
from jaxtyping import Float, Int64

from bimt_engine.networks.wiring import NeuronLayer
from bimt_engine.training.backends.kernel import Precision, load_kernel
from bimt_engine.training.connection_cost import WeightView
from bimt_engine.training.state import Place


class _Layer(Structure):
    _fields_ = (("neurons", c_int32), ("movable", c_int32))


class _View(Structure):
    _fields_ = (
        ("offset", c_int64),
        ("source", c_int32),
        ("target", c_int32),
        ("source_copies", c_int32),
        ("target_copies", c_int32),
        ("lengths", c_void_p),
    )


class _Port(Structure):
    _fields_ = (("offset", c_int64), ("outer", c_int64), ("inner", c_int64), ("layer", c_int32), ("copies", c_int32))


def unsupported_reason(layers: Sequence[NeuronLayer], views: Sequence[WeightView]) -> str | None:
    """Why the kernel does not take this wiring; None when it does."""
    if any(layer.blocks > 1 for layer in layers):
        return "it does not support attention heads"
    if any(layer.runs for layer in layers):
        return "it does not support runs of slots that move together"
    if any(view.source == view.target for view in views):
        return "it does not support a layer connected to itself"
    return None


class CompiledRelocation:
    """One wiring, opened in the kernel. Raises KernelUnavailable where there is none."""

    def __init__(
        self,
        layers: Sequence[NeuronLayer],
        views: Sequence[WeightView],
        places: dict[str, Place],
        precision: Precision,
    ) -> None:
        self._library = library = load_kernel("relocation", precision)
        library.relocation_open.restype = c_void_p
        library.relocation_close.restype = None
        library.relocation_close.argtypes = [c_void_p]
        self._kept = [np.ascontiguousarray(view.lengths, dtype=np.float64) for view in views]
        c_layers = (_Layer * len(layers))(*(_Layer(layer.neurons, layer.movable) for layer in layers))
        c_views = (_View * len(views))(
            *(
                _View(view.place.offset, view.source, view.target, view.shape[2], view.shape[0], lengths.ctypes.data)
                for view, lengths in zip(views, self._kept, strict=True)
            )
        )
        ports = []
        for number, layer in enumerate(layers):
            for port in layer.ports:
                place = places[port.parameter]
                outer, inner = prod(place.shape[: port.axis]), prod(place.shape[port.axis + 1 :])
                ports.append(_Port(place.offset, outer, inner, number, port.copies))
        opened = library.relocation_open(
            byref(c_layers), len(layers), byref(c_views), len(views), (_Port * len(ports))(*ports), len(ports)
        )
        if not opened:
            raise MemoryError("the kernel found no memory for the lengths")
        self._plan = c_void_p(opened)
        self._dtype = np.dtype(precision)
        weakref.finalize(self, library.relocation_close, self._plan)

    def decide(
        self, theta: Float[np.ndarray, " P"], start: Int64[np.ndarray, " slots"], *, candidates: int, optimal: bool
    ) -> tuple[Int64[np.ndarray, " slots"], float, float]:
        """The orders to apply, all layers' end to end, and the cost before and after.

        start       all layers' orders end to end: where to start from.
        candidates  of the greedy pass that goes first; 0: no such pass.
        """
        assert theta.dtype == self._dtype
        assert theta.flags.c_contiguous
        arrangement = start.copy()
        costs = (c_double * 2)()
        failed = self._library.relocation_decide(
            self._plan, _at(theta), c_int32(candidates), c_int32(optimal), _at(arrangement), byref(costs)
        )
        if failed:
            raise MemoryError("the kernel found no memory for its tables")
        return arrangement, costs[0], costs[1]

    def permute(self, flat: np.ndarray, arrangement: Int64[np.ndarray, " slots"]) -> None:
        """Apply the orders to every port of a flat vector, in place."""
        assert flat.flags.c_contiguous
        if self._library.relocation_permute(self._plan, _at(flat), c_int64(flat.itemsize), _at(arrangement)):
            raise MemoryError("the kernel found no memory for a copy")


def _at(array: np.ndarray) -> c_void_p:
    return c_void_p(array.ctypes.data)
