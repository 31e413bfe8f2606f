"""ZIP archives of images and texts: nothing is unpacked before what the archive declares is checked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bimt_engine.data.kinds.uploaded import UploadedData
from bimt_engine.data.preview import understand
from bimt_engine.data.readers import RefusedData, files
from bimt_engine.data.readers.files import read_images, read_texts
from bimt_engine.data.registry import make_dataset
from tests.engine.data.makers import zipped

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (12, 5, 4)).astype(np.uint8)
COLOUR = DRAW.integers(0, 256, (12, 5, 4, 3)).astype(np.uint8)


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def folders(images: np.ndarray) -> bytes:
    """Images in three folders, cat, dog and owl, in turn."""
    return zipped({f"{('cat', 'dog', 'owl')[n % 3]}/{n:02}.png": picture(image) for n, image in enumerate(images)})


def test_grey_images_become_a_column_and_their_folders_labels():
    table = read_images(folders(GREY))
    order = [*range(0, 12, 3), *range(1, 12, 3), *range(2, 12, 3)]  # by the names of the files
    assert table.column("image").shape == (5, 4)
    np.testing.assert_array_equal(table.column("image").values.reshape(-1, 5, 4), GREY[order])
    assert table.column("label").values.tolist() == ["cat"] * 4 + ["dog"] * 4 + ["owl"] * 4
    assert table.notes == ("12 images of 4 × 5 pixels, grey.",)


def test_colours_lie_one_after_another_as_a_convolution_reads_them():
    table = read_images(folders(COLOUR))
    assert table.column("image").shape == (3, 5, 4)
    np.testing.assert_array_equal(table.column("image").values[0].reshape(3, 5, 4), COLOUR[0].transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP"])
def test_other_formats_are_read(kind: str):
    assert read_images(zipped({"a/1": picture(GREY[0], kind), "b/2": picture(GREY[1], kind)})).rows == 2


def test_folders_called_train_and_test_keep_their_split():
    members = {f"test/{c}/{n}.png": picture(GREY[n]) for n, c in enumerate("ab")}
    members |= {f"train/{c}/{n}.png": picture(GREY[n + 2]) for n, c in enumerate("abab")}
    table = read_images(zipped(members))
    assert table.train_rows == 4
    np.testing.assert_array_equal(table.column("image").values[-2:].reshape(-1, 5, 4), GREY[:2])


def test_uploaded_images_train_like_arrays():
    content = folders(np.concatenate([GREY, GREY]))
    said = understand(content, "images")
    assert said["suggested"] == {"inputs": ["image"], "targets": ["label"], "task": "classification"}
    spec = UploadedData(
        dataset_id="dataset_" + "0" * 26, sha256="0" * 64, format="images", targets=["label"], task="classification"
    )
    data = make_dataset(spec, seed=0, content=content)
    assert (data.inputs, data.target_names) == (20, ("cat", "dog", "owl"))
    assert 0 <= data.train_inputs.min() < data.train_inputs.max() <= 1


def test_images_of_different_sizes_are_refused_and_not_resized():
    content = zipped({"a/1.png": picture(GREY[0]), "a/2.png": picture(GREY[1]), "b/3.png": picture(GREY[2].T.copy())})
    with pytest.raises(RefusedData, match=r"4 × 5 \(2, such as 'a/1.png'\), 5 × 4 \(1, such as 'b/3.png'\)"):
        read_images(content)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its data do not hold."""
    sound = picture(np.zeros((1, 1), np.uint8))
    header = b"IHDR" + struct.pack(">II", width, height) + sound[24:29]
    return sound[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + sound[33:]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"a.png": picture(GREY[0])}, "'a.png' lies in no folder"),
        ({"a/b.png": b"no image"}, "'a/b.png' is no image in one of PNG, JPEG, GIF, BMP"),
        ({"a/b.png": picture(np.zeros((80, 80), np.uint8))}, r"6,400 numbers; .* `mogrify -resize 64x64!"),
        ({"a/b.png": png_of(60_000, 60_000)}, "pixels"),
        ({"a/b.png": png_of(2_000, 2_000)}, "2,000 × 2,000 pixels; at most 1,048,576"),
        ({"a/b.png": png_of(5, 5)}, "is damaged"),
        ({}, "no images"),
        ({"../a/b.png": picture(GREY[0])}, "leads out of it"),
        ({"/a/b.png": picture(GREY[0])}, "leads out of it"),
        ({"a\\b.png": picture(GREY[0])}, "leads out of it"),
        ({"C:/b.png": picture(GREY[0])}, "leads out of it"),
    ],
)
def test_what_is_no_set_of_images_is_refused(members, says: str):
    with pytest.raises(RefusedData, match=says):
        read_images(zipped(members))


def test_what_file_managers_leave_behind_is_left_out():
    clutter = {"__MACOSX/a/._1.png": b"?", "a/.DS_Store": b"?", "a/": b""}
    assert read_images(zipped(clutter | {"a/1.png": picture(GREY[0]), "b/2.png": picture(GREY[1])})).rows == 2


def test_an_archive_of_zeros_links_or_too_much_is_refused(monkeypatch):
    with pytest.raises(RefusedData, match="more than 200 times"):
        read_texts(zipped({"a.txt": b"x" * (20 << 20)}))
    link = zipfile.ZipInfo("a.txt")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(RefusedData, match="link 'a.txt'"):
        read_texts(file.getvalue())
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 1000)
    with pytest.raises(RefusedData, match="unpacks to 1,200 bytes"):
        read_texts(zipped({"a.txt": b"ab" * 600}))
    with pytest.raises(RefusedData, match="more than 1,000 bytes"):
        read_texts(b"ab" * 600)
    monkeypatch.setattr(files, "MAX_FILES", 1)
    with pytest.raises(RefusedData, match="holds 2 files"):
        read_texts(zipped({"a": b"", "b": b""}))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), images=st.booleans())
def test_a_damaged_archive_is_read_or_refused_in_a_sentence(at: int, byte: int, images: bool):
    content = bytearray(folders(GREY[:3]) if images else zipped({"a.txt": b"some text " * 60, "b.txt": b"more" * 50}))
    content[at % len(content)] = byte
    with suppress(RefusedData):
        (read_images if images else read_texts)(bytes(content))
