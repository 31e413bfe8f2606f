"""Every test of the engine that asks for `architecture` runs once for each of them."""

from __future__ import annotations

import pytest

from tests.engine.makers import ARCHITECTURES


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of every architecture in turn."""
    return request.param
