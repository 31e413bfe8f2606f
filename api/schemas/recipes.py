"""Recipes on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.schemas.base import InPath, Shown


class RecipePath(InPath):
    name: Annotated[str, Field(min_length=1, max_length=80)]


class RecipeItem(Shown):
    """A recipe in the list."""

    name: str
    title: str
    claim: str = Field(description="What it is known to show.")
    figure: str = Field(description="Where the paper shows it; empty: a recipe of our own.")
    needs_dataset: bool = Field(description="Whether the job must name a data set.")


class RecipeOut(RecipeItem):
    """A recipe, with its spec."""

    seeds: int = Field(description="How many seeds its claim is judged on.")
    metric: str
    spec: dict[str, Any] = Field(description="Complete and submittable as the `spec` of a job.")
    text: str = Field(description="As it is written, comments included (YAML).")


class RecipeList(Shown):
    """All recipes."""

    items: list[RecipeItem]
