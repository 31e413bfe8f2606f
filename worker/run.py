"""One run of the job, as the training process knows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bimt_engine.datasets.dataset import Dataset
    from bimt_engine.spec import Spec


@dataclass
class Run:
    """One run as the order names it.

    left             it has not ended; those that have are named because they trained in the same batch.
    checkpoint       a file in the folder to go on from, and the step at which it was written.
    content          the uploaded data; None where data are made.
    """

    id: str
    seed: int
    told: dict[str, Any]
    left: bool = True
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    content: Path | None = None
    _dataset: Dataset | None = field(default=None, repr=False)

    @classmethod
    def of(cls, order: dict[str, Any], content: Path | None) -> Run:
        kept = order["checkpoint"], order["checkpoint_step"]
        return cls(order["id"], order["seed"], order["spec"], order["left"], *kept, content)

    @cached_property
    def spec(self) -> Spec:
        from bimt_engine.spec import Spec

        return Spec.model_validate(self.told)

    def dataset(self, *, again: bool = False) -> Dataset:
        """Its data, which are kept for the next who asks where they will be needed again. Raises DataError."""
        from bimt_engine.datasets.catalogue import make_dataset

        made = self._dataset or make_dataset(self.spec.dataset, seed=self.seed, content=self.content)
        self._dataset = made if again else None
        return made


def ids(runs: Iterable[Run]) -> list[str]:
    return [run.id for run in runs]
