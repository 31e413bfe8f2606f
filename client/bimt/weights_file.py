"""A weights file as plain bytes: what its header says, and where each tensor lies. Needs no torch.

The format is safetensors: eight bytes with the length of a JSON header, the header, the tensors one after another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .errors import BimtError

FORMAT = "bimt-network/1"
LONGEST_HEADER = 100 * 1024 * 1024  # bytes, as the format itself says


class WeightsError(BimtError):
    """These bytes are no network that this client can read."""


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes, row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def read_weights(content: bytes) -> tuple[dict[str, RawTensor], dict[str, Any]]:
    """The tensors by name, and what the service wrote beside them: `spec`, `seed`, `data`. Raises WeightsError."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(LONGEST_HEADER, len(content) - 8):
        raise WeightsError("This is no safetensors file, or it was cut off: download it again.")
    try:
        header = json.loads(content[8 : 8 + length])
        said = json.loads(header.pop("__metadata__", {}).get("bimt", "{}"))
        body = memoryview(content)[8 + length :]
        tensors = {name: _tensor(body, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"The file is damaged ({error}): download it again.") from error
    stated = said.get("format", "no format at all") if isinstance(said, dict) else "no format at all"
    if stated != FORMAT:
        raise WeightsError(f"The file names {stated}; this client reads {FORMAT}. A newer client may read it.")
    return tensors, said


BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "BOOL": 1, "U8": 1}


def _tensor(body: memoryview, entry: dict[str, Any]) -> RawTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    count = 1
    for size in shape:
        count *= size
    if entry["dtype"] not in BYTES:
        raise ValueError(f"numbers of the kind {entry['dtype']} are not read here")
    if not 0 <= begin <= end <= len(body) or end - begin != count * BYTES[entry["dtype"]]:
        raise ValueError("a tensor does not lie where the header says")
    return RawTensor(entry["dtype"], shape, body[begin:end])
