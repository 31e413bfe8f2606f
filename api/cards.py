"""The card of a run or a version as Markdown: what its author says, then what was found, written from the rows."""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy.orm import Session

from api.evidence import or_not_yet
from store import models, runs, teams
from store.tables import Job, Model, ModelVersion, Run

DUST = 1e-12
SUMMARY = (
    ("connections", "connections left"),
    ("modules", "modules"),
    ("modularity", "modularity Q"),
    ("selectivity", "mean selectivity of the modules"),
    ("connection_cost", "connection cost"),
)


def of_run(rows: Session, run: Run) -> str:
    """The card of a run that nobody needs to have published. Raises the problem that nothing was found yet."""
    or_not_yet(runs.body(rows, run.id, "effects"), run)
    job = rows.get_one(Job, run.job_id)
    lines = [f"# {_plain(job.name)}, seed {run.seed}", "", f"Run `{run.id}` of job `{job.id}`.", ""]
    return _whole([*lines, *_found(rows, run), *_training(run)])


def of_version(rows: Session, model: Model, version: ModelVersion, run: Run) -> str:
    """The card of a version, with what its author says of it."""
    author = teams.names(rows, {version.member_id}).get(version.member_id, "")
    words = [word for word, number in models.aliases(rows, model).items() if number == version.number]
    lines = [
        f"# {model.name}, version {version.number}",
        "",
        f"Published {version.created_at:%Y-%m-%d} by {author}{', known as ' + ', '.join(words) if words else ''}.",
        "",
    ]
    if version.card:
        lines += [version.card.rstrip(), ""]
    return _whole([*lines, *_found(rows, run), *_verified(version), *_training(run)])


def _whole(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def _found(rows: Session, run: Run) -> list[str]:
    lines = ["## What was found", "", "| | |", "|---|---|"]
    if run.test_metric_name and run.test_metric is not None:
        lines.append(f"| {run.test_metric_name.replace('_', ' ')} | {_number(run.test_metric)} |")
    lines += [
        f"| {words} | {_number(getattr(run, name))} |" for name, words in SUMMARY if getattr(run, name) is not None
    ]
    return [*lines, "", *_modules(rows, run)]


def _modules(rows: Session, run: Run) -> list[str]:
    found = runs.modules(rows, run.id)
    if not found:
        return []
    lines = [f"- **{module.name}** ({module.neurons} neurons): {module.reading or 'no reading'}." for module in found]
    return ["Modules, each held still to see what is lost:", "", *lines, ""]


def _verified(version: ModelVersion) -> list[str]:
    if version.verification is None or version.verified_at is None:
        return []
    said = "agree" if version.verification.get("agrees") else "do NOT agree"
    return [f"Worked out again from the stored weights on {version.verified_at:%Y-%m-%d}: the claims {said}.", ""]


def _training(run: Run) -> list[str]:
    strength = "as the spec says" if run.cost_strength is None else f"{run.cost_strength:g}"
    beside = f", {run.replicas} runs of its job side by side" if (run.replicas or 1) > 1 else ""
    return [
        "## How it was trained",
        "",
        f"Method {run.method or 'unknown'}, seed {run.seed}, cost strength {strength}, {run.steps:,} steps "
        f"on {run.device or 'an unknown device'} by the {run.stepper or 'unknown'} stepper{beside}.",
        "",
        "```json",
        json.dumps(run.spec, indent=2, ensure_ascii=False),
        "```",
    ]


def _plain(name: str) -> str:
    """A name that means nothing in Markdown, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(name.split()))


def _number(value: Any) -> str:
    """Four digits; 2e-16 is the dust of somebody's arithmetic, and nothing."""
    return f"{0.0 if abs(value) < DUST else value:.4g}" if isinstance(value, float) else str(value)
