"""Where neurons sit: lines, hemispheres, grids, rings, boxes, or wherever the user says. Unit: one layer width.

Every function returns positions (neurons, axes) at float64; distance between them is Manhattan throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bimt_engine.errors import SpecError

Positions = Float[Tensor, "neurons axes"]
RING_RADIUS = 0.25  # of the published figures, around the middle of the sheet
MIDDLE = 0.5
HEMISPHERE = 0.1  # width of each; the gap between them is eight times as wide


def line(neurons: int) -> Positions:
    """Neuron i of n at (i + 0.5) / n on a line of length 1."""
    return ((torch.arange(neurons, dtype=torch.float64) + 0.5) / neurons)[:, None]


def hemispheres(neurons: int) -> Positions:
    """Two short lines at the two ends of the width, half of the neurons on each; a single one lies in the middle.

    Within a line nothing is far. Connections across the gap are expensive, so two things are computed separately
    until they must meet, and relocation decides which neurons go where.
    """
    left = neurons // 2
    if not left:
        return torch.full((neurons, 1), MIDDLE, dtype=torch.float64)
    return torch.cat((HEMISPHERE * line(left), 1 - HEMISPHERE * line(neurons - left).flip(0)))


def grid(neurons: int) -> Positions:
    """Rows of a unit square, as square as the number allows, filled row by row; the last row may be short."""
    columns = math.isqrt(neurons - 1) + 1
    return _lattice(neurons, (math.ceil(neurons / columns), columns))


def box(neurons: int) -> Positions:
    """Sheets of rows of a unit cube, filled in order; the last sheet may be short."""
    side = 1
    while side**3 < neurons:
        side += 1
    return _lattice(neurons, (math.ceil(neurons / side**2), side, side))


def ring(neurons: int) -> Positions:
    """Neuron k of n at the angle 2π(k + 0.5)/n around the middle of the unit square."""
    angle = 2 * math.pi * (torch.arange(neurons, dtype=torch.float64) + 0.5) / neurons
    return MIDDLE + RING_RADIUS * torch.stack((torch.cos(angle), torch.sin(angle)), dim=1)


SHAPES = {"line": line, "hemispheres": hemispheres, "grid": grid, "ring": ring, "box": box}


def place_layers(
    sizes: Sequence[int],
    names: Sequence[str],
    *,
    coordinates: Sequence[Sequence[Sequence[float]]] | None = None,
    runs: Sequence[int] = (),
) -> list[Float[Tensor, "_ axes"]]:
    """Positions of every neuron layer, all in one space.

    sizes        neurons of each layer.
    names        geometry of each layer: line, hemispheres, grid, ring or box.
    coordinates  layer × neuron × axis; replaces the names.
    runs         lengths of runs of the first layer's neurons that stand at one position: the columns of a table, of
                 which coordinates may name one point for each.
    A layer with fewer axes than the others lies on the middle of the axes it lacks.
    Raises SpecError when the coordinates do not fit the layers.
    """
    if coordinates is None:
        placed = [SHAPES[name](size) for name, size in zip(names, [len(runs) or sizes[0], *sizes[1:]], strict=True)]
    else:
        apart = bool(runs) and len(coordinates) > 0 and len(coordinates[0]) == sizes[0]
        placed = _custom([sizes[0] if apart else len(runs) or sizes[0], *sizes[1:]], coordinates)
    if runs and len(placed[0]) != sizes[0]:
        placed[0] = placed[0].repeat_interleave(torch.tensor(list(runs)), dim=0)
    axes = max(positions.shape[1] for positions in placed)
    return [_padded(positions, axes) for positions in placed]


def _lattice(neurons: int, sides: tuple[int, ...]) -> Positions:
    """The first so many points of a row-major lattice; the fastest axis comes first, as x does on a page."""
    index = torch.arange(neurons)
    axes = []
    for side in reversed(sides):
        axes.append((index % side + 0.5).double() / side)
        index = index // side
    return torch.stack(axes, dim=1)


def _padded(positions: Float[Tensor, "neurons _"], axes: int) -> Float[Tensor, "neurons {axes}"]:
    missing = axes - positions.shape[1]
    if not missing:
        return positions
    return torch.cat((positions, positions.new_full((positions.shape[0], missing), MIDDLE)), dim=1)


def _custom(sizes: Sequence[int], coordinates: Sequence[Sequence[Sequence[float]]]) -> list[Float[Tensor, "_ _"]]:
    if len(coordinates) != len(sizes):
        raise SpecError(
            f"`coordinates` places {len(coordinates)} neuron layers, but the network has {len(sizes)} "
            "(inputs, hidden layers, outputs): give one list of points for each."
        )
    placed = []
    for number, (size, points) in enumerate(zip(sizes, coordinates, strict=True)):
        widths = {len(point) for point in points}
        if len(points) != size or len(widths) != 1 or 0 in widths:
            raise SpecError(
                f"`coordinates[{number}]` holds {len(points)} points with {sorted(widths)} numbers each, "
                f"but neuron layer {number} has {size} neurons: give {size} points, all with the same number of axes."
            )
        placed.append(torch.tensor([list(point) for point in points], dtype=torch.float64))
    return placed
