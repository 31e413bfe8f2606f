"""NPZ and IDX: nothing is believed before it is checked."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimt_engine.data.readers import RefusedData
from bimt_engine.data.readers.arrays import read_idx, read_idx_arrays, read_npz
from tests.engine.data.makers import idx, npz

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4)).astype(np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def npy(shape: str, data: bytes = b"") -> bytes:
    return headed(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}", data)


def headed(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_arrays_of_an_npz_become_columns():
    got = read_npz(
        npz(x=np.arange(12.0).reshape(4, 3), f=np.ones((4, 2, 2), order="F"), y=np.array(["a", "b", "a", "b"]))
    )
    assert got.names() == ("x", "f", "y")
    assert got.column("x").parts == ("x[0]", "x[1]", "x[2]")
    assert got.column("x[2]").values.tolist() == [2, 5, 8, 11]
    assert got.column("f").parts[-1] == "f[1,1]"
    assert got.column("y").type == "text"
    assert got.train_rows is None


def test_arrays_that_say_train_and_test_keep_their_split():
    got = read_npz(npz(x_train=IMAGES[:8], y_train=LABELS[:8], x_test=IMAGES[8:], y_test=LABELS[8:]))
    assert got.names() == ("x", "y")
    assert got.train_rows == 8
    assert np.array_equal(got.column("x").values.reshape(IMAGES.shape), IMAGES)


def test_images_of_bytes_stay_bytes():
    assert read_npz(npz(x=IMAGES, y=LABELS)).column("x").values.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a sound NPZ"),
        (b"PK\x03\x04 and then nothing", "not a sound NPZ"),
        (archive(), "holds no arrays"),
        (archive(**{"x.txt": b"1"}), "'x.txt', which is no array"),
        (archive(**{"..__x.npy": member(LABELS)}), "'../x.npy', which is no array"),
        (archive(**{"x.npy": member(np.array([{}, []], dtype=object))}), "type object"),
        (archive(**{"x.npy": member(np.zeros(3, dtype="c16"))}), "type complex128"),
        (archive(**{"x.npy": b"\x93NUMPY\x09\x00"}), "no sound header"),
        (archive(**{"x.npy": headed("__import__('os').system('true')")}), "no sound header"),
        (archive(**{"x.npy": npy("(" * 500)}), "no sound header"),
        (archive(**{"x.npy": npy("(549755813888,)")}), "4,398,046,511,104"),
        (archive(**{"x.npy": npy("(-1,)", b"12345678")}), "declares"),
        (archive(**{"x.npy": npy("(1, 1, 1, 1, 1, 1)", b"12345678")}), "declares"),
        (archive(**{"x.npy": member(np.zeros(15_000_000, dtype=np.uint8))}), "more than 200 times"),
        (archive(**{f"x{i}.npy": member(LABELS) for i in range(65)}), "holds 65 files"),
        (npz(x=np.zeros((4, 2)), y=np.zeros(5)), "x: 4, y: 5"),
        (npz(x=np.float64(1), y=np.zeros(5)), "x: 0, y: 5"),
        (npz(x=np.zeros((4, 65, 64)), y=np.zeros(4)), "holds 4,160 numbers"),
        (npz(x=np.zeros((4, 0)), y=np.zeros(4)), "hold nothing"),
        (npz(x=np.zeros((4, 2)), y=np.array(["a", "", "b", "c"])), "Row 2 of 'y' is empty"),
        (npz(x_train=np.zeros((4, 2)), x_test=np.zeros((4, 3))), "must agree"),
    ],
)  # fmt: skip
def test_an_archive_that_is_no_data_is_refused(content, says):
    with pytest.raises(RefusedData) as caught:
        read_npz(content)
    assert says in caught.value.problems[0].detail


def test_what_is_not_finite_is_named_by_row_and_number():
    x = np.zeros((4, 2, 2))
    x[1, 0, 1] = np.nan
    x[3, 1, 1] = np.inf
    with pytest.raises(RefusedData) as caught:
        read_npz(npz(x=x, y=np.arange(4)))
    assert [(p.row, p.column) for p in caught.value.problems] == [(2, "x[0,1]"), (4, "x[1,1]")]


def test_two_idx_files_are_one_upload_in_either_order():
    images, labels = idx(IMAGES), idx(LABELS)
    for content in (images + labels, labels + images, gzip.compress(images) + gzip.compress(labels)):
        got = read_idx(content)
        assert got.names() == ("images", "labels")
        assert np.array_equal(got.column("labels").values, LABELS)
    got = read_idx(images + labels + idx(IMAGES[:5]) + idx(LABELS[:5]))
    assert got.train_rows == 12
    assert got.rows == 17


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", ">i4", ">f4", ">f8"])
def test_every_type_of_idx_is_read(dtype):
    array = np.arange(-3, 3).astype(dtype).reshape(2, 3)
    (got,) = read_idx_arrays(idx(array))
    assert np.array_equal(got, array)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello there", "is not IDX"),
        (idx(IMAGES), "holds 1 IDX array; two are needed"),
        (idx(IMAGES)[:-1], "ends early"),
        (b"\0\0\x08\x03\0\0", "ends early"),
        (b"\0\0\x08\x02" + struct.pack(">II", 2**31, 2**31), "at most 50,000,000"),
        (gzip.compress(idx(IMAGES))[:-9], "ends early|cannot be unpacked"),
        (idx(LABELS) * 5, "more than 4"),
        (gzip.compress(idx(IMAGES) + idx(LABELS)) + b"\x1f\x8bgarbage", "cannot be unpacked"),
    ],
)
def test_an_idx_file_that_is_damaged_is_refused(content, says):
    with pytest.raises(RefusedData, match=says):
        read_idx(content)


GOOD = {
    "npz": npz(x=IMAGES, y=LABELS),
    "idx": gzip.compress(idx(IMAGES) + idx(LABELS)),
    "raw": idx(IMAGES) + idx(LABELS),
}


@pytest.mark.parametrize("format", list(GOOD))
@given(data=st.data())
@settings(max_examples=150)
def test_a_damaged_file_is_read_or_refused_and_never_crashes(format, data):
    content = bytearray(GOOD[format])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 50))]
        if not content:
            return
    try:
        (read_npz if format == "npz" else read_idx)(bytes(content))
    except RefusedData as error:
        said = str(error)
        assert len(said) > 10
