"""Which code, data and spec a result came from: SHA-256 over the engine's source files, the examples, the JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bimt_engine.data.dataset import Dataset, PartName

SOURCES = (".py", ".cpp", ".h")
WITHOUT_EFFECT = ("figures",)  # a changed picture changes no number


@cache
def code_hash() -> str:
    """SHA-256, in hex, over every source file that numbers depend on, by name and content."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in SOURCES and not set(WITHOUT_EFFECT) & set(path.relative_to(root).parts):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def data_hash(dataset: Dataset) -> str:
    """SHA-256, in hex, over the examples as the network reads them: types, shapes and values of every part there is."""
    digest = hashlib.sha256()
    parts: tuple[PartName, ...] = ("train", "validation", "test")
    if dataset.validation_inputs is None:
        parts = ("train", "test")
    for part in (array for name in parts for array in dataset.part(name)):
        kind = part.dtype.newbyteorder("<")
        digest.update(f"{kind.str}{part.shape}".encode() + b"\0")
        digest.update(np.ascontiguousarray(part, kind).tobytes())
    for weights in map(dataset.row_weights, parts):
        if weights is not None:
            digest.update(np.ascontiguousarray(weights, "<f8").tobytes())
    return digest.hexdigest()


def spec_hash(spec: Mapping[str, Any]) -> str:
    """SHA-256, in hex, over a spec's JSON: keys in order, no spaces, UTF-8."""
    return hashlib.sha256(
        json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()
