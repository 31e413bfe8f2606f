"""Data sets on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from api.schemas.base import Body, DatasetId, InPath, Label, MemberId, Page, Query, Received, Shown
from bimt_engine.spec import (
    DigitsData,
    FormulaData,
    GroupData,
    ImagesData,
    InContextRegressionData,
    ModularAdditionData,
    TwoMemoriesData,
    TwoMoonsData,
)

Column = Annotated[str, Field(min_length=1, max_length=120)]
Format = Literal["csv", "npz", "parquet", "idx", "cayley"]
DatasetState = Literal["checking", "ready", "refused"]

MakerSpec = Annotated[
    FormulaData
    | TwoMoonsData
    | ModularAdditionData
    | GroupData
    | InContextRegressionData
    | TwoMemoriesData
    | DigitsData
    | ImagesData,
    Field(discriminator="kind"),
]


class MadeDataset(Body):
    """A data set that a maker of the catalogue computes."""

    name: Label
    maker: MakerSpec


class Roles(Received):
    """What the columns of an uploaded table are for. What is left out keeps what the upload understood."""

    inputs: list[Column] | None = Field(
        default=None, min_length=1, max_length=10_000, description="Columns to read; null: all that are not targets."
    )
    targets: list[Column] | None = Field(default=None, min_length=1, max_length=256)
    task: Literal["regression", "classification"] | None = None
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Share of the rows that is kept for the test.")
    standardise: bool = Field(default=True, description="Scale inputs and regression targets to mean 0, variance 1.")

    @model_validator(mode="after")
    def _nothing_is_both(self) -> Roles:
        for name in ("inputs", "targets"):
            given = getattr(self, name) or []
            if len(set(given)) < len(given):
                raise ValueError(f"`{name}` names a column twice.")
        both = sorted(set(self.inputs or []) & set(self.targets or []))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be input and target at once.")
        return self


class UploadFields(Roles):
    """What may accompany the file of an upload."""

    name: Label | None = None
    format: Format | None = Field(default=None, description="Null: as the file's name ends.")


class DatasetChange(Roles):
    """What to change of a data set; what is left out stays. New targets make inputs and task follow, unless named."""

    name: Label | None = None


class DatasetPath(InPath):
    dataset_id: DatasetId


class DatasetsQuery(Query):
    """Which data sets."""

    q: Annotated[str, Field(max_length=120)] | None = Field(default=None, description="Part of the name.")
    state: DatasetState | None = None
    after: str | None = Field(default=None, max_length=300, description="The `next` of the page before.")
    limit: int = Field(default=50, ge=1, le=200)


class DatasetItem(Shown):
    """A data set in a list."""

    id: DatasetId
    name: str
    kind: Literal["uploaded", "made"]
    state: DatasetState = Field(description="`checking` becomes `ready` or `refused`.")
    format: str | None = None
    bytes: int
    rows: int | None = None
    columns: int | None = None
    task: str | None = None
    sha256: str | None = None
    member_id: MemberId
    created_at: datetime
    checked_at: datetime | None = None


class DatasetOut(DatasetItem):
    """A data set."""

    maker: dict[str, Any] | None = Field(default=None, description="For a made one: what makes it.")
    roles: dict[str, Any] | None = Field(default=None, description="For an uploaded one: what its columns are for.")
    notes: list[str] = Field(default=[], description="What was decided for you: columns left out, the target chosen.")
    errors: list[dict[str, Any]] = Field(default=[], description="For a refused one: why.")


class DatasetPage(Page):
    """A part of the list of data sets, newest first."""

    items: list[DatasetItem]


class PreviewColumn(Shown):
    """One column as it was understood."""

    name: str
    type: str
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    distinct: int | None = None
    shape: list[int] | None = Field(default=None, description="Of one example, for arrays.")
    most: list[str] | None = Field(default=None, description="The most frequent words, for text.")


class PreviewOut(Shown):
    """What was understood of a data set."""

    rows: int | None = None
    train_rows: int | None = Field(default=None, description="Where the upload itself says which rows to train on.")
    columns: list[PreviewColumn] = Field(default=[])
    suggested: dict[str, Any] = Field(default={}, description="Roles that would fit.")
    first_rows: list[dict[str, Any]] = Field(default=[], description="The first rows, each by column.")
    notes: list[str] = Field(default=[], description="What else is worth knowing.")
