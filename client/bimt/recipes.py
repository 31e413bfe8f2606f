"""Recipes: complete specs that are known to show something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .wire import Wire


@dataclass(frozen=True)
class Recipe:
    """A complete spec with a name.

    needs_dataset   whether the job must name the data
    spec            every default filled in; only of a recipe that was asked for by name
    """

    name: str
    title: str
    claim: str
    needs_dataset: bool
    spec: dict[str, Any] = field(default_factory=dict, repr=False)
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Recipe:
        names = ("name", "title", "claim", "needs_dataset")
        return cls(**{name: document[name] for name in names}, spec=document.get("spec") or {}, document=document)


class Recipes:
    """`client.recipes`"""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def all(self) -> list[Recipe]:
        """Every recipe, without its spec."""
        return [Recipe.of(document) for document in self._wire.items("/recipes")]

    def get(self, name: str) -> Recipe:
        """One recipe with its spec, which can be changed and submitted."""
        return Recipe.of(self._wire.get(f"/recipes/{name}"))

    def spec_schema(self) -> dict[str, Any]:
        """JSON Schema of a spec."""
        return dict(self._wire.get("/spec-schema"))
