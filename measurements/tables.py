"""Real public tables, as a team would send them: `python -m measurements tables [--only NAME] [--seeds N]`.

Every table of `table_files.py` is sent over HTTP to a service of its own, with its target named and every other choice
left to the service; columns that are functions of the target are taken out of the inputs. The recipe `table` trains
the seeds 0 … n − 1, none of them picked, each with a split of its own. Of each run: the score on rows that nothing had
seen, of the pruned network, of the linear baseline and of boosted trees on the same rows; connections, columns that are
read, seconds of training and evidence.

Rows are kept in reports/rows/, table by table, so that a run that was ended goes on where it stopped. Writes
reports/tables.json and reports/tables.html; `--planted` adds the planted table of `table_files.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from bimt_engine.fingerprint import code_hash
from measurements.job import own_service, published
from measurements.load import Connection
from measurements.reproduce import STYLE
from measurements.table_files import TABLES, TableFile, run_planted
from standalone.supervisor import AskedToStop, CannotStart, stop_at_signals

ROW_VERSION = 1  # raise it when a row says more, or something else, than before
SEEDS = 5
PLANTED_SEEDS = 20
CHECKED_WITHIN = 60.0  # seconds
GAP = 0.05  # of a table: above, the report says so
BOUNDARY = "bimt-table"


def main(arguments: list[str]) -> int:
    """Measure, print, and write the report. 1: the service did not start, or refused a table."""
    parser = argparse.ArgumentParser(prog="python -m measurements tables", description="Real public tables.")
    parser.add_argument("--only", nargs="+", choices=sorted(TABLES), default=list(TABLES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each table, 0 … n − 1; default %(default)s")
    parser.add_argument("--planted", type=int, nargs="?", const=PLANTED_SEEDS, default=0, help="seeds of that table")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console, stopping, rows = Console(highlight=False), stop_at_signals(), args.folder / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    seeds = list(range(args.seeds))
    missing = [name for name in args.only if not _kept(rows, name, seeds).exists()]
    try:
        if missing:
            with own_service(stopping) as (connection, _):
                for name in missing:
                    found = measured(connection, stopping, name, TABLES[name], seeds)
                    _write(_kept(rows, name, seeds), found)
                    console.print(line(name, found), soft_wrap=True)
    except CannotStart as why:
        console.print(f"Not measured: {why}")
        return 1
    except AskedToStop:
        return 130
    path = args.folder / "tables.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report: dict[str, Any] = {"code": code_hash(), "tables": {}, "planted": before.get("planted")}
    for name in TABLES:  # tables that were measured before, by this very engine, stay in the report
        if (kept := _kept(rows, name, seeds)).exists():
            report["tables"][name] = json.loads(kept.read_text(encoding="utf-8"))
    if args.planted:
        report["planted"] = planted(rows, args.planted)
    report["summary"] = summary(report["tables"])
    _write(path, report)
    (args.folder / "tables.html").write_text(page(report), encoding="utf-8")
    console.print(table(report))
    console.print(f"{json.dumps(report['summary'])}; wrote {path}", soft_wrap=True)
    return 0


def _kept(rows: Path, name: str, seeds: Sequence[int]) -> Path:
    """The file of a table's rows; its name changes with the engine's source."""
    said = json.dumps([ROW_VERSION, name, list(seeds), repr(TABLES[name]), code_hash()])
    return rows / f"tables-{name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"


def _write(path: Path, content: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.move(part, path)


# --- one table ------------------------------------------------------------------------------------


def measured(
    connection: Connection, stopping: threading.Event, name: str, file: TableFile, seeds: Sequence[int]
) -> dict[str, Any]:
    """What a table's runs reach, seed by seed. Raises CannotStart where the service refuses it."""
    dataset = uploaded(connection, stopping, name, file)
    began = time.monotonic()
    job = published(connection, stopping, {"dataset": dataset["id"], "recipe": "table", "seeds": list(seeds)})
    seconds = time.monotonic() - began
    runs = []
    for run in _ask(connection, "GET", f"/jobs/{job.id}/runs?limit=100")["items"]:
        metrics = _ask(connection, "GET", f"/runs/{run['id']}")["metrics"]
        modules = _ask(connection, "GET", f"/runs/{run['id']}/modules")["modules"]
        baselines = metrics["baselines"]
        read = sorted({column for module in modules for column in module["inputs"]})
        runs.append(
            {
                "seed": run["seed"],
                "network": baselines["network"],
                "linear": baselines["linear"],
                "boosted": baselines["boosted"],
                "better": baselines["better"],
                "gap": baselines["gap"],
                "connections": metrics["connections"],
                "columns": read,
                "modules": metrics["modules"],
            }
        )
    roles = dataset["roles"]
    return {
        "source": file.source,
        "target": file.target,
        "task": roles["task"],
        "rows": dataset["rows"],
        "inputs": roles["inputs"],
        "columns": roles.get("columns") or {},
        "notes": dataset.get("notes") or [],
        "measure": "accuracy" if roles["task"] == "classification" else "r2",
        "seconds": seconds,
        "runs": sorted(runs, key=lambda run: run["seed"]),
    }


def uploaded(connection: Connection, stopping: threading.Event, name: str, file: TableFile) -> dict[str, Any]:
    """The data set: sent as it is, its target named, and what is a function of the target not read."""
    fields = {"name": name, "targets": file.target, "task": file.task}
    begins = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = "".join(f'{begins}"{field}"\r\n\r\n{value}\r\n' for field, value in fields.items())
    head = f'{parts}{begins}"file"; filename="{quote(name)}.csv"\r\n\r\n'
    body = head.encode() + file.content() + f"\r\n--{BOUNDARY}--\r\n".encode()
    dataset = _ask(connection, "POST", "/datasets", body, f"multipart/form-data; boundary={BOUNDARY}")
    dataset = _checked(connection, stopping, dataset)
    if file.without:
        inputs = [column for column in dataset["roles"]["inputs"] if column not in file.without]
        changed = json.dumps({"inputs": inputs}).encode()
        dataset = _checked(connection, stopping, _ask(connection, "PATCH", f"/datasets/{dataset['id']}", changed))
    return dataset


def _checked(connection: Connection, stopping: threading.Event, dataset: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    while dataset["state"] == "checking":
        if stopping.wait(0.1):
            raise AskedToStop
        if time.monotonic() - began > CHECKED_WITHIN:
            raise CannotStart(f"The check of {dataset['name']} took more than {CHECKED_WITHIN:.0f} s.")
        dataset = _ask(connection, "GET", f"/datasets/{dataset['id']}")
    if dataset["state"] != "ready":
        raise CannotStart(f"{dataset['name']} was refused: {dataset.get('errors')}")
    return dataset


def _ask(
    connection: Connection, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
) -> dict[str, Any]:
    status, answer, _ = connection.ask(method, path, body, content_type=content_type)
    if status >= 300:
        raise CannotStart(f"{method} {path} was answered with {status}: {answer.decode()[:500]}")
    answered: dict[str, Any] = json.loads(answer)
    return answered


def planted(rows: Path, seeds: int) -> dict[str, Any]:
    """How many seeds of the planted table end in the right partition of its columns."""
    found = []
    for seed in range(seeds):
        path = rows / f"planted-{seed}-{code_hash()[:16]}.json"
        if not path.exists():
            _write(path, run_planted(seed))
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return {"seeds": seeds, "right": sum(row["right"] for row in found), "rows": found}


# --- the report -----------------------------------------------------------------------------------


def medians(found: dict[str, Any]) -> dict[str, Any]:
    """Medians over a table's seeds: scores on test rows, the gap to the better baseline, connections, columns."""
    runs = found["runs"]

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return {
        "network": median([run["network"]["test"] for run in runs]),
        "linear": median([run["linear"]["test"] for run in runs]),
        "boosted": median([run["boosted"]["test"] for run in runs]),
        "gap": median([run["gap"] for run in runs]),
        "gaps": [run["gap"] for run in runs],
        "connections": median([run["connections"] for run in runs]),
        "columns": median([len(run["columns"]) for run in runs]),
        "of": len(found["inputs"]),
        "seconds": found["seconds"] / len(runs),
    }


def summary(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Over all tables: how many, the median gap and the median of connections, and the tables with a wide gap."""
    found = {name: medians(of) for name, of in tables.items()}
    gaps = {name: of["gap"] for name, of in found.items() if of["gap"] is not None}
    return {
        "tables": len(found),
        "median_gap": statistics.median(gaps.values()) if gaps else None,
        "median_connections": statistics.median(of["connections"] for of in found.values()) if found else None,
        "wide": {name: gap for name, gap in gaps.items() if gap > GAP},
    }


def line(name: str, found: dict[str, Any]) -> str:
    """One table in one line."""
    of = medians(found)
    scores = ", ".join(f"{kind} {_shown(of[kind])}" for kind in ("network", "linear", "boosted"))
    size = f"{of['connections']:g} connections, {of['columns']:g} of {of['of']} columns"
    return f"{name}: {found['measure']} {scores}; {size}"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


HEADS = ("table", "rows", "measure", "network", "linear", "boosted", "gap", "connections", "columns", "seconds")


def cells(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the printed table and of the page."""
    of = medians(found)
    scores = [_shown(of[kind]) for kind in ("network", "linear", "boosted", "gap")]
    read = f"{of['columns']:g} of {of['of']}"
    rows = f"{found['rows']:,}"
    return [name, rows, found["measure"], *scores, f"{of['connections']:g}", read, f"{of['seconds']:.1f}"]


def table(report: dict[str, Any]) -> Table:
    """The report as people read it."""
    drawn = Table(title="Real tables: medians over seeds, scores on rows that nothing had seen")
    for head in HEADS:
        drawn.add_column(head, justify="left" if head in ("table", "measure") else "right")
    for name, found in report["tables"].items():
        drawn.add_row(*cells(name, found))
    return drawn


def page(report: dict[str, Any]) -> str:
    """The same as HTML."""
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(name, found)) + "</tr>"
        for name, found in report["tables"].items()
    )
    of, summary_html = report["summary"], ""
    if of["tables"]:
        summary_html = (
            f"<p>{of['tables']} tables: the median gap to the better baseline is {_shown(of['median_gap'])}, at a "
            f"median of {of['median_connections']:g} connections. Which baseline is the better one is decided on "
            "validation rows; scores are medians over seeds, on test rows.</p>"
        )
    if found := report.get("planted"):
        summary_html += f"<p>The planted table: the right columns in {found['right']} of {found['seeds']} seeds.</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tables</title><style>{STYLE}</style>'
        f"<h1>Tables</h1>{summary_html}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></html>\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
