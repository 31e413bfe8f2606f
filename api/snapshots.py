"""Snapshots as a page can draw them: weights and who sits where, out of the stored safetensors, without the engine."""

from __future__ import annotations

import json
from array import array
from typing import Any

from api.problems import Problem

ORDER = "order."  # what the names of orders begin with
TYPES = {"F32": ("f", float), "I64": ("q", int)}


def read_snapshot(content: bytes) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """(parameter → {"shape", "values"}, neuron layer → who sits in each slot); seven digits, the last axis fastest.

    Raises the problem of damaged bytes.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("the header is no object")
        start = 8 + length
        weights: dict[str, Any] = {}
        orders: dict[str, list[int]] = {}
        for name, about in header.items():
            if name == "__metadata__":
                continue
            code, _ = TYPES[about["dtype"]]
            first, last = about["data_offsets"]
            values = array(code)
            values.frombytes(content[start + first : start + last])
            if name.startswith(ORDER):
                orders[name.removeprefix(ORDER)] = values.tolist()
            else:
                weights[name] = {"shape": about["shape"], "values": [float(f"{value:.7g}") for value in values]}
    except (ValueError, KeyError, TypeError) as error:
        raise Problem("conflict", "The stored snapshot cannot be read; restore it from a backup.") from error
    return weights, orders
