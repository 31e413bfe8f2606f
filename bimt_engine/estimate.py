"""What a training needs, known before it begins: at the least, so that what cannot end well is refused; and about.

The least counts only what is certain, so a training that is let through may still need more. No torch is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from bimt_engine.networks.mlp import MlpNetwork
from bimt_engine.spec import Spec

ITEM_BYTES = {"float32": 4, "float64": 8}
COPIES = 5  # of each weight: itself, its gradient, two moments, and the mask or the best so far
WORK = 6  # floating-point operations for each weight, example and step: forward once, backward twice, two each
PROCESS_BYTES = 400_000_000  # of a training process that holds next to no data, as measured (docs/log.md, 2026-11-25)
CORE_SPEED = 1e11  # of them a second, on one core of the fastest processors: no training is faster


@dataclass(frozen=True)
class Needs:
    """The least that one run needs.

    examples   train together in one step
    weights    of the network; 0 where only the data are counted
    bytes      of memory, at once
    seconds    of one processor core
    """

    examples: int
    weights: int
    bytes: int
    seconds: float


def least(spec: Spec, *, rows: int | None = None) -> Needs | None:
    """What one run of this spec needs at the least; None where nothing is certain: on a GPU, or of unknown data.

    rows   of an uploaded table. A part of them is for testing, and a column may become several inputs or none, so half
           of the rows are counted, and one input where the spec does not say how many.
    """
    data = spec.dataset
    examples = getattr(data, "train", None) or (rows or 0) // 2
    inputs = getattr(data, "inputs", None) or 1
    if not isinstance(inputs, int):
        inputs = len(inputs)
    if spec.training.device not in ("cpu", "auto") or not examples:
        return None
    item = ITEM_BYTES[spec.training.precision]
    together = min(spec.training.batch_size or examples, examples)
    kept = examples * (inputs + 1) * item
    if not isinstance(spec.network, MlpNetwork):
        return Needs(together, 0, kept, 0.0)
    widths = [inputs, *spec.network.hidden, 1]
    weights = sum(before * after for before, after in pairwise(widths))
    at_once = together * max(before + after for before, after in pairwise(widths)) * item
    seconds = WORK * weights * together * spec.training.steps / CORE_SPEED
    return Needs(together, weights, kept + COPIES * weights * item + at_once, seconds)


def about_bytes(spec: Spec, *, numbers: int) -> int:
    """The memory of a training process, about: what it holds before any data, and an uploaded table.

    numbers   in all rows of the table, each as wide as the spec computes
    """
    return PROCESS_BYTES + numbers * ITEM_BYTES[spec.training.precision]
