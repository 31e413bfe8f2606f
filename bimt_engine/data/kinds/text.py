"""Text: bytes as tokens, each of which is to be predicted from those before it; parts are held out by file.

One example is a window of `context` bytes, and its target at each step is the byte that follows. Windows of one file
lie end to end, so that every byte is predicted once; what is left at the end of a file is not read. Nothing is unpacked
from bytes before a step of the training needs it.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bimt_engine.data.dataset import Dataset, Examples
from bimt_engine.data.kinds import DataPart, dataset_kind
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError

BYTES = 256  # tokens
CONTEXT = 64  # bytes of one example where nothing else is asked for
MAX_CONTEXT = 1024
FEW_FILES = 3  # fewer cannot be held out whole: the beginning of the text trains, its end tests
MIN_WINDOWS = 8
NOT_THE_LIBRARY = frozenset(["site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"])
SPELT = {9: "\\t", 10: "\\n", 13: "\\r", 32: "space"}
BYTE_NAMES = tuple(SPELT.get(b, chr(b) if 32 < b < 127 else f"0x{b:02x}") for b in range(BYTES))


class PythonLibraryData(DataPart):
    """The source of the standard library of the Python that runs here: each byte is predicted from those before it.

    It differs by machine, so its version and its SHA-256 stand with the results.
    """

    examples: ClassVar[Examples] = "text"  # bytes and what follows them
    has_classes: ClassVar[bool] = True  # which byte follows
    kind: Literal["python_library"] = "python_library"
    context: int = Field(default=CONTEXT, ge=2, le=MAX_CONTEXT, description="Bytes of one example.")
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the bytes, in whole files.")
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the bytes, in whole files.")


@dataset_kind(PythonLibraryData, label="Python's standard library")
def python_library(spec: PythonLibraryData, *, seed: int) -> Dataset:
    """The windows of its files, which are split the same way for every run. Raises DataError where it is not there."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = library_files(folder)
    if len(files) < FEW_FILES:
        raise DataError(f"There is no source of Python's standard library in {folder.name}; use another data set.")
    validation = spec.validation_fraction if spec.split_version > 1 else 0.0
    shares = 1 - spec.validation_fraction - spec.test_fraction, validation
    return text_dataset(files, context=spec.context, shares=shares, seed=0, origin=origin_of(files))


def library_files(folder: Path) -> list[tuple[str, bytes]]:
    """The Python files below a folder, by name; without tests, installed packages, and what is not UTF-8."""
    found = []
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if NOT_THE_LIBRARY & set(name.parts) or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            continue
        found.append((name.as_posix(), content))
    return found


def origin_of(files: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """What was read on this machine: the version of Python, files, bytes, and the SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    total = sum(len(content) for _, content in files)
    return {
        "python": platform.python_version(),
        "files": str(len(files)),
        "bytes": str(total),
        "sha256": digest.hexdigest(),
    }


def windows_of(files: Sequence[tuple[str, bytes]], context: int) -> list[int]:
    """How many examples of so many bytes, and the one that follows, each file makes. Raises DataError: too few."""
    counts = [max(0, (len(content) - 1) // context) for _, content in files]
    if sum(counts) < MIN_WINDOWS:
        raise DataError(
            f"The text has {sum(len(content) for _, content in files):,} bytes in {len(files)} files, which make "
            f"{sum(counts)} examples of {context} bytes and the one that follows; at least {MIN_WINDOWS} are needed. "
            "Send more text, or ask for a shorter context."
        )
    return counts


def text_dataset(
    files: Sequence[tuple[str, bytes]],
    *,
    context: int,
    shares: tuple[float, float],
    seed: int,
    origin: dict[str, str] | None = None,
) -> Dataset:
    """Windows of texts with the byte that follows each of theirs; whole files are held out.

    files    (name, content), in any order that is always the same.
    shares   of the windows for training and for validation. Of fewer than three files the first windows are for
             training, those after them for validation, the last for testing.
    Raises DataError where there are too few windows.
    """
    counts = windows_of(files, context)
    windows = np.empty((sum(counts), context + 1), np.uint8)
    end = 0
    for (_, content), count in zip(files, counts, strict=True):
        if count:
            text = np.frombuffer(content, np.uint8)
            windows[end : end + count] = np.lib.stride_tricks.sliding_window_view(text, context + 1)[::context][:count]
            end += count
    numbers = np.repeat(np.arange(len(files)), counts)
    if len(np.unique(numbers)) < FEW_FILES:
        split = Split.by_time(np.arange(len(windows)), *shares)
    else:
        split = Split.by_group(numbers, *shares, seed=seed)
    train, test = _pairs(windows[split.train]), _pairs(windows[split.test])
    validation = _pairs(windows[split.validation]) if len(split.validation) else (None, None)
    return Dataset(
        *train,
        *test,
        validation_inputs=validation[0],
        validation_targets=validation[1],
        task="classification",
        feature_names=BYTE_NAMES,
        target_names=BYTE_NAMES,
        tokens=BYTES,
        origin=origin,
    )


def _pairs(windows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Views: all bytes but the last, and all but the first."""
    return windows[:, :-1], windows[:, 1:]
