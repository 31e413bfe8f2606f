"""Requests for interventions as plain data, every bad field named. Loads no torch: the API reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bimt_engine.errors import BimtError
from bimt_engine.spec import Part

MAX_TRIALS = 2_000
MAX_CHANGES = 20_000  # in all trials together

Kind = Literal["connection", "neuron", "module", "embedding"]
Do = Literal["set", "scale", "zero", "mean", "resample"]
Which = Literal["pruned", "trained"]


class InterventionError(BimtError):
    """A change names something that is not there, or cannot be made.

    problems   (JSON Pointer into the request, sentence) for every bad field, where the request was a document.
    """

    def __init__(self, sentence: str, *, problems: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(sentence)
        self.problems = problems


class ChangeRequest(Part):
    """One thing that is changed.

    id     connection: its key, weights.0[3,1] (matrix, row, column) · neuron: hidden1:7 · module: A, or a group
           inside it, A2 · embedding: the dimension's number before any relocation, for all tokens at once.
    do     set (to `value`) · scale (by `value`) · zero · mean (over examples) · resample (from another example).
    """

    kind: Kind
    id: str = Field(min_length=1, max_length=80)
    do: Do = "zero"
    value: float | None = None


class EachRequest(Part):
    """Every part of a kind that the network keeps, each in a trial of its own; of neurons, those between the ends."""

    kind: Kind
    do: Do = "zero"
    value: float | None = None


class InterventionRequest(Part):
    """Trials, each any number of changes at once; or `each`, one trial for every part of a kind."""

    trials: list[Annotated[list[ChangeRequest], Field(max_length=MAX_CHANGES)]] = Field(
        default=[], max_length=MAX_TRIALS
    )
    each: EachRequest | None = None
    network: Which = Field(default="pruned", description="The pruned, refitted network, or the one that was trained.")

    @model_validator(mode="after")
    def _one_of_two(self) -> InterventionRequest:
        if bool(self.trials) == (self.each is not None):
            raise ValueError("Give either `trials`, at least one, or `each`.")
        if sum(len(trial) for trial in self.trials) > MAX_CHANGES:
            raise ValueError(f"At most {MAX_CHANGES} changes may be made in all trials together.")
        return self


def read_request(document: Mapping[str, Any]) -> InterventionRequest:
    """The document, or an InterventionError that names every bad field."""
    try:
        return InterventionRequest.model_validate(document)
    except ValidationError as error:
        problems = tuple(("".join(f"/{part}" for part in e["loc"]), _sentence(e)) for e in error.errors())
        raise InterventionError(
            "These interventions cannot be read: " + "; ".join(f"{at or '/'}: {what}" for at, what in problems[:5]),
            problems=problems,
        ) from None


def _sentence(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
