"""The notebook of docs/examples is a valid one, and its cells do what they say against a real service."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from bimt import Figure

pytest.importorskip("torch")
NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "examples" / "first_run.ipynb"


def cells(kind: str | None = None) -> list[dict[str, Any]]:
    """The cells of a kind; by default all."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def run_cells(names: dict[str, Any]) -> dict[str, Any]:
    """Run every code cell in one namespace; what each cell's last expression is, by the cell's id."""
    shown = {}
    for cell in cells("code"):
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), cell["id"], "exec"), names)
        if last is not None:
            shown[cell["id"]] = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
    return shown


def test_the_notebook_is_of_format_4_and_holds_no_stale_outputs():
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in cells()]
    assert len(identifiers) == len(set(identifiers))
    for cell in cells():
        assert {"cell_type", "id", "metadata", "source"} <= cell.keys()
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))


def test_every_cell_runs_and_shows_two_modules_that_share_nothing(service, monkeypatch, capsys):
    monkeypatch.setenv("BIMT_URL", service.address)
    monkeypatch.setenv("BIMT_TOKEN", service.token)
    names: dict[str, Any] = {}
    shown = run_cells(names)
    names["client"].close()
    printed = capsys.readouterr().out
    assert "module A reads x1 and x3, decides y1" in printed
    assert "module B reads x2 and x4, decides y2" in printed
    assert isinstance(shown["picture"], Figure)
    assert len(shown["graph"]) == 5
    assert len(shown["history"]) == 2
    predicted, truth = shown["load"]
    assert abs(predicted - truth).max() < 0.1
    [[own, other]] = shown["alone"]
    assert own > 0.1
    assert other < 1e-9
