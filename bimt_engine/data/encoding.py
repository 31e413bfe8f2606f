"""From typed columns to the numbers that a network reads: as the user chose, fitted to training rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bimt_engine.data.readers import ColumnType, Notation
from bimt_engine.spec_part import Name, Part

Missing = Literal["refuse", "drop", "mean", "median", "category"]


class ColumnSpec(Part):
    """What one column is and how it is read: how missing cells are filled, how levels and dates become numbers."""

    type: ColumnType = "number"
    notation: Notation | None = Field(
        default=None,
        description="How numbers or dates are written in the file, by an example; null: as most of the cells are.",
    )
    missing: Missing = Field(
        default="refuse",
        description="Cells without a value: `refuse` the data; `drop` the row; of numbers and dates the `mean` or the "
        "`median` of the training rows, beside an indicator; `category`: a level of its own.",
    )
    dates: Literal["days", "parts"] = Field(
        default="days",
        description="A date as days since the first of the training rows, or as parts: year, month, weekday, and the "
        "hour where there is one.",
    )
    transform: Literal["none", "log"] = Field(
        default="none",
        description="`log`: log(1 + value / median) of a column of numbers that are not negative, for skewed columns.",
    )
    order: list[Name] = Field(
        default=[],
        max_length=1_000,
        description="Levels of an ordered category from the lowest to the highest: it is read as one number, 0, 1, 2 "
        "…; empty: each level is an input of its own.",
    )
    rare: int = Field(default=5, ge=1, description="Levels with fewer training rows than this are joined into one.")
    most_levels: int = Field(
        default=20, ge=1, le=1_000, description="So many levels, the most frequent ones, stay apart; others are joined."
    )
    unseen: Literal["refuse", "rare", "zeros"] = Field(
        default="refuse",
        description="A level that no training row has, in rows to predict: refused with a sentence; read as the rare "
        "levels are; or as none of the levels. In validation and test rows `refuse` reads it as none of them.",
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> ColumnSpec:
        if self.missing in ("mean", "median") and self.type in ("category", "text"):
            raise ValueError(
                f"A column of type `{self.type}` has no {self.missing}: choose `category`, `drop` or `refuse`."
            )
        if self.transform == "log" and self.type not in ("number", "integer"):
            raise ValueError(f"Only numbers have a logarithm, not a column of type `{self.type}`.")
        if self.order and self.type not in ("category", "text"):
            raise ValueError("Only a category has an order of levels: leave `order` out.")
        if len(set(self.order)) < len(self.order):
            raise ValueError("A level stands twice in `order`.")
        return self
