"""Runs on the wire: one trained network and everything that was found in it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from api.schemas.base import InPath, JobId, Page, Query, RunId, Shown
from api.schemas.jobs import JobState


class RunPath(InPath):
    run_id: RunId


class FigurePath(RunPath):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}$")]
    suffix: Literal["svg", "png"]


class RunsQuery(Query):
    """Which runs."""

    state: JobState | None = None
    min_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    max_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    max_connections: int | None = Field(default=None, ge=0, le=1_000_000_000)
    min_modularity: float | None = Field(default=None, ge=-1, le=1, description="Q of the communities.")
    min_selectivity: float | None = Field(default=None, ge=0, le=1)
    method: str | None = Field(default=None, max_length=32, description="vanilla, l1, l1_local, l1_swap or bimt.")
    dataset_kind: str | None = Field(default=None, max_length=32, description="formula, uploaded, modular_addition …")
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class GraphQuery(Query):
    format: Literal["json", "graphml", "dot"] = "json"
    connections: int | None = Field(default=None, ge=0, le=1_000_000, description="Only so many, the heaviest.")


class SnapshotsQuery(Query):
    after: int | None = Field(default=None, ge=0, le=2**53, description="Only later steps.")
    limit: int = Field(default=200, ge=1, le=1000)


class RunItem(Shown):
    """A run in a list, with what sums up its evidence."""

    id: RunId
    job_id: JobId
    number: int
    seed: int
    cost_strength: float | None = Field(description="λ of the first phase that costs; null: as the spec says.")
    state: JobState
    reason: str | None = None
    step: int
    steps: int
    stepper: str | None = None
    device: str | None = None
    replicas: int | None = Field(
        default=None,
        description="So many runs of the job trained side by side, this one included; the last bits depend on it.",
    )
    training_seconds: float | None = Field(
        default=None,
        description="Spent on its steps, over all attempts; its share where several runs train side by side.",
    )
    evidence_seconds: float | None = Field(
        default=None, description="Spent on what was found afterwards: pruning, tests, pictures."
    )
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    test_metric_name: str | None = None
    test_metric: float | None = None
    connections: int | None = None
    modules: int | None = None
    modularity: float | None = None
    selectivity: float | None = None
    connection_cost: float | None = None


class ScoreOut(Shown):
    """How well one target is predicted, by one network on some rows."""

    r2: float | None = Field(default=None, description="Regression: share of the target's variance explained.")
    recall: float | None = Field(default=None, description="Classes: share of its rows that are called by its name.")
    precision: float | None = Field(default=None, description="Classes: share of the rows so called that are its own.")
    mistaken: float | None = Field(default=None, description="Classes: share of all other rows that are so called.")
    standard_error: float | None = Field(
        default=None,
        description="Of what is gained over a constant answer: of its squared errors less the network's, as a share of "
        "the variance, or of `recall` − `mistaken`.",
    )
    learnt: bool | None = Field(
        default=None,
        description="Whether that gain is above its standard error and `r2`, or `recall` − `mistaken`, at least 0.05; "
        "null: no row can tell.",
    )


class OutputOut(Shown):
    """A target (a number, or one class), and how well it is predicted."""

    output: str
    reached: bool = Field(description="Whether a connection of the pruned network leads to it.")
    learnt: bool | None = Field(description="Of the pruned network, on held-out rows; the verdict names what is not.")
    measure: Literal["r2", "recall"]
    rows: int = Field(description="Held-out rows; of a class, its own.")
    pruned: ScoreOut = Field(description="The pruned network, on held-out rows.")
    trained: ScoreOut = Field(description="The network as trained, before it was pruned, on the same rows.")
    trained_on_training_rows: ScoreOut = Field(
        description="The network as trained, on the rows that it was trained on."
    )


class RunOut(RunItem):
    """A run."""

    spec: dict[str, Any] = Field(description="Complete and written out in numbers; submit it to train the same again.")
    metrics: dict[str, Any] = Field(default={}, description="Numbers by name; `verdict` sums the evidence up.")
    outputs: list[OutputOut] = Field(
        default=[], description="How well each target is predicted; empty before the end, and for older runs."
    )
    files: list[str] = Field(default=[])
    figures: list[str] = Field(default=[])


class RunPage(Page):
    """A part of the list of a job's runs."""

    items: list[RunItem]


class HistoryOut(Shown):
    """The learning curve: one row for each step that was logged."""

    rows: list[dict[str, Any]]


class SnapshotOut(Shown):
    """The network at one step."""

    step: int
    sha256: str


class SnapshotsOut(Shown):
    """Steps of which the network is kept."""

    items: list[SnapshotOut]
    next: int | None = Field(default=None, description="Send it as `after`; null at the end.")


class PruneCurveOut(Shown):
    """How the loss rises as connections go: one row for each size of network."""

    rows: list[dict[str, Any]]


class ModuleOut(Shown):
    """A cluster of neurons, what it reads and what it decides."""

    name: str
    neurons: list[str] = Field(default=[])
    inputs: list[str] = Field(default=[])
    outputs: list[str] = Field(default=[])
    connections: int = 0
    effects: dict[str, Any] = Field(
        default={},
        description="For each target: the share of its variance that moves when the module is set to `zero`, to its "
        "`mean`, or to values from other examples (`resample`) in the pruned network, where modules are apart by "
        "construction; and when the same neurons are set to their mean in the network as trained, before it was pruned "
        "(`trained`), which no cut has decided. `p`: how often a random group of its size does as well in this one "
        "cell of the pruned network; `p_holm`: the same, corrected (Holm) for the number of cells that "
        "were looked at. The verdict and the sentence read `p_holm`.",
    )
    selectivity: float | None = None
    sufficiency: float | None = Field(default=None, description="Share of its outputs left when all else is off.")
    trained_effect: float | None = Field(
        default=None,
        description="In the network as trained, the share of the variance of its outputs that its neurons move, of the "
        "output that they move least; a supported module moves 0.5 at least.",
    )
    trained_leak: float | None = Field(
        default=None,
        description="The same for the output of other modules that they move most; of a supported module below 0.01. "
        "Null: there are no others.",
    )
    supported: bool | None = Field(
        default=None, description="Whether it passed every test: in the pruned network, against chance, and as trained."
    )
    why_not: str | None = Field(default=None, description="Where it did not: why.")
    random_groups: int | None = Field(default=None, description="Groups of neurons of its size it was held against.")
    reading: str = Field(default="", description="All of this in one sentence.")


class ModulesOut(Shown):
    """The modules of a run, and how it was parted into them."""

    modules: list[ModuleOut]
    communities: dict[str, Any] = Field(default={})


class EffectsOut(Shown):
    """What each module does to each target."""

    effects: dict[str, Any] = Field(
        description="`modules` are the rows of every matrix and `outputs` its columns. `matrices` (`zero`, `mean`, "
        "`resample`): the share of the output's variance that moves when the module is held so; `judged_by` says which "
        "of them the verdict reads; all are of the pruned network, where modules are apart by construction. `trained`: "
        "the same in the network as trained, before it was pruned, which no cut has decided. `p`: the share of "
        "`random_groups` groups of equal size that do as much to an output of the module's own and as little to the "
        "others, or that leave another output as much alone; `p_holm`: the same, corrected (Holm) for the number of "
        "claims, which is what the verdict reads. Both are those of the modules. "
        "`selectivity`, `sufficiency`, `interaction` and `upstream` are described with the modules; `limits` are what "
        "the verdict held them against."
    )


class GraphOut(Shown):
    """The pruned network as a node-link document."""

    format: str
    directed: bool
    multigraph: bool
    graph: dict[str, Any]
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]
