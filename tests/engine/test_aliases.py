"""Import paths that README and docs of the previous version named still lead to the same things, with a warning."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from bimt_engine._aliases import MOVED, PACKAGES
from bimt_engine.data.registry import make_dataset
from bimt_engine.recipes import load_recipe
from bimt_engine.training.loop import Training


@pytest.fixture(autouse=True)
def _imported_anew() -> Iterator[None]:
    for name in MOVED:
        sys.modules.pop(name, None)
    yield
    for name in MOVED:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("old", sorted(set(MOVED) - PACKAGES))
def test_an_old_path_gives_the_same_things_and_a_warning(old: str) -> None:
    moved = importlib.import_module(MOVED[old])
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    for name in [name for name in vars(moved) if not name.startswith("_")]:
        assert getattr(module, name) is getattr(moved, name)
    with pytest.raises(AttributeError):
        module.there_is_no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("new", "thing"), [("bimt_engine.data.registry", make_dataset), ("bimt_engine.recipes", load_recipe)]
)
def test_what_the_documents_named_has_an_old_path(new: str, thing: object) -> None:
    (old,) = [old for old, target in MOVED.items() if target == new]
    with pytest.warns(DeprecationWarning):  # noqa: PT030
        assert getattr(importlib.import_module(old), thing.__name__) is thing


def test_the_paths_that_did_not_move_need_no_alias() -> None:
    assert importlib.import_module("bimt_engine.training.loop").Training is Training
    assert callable(importlib.import_module("bimt_engine.analysis.evidence").gather_evidence)


def test_an_unknown_path_is_still_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("bimt_engine.datasets.nothing")
