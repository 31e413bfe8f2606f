"""IDX files and the MNIST folder."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from bimt_engine.data.kinds.images import MNIST_FILES, ImagesData, mnist_folder, upright
from bimt_engine.data.kinds.images import mnist as read_mnist
from bimt_engine.data.registry import make_dataset
from bimt_engine.errors import DataError
from tests.engine.data.makers import idx


def write_mnist(folder: Path, images: int = 12, labels: int = 12, *, packed: bool = True) -> None:
    random = np.random.default_rng(0)
    for role, name in MNIST_FILES.items():
        shape = (images, 28, 28) if role.endswith("images") else (labels,)
        data = idx(random.integers(0, 10, shape).astype(np.uint8))
        path = folder / (name + (".gz" if packed else ""))
        path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [True, False])
def test_the_four_files_are_read_packed_or_plain(tmp_path, packed):
    write_mnist(tmp_path, packed=packed)
    data = read_mnist(tmp_path, train=10)
    assert data.train_inputs.shape == (10, 784)
    assert data.test_inputs.shape == (12, 784)
    assert data.train_inputs.max() <= 9 / 255
    assert data.feature_names[28] == "pixel[1,0]"


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"BIMT_MNIST; or use the data set `digits`"):
        mnist_folder({"BIMT_MNIST": str(tmp_path / "nowhere")})


def test_a_missing_damaged_or_false_file_is_named(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        read_mnist(tmp_path)
    path.write_bytes(good[:20])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz: The (file|IDX)"):
        read_mnist(tmp_path)
    header = b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 2**16, 2**16)
    path.write_bytes(gzip.compress(header))
    with pytest.raises(DataError, match="at most 50,000,000 are read"):
        read_mnist(tmp_path)
    write_mnist(tmp_path, images=12, labels=11)
    with pytest.raises(DataError, match="do not fit"):
        read_mnist(tmp_path)


def test_more_images_than_there_are_is_said(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("BIMT_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="13 images are asked for; there are 12"):
        make_dataset(ImagesData(train=13), seed=0)


def leaning(slant: float, *, down: int = 0, right: int = 0) -> np.ndarray:
    """A soft stroke, symmetric about its axis, that leans by so many columns a row."""
    rows, columns = np.mgrid[:28, :28].astype(float)
    rows, columns = rows - 13.5 - down, columns - 13.5 - right
    return np.exp(-(rows**2) / 30 - (columns - slant * rows) ** 2 / 4).astype(np.float32)


@pytest.mark.parametrize(("slant", "down", "right"), [(0.0, 0, 0), (0.5, 0, 0), (-0.4, 0, 0), (0.3, 2, -3)])
def test_a_leaning_stroke_stands_upright_in_the_middle(slant, down, right):
    images = np.stack([leaning(slant, down=down, right=right).reshape(-1), np.zeros(784, np.float32)])
    found = upright(images, (28, 28))
    assert np.abs(found[0].reshape(28, 28) - leaning(0.0)).max() < 0.06  # interpolation blurs a little
    assert (found[1] == 0).all()


def test_an_upright_image_is_left_as_it_is():
    image = leaning(0.0).reshape(1, -1)
    np.testing.assert_allclose(upright(image, (28, 28)), image, atol=1e-4)


def test_only_the_pixels_of_an_image_move_it(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("BIMT_MNIST", str(tmp_path))
    plain, moved = (make_dataset(ImagesData(deskew=deskew), seed=0) for deskew in (False, True))
    few = make_dataset(ImagesData(train=10, test=10, deskew=True), seed=0)
    assert moved.train_inputs.shape == plain.train_inputs.shape
    assert not np.array_equal(moved.test_inputs, plain.test_inputs)
    np.testing.assert_array_equal(few.train_inputs, moved.train_inputs[:10])
    np.testing.assert_array_equal(moved.train_targets, plain.train_targets)


def test_the_real_files_hold_what_their_authors_say(mnist):
    data = read_mnist(mnist)
    assert data.train_inputs.shape == (60_000, 784)
    assert np.bincount(data.test_targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train_inputs.mean() == pytest.approx(0.1307, abs=1e-4)  # the mean that the whole field quotes
