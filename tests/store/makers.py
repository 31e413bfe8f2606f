"""Things that tests of the store begin with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from store import jobs, runs, teams
from store.files import Files
from store.jobs.leases import Claim

LEASE = 60.0
SMALL_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'


@dataclass(frozen=True)
class People:
    team: str
    member: str
    other_team: str
    other_member: str


def make_people(session: Session, now: datetime) -> People:
    ours = teams.create_team(session, "ours", now=now)
    theirs = teams.create_team(session, "theirs", now=now)
    us = teams.create_member(session, ours.id, "Ada", role="admin", now=now)
    them = teams.create_member(session, theirs.id, "Bob", role="admin", now=now)
    return People(ours.id, us.id, theirs.id, them.id)


def new_runs(count: int = 1, *, steps: int = 100) -> list[jobs.NewRun]:
    return [{"seed": seed, "cost_strength": 1e-3, "spec": {"seed": seed}, "steps": steps} for seed in range(count)]


def submit(session: Session, people: People, now: datetime, **wanted: Any) -> jobs.JobView:
    given: dict[str, Any] = {
        "team_id": people.team,
        "member_id": people.member,
        "name": "independence",
        "spec": {"dataset": {"kind": "formula"}},
        "runs": new_runs(),
        "now": now,
    }
    return jobs.submit(session, **(given | wanted))


def claim(session: Session, job_id: str, now: datetime, *, worker: str = "w1", lease: float = LEASE) -> Claim:
    claimed = jobs.claim(session, job_id, worker=worker, now=now, lease_seconds=lease)
    assert claimed is not None
    return claimed


def module(name: str, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "neurons": [f"hidden1:{name}{number}" for number in range(3)],
        "inputs": inputs,
        "outputs": outputs,
        "connections": 4,
        "effects": {
            target: {"zero": 1.0, "mean": 0.9, "resample": 0.8, "p": 0.005, "p_holm": 0.01} for target in outputs
        },
        "selectivity": 1.0,
        "sufficiency": 0.99,
        "reading": f"module {name} reads {' and '.join(inputs)}, decides {' and '.join(outputs)}",
    }


def group(name: str, reads: str, moves: str, *, partition: int = 0) -> dict[str, Any]:
    return {
        "partition": partition,
        "name": name,
        "is_primary": partition == 0,
        "layer": "hidden1",
        "kind": "sum",
        "module": name[:1],
        "neurons": 2,
        "trees": 1,
        "moves": moves,
        "effect": 0.5,
        "selectivity": 1.0,
        "largest_interaction": 0.0,
        "trained_largest_interaction": 1e-3,
        "p": 0.01,
        "verdict": "supported",
        "representation": None,
        "reads": [(reads, 1.0)],
    }


def result(files: Files) -> runs.RunResult:
    """What a run of the independence experiment finds."""
    return runs.RunResult(
        metrics={"test_mse": 5e-4, "not_a_number": float("nan")},
        summary={
            "test_metric_name": "mse",
            "test_metric": 5e-4,
            "connections": 8,
            "modules": 2,
            "interior_modules": 2,
            "modularity": 0.5,
            "selectivity": 1.0,
        },
        graph={"neurons": 12, "connections": 8, "body": {"nodes": [{"id": "input:0"}], "links": []}},
        modules=[module("A", ["x1", "x3"], ["y1"]), module("B", ["x2", "x4"], ["y2"])],
        groups=[group("A1", "x1", "y1"), group("A2", "x3", "y1", partition=1)],
        effects={"targets": ["y1", "y2"]},
        prune_curve=[{"connections": 9, "loss": 1e-4}, {"connections": 8, "loss": 2e-4}],
        bodies={"communities": {"method": "leiden"}},
        files={"weights.safetensors": files.put_bytes(b"weights")},
        figures={"network.svg": files.put_bytes(SMALL_SVG)},
        stepper="kernel",
        device="cpu",
        replicas=20,
        training_seconds=1.5,
        evidence_seconds=0.5,
    )
