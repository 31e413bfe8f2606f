"""On the wire: what is made of a run or a job when somebody first asks for it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.schemas.base import RunId, Shown
from api.schemas.errands import WaitQuery
from api.schemas.runs import RunPath


class ModuleFilePath(RunPath):
    module: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,15}$")]


class SnapshotPath(RunPath):
    step: Annotated[int, Field(ge=0, le=2**53)]


class ParetoQuery(WaitQuery):
    tolerance: float = Field(
        default=0.05, ge=0, le=10, description="How far above the best a harmless loss may be, as a share of Var(y)."
    )


class Numbers(Shown):
    """An array: flat, the last axis running fastest."""

    shape: list[int]
    values: list[float]


class SnapshotWeights(Shown):
    """The network at one step."""

    step: int
    weights: dict[str, Numbers] = Field(description="By parameter, in slot order.")
    orders: dict[str, list[int]] = Field(description="By neuron layer: which neuron sits in each slot.")


class ReadoutOut(Shown):
    """The network as formulas."""

    readout: dict[str, Any] = Field(
        description="`units`: `data`, raw columns in and raw targets out, or `scores`, raw columns in and scores of "
        "classes out; absent in runs that were read out in the units the network was trained in."
    )


class EmbeddingOut(Shown):
    """What a network has learned to know of its tokens."""

    tokens: list[str]
    dimensions: list[dict[str, Any]] = Field(description="slot, neuron, and whether the network still reads it.")
    vectors: list[list[float]]
    planes: list[dict[str, Any]] = Field(description="name, frequency, share of the variance, points of the tokens.")


class ProbeOut(Shown):
    """A network that a browser can run, with examples."""

    format: str
    network: dict[str, Any]
    task: str
    loss: str
    features: list[str]
    targets: list[str]
    tokens: int | None
    input_scaling: dict[str, list[float]] | None
    target_scaling: dict[str, list[float]] | None
    layers: list[dict[str, Any]]
    connections: list[dict[str, Any]]
    parameters: dict[str, Numbers]
    orders: dict[str, list[int]]
    examples: dict[str, Any]


class ParetoPoint(Shown):
    """One run of a sweep."""

    run: RunId
    cost_strength: float | None
    seed: int
    loss: float | None = Field(
        description="Prediction loss on the held-out rows of this run. Each seed draws a split of its own where one "
        "is drawn, so runs of different seeds are held to different rows."
    )
    wiring: float | None = Field(description="Connection cost.")
    connections: int | None
    modularity: float | None
    efficient: bool = Field(description="No other run is better in loss or wiring and as good in the other.")


class ParetoOut(Shown):
    """What a shorter wiring costs in loss."""

    points: list[ParetoPoint]
    knee: ParetoPoint | None
    suggested_cost_strength: float | None = Field(description="The largest λ whose median loss is still harmless.")
    tolerance: float | None = None
    reading: str | None = Field(default=None, description="How many runs kept no connection; null: all kept some.")


class StabilityOut(Shown):
    """How far the runs of a job agree."""

    stability: dict[str, Any] = Field(
        description="`empty`: runs that kept no connection. `agreement`: runs that part inputs and outputs in the most "
        "common way, `partition`. Of each of `modules`, `met_in` counts the runs with a module that moves some of the "
        "same outputs, `same_ends_in` those whose module has exactly the same inputs and outputs, and `supported_in` "
        "those of these in which it is supported. `reading` says it in sentences."
    )
