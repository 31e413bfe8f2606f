"""Models on the wire: runs under a name, in versions, with words that point to versions and notes on their parts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from api.schemas.base import (
    PRINTABLE,
    Body,
    DatasetId,
    Headers,
    InPath,
    Label,
    Page,
    PageQuery,
    Query,
    RunId,
    Shown,
    Tag,
)
from api.schemas.base import MemberId as MemberId
from api.schemas.datasets import Roles
from api.schemas.jobs import CostStrength, Seed
from api.schemas.runs import OutputOut
from bimt_engine.spec import Method

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")]


def _no_id(name: str) -> str:
    if name.startswith("model_"):
        raise ValueError("A name must not begin like the id of a model; leave out `model_`.")
    return name


NewName = Annotated[ModelName, AfterValidator(_no_id)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")]
Card = Annotated[str, Field(max_length=50_000, pattern=PRINTABLE)]
Visibility = Literal["private", "team", "unlisted", "public"]
VersionWord = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}|[a-z][a-z0-9._-]{0,63})$")]
About = Literal["run", "module", "neuron", "connection"]


class ModelPath(InPath):
    model: ModelName


class VersionPath(ModelPath):
    version: VersionWord


class VersionFigurePath(VersionPath):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,60}$")]
    suffix: Literal["svg", "png"]


class AliasPath(ModelPath):
    alias: Word


class ModelHeaders(Headers):
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None,
        alias="Idempotency-Key",
        description="Any text of yours; publishing again with the same key gives the same version.",
    )


class ModelIn(Body):
    """A run to publish. The first run under a name makes the model, every further one its next version."""

    run_id: RunId
    name: NewName
    card: Card = Field(default="", description="What the readers should know, in Markdown.")
    visibility: Visibility | None = Field(
        default=None, description="Of a new model `team` unless said otherwise; of a known one, null leaves it."
    )


class ModelChange(Body):
    """What to change of a model; what is left out stays."""

    visibility: Visibility | None = None
    name: NewName | None = Field(default=None, description="The old name is free afterwards; ids stay.")


class VersionChange(Body):
    """What to change of a version: its card. What was found never changes."""

    card: Card


class ModelsQuery(Query):
    """Which models. What is said of evidence is asked of the newest version."""

    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name or card.")
    everybody: bool = Field(default=False, description="Public models of other teams, too.")
    min_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    max_modules: int | None = Field(default=None, ge=0, le=1_000_000)
    max_connections: int | None = Field(default=None, ge=0, le=1_000_000_000)
    min_modularity: float | None = Field(default=None, ge=-1, le=1, description="Q of the communities.")
    min_selectivity: float | None = Field(default=None, ge=0, le=1, description="Mean over the modules.")
    method: Method | None = None
    dataset: DatasetId | None = Field(default=None, description="A data set of your team.")
    dataset_kind: Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9_]+$")] | None = Field(
        default=None, description="A kind of the catalogue, or `uploaded`."
    )
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class VersionItem(Shown):
    """A version in a list, with what sums up its evidence."""

    model: str
    model_id: str
    number: int
    run_id: RunId
    member_id: MemberId
    created_at: datetime
    verified_at: datetime | None = None
    agrees: bool | None = Field(default=None, description="What the last verification said; null: there was none.")
    seed: int
    cost_strength: float | None
    method: str | None
    dataset_kind: str | None
    test_metric_name: str | None
    test_metric: float | None
    connections: int | None
    modules: int | None
    modularity: float | None
    selectivity: float | None
    connection_cost: float | None


class VersionOut(VersionItem):
    """A version: a run under a model's name."""

    card: str
    spec: dict[str, Any] = Field(description="Complete; submit it to train the same again, or fork the version.")
    metrics: dict[str, Any] = Field(default={}, description="Numbers by name; `verdict` sums the evidence up.")
    outputs: list[OutputOut] = Field(default=[], description="How well each target is predicted; older runs: empty.")
    files: list[str] = Field(default=[])
    figures: list[str] = Field(default=[])
    aliases: list[str] = Field(default=[], description="The words that point here now.")
    verification: dict[str, Any] | None = None


class VersionPage(Page):
    """A part of the list of versions, newest first."""

    items: list[VersionItem]


class ModelItem(Shown):
    """A model in a list."""

    id: str
    name: str
    visibility: Visibility
    versions: int = Field(description="How many there are; the number of the newest one.")
    ours: bool = Field(description="Whether it belongs to your team, which may change it.")
    member_id: MemberId
    created_at: datetime
    updated_at: datetime
    newest: VersionItem


class ModelOut(ModelItem):
    """A model."""

    card: str = Field(description="Of the newest version.")
    aliases: dict[str, int] = Field(default={}, description="Word → the version it means now.")


class ModelPage(Page):
    """A part of the list of models, newest first."""

    items: list[ModelItem]


class AliasIn(Body):
    """The version that the word means from now on."""

    version: int = Field(ge=1, le=10**9)


class AliasOut(Shown):
    """What a word has meant from a moment on; null: nothing."""

    alias: str
    number: int | None
    member_id: MemberId
    at: datetime


class AliasesOut(Shown):
    """What each word means now."""

    items: dict[str, int]


class AliasHistory(Page):
    """A part of everything that a word has meant, newest first."""

    items: list[AliasOut]


class NoteIn(Body):
    """A note on a part of a version."""

    about: About
    target: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] = Field(
        default="",
        description="A module's letter, a neuron's id, a connection as `source->target`; empty for the whole run.",
    )
    text: Annotated[str, Field(max_length=10_000, pattern=PRINTABLE)] = Field(
        description="Markdown; an empty text takes the note away."
    )
    replaces: int | None = Field(
        default=None, ge=1, le=10**6, description="The number of the note that you saw; null: there was none."
    )


class NotesQuery(PageQuery):
    """Which notes: without `about` and `target`, all as they are now; with both, the history of one."""

    about: About | None = None
    target: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] | None = None


class NoteOut(Shown):
    """A note. `number` counts how often it was written; its history keeps every text with its author."""

    id: str
    about: About
    target: str
    number: int
    text: str
    member_id: MemberId
    author: str
    at: datetime


class NotePage(Page):
    """A part of the list of notes, newest first."""

    items: list[NoteOut]


class CheckOut(Shown):
    """One claim, looked at again."""

    what: str
    claimed: Any = None
    found: Any = None
    agrees: bool
    needed: bool = Field(description="Whether the version's claims fall with this one.")


class VerificationOut(Shown):
    """What came out when a version's claims were worked out again from its weights."""

    agrees: bool
    reading: str = Field(description="The outcome in a sentence.")
    pruned_again: bool
    checks: list[CheckOut]


class ForkIn(Body):
    """What should differ. Nothing: the same training with the same seed."""

    changes: dict[str, Any] = Field(
        default={}, description="A JSON merge patch (RFC 7396) on the spec: null takes a field away."
    )
    dataset: DatasetId | None = Field(default=None, description="Other data: a data set of your team.")
    roles: Roles | None = Field(default=None, description="With `dataset`: other column roles than its own.")
    seeds: list[Seed] | None = Field(default=None, min_length=1, max_length=256, description="Null: the same seed.")
    cost_strengths: list[CostStrength] = Field(default=[], max_length=256)
    name: Label | None = None
    tags: list[Tag] = Field(default=[], max_length=20)
    priority: int = Field(default=5, ge=0, le=9)


class VersionGraphQuery(Query):
    format: Literal["json", "graphml", "dot"] = "json"
    connections: int | None = Field(default=None, ge=0, le=1_000_000, description="Only so many, the heaviest.")
    module: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z0-9]+$")] | None = Field(
        default=None, description="Only this module."
    )


class CompareQuery(Query):
    """Two things: the id of a run, or a model's name or id, perhaps with `@` and a version or word."""

    a: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}(@[a-z0-9][a-z0-9._-]{0,63})?$")]
    b: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}(@[a-z0-9][a-z0-9._-]{0,63})?$")]


class Side(Shown):
    """One of the two."""

    what: str = Field(description="The model's name and version, or the run's id.")
    run_id: RunId
    seed: int
    connections: int | None
    modules: int | None


class Difference(Shown):
    """A field of the specs that is not the same; null: it is absent."""

    pointer: str = Field(description="JSON Pointer into the spec.")
    a: Any = None
    b: Any = None


class MetricPair(Shown):
    """One number of both."""

    name: str
    a: float | None = None
    b: float | None = None
    difference: float | None = Field(default=None, description="b − a.")


class ModulePair(Shown):
    """A module of each that read and decide the most alike; null: it has no counterpart."""

    a: dict[str, Any] | None = None
    b: dict[str, Any] | None = None
    overlap: float = Field(description="Shared inputs and outputs among all of both: 1 is the same, 0 nothing.")


class CompareOut(Shown):
    """Two runs side by side."""

    a: Side
    b: Side
    spec: list[Difference]
    metrics: list[MetricPair]
    modules: list[ModulePair]
