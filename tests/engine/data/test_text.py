"""Text: windows of bytes and what follows them, held out by file, as they stand in the files."""

from __future__ import annotations

import hashlib
import platform

import numpy as np
import pytest

from bimt_engine.data.dataset import Dataset
from bimt_engine.data.kinds.text import (
    BYTE_NAMES,
    NOT_THE_LIBRARY,
    PythonLibraryData,
    library_files,
    origin_of,
    text_dataset,
)
from bimt_engine.data.kinds.uploaded import UploadedData
from bimt_engine.data.preview import understand
from bimt_engine.data.readers import RefusedData
from bimt_engine.data.registry import differs_by_seed, make_dataset
from bimt_engine.data.roles import resolve_roles
from bimt_engine.errors import DataError
from bimt_engine.fingerprint import data_hash
from tests.engine.data.makers import zipped

FILES = [(f"file{number}.txt", bytes([65 + number]) * (40 + 9 * number)) for number in range(9)]


def texts_of(data: Dataset, part: str) -> set[str]:
    """The files, each of one letter, whose windows are in this part."""
    return {chr(byte) for byte in np.unique(data.part(part)[0])}


def upload(**more: object) -> UploadedData:
    """A spec for an uploaded text."""
    return UploadedData(
        dataset_id="dataset_" + "0" * 26, sha256="0" * 64, format="text", inputs=["byte"], targets=["next byte"],
        task="classification", **more,
    )  # fmt: skip


def test_windows_lie_end_to_end_and_every_byte_but_the_first_is_predicted_once():
    text = bytes(range(100))
    data = text_dataset([("a", text)], context=7, shares=(0.6, 0.2), seed=0)
    parts = [data.part(name) for name in ("train", "validation", "test")]
    inputs, targets = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert inputs.shape == targets.shape == (14, 7)
    assert inputs.reshape(-1).tolist() == list(range(98))
    assert targets.reshape(-1).tolist() == list(range(1, 99))
    assert (data.inputs, data.targets, data.steps, data.is_text, data.is_sequence) == (256, 256, 7, True, True)
    assert inputs.dtype == np.uint8, "bytes stay bytes"
    assert np.shares_memory(data.train_inputs, data.train_targets), "both are views of one text"


def test_whole_files_are_held_out():
    data = text_dataset(FILES, context=8, shares=(0.6, 0.2), seed=1)
    parts = [texts_of(data, name) for name in ("train", "validation", "test")]
    assert all(parts)
    assert sorted(letter for part in parts for letter in part) == [chr(65 + number) for number in range(9)]
    again = text_dataset(FILES, context=8, shares=(0.6, 0.2), seed=1)
    other = text_dataset(FILES, context=8, shares=(0.6, 0.2), seed=2)
    assert data_hash(data) == data_hash(again) != data_hash(other)


def test_of_fewer_than_three_files_the_end_is_held_out():
    data = text_dataset(FILES[-2:], context=8, shares=(0.5, 0.25), seed=0)
    assert texts_of(data, "train") == {"H", "I"} - {"I"}
    assert texts_of(data, "test") == {"I"}


def test_too_little_text_is_refused():
    with pytest.raises(DataError, match="30 bytes in 1 files, which make 3 examples of 8 bytes"):
        text_dataset([("a", b"x" * 30)], context=8, shares=(0.6, 0.2), seed=0)


def test_names_of_bytes_are_readable_and_different():
    assert len(set(BYTE_NAMES)) == 256
    assert (BYTE_NAMES[10], BYTE_NAMES[32], BYTE_NAMES[65], BYTE_NAMES[200]) == ("\\n", "space", "A", "0xc8")
    assert all(name.isprintable() and name for name in BYTE_NAMES)


def test_the_library_of_this_python_says_what_it_is():
    data = make_dataset(PythonLibraryData(context=32), seed=0)
    assert data.origin is not None
    assert data.origin["python"] == platform.python_version()
    assert len(data.origin["sha256"]) == 64
    other = make_dataset(PythonLibraryData(context=32), seed=7)
    assert data_hash(data) == data_hash(other), "the same files for every run"
    assert not differs_by_seed(PythonLibraryData())
    sizes = [len(data.part(name)[0]) for name in ("train", "validation", "test")]
    assert 0.7 < sizes[0] / sum(sizes) < 0.9
    assert b"import" in data.train_inputs.tobytes()
    assert len(make_dataset(PythonLibraryData(context=32, split_version=1), seed=0).part("validation")[0]) > 0


def test_the_library_is_read_in_the_order_of_names_without_tests_and_packages(tmp_path):
    for name in ("b.py", "a/c.py", "a/test/d.py", "site-packages/e.py", "f.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "latin.py").write_bytes(b"\xe4")
    files = library_files(tmp_path)
    assert files == [("a/c.py", b"a/c.py"), ("b.py", b"b.py")]
    expected = hashlib.sha256(b"a/c.py\x006\x00a/c.pyb.py\x004\x00b.py").hexdigest()
    assert origin_of(files)["sha256"] == expected
    assert {"test", "site-packages"} <= NOT_THE_LIBRARY


def test_uploaded_text_is_understood_and_read(tmp_path):
    archive = tmp_path / "texts.zip"
    archive.write_bytes(zipped({f"folder/{name}": content * 5 for name, content in FILES}))
    said = understand(archive, "text")
    assert said["rows"] == 5 * sum(len(content) for _, content in FILES)
    assert said["notes"] == [f"9 files of text, {said['rows']:,} bytes; whole files are held out."]
    assert said["first_rows"][0] == {"byte": "A", "next byte": "A"}
    roles = resolve_roles(said, {"context": 16})
    assert roles["context"] == 16
    spec = upload(**{name: roles[name] for name in ("context", "test_fraction")})
    data = make_dataset(spec, seed=0, content=archive)
    assert data.train_inputs.shape[1] == 16
    assert make_dataset(upload(), seed=0, content=b"one text, and not much of it. " * 100).steps == 64
    assert "context" not in upload().model_dump(), "specs of tables are written as before"


def test_a_column_to_split_by_and_windows_of_tables_are_refused():
    with pytest.raises(ValueError, match="whole files are held out"):
        upload(split={"by": "group", "column": "byte2"})
    with pytest.raises(ValueError, match="Only text is read in windows"):
        UploadedData.model_validate(upload(context=8).model_dump() | {"format": "csv"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe" * 900, "not UTF-8: byte 0 is 0xff"),
        (b"zero\0byte" * 900, "holds a zero byte"),
        (b"short", "5 bytes; more than 512 are needed"),
        (b"PK no archive at all" * 90, "no sound ZIP archive|not a sound ZIP archive"),
        (zipped({"a.txt": b"x" * 900, "b.bin": b"\x80"}), "'b.bin' is not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(content, says):
    with pytest.raises(RefusedData, match=says):
        understand(content, "text")
