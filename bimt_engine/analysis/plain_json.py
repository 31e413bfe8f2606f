"""Documents for JSON: plain Python numbers, and null for every number that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def without_infinities(thing: Any) -> Any:
    """The same document with null for every number that JSON cannot hold, and plain Python numbers throughout."""
    if isinstance(thing, dict):
        return {str(key): without_infinities(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [without_infinities(value) for value in thing]
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, float) and not math.isfinite(thing):
        return None
    return thing
