"""NPZ, NPY and IDX files into columns: arrays whose first axis counts the examples.

Everything that a file declares is checked first: names and sizes in an archive, the shape in a header, and how far the
bytes unpack. Objects (pickles) are never read.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bimt_engine.data.readers import (
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_PIXELS,
    MAX_PROBLEMS,
    Column,
    Problem,
    ReadAs,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)
from bimt_engine.data.readers.cells import plain
from bimt_engine.data.readers.files import checked_entries
from bimt_engine.data.readers.rows import typed_values, with_notes

MAX_MEMBERS = 64  # arrays in one archive
MAX_UNPACKED = 2 << 30  # bytes of all arrays of one archive
MAX_DIMENSIONS = 5


@runtime_checkable
class Readable(Protocol):
    """A file, a member of an archive, or what gzip unpacks."""

    def read(self, size: int = ..., /) -> bytes:
        """Up to so many bytes."""
        ...


IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_ROLES = {2: ("images", "labels"), 4: ("train_images", "train_labels", "test_images", "test_labels")}


# --- NPZ ----------------------------------------------------------------------------------------


def read_npz(content: bytes | Path, *, read_as: Mapping[str, ReadAs] | None = None) -> Table:
    """The arrays of an NPZ archive, each a column (rows,) or a block of columns (rows, …).

    Names such as x_train, y_train, x_test, y_test say which rows are for training.
    read_as   what columns are, as the user has it; None, and where any array is a block of columns: numbers and text
              alone, and each cell needs a value.
    Raises RefusedData.
    """
    with opened(content) as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                _check_archive(archive)
                arrays = {entry.filename[:-4]: _read_npy(archive, entry) for entry in archive.infolist()}
        except (RefusedData, MemoryError):
            raise
        except Exception as error:  # zipfile answers damage with a dozen kinds, ValueError and KeyError among them
            raise refuse(f"The file is not a sound NPZ archive ({error}); write it again with numpy.savez.") from None
    return _table(arrays, read_as)


def read_npy(
    content: bytes | Path, *, used: frozenset[str] | None = None, read_as: Mapping[str, ReadAs] | None = None
) -> Table:
    """The columns of an NPY file: an array (rows, columns) of numbers or text, or a structured one, whose fields have
    names.

    used, read_as   as of `read_rows`
    Raises RefusedData.
    """
    with opened(content) as raw:
        size = raw.seek(0, 2)
        raw.seek(0)
        array = _read_array(raw, size, "of the file", fields=True)
    notes: tuple[str, ...] = ()
    if array.dtype.names:
        by_name = {name: array[name] for name in array.dtype.names}
    elif array.ndim == 2 and array.shape[1] <= MAX_COLUMNS:
        by_name = {f"column {number + 1}": array[:, number] for number in range(array.shape[1])}
        notes = ("The array names no columns; they are called `column 1`, `column 2` and so on.",)
    else:
        raise refuse(
            f"The array has the shape {array.shape}; a table has rows and at most {MAX_COLUMNS:,} columns. Send images "
            "and their targets as NPZ: numpy.savez(file, inputs=…, targets=…)."
        )
    if problems := check_names(list(by_name)):
        raise RefusedData(problems)
    if not len(array):
        raise refuse("The array has no rows; add the data.")
    if array.ndim != 1 and array.dtype.names:
        raise refuse(f"The structured array has the shape {array.shape}; it needs one axis, the rows.")
    return Table(_typed(by_name, read_as or {}, used), notes=notes)


def _typed(
    arrays: dict[str, NDArray[Any]], read_as: Mapping[str, ReadAs], used: frozenset[str] | None
) -> tuple[Column, ...]:
    """Arrays with one axis as typed columns. Raises RefusedData."""
    columns, problems = [], []
    for name, array in arrays.items():
        wanted = read_as.get(name)
        wrong: list[Problem] = []
        if array.ndim > 1:
            raise refuse(f"The field {name!r} has the shape {array.shape[1:]} in each row; a field holds one value.")
        if array.dtype.kind in "UM" or (wanted and wanted.type in ("category", "text", "date")):
            texts = [_as_text(value) for value in array.tolist()] if array.dtype.kind != "M" else _dates(array)
            column = typed_values(name, texts, wanted, wrong, declared=array.dtype.kind == "U")
        else:
            numbers = array.astype(np.float64)
            as_wanted = wanted or (ReadAs("boolean") if array.dtype.kind == "b" else None)
            column, wrong = plain(name, numbers, np.isnan(numbers), np.arange(1, len(numbers) + 1), as_wanted)
            column = with_notes(column, None, wanted)
        columns.append(column)
        problems += wrong if used is None or name in used else []
    if problems:
        raise RefusedData(sorted(problems, key=lambda problem: problem.row or 0))
    return tuple(columns)


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def _dates(array: NDArray[Any]) -> list[str]:
    return ["" if text == "NaT" else text for text in np.datetime_as_string(array.astype("datetime64[us]")).tolist()]


def _check_archive(archive: zipfile.ZipFile) -> None:
    again = "write it again with numpy.savez"
    entries = checked_entries(archive, most=MAX_MEMBERS, what="arrays", again=again, wrong_name=_no_array)
    if not entries:
        raise refuse("The archive holds no arrays; write it with numpy.savez(file, inputs=…, targets=…).")
    if (total := sum(entry.file_size for entry in entries)) > MAX_UNPACKED:
        raise refuse(f"The archive unpacks to {total:,} bytes; at most {MAX_UNPACKED:,} are read.")


def _no_array(name: str) -> str:
    is_array = name.endswith(".npy") and not any(part in name for part in ("/", "\\", "\0")) and name[0] != "."
    return "" if is_array else "which is no array of numpy.savez; keep arrays only."


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as member:
        return _read_array(member, entry.file_size, repr(entry.filename[:-4]))


def _read_array(file: Any, length: int, name: str, *, fields: bool = False) -> NDArray[Any]:
    """An array in the NPY format. Raises RefusedData.

    file     a file or a member of an archive; length: its bytes
    fields   whether it may be a structured array, and dates
    """
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = reader[version](file, max_header_size=10_000)
    except (zipfile.BadZipFile, zlib.error, MemoryError):
        raise
    except Exception:  # the header is a Python literal: it can be wrong in more ways than can be listed
        write = "numpy.save" if fields else "numpy.savez"
        raise refuse(f"The array {name} has no sound header; write it again with {write}.") from None
    kinds = [dtype[field] for field in dtype.names] if fields and dtype.names else [dtype]
    known = "biufUM" if fields else "biufU"
    for kind in kinds:
        if kind.kind not in known or kind.itemsize > 4 * 256 or kind.itemsize == 0:
            raise refuse(
                f"The array {name} is of type {dtype}; numbers, booleans and text are read. Convert it with "
                "`.astype(float)` (objects are never read)."
            )
    size = math.prod(shape) * dtype.itemsize
    rest = length - file.tell()
    if len(shape) > MAX_DIMENSIONS or size != rest or (fields and not shape):
        raise refuse(f"The array {name} declares the shape {shape} and so {size:,} bytes, but holds {rest:,}.")
    if math.prod(shape) * len(kinds) > MAX_CELLS:
        raise refuse(f"The array {name} holds {math.prod(shape):,} numbers; at most {MAX_CELLS:,} are read.")
    array = np.frombuffer(_read_exactly(file, size, name), dtype=dtype)
    for texts in [array[field] for field in dtype.names] if dtype.names else [array]:
        if texts.dtype.kind == "U" and not _are_letters(texts):
            raise refuse(f"The array {name} holds text that is no Unicode; write it again.")
    return array.reshape(shape, order="F" if fortran else "C")


def _are_letters(texts: NDArray[Any]) -> bool:
    """Whether every code in an array of text is a character: Python cannot show those beyond, nor JSON the halves."""
    codes = np.ascontiguousarray(texts).view(texts.dtype.byteorder.replace("|", "=") + "u4")
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any())


def _read_exactly(file: Readable, size: int, name: str) -> bytes:
    data = file.read(size + 1)  # one more than is right, never all that there is
    if len(data) != size:
        raise refuse(f"{name} has {'more' if len(data) > size else 'fewer'} bytes than its header declares.")
    return data


# --- IDX ----------------------------------------------------------------------------------------


def read_idx(content: bytes | Path) -> Table:
    """IDX arrays one after another, plain or gzip: images and labels, or those of training and those of testing.

    Two files become one upload by appending the second to the first (`cat images.gz labels.gz > both.gz`).
    Raises RefusedData.
    """
    arrays = read_idx_arrays(content, most=4)
    if len(arrays) not in IDX_ROLES:
        raise refuse(
            f"The file holds {len(arrays)} IDX array{'s' if len(arrays) != 1 else ''}; two are needed, images and "
            "labels (or four: those for training, then those for testing). Append one file to the other: "
            "`cat images.gz labels.gz > both.gz`."
        )
    ordered = list(arrays)
    for i in range(0, len(ordered), 2):  # labels are the array with one axis; either may come first
        if ordered[i].ndim == 1 and ordered[i + 1].ndim > 1:
            ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    return _table(dict(zip(IDX_ROLES[len(arrays)], ordered, strict=True)))


def read_idx_arrays(content: bytes | Path, *, most: int = 1) -> list[NDArray[Any]]:
    """The arrays of an IDX file, at most `most`. Raises RefusedData."""
    arrays = []
    with opened(content) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file: Readable = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            while (array := _read_idx_array(file)) is not None:
                arrays.append(array)
                if len(arrays) > most:
                    raise refuse(f"The file holds more than {most} IDX array{'s' if most != 1 else ''}.")
        except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
            raise refuse(f"The file cannot be unpacked ({error}); it may be cut off. Send it again.") from None
    if not arrays:
        raise refuse("The file is empty; send IDX arrays, plain or gzip.")
    return arrays


def _read_idx_array(file: Readable) -> NDArray[Any] | None:
    magic = file.read(4)
    if not magic:
        return None
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise refuse("The file is not IDX: it must begin with two zero bytes, a type and a number of axes.")
    header = _read_exactly_up_to(file, 4 * magic[3])
    shape = struct.unpack(f">{magic[3]}I", header)
    dtype = np.dtype(IDX_TYPES[magic[2]])
    cells = math.prod(shape)
    if cells > MAX_CELLS:
        raise refuse(f"The IDX header declares the shape {shape}, {cells:,} numbers; at most {MAX_CELLS:,} are read.")
    data = _read_exactly_up_to(file, cells * dtype.itemsize)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read_exactly_up_to(file: Readable, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise refuse(f"The IDX file ends early: {size:,} bytes were declared, {len(data):,} are there. Send it again.")
    return data


# --- both ---------------------------------------------------------------------------------------


def _table(arrays: dict[str, NDArray[Any]], read_as: Mapping[str, ReadAs] | None = None) -> Table:
    arrays, train_rows = _joined(arrays)
    problems = check_names(list(arrays))
    if problems:
        raise RefusedData(problems)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        said = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise refuse(f"The arrays must have equal, non-zero length along their first axis; they have {said}.")
    if read_as is not None and all(math.prod(array.shape[1:]) == 1 for array in arrays.values()):
        flat = {name: array.reshape(len(array)) for name, array in arrays.items()}
        return Table(_typed(flat, read_as, None), train_rows=train_rows)
    columns = tuple(_column(name, array) for name, array in arrays.items())
    problems = [problem for column in columns for problem in _not_finite(column)]
    if problems:
        raise RefusedData(problems)
    return Table(columns, train_rows=train_rows)


def _joined(arrays: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int | None]:
    """x_train over x_test as `x`, y_train over y_test as `y`, when every array is of such a pair."""
    pairs: dict[str, dict[str, str]] = {}
    for name in arrays:
        for part in ("train", "test"):
            if name.startswith(part + "_") or name.endswith("_" + part):
                pairs.setdefault(name.removeprefix(part + "_").removesuffix("_" + part), {})[part] = name
    named = {name for pair in pairs.values() for name in pair.values()}
    if not pairs or named != set(arrays) or any(len(pair) != 2 for pair in pairs.values()):
        return arrays, None
    joined, rows = {}, set()
    for base, pair in pairs.items():
        train, test = arrays[pair["train"]], arrays[pair["test"]]
        if train.ndim < 1 or train.shape[1:] != test.shape[1:]:
            raise refuse(
                f"One example of {pair['train']} has the shape {train.shape[1:]} and of {pair['test']} "
                f"{test.shape[1:]}; they must agree."
            )
        joined[base] = np.concatenate([train, test])
        rows.add(len(train))
    if len(rows) > 1:
        raise refuse(f"The training arrays have different lengths: {', '.join(map(str, sorted(rows)))}.")
    return joined, rows.pop()


def _column(name: str, array: NDArray[Any]) -> Column:
    shape = array.shape[1:]
    width = math.prod(shape)
    if width > MAX_PIXELS:
        raise refuse(
            f"One example of the array {name!r} holds {width:,} numbers; a network reads at most {MAX_PIXELS:,}. "
            "Reduce the images, for instance by averaging pixels."
        )
    if width == 0:
        raise refuse(f"The array {name!r} has the shape {array.shape}, so its examples hold nothing.")
    # Images of bytes become float32, half as long as other numbers: MNIST's 70 000 hold 54 880 000.
    most = 2 * MAX_CELLS if array.dtype == np.uint8 and width > 1 else MAX_CELLS
    if array.size > most:
        raise refuse(f"The array {name!r} holds {array.size:,} numbers; at most {most:,} are read.")
    if array.dtype.kind == "U":
        if shape not in ((), (1,)):
            raise refuse(f"The array {name!r} holds text with the shape {array.shape}; labels need one axis.")
        return Column(name, np.array([text.strip() for text in array.reshape(-1).tolist()], dtype=object))
    # bytes stay bytes: 60 000 images take 47 MB, not 376
    numbers = array if array.dtype == np.uint8 and width > 1 else array.astype(np.float64)
    flat = numbers.reshape(len(array), width)
    return Column(name, flat[:, 0], ()) if shape in ((), (1,)) else Column(name, flat, shape)


def _not_finite(column: Column) -> list[Problem]:
    if column.type == "text":
        wrong = np.flatnonzero([not text for text in column.values])
        said = "is empty"
        places = [(int(row), column.name) for row in wrong[:MAX_PROBLEMS]]
    else:
        if column.values.dtype == np.uint8:
            return []
        rows, at = np.nonzero(~np.isfinite(column.as_matrix()))
        said = "is not a finite number"
        parts = column.parts if len(rows) else ()
        places = [(int(r), parts[int(c)]) for r, c in zip(rows[:MAX_PROBLEMS], at[:MAX_PROBLEMS], strict=True)]
    return [
        Problem(f"Row {row + 1} of {name!r} {said}; fill it or remove the row.", row=row + 1, column=name)
        for row, name in places
    ]
