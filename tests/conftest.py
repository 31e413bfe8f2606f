"""What every test shares: shapes are checked, one thread is used, data are looked for in one place."""

from __future__ import annotations

import contextlib
import os

# Before numpy or torch is imported: two threads on two busy cores are many times slower than one.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pathlib  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.long import long_tests  # noqa: E402
from tests.shapes import check_shapes, next_test  # noqa: E402

# An example that takes long on a crowded machine is not a wrong one.
settings.register_profile("bimt", deadline=None)
settings.load_profile("bimt")

with contextlib.suppress(ModuleNotFoundError):  # an API-only environment has no engine and collects no tests of it
    check_shapes("bimt_engine")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that take long, so that `make test-fast` leaves them out."""
    named = long_tests()
    for item in items:
        if item.nodeid.partition("[")[0] in named:
            item.add_marker("long")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Shapes are checked anew in each test."""
    next_test()


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The recorded numbers of the published code: tests/golden, or a folder of the same form that BIMT_GOLDEN names."""
    return pathlib.Path(os.environ.get("BIMT_GOLDEN") or REPOSITORY / "tests" / "golden")


@pytest.fixture(scope="session")
def mnist() -> pathlib.Path:
    """The folder of MNIST's four IDX files: BIMT_MNIST, or shared/data/mnist beside the clone; skips without."""
    folder = pathlib.Path(os.environ.get("BIMT_MNIST", REPOSITORY.parent / "shared" / "data" / "mnist"))
    if not folder.is_dir():
        pytest.skip(f"no MNIST at {folder}: set BIMT_MNIST to a folder with the four IDX files")
    return folder
