"""Where the recorded numbers of the published code are."""

from __future__ import annotations

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def golden(repository: pathlib.Path) -> pathlib.Path:
    """The folder of golden numbers: tests/golden, or any folder of the same form that BIMT_GOLDEN names."""
    return pathlib.Path(os.environ.get("BIMT_GOLDEN") or repository / "tests" / "golden")
