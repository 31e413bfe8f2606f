"""What an architecture is, and which ones there are: each is one class in one file of this folder.

A file of this folder that is not named in SHARED is an architecture's: its classes join `spec.NetworkSpec`, and with it
forms, OpenAPI and the page, by being there. Such a file imports torch inside its methods only, because the API reads
specs and never loads torch. (docs/decisions/0019-an-architecture-is-one-file.md, docs/extending.md)
"""

from __future__ import annotations

import pkgutil
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

import bimt_engine.networks
from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.spec_part import Part

if TYPE_CHECKING:
    from jaxtyping import Float as Float
    from torch import Tensor as Tensor

    from bimt_engine.networks.network import Draw as Draw
    from bimt_engine.networks.network import Network as Network
    from bimt_engine.networks.network import ParameterGroup as ParameterGroup
    from bimt_engine.networks.network import Tap as Tap
else:  # annotations name these; they are looked up only where tests check shapes, and jaxtyping is installed there
    Float = Tensor = Draw = Network = ParameterGroup = Tap = Any
    with suppress(ModuleNotFoundError):
        from jaxtyping import Float as Float

SHARED = frozenset({"architecture", "attach", "files", "geometry", "network", "units", "wiring"})
MAX_WIDTH = 4096  # neurons in one layer; relocation solves an assignment of this size

Activation = Literal["silu", "relu", "tanh", "gelu", "gelu_tanh"]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Geometry = Literal["line", "hemispheres", "grid", "ring", "box"]


class Architecture(Part):
    """One kind of network. The fields are what a spec may say about it; unknown fields are errors, values are frozen.

    A subclass gives `kind` as a Literal with its default, and the two methods.
    """

    kind: str

    def misfit(self, examples: Examples) -> str:
        """Why it cannot read such examples, a sentence; empty where it can, as far as shows before they are made."""
        return ""

    def build(self, data: Dataset, draw: Draw) -> Network:
        """A network with freshly drawn parameters, as wide at both ends as the data; rows are not looked at.

        Raises SpecError when spec and data do not fit each other.
        """
        raise NotImplementedError

    def compute(self, network: Network, x: Tensor, tap: Tap) -> Tensor:
        """Outputs in the order of the data's targets.

        Parameters lie in slot order throughout. Every neuron layer's activation passes through `tap` wherever it has
        changed, with its axes as the wiring declares them.
        """
        raise NotImplementedError


@cache
def architectures() -> tuple[type[Architecture], ...]:
    """Every architecture in the files of this folder, by file name; in a file, as they stand there."""
    found: list[type[Architecture]] = []
    for file in sorted(module.name for module in pkgutil.iter_modules(bimt_engine.networks.__path__)):
        if file in SHARED:
            continue
        module = import_module(f"bimt_engine.networks.{file}")
        found += [
            item
            for item in vars(module).values()
            if isinstance(item, type) and issubclass(item, Architecture) and item.__module__ == module.__name__
        ]
    return tuple(found)
