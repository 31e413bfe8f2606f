"""What a kind of data set is. Every module of this folder declares one or more; data/registry.py finds them all.

A new kind is one new file here:

    class SpiralData(Drawn):
        '''Two spirals that wind around each other.'''

        kind: Literal["spiral"] = "spiral"
        turns: float = Field(default=2.0, gt=0, le=10)


    @dataset_kind(SpiralData, label="Two spirals")
    def spiral(spec: SpiralData, *, seed: int) -> Dataset: ...

The maker gives training and test rows, and validation rows where it can draw them anew from a stream of their own;
otherwise `registry.make_dataset` takes half of the test rows for validation.

Nothing else has to change: spec, JSON Schema, forms, OpenAPI and documents are made from `registry.KINDS`. Modules
here may import torch, scikit-learn or polars inside functions only, because the web process loads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.spec_part import Part


class DataPart(Part):
    """The part of a spec that asks for data. A subclass fixes `kind` by a Literal."""

    kind: str
    split_version: Literal[1, 2] = Field(
        default=2,
        description="2: rows for training, validation and testing. 1: in runs of earlier versions, whose test rows "
        "serve as both.",
    )

    # Both are known before the data are made, and properties of a kind whose spec decides them.
    examples: ClassVar[Examples] = "numbers"  # what one example is
    has_classes: ClassVar[bool] = False  # one of several classes is predicted, and not numbers

    @property
    def several_own_targets(self) -> bool:
        """Whether several numbers of a user's own are predicted, which may vary on any scale."""
        return False


class Drawn(DataPart):
    """A data set that is drawn at random."""

    seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="Seed of the draw; null: each run draws anew with its own seed."
    )


Maker = Callable[..., Dataset]
M = TypeVar("M", bound=Maker)


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set.

    name       as in the field `kind`.
    label      for forms and lists.
    spec       the part of a spec; its docstring describes the kind.
    make       make(spec, seed=…) -> Dataset; with `uploaded` also content=…
    uploaded   made from bytes that a user uploaded.
    """

    name: str
    label: str
    spec: type[DataPart]
    make: Maker
    uploaded: bool

    @property
    def description(self) -> str:
        """The first paragraph of the spec's docstring."""
        return " ".join((self.spec.__doc__ or "").strip().split("\n\n")[0].split())


REGISTERED: dict[str, DatasetKind] = {}


def dataset_kind(spec: type[DataPart], *, label: str, uploaded: bool = False) -> Callable[[M], M]:
    """Register the decorated function as the maker of this kind. Raises ValueError for a name that is taken."""
    name: Any = spec.model_fields["kind"].default

    def register(make: M) -> M:
        if name in REGISTERED:
            raise ValueError(f"the dataset kind {name!r} is declared twice")
        REGISTERED[name] = DatasetKind(name, label, spec, make, uploaded)
        return make

    return register
