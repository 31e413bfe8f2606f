"""Every kind of data set by name, the parts of a spec that ask for one, and the way from there to the data.

Forms, OpenAPI, pages and documents list `KINDS`, `DatasetSpec` and `MakerSpec` and nothing of their own. Importing this
module loads no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from bimt_engine.data import kinds
from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds import REGISTERED, DataPart, DatasetKind, Drawn
from bimt_engine.data.split import halve_test
from bimt_engine.errors import DataError

__all__ = ["KINDS", "DatasetKind", "DatasetSpec", "MakerSpec", "differs_by_seed", "make_dataset"]

for _module in sorted(module.name for module in pkgutil.iter_modules(kinds.__path__)):
    importlib.import_module(f"{kinds.__name__}.{_module}")

KINDS: dict[str, DatasetKind] = dict(sorted(REGISTERED.items(), key=lambda item: (item[1].uploaded, item[1].label)))
"""Every kind by name; those that need no upload first, in the order of their labels."""

if TYPE_CHECKING:  # the unions are made of whatever kinds there are, which a type checker cannot follow
    DatasetSpec = DataPart
    MakerSpec = DataPart
else:
    _by_kind = Field(discriminator="kind")
    DatasetSpec = Annotated[reduce(or_, [kind.spec for kind in KINDS.values()]), _by_kind]
    MakerSpec = Annotated[reduce(or_, [kind.spec for kind in KINDS.values() if not kind.uploaded]), _by_kind]
"""`DatasetSpec`: what a spec may ask for. `MakerSpec`: the same without uploads, data that are computed or bundled."""


def make_dataset(spec: DataPart, *, seed: int, content: bytes | Path | None = None) -> Dataset:
    """The data that a spec asks for; a function of the spec and the seed.

    Validation rows are those that the kind draws anew or splits off; where it does not, a half of its test rows.
    seed      of the run; a seed in the spec takes precedence.
    content   the uploaded bytes, or the path of a file with them; for `uploaded` only.
    Raises DataError when the data cannot be used.
    """
    own = spec.seed if isinstance(spec, Drawn) else None
    seed = seed if own is None else own
    kind = KINDS[spec.kind]
    if kind.uploaded and content is None:
        raise DataError(f"The content of the uploaded data set {getattr(spec, 'dataset_id', '')} is missing.")
    dataset = kind.make(spec, seed=seed, content=content) if kind.uploaded else kind.make(spec, seed=seed)
    if spec.split_version == 1:
        return replace(dataset, validation_inputs=None, validation_targets=None)
    if dataset.validation_inputs is None:
        return halve_test(dataset, seed=seed if isinstance(spec, Drawn) else 0)  # not drawn: the same for every run
    return dataset


def differs_by_seed(spec: DataPart) -> bool:
    """Whether runs with other seeds have other data."""
    return isinstance(spec, Drawn) and spec.seed is None
