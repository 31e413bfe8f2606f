"""Bytes of uploads, good and bad."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    """An array in the IDX format."""
    code = IDX_CODES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def table(rows: int = 40, *, seed: int = 0) -> bytes:
    """A CSV table of three numbers, a label and a target that depends on two of the numbers."""
    random = np.random.default_rng(seed)
    lines = ["age,height,weight,colour,score"]
    for age, height, weight in random.normal(size=(rows, 3)).round(4).tolist():
        colour = ("red", "green", "blue")[int(random.integers(3))]
        lines.append(f"{age},{height},{weight},{colour},{age - 2 * weight:.4f}")
    return "\n".join(lines).encode() + b"\n"


def zipped(members: dict[str, bytes]) -> bytes:
    """A ZIP archive of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()
