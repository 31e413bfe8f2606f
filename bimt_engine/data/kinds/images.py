"""Handwritten digits: MNIST from its four IDX files, the 8×8 digits that come with scikit-learn, and pairs of these.

Pixels are float32 between 0 and 1: at float64 MNIST would take 440 MB for numbers of eight bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bimt_engine.data.dataset import Dataset, data_generator
from bimt_engine.data.kinds import DataPart, Drawn, dataset_kind
from bimt_engine.data.readers import RefusedData
from bimt_engine.data.readers.arrays import read_idx_arrays
from bimt_engine.data.split import Split
from bimt_engine.errors import DataError

MNIST_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
DIGITS = tuple("0123456789")
SIDES = ("left", "right")
TRAIN_IMAGES, VALIDATION_IMAGES = 0.8, 0.1  # of digit_pair: shares of the images; test pairs are made of the others
CHUNK = 4096  # images sheared at once; bounds the memory


class ImagesData(DataPart):
    """MNIST, from the four files in the folder that `BIMT_MNIST` names."""

    has_classes: ClassVar[bool] = True  # which digit
    kind: Literal["mnist"] = "mnist"
    train: int | None = Field(default=None, ge=10, description="Use only this many; null: all.")
    test: int | None = Field(default=None, ge=10)
    deskew: bool = Field(default=False, description="Take the slant out of every image and centre it, test images too.")


@dataset_kind(ImagesData, label="MNIST")
def _mnist(spec: ImagesData, *, seed: int) -> Dataset:
    return mnist(mnist_folder(), train=spec.train, test=spec.test, deskew=spec.deskew)


class DigitsData(Drawn):
    """scikit-learn's 1 797 handwritten digits of 8×8 pixels."""

    has_classes: ClassVar[bool] = True  # which digit
    kind: Literal["digits"] = "digits"
    train_fraction: float = Field(default=0.8, gt=0, lt=1)


@dataset_kind(DigitsData, label="Digits of 8×8 pixels")
def _digits(spec: DigitsData, *, seed: int) -> Dataset:
    return digits(train_fraction=spec.train_fraction, seed=seed)


def mnist_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that BIMT_MNIST names, otherwise ../shared/data/mnist beside the repository.

    Raises DataError when neither is there.
    """
    named = environ.get("BIMT_MNIST")
    folder = Path(named) if named else Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist"
    if not folder.is_dir():
        raise DataError(
            f"The MNIST files are not at {folder}. Put the four IDX files ({MNIST_FILES['train_images']}.gz, …) into a "
            "folder and name it in BIMT_MNIST; or use the data set `digits`, which needs no files."
        )
    return folder


def mnist(folder: Path, *, train: int | None = None, test: int | None = None, deskew: bool = False) -> Dataset:
    """60 000 and 10 000 digits of 28×28 pixels, or the first `train` and `test` of them.

    deskew   each image upright and centred, by nothing but its own pixels; see `upright`.
    Raises DataError when a file is missing or is not what its header says.
    """
    arrays = {}
    for role, name in MNIST_FILES.items():
        path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
        if path is None:
            raise DataError(f"{name}.gz is missing in {folder}; put all four MNIST files there.")
        try:
            (arrays[role],) = read_idx_arrays(path)
        except RefusedData as error:
            raise DataError(f"{path.name}: {error}") from None
    train_inputs, train_targets = _examples(arrays["train_images"], arrays["train_labels"], train)
    test_inputs, test_targets = _examples(arrays["test_images"], arrays["test_labels"], test)
    if deskew:
        shape = arrays["train_images"].shape[1:]
        train_inputs, test_inputs = upright(train_inputs, shape), upright(test_inputs, shape)
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        task="classification",
        feature_names=_pixels(*arrays["train_images"].shape[1:]),
        target_names=DIGITS,
    )


def _examples(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], most: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if images.ndim != 3 or labels.shape != (len(images),) or labels.max(initial=0) > 9:
        raise DataError(f"MNIST's images have the shape {images.shape} and its labels {labels.shape}; they do not fit.")
    if most is not None and most > len(images):
        raise DataError(f"{most:,} images are asked for; there are {len(images):,}.")
    kept = images[:most].reshape(len(images[:most]), -1)
    return kept.astype(np.float32) / np.float32(255), labels[:most].astype(np.int64)


def upright(images: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Every image sheared until its principal axis stands upright, and moved until its weight lies in the middle.

    images   one row each; shape: its rows and columns. Between pixels the values are interpolated; what comes from
             outside is 0. The old remedy for slanted handwriting: it uses no label and no other image.
    """
    chunks = range(0, len(images), CHUNK)
    return np.concatenate([_upright(images[start : start + CHUNK].reshape(-1, *shape)) for start in chunks])


def _upright(images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    count, height, width = images.shape
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    by_row, by_column = images.sum(2), images.sum(1)
    weight = np.maximum(by_row.sum(1), 1e-6)
    down, right = by_row @ rows / weight, by_column @ columns / weight  # where its weight lies, from the middle
    off = rows - down[:, None]
    spread = (by_row * off**2).sum(1)
    slant = ((images @ columns - by_row * right[:, None]) * off).sum(1) / np.maximum(spread, 1e-6)  # columns per row
    # Where each pixel of the new image is read in the old one; torch counts from -1 to 1 across an image.
    read = np.zeros((count, 2, 3))
    read[:, 0, 0] = read[:, 1, 1] = 1
    read[:, 0, 1], read[:, 0, 2], read[:, 1, 2] = slant * height / width, 2 * right / width, 2 * down / height
    grid = affine_grid(torch.from_numpy(read).float(), [count, 1, height, width], align_corners=False)
    moved = grid_sample(torch.from_numpy(images)[:, None], grid, align_corners=False)
    return moved.numpy().reshape(count, -1)


def digits(*, train_fraction: float, seed: int) -> Dataset:
    """scikit-learn's digits, split by the seed."""
    inputs, labels = small_digits()
    return Dataset(
        **Split.by_class(labels, train_fraction, seed=seed).parts_of(inputs, labels),
        task="classification",
        feature_names=_pixels(8, 8),
        target_names=DIGITS,
    )


def small_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """scikit-learn's 1 797 digits of 8×8 pixels with 17 levels of grey, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int64)


def _pixels(rows: int, columns: int) -> tuple[str, ...]:
    return tuple(f"pixel[{row},{column}]" for row in range(rows) for column in range(columns))


class DigitPairData(Drawn):
    """Two handwritten digits of 8×8 pixels side by side, each to be recognised.

    Twenty outputs, 0 or 1, ten for each side. No image is in pairs of two parts: training, validation and test pairs
    are made of images of their own.
    Modules: {left pixels} → {left digits} and {right pixels} → {right digits}. With `larger` one more output compares
    the two: 1 where the left digit is larger, 0 where the right one is, ½ for equal digits; it needs both sides.
    """

    kind: Literal["digit_pair"] = "digit_pair"
    larger: bool = Field(default=False, description="Also predict which of the two digits is larger.")
    train: int = Field(default=2000, ge=20, le=1_000_000, description="Pairs.")
    test: int = Field(default=1000, ge=10, le=1_000_000, description="Pairs.")


@dataset_kind(DigitPairData, label="Two digits side by side")
def digit_pair(spec: DigitPairData, *, seed: int) -> Dataset:
    """Pairs drawn at random from the images of their part, as many for validation as for testing. Not in the paper.

    inputs    (N, 128): the 64 pixels of the left image, row by row, then those of the right one.
    targets   (N, 20): which digit is left, which is right; with `larger` (N, 21).
    """
    answers = tuple(f"{side}{digit}" for side in SIDES for digit in DIGITS)
    images, labels = small_digits()

    def pairs(
        draw: np.random.Generator, rows: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        left, right = rows[draw.integers(len(rows), size=(2, count))]
        targets = [np.eye(10)[labels[left]], np.eye(10)[labels[right]]]
        if spec.larger:
            targets.append((np.sign(labels[left] - labels[right])[:, None] + 1) / 2)
        return np.concatenate([images[left], images[right]], axis=1), np.concatenate(targets, axis=1)

    images_of = Split.by_class(labels, TRAIN_IMAGES, VALIDATION_IMAGES, seed=seed)
    draw = data_generator(seed, "digit_pair")
    train_inputs, train_targets = pairs(draw, images_of.train, spec.train)
    test_inputs, test_targets = pairs(draw, images_of.test, spec.test)
    validation = pairs(data_generator(seed, "validation"), images_of.validation, spec.test)
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        validation_inputs=validation[0],
        validation_targets=validation[1],
        test_inputs=test_inputs,
        test_targets=test_targets,
        task="regression",
        feature_names=tuple(f"{side}[{row},{column}]" for side in SIDES for row in range(8) for column in range(8)),
        target_names=(*answers, "larger") if spec.larger else answers,
        label_groups=(tuple(range(10)), tuple(range(10, 20))),
    )
