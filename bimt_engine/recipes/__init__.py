"""Recipes: complete specs, one commented YAML file for each experiment of the paper and our own."""

from __future__ import annotations

from functools import cache, cached_property
from importlib import resources
from typing import Any

import yaml
from pydantic import Field

from bimt_engine.errors import SpecError
from bimt_engine.spec import DatasetSpec, Part, Spec


class Recipe(Part):
    """A spec that is known to show something, with what it shows and where the paper shows it.

    seeds          how many seeds (0 … seeds − 1) `make reproduce` runs.
    metric         the key of a run's metrics that the claim is judged by.
    needs_dataset  the recipe says how to train, and the user says on what.
    """

    name: str
    title: str
    figure: str
    claim: str
    seeds: int = Field(ge=1)
    metric: str
    needs_dataset: bool = False
    spec_fields: dict[str, Any] = Field(alias="spec")

    @cached_property
    def spec(self) -> Spec:
        """The complete spec, checked once. Raises SpecError where the recipe leaves the data to the user."""
        return self.spec_for(None)

    def spec_for(self, dataset: DatasetSpec | None) -> Spec:
        """The spec on other data than the recipe's own; None keeps the recipe's own."""
        fields = dict(self.spec_fields)
        if dataset is not None:
            fields["dataset"] = dataset
        if "dataset" not in fields:
            raise SpecError(f"The recipe `{self.name}` needs a data set of yours: upload one and name it in `dataset`.")
        return Spec.model_validate(fields)


@cache
def recipe_names() -> tuple[str, ...]:
    """Names of all recipes, in alphabetical order."""
    files = [entry.name for entry in resources.files("bimt_engine.recipes").iterdir()]
    return tuple(sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml")))


@cache
def load_recipe(name: str) -> Recipe:
    """The recipe of this name, read once. Raises SpecError that lists the names there are."""
    if name not in recipe_names():
        raise SpecError(f"There is no recipe `{name}`. There are: {', '.join(recipe_names())}.")
    return Recipe.model_validate({"name": name} | yaml.safe_load(recipe_text(name)))


def recipe_text(name: str) -> str:
    """The recipe as it is written, comments included."""
    return (resources.files("bimt_engine.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
