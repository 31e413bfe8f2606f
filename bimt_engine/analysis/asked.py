"""What may be asked of a network's inside, as plain data: interventions with every bad field named. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bimt_engine.errors import BimtError
from bimt_engine.spec import Part

MOST_TRIALS = 2_000
MOST_CHANGES = 20_000  # in all trials together

Kind = Literal["connection", "neuron", "module", "embedding"]
Do = Literal["set", "scale", "zero", "mean", "resample"]
Which = Literal["pruned", "trained"]


class InterventionError(BimtError):
    """A change names something that is not there, or cannot be made.

    problems   (JSON Pointer into what was asked, sentence) for every bad field, where it was asked as a document.
    """

    def __init__(self, sentence: str, *, problems: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.problems = problems


class ChangeAsked(Part):
    """One thing that is changed.

    id     connection: its key, weights.0[3,1] (matrix, row, column) · neuron: hidden1:7 · module: its letter ·
           embedding: the dimension's number from birth, for all tokens at once.
    do     set (to `value`) · scale (by `value`) · zero · mean (over examples) · resample (from another example).
    """

    kind: Kind
    id: str = Field(min_length=1, max_length=80)
    do: Do = "zero"
    value: float | None = None


class EachAsked(Part):
    """Every part of a kind that the network keeps, each in a trial of its own; of neurons, those between the ends."""

    kind: Kind
    do: Do = "zero"
    value: float | None = None


class InterventionsAsked(Part):
    """Trials, each any number of changes at once; or `each`, one trial for every part of a kind."""

    trials: list[Annotated[list[ChangeAsked], Field(max_length=MOST_CHANGES)]] = Field(
        default=[], max_length=MOST_TRIALS
    )
    each: EachAsked | None = None
    network: Which = Field(default="pruned", description="The pruned, refitted network, or the one that was trained.")

    @model_validator(mode="after")
    def _one_of_two(self) -> InterventionsAsked:
        if bool(self.trials) == (self.each is not None):
            raise ValueError("Give either `trials`, at least one, or `each`.")
        if sum(len(trial) for trial in self.trials) > MOST_CHANGES:
            raise ValueError(f"At most {MOST_CHANGES} changes may be made in all trials together.")
        return self


def read_asked(asked: Mapping[str, Any]) -> InterventionsAsked:
    """The document, or an InterventionError that names every bad field."""
    try:
        return InterventionsAsked.model_validate(asked)
    except ValidationError as error:
        problems = tuple(("".join(f"/{part}" for part in e["loc"]), _sentence(e)) for e in error.errors())
        raise InterventionError(
            "These interventions cannot be read: " + "; ".join(f"{at or '/'}: {what}" for at, what in problems[:5]),
            problems=problems,
        ) from None


def _sentence(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
