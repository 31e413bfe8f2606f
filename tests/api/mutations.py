"""Sound files of every format, and ways to damage them: what an upload may look like after a bad line or a bad mind."""

from __future__ import annotations

import gzip
import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from tests.engine.data.makers import xlsx, zipped

ROWS = 24


def sound_files() -> dict[str, tuple[str, list[bytes]]]:
    """By the name of a kind of file: the format it is sent as, and files that are accepted as they are."""
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(ROWS, 3))
    labels = rng.integers(0, 3, size=ROWS)
    images = rng.integers(0, 256, size=(ROWS, 4, 4), dtype=np.uint8)
    idx = _idx(images) + _idx(labels.astype(np.uint8))
    rows = [[*map(float, row), f"k{label}"] for row, label in zip(inputs, labels, strict=True)]
    return {
        "csv": ("csv", [_csv(inputs, labels, ","), _csv(inputs, labels, ";"), _csv(inputs, labels, "\t", quoted=True)]),
        "npz": ("npz", [_npz(np.savez, inputs, labels), _npz(np.savez_compressed, inputs, labels)]),
        "parquet": ("parquet", [_parquet(inputs, labels, codec) for codec in ("uncompressed", "snappy", "zstd")]),
        "idx": ("idx", [idx]),
        "idx.gz": ("idx", [gzip.compress(idx, mtime=0)]),
        "csv.gz": ("csv", [gzip.compress(_csv(inputs, labels, ","), mtime=0)]),
        "csv.zip": ("csv", [zipped({"table.csv": _csv(inputs, labels, ",")})]),
        "people.csv": ("csv", [people(",", "utf-8"), people(";", "cp1252"), people("\t", "utf-16")]),
        "npy": ("npy", [_npy(np.column_stack((inputs, labels))), _npy(_fields(inputs, labels))]),
        "xlsx": ("xlsx", [xlsx([["a", "b", "c", "kind"], *rows])]),
        "arrow": ("arrow", [_arrow(inputs, labels, codec) for codec in ("uncompressed", "lz4", "zstd")]),
        "arrows": ("arrow", [_arrow(inputs, labels, None)]),
        "cayley": ("cayley", [_cayley(7), _cayley(5, head=True), b"[[0,1,2],[1,2,0],[2,0,1]]"]),
    }


def mutate(files: list[bytes], rng: random.Random) -> bytes:
    """One of the files with one to six wounds."""
    content = rng.choice(files)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = rng.choice(WOUNDS)(content, rng)
    return content


# --- wounds ------------------------------------------------------------------------------------------------


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randint(0, len(content))
    return begin, min(len(content), begin + rng.choice((1, 1, 2, 4, 8, 32, 200)))


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return content
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def _cut_off(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _lose(content: bytes, rng: random.Random) -> bytes:
    begin, end = _span(content, rng)
    return content[:begin] + content[end:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    begin, end = _span(content, rng)
    return content[:end] + content[begin:end] * rng.choice((1, 2, 50)) + content[end:]


def _noise(content: bytes, rng: random.Random) -> bytes:
    begin, end = _span(content, rng)
    return content[:begin] + rng.randbytes(end - begin) + content[end:]


def _word(content: bytes, rng: random.Random) -> bytes:
    begin, end = _span(content, rng)
    return content[:begin] + rng.choice(WORDS) + content[rng.choice((begin, end)) :]


def _number(content: bytes, rng: random.Random) -> bytes:
    """A length, an offset or a count that lies."""
    begin = rng.randint(0, len(content))
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    value = rng.choice((0, 1, 127, 255, (1 << (8 * size - 1)) - 1, 1 << (8 * size - 1), (1 << (8 * size)) - 1))
    return content[:begin] + struct.pack(form, value) + content[begin + size :]


WOUNDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _cut_off,
    _lose,
    _repeat,
    _noise,
    _word,
    _number,
)
WORDS = (
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\r",
    b"\r\n",
    b"\n\n\n",
    b'"',
    b"'",
    b",",
    b";",
    b"\t",
    b"NaN",
    b"-inf",
    b"1e999",
    b"-0",
    b"9" * 400,
    b"0x10",
    "٣".encode(),
    "é\u202e𝟘".encode(),
    b"=cmd|'/c calc'!A0",
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"PAR1",
    b"\x93NUMPY\x01\x00",
    b"cos\nsystem\n(S'true'\ntR.",
    b"__import__",
    b"../../x",
    b"true",
    b"null",
    b"[[",
    b"]]",
)


# --- sound files -------------------------------------------------------------------------------------------


def _csv(inputs: np.ndarray, labels: np.ndarray, comma: str, *, quoted: bool = False) -> bytes:
    mark = '"' if quoted else ""
    lines = [comma.join(f"{mark}{name}{mark}" for name in ("a", "b", "c", "kind"))]
    lines += [
        comma.join([*(f"{value:.6g}" for value in row), f"{mark}k{label}{mark}"])
        for row, label in zip(inputs, labels, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def people(comma: str, encoding: str) -> bytes:
    """A table as people keep it: a comment, an index, gaps, dates, decimal commas, categories and names."""
    lines = ["# measured in May", comma.join(("", "größe", "wann", "wahr", "preis", "name", "kind"))]
    for i in range(ROWS):
        size = "" if i % 5 == 0 else f"{i * 7 % 11},{i}" if comma != "," else f"{i * 7 % 11}.{i}"
        cells = (str(i), size, f"{1 + i}.05.2024", ("yes", "no", "NA")[i % 3], f"{i}%", f"Märta {i}", f"k{i * i % 3}")
        lines.append(comma.join(cells))
    return ("\n".join(lines) + "\n").encode(encoding)


def _npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def _fields(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = [(*row, f"k{label}") for row, label in zip(inputs.tolist(), labels, strict=True)]
    return np.array(rows, dtype=[("a", "f8"), ("b", "f8"), ("c", "f8"), ("kind", "U4")])


def _arrow(inputs: np.ndarray, labels: np.ndarray, codec: Any) -> bytes:
    columns = {name: inputs[:, i] for i, name in enumerate("abc")} | {"kind": [f"k{label}" for label in labels]}
    held = io.BytesIO()
    if codec is None:
        pl.DataFrame(columns).write_ipc_stream(held)
    else:
        pl.DataFrame(columns).write_ipc(held, compression=codec)
    return held.getvalue()


def _npz(save: Callable[..., None], inputs: np.ndarray, labels: np.ndarray) -> bytes:
    held = io.BytesIO()
    save(held, inputs=inputs, targets=labels)
    return held.getvalue()


def _parquet(inputs: np.ndarray, labels: np.ndarray, codec: Any) -> bytes:
    columns = {name: inputs[:, i] for i, name in enumerate("abc")} | {"kind": [f"k{label}" for label in labels]}
    held = io.BytesIO()
    pl.DataFrame(columns).write_parquet(held, compression=codec)
    return held.getvalue()


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _cayley(order: int, *, head: bool = False) -> bytes:
    names = [f"g{i}" for i in range(order)] if head else [str(i) for i in range(order)]
    rows = [[names[(i + j) % order] for j in range(order)] for i in range(order)]
    if head:
        rows = [["", *names], *([names[i], *row] for i, row in enumerate(rows))]
    return ("\n".join(",".join(row) for row in rows) + "\n").encode()
