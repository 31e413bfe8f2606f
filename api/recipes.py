"""Recipes: complete specs that are known to show something."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Response, jsonify
from pydantic import Field

from api.auth import Access
from api.problems import Problem
from api.routing import Resource, answer
from api.schemas import InPath, ResponseModel
from bimt_engine.recipes import Recipe, load_recipe, recipe_names, recipe_text
from bimt_engine.spec import Spec, spec_schema


class RecipePath(InPath):
    """Which recipe."""

    name: Annotated[str, Field(min_length=1, max_length=80)]


class RecipeItem(ResponseModel):
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


class RecipeList(ResponseModel):
    """All recipes."""

    items: list[RecipeItem]


api = Resource("recipes", "Complete specs: one for each experiment of the paper, and our own.")


@api.route("get", "/recipes", requires=Access.READ, answers={200: RecipeList})
def list_recipes() -> Response:
    """All recipes."""
    return answer(RecipeList(items=[_item(load_recipe(name)) for name in recipe_names()]))


@api.route("get", "/recipes/<string:name>", requires=Access.READ, answers={200: RecipeOut})
def get_recipe(path: RecipePath) -> Response:
    """One recipe, with a spec that can be submitted as it is."""
    recipe = known_recipe(path.name)
    item = _item(recipe)
    return answer(
        RecipeOut(
            **item.model_dump(),
            seeds=recipe.seeds,
            metric=recipe.metric,
            spec=complete_spec(recipe),
            text=recipe_text(recipe.name),
        )
    )


@api.route(
    "get",
    "/spec-schema",
    requires=Access.READ,
    answers={200: {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}},
)
def get_spec_schema() -> Response:
    """JSON Schema of a spec, for forms and editors."""
    return jsonify(spec_schema())


def known_recipe(name: str) -> Recipe:
    """The recipe, or the problem that there is none of this name."""
    if name not in recipe_names():
        raise Problem("not-found", f"There is no recipe `{name}`. There are: {', '.join(recipe_names())}.")
    return load_recipe(name)


def complete_spec(recipe: Recipe) -> dict[str, Any]:
    """The recipe's spec with every default filled in, but for data that the job must name."""
    if not recipe.needs_dataset:
        return recipe.spec.model_dump(mode="json")
    filled = Spec.model_validate(recipe.spec_fields | {"dataset": {"kind": "two_moons"}}).model_dump(mode="json")
    del filled["dataset"]
    return filled


def _item(recipe: Recipe) -> RecipeItem:
    return RecipeItem(
        name=recipe.name,
        title=recipe.title,
        claim=recipe.claim,
        figure=recipe.figure,
        needs_dataset=recipe.needs_dataset,
    )
