"""Documents for JSON: plain Python numbers, and null for every number that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def finite_json(value: Any) -> Any:
    """The same document with null for NaN and infinities, and plain Python numbers, lists and keys."""
    if isinstance(value, dict):
        return {str(key): finite_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
