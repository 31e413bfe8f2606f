"""What the tests of the API need: a service on a real database, people of two teams, a run with everything in it."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI
from werkzeug.test import TestResponse

from api.app import create_app
from api.operations import BATCH, INTERACTIVE
from bimt_engine.analysis.graph import Connection, Graph, Neuron
from bimt_engine.spec import Spec
from store import jobs, runs, teams
from store.database import Database
from store.files import Files
from store.runs.tables import Run
from store.settings import NO_LIMIT, Settings
from tests.answering import upload_checks
from tests.servers import files_of

SCOPES = {
    "reader": ("read",),
    "submitter": ("read", "submit"),
    "sharer": ("read", "share"),
    "admin": ("read", "submit", "share", "admin"),
}


@dataclass
class House:
    """A whole service whose one worker checks uploads. `tokens` is keyed by (team, role), of `ours` and `theirs`."""

    app: OpenAPI
    settings: Settings
    database: Database
    files: Files
    tokens: dict[tuple[str, str], str]
    members: dict[tuple[str, str], str]
    teams: dict[str, str]
    announced: list[tuple[str, str, int]] = field(default_factory=list)
    worker: Callable[[str], None] | None = None  # called with the queue of an operation; None: there is no worker
    threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = upload_checks(self.settings, self.database, self.files).serve

    def hear(self, job_id: str, queue: str, priority: int) -> None:
        """A message that the service sends."""
        self.announced.append((job_id, queue, priority))
        if self.worker is not None and queue in (INTERACTIVE, BATCH):
            self.threads.append(threading.Thread(target=self.worker, args=(queue,)))
            self.threads[-1].start()

    def settle(self) -> None:
        """Wait until the worker has nothing left to do."""
        while self.threads:
            self.threads.pop().join(120)

    def close(self) -> None:
        """Wait for the worker, and let go of the database."""
        self.settle()
        self.database.close()

    def client(self) -> FlaskClient:
        """A caller without a token."""
        return self.app.test_client()

    def headers(self, role: str = "admin", team: str = "ours", **more: str) -> dict[str, str]:
        """The headers of a member with this role."""
        return {"Authorization": f"Bearer {self.tokens[team, role]}", **more}

    def stored_files(self) -> list[str]:
        """The name of every file that lies in the file store, by its SHA-256, or on its way there."""
        self.settle()
        if self.files._folder is None:
            stored = [name for name, _, _ in self.files.each()]
        else:  # halves, too, which no listing of the store has
            stored = [path.name for path in self.files._folder.glob("cas/*/*")]
        return stored + [path.name for path in self.files.spool.rglob("*") if path.is_file()]


def call(house: House, method: str, path: str, role: str = "admin", team: str = "ours", **more: object) -> TestResponse:
    """One request to /api/v1."""
    return house.client().open(f"/api/v1{path}", method=method, headers=house.headers(role, team), **more)


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def make_house(
    home: Path,
    *,
    database_url: str,
    environ: dict[str, str] | None = None,
    clock: Callable[[], datetime] = now,
    check_wait_seconds: float = 60,  # no test depends on how long a check takes
) -> House:
    """A service of its own in a folder, on a migrated database: two teams with a member and a token for every role."""
    quiet = {"BIMT_RATE_LIMIT": NO_LIMIT, "BIMT_LOGIN_RATE_LIMIT": NO_LIMIT}
    stores = {"BIMT_DATABASE_URL": database_url} | files_of(home)
    settings = Settings.from_env(quiet | stores | (environ or {}), home=home)
    database, files = Database(settings.database_url), Files(settings.files_url, spool=settings.spool)
    heard: list[Callable[..., None]] = []
    app = create_app(
        settings,
        database=database,
        files=files,
        send_message=lambda *what: heard[0](*what),
        now=clock,
        check_wait_seconds=check_wait_seconds,
    )
    tokens, members, team_ids = {}, {}, {}
    with database.write() as rows:
        for name in ("ours", "theirs"):
            team = teams.create_team(rows, name, now=now())
            team_ids[name] = team.id
            for role, scopes in SCOPES.items():
                kind = {"reader": "reader", "admin": "admin"}.get(role, "member")
                member = teams.create_member(rows, team.id, f"{role} of {name}", role=kind, now=now())
                members[name, role] = member.id
                tokens[name, role], _ = teams.mint_token(
                    rows, member.id, scopes=scopes, expires_at=now() + timedelta(days=1), now=now(), name="test"
                )
    house = House(app, settings, database, files, tokens, members, team_ids)
    heard.append(house.hear)
    return house


# --- a run with everything in it ----------------------------------------------------------------------------


def independence_spec(steps: int = 20_000) -> Spec:
    """The paper's first example."""
    return Spec.model_validate(
        {
            "dataset": {"kind": "formula", "inputs": 4, "formulas": ["(x1 + x3)**3", "x2**2 + sin(pi*x4)"]},
            "network": {"kind": "mlp", "hidden": [20, 20]},
            "training": {"steps": steps},
        }
    )


def two_modules(seed: int = 0) -> Graph:
    """A pruned network of two modules: {x1, x3} → y1 and {x2, x4} → y2."""
    draw = random.Random(seed)
    sizes, names = (
        {"input": 4, "hidden1": 20, "hidden2": 20, "output": 2},
        {"input": ["x1", "x3", "x2", "x4"], "output": ["y1", "y2"]},
    )
    parts = {
        "A": {"input": [0, 1], "hidden1": [2, 4, 5], "hidden2": [3, 5], "output": [0]},
        "B": {"input": [2, 3], "hidden1": [11, 12, 14, 16, 17], "hidden2": [13, 15, 16], "output": [1]},
    }
    module_of = {
        f"{layer}:{slot}": name for name, part in parts.items() for layer, slots in part.items() for slot in slots
    }
    neurons = tuple(
        Neuron(
            id=f"{layer}:{slot}",
            layer=layer,
            slot=slot,
            neuron=slot,
            position=((slot + 0.5) / size,),
            name=names.get(layer, [""] * size)[slot],
            bias=None if layer == "input" else draw.gauss(0, 0.2),
            mean=draw.gauss(0, 0.3),
            std=draw.random(),
            module=module_of.get(f"{layer}:{slot}"),
        )
        for layer, size in sizes.items()
        for slot in range(size)
    )
    layers = list(sizes)
    connections = tuple(
        Connection(
            f"{a}:{i}",
            f"{b}:{j}",
            draw.choice([-1, 1]) * draw.uniform(0.2, 2.5),
            abs((i + 0.5) / sizes[a] - (j + 0.5) / sizes[b]),
            draw.random(),
            f"weights.{depth}",
        )
        for depth, (a, b) in enumerate(itertools.pairwise(layers))
        for part in parts.values()
        for i in part[a]
        for j in part[b]
    )
    meta = {"layers": [{"name": name, "neurons": size, "depth": i} for i, (name, size) in enumerate(sizes.items())]}
    return Graph(neurons, connections, meta)


def submit_job(
    house: House,
    *,
    team: str = "ours",
    name: str = "independence",
    seeds: tuple[int, ...] = (0,),
    tags: tuple[str, ...] = (),
) -> str:
    """A job that waits."""
    spec = independence_spec()
    written = spec.expanded().model_dump(mode="json")
    with house.database.write() as rows:
        job = jobs.submit(
            rows,
            team_id=house.teams[team],
            member_id=house.members[team, "submitter"],
            name=name,
            tags=tags,
            spec=spec.model_dump(mode="json"),
            runs=[{"seed": s, "cost_strength": None, "spec": written, "steps": spec.training.steps} for s in seeds],
            now=now(),
        )
        return job.id


def work_on(house: House, job_id: str) -> jobs.Claim:
    """A claim on the job, as a worker would take it."""
    with house.database.write() as rows:
        claim = jobs.claim(rows, job_id, worker="test@here", now=now(), lease_seconds=600)
    assert claim is not None
    return claim


def history_rows(steps: int = 20_000, count: int = 100) -> list[dict[str, Any]]:
    """A learning curve that looks like one."""
    rows = []
    for i in range(1, count + 1):
        t = i / count
        loss = 0.6 * math.exp(-7 * t) + 2e-3 + (4e-3 if 0.25 < t < 0.75 else 0)
        rows.append(
            {
                "step": round(steps * t),
                "cost_strength": 1e-2 if 0.25 < t <= 0.75 else 1e-3,
                "prediction_loss": loss,
                "test_prediction_loss": 1.2 * loss,
                "total_loss": loss + 0.1,
                "connection_cost": 40 * math.exp(-3 * t) + 9,
                "seconds": 10 * t,
            }
        )
    return rows


def publish_runs(
    house: House, job_id: str, *, figures: dict[str, bytes] | None = None, weights: bytes = b"not really weights"
) -> list[str]:
    """Train every run of a waiting job, so to speak: everything that a run may have is stored. Gives the runs' ids."""
    claim = work_on(house, job_id)
    for run in claim.runs:
        publish_run(house, claim, run, figures=figures, weights=weights)
    with house.database.write() as rows:
        jobs.finish(rows, claim, state="succeeded", now=now())
    return [run.id for run in claim.runs]


def publish_run(
    house: House,
    claim: jobs.Claim,
    run: Run,
    *,
    figures: dict[str, bytes] | None = None,
    weights: bytes = b"not really weights",
) -> None:
    """One of them, while the job goes on."""
    steps = claim.spec["training"]["steps"]
    kept = house.files.put_bytes(weights)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="3"/></svg>'
    drawn = {name: house.files.put_bytes(content) for name, content in (figures or {"network.svg": svg}).items()}
    graph = two_modules(run.seed)
    with house.database.write() as rows:
        runs.start(rows, claim, run.id, now())
        runs.append_history(rows, claim, run.id, history_rows(steps))
        runs.append_snapshot(
            rows, claim, run.id, steps, house.files.put_bytes(f"snapshot {run.seed}".encode()), now=now()
        )
        line = {"at": now().isoformat(), "level": "info", "text": f"seed {run.seed} begins", "run_id": run.id}
        runs.append_log(rows, claim, [line], now=now())
        runs.publish(rows, claim, run.id, _result(graph, run.seed, kept, drawn), now())


def _result(graph: Graph, seed: int, weights: Any, figures: dict[str, Any]) -> runs.RunResult:
    def module(name: str, inputs: list[str], output: str, other: str) -> dict[str, Any]:
        members = [n.id for n in graph.neurons if n.module == name]
        return {
            "name": name,
            "neurons": members,
            "inputs": inputs,
            "outputs": [output],
            "connections": sum(c.source in members and c.target in members for c in graph.connections),
            "effects": {
                output: {"zero": 1.31, "mean": 0.92, "resample": 1.84, "trained": 0.9, "p": 0.005, "p_holm": 0.01},
                other: {"zero": 0.0, "mean": 0.0, "resample": 0.0, "trained": 0.002, "p": 1.0, "p_holm": 1.0},
            },
            "selectivity": 1.0,
            "sufficiency": 0.998,
            "supported": True,
            "trained_effect": 0.9,
            "trained_leak": 0.002,
            "reading": f"module {name} reads {' and '.join(inputs)}, decides {output}, nothing else: effect 0.92 in "
            "the pruned network, where it is separate by construction; in the network as trained its neurons move "
            f"{output} by 0.90",
        }

    found = [module("A", ["x1", "x3"], "y1", "y2"), module("B", ["x2", "x4"], "y2", "y1")]
    total = 920
    curve = [
        {
            "connections": kept,
            "train_loss": 2e-3 + 0.5 * math.exp(-kept / 9),
            "held_out_loss": 2.4e-3 + 0.55 * math.exp(-kept / 9),
        }
        for kept in sorted({max(1, round(total * 0.93**i)) for i in range(90)}, reverse=True)
    ]
    loss = 2.4e-3 * (1 + seed / 7)
    return runs.RunResult(
        metrics={
            "test_prediction_loss": loss,
            "prediction_loss": 2e-3,
            "test_r2": 0.99971,
            "verdict": "Both modules are supported: A and B.",
            "outputs": [_output("y1", 0.9998), _output("y2", 0.02)],
        },
        summary={
            "test_metric_name": "test_prediction_loss",
            "test_metric": loss,
            "connections": len(graph.connections),
            "modules": 2,
            "modularity": 0.497,
            "selectivity": 1.0,
            "connection_cost": 9.2,
        },
        graph={"neurons": len(graph.neurons), "connections": len(graph.connections), "body": graph.to_json()},
        modules=found,
        effects={m["name"]: m["effects"] for m in found},
        prune_curve=curve,
        bodies={"communities": {"components": {"modules": 2}}, "readout": _readout(loss)},
        files={"weights.safetensors": weights},
        figures=figures,
        stepper="kernel",
        device="cpu",
        training_seconds=8.1,
        evidence_seconds=3.2,
    )


def interior_document() -> dict[str, Any]:
    """What is inside module A of `two_modules`: two groups of one neuron each, added up."""

    def group(name: str, neuron: str, reads: str) -> dict[str, Any]:
        return {
            "name": name,
            "module": "A",
            "neurons": [neuron],
            "trees": 1,
            "terminals": 2,
            "reads": [{"name": reads, "share": 1.0}],
            "effects": [0.5, 0.0],
            "trained_effects": [0.49, 0.001],
            "strongest": [{"output": "y1", "effect": 0.5, "trained": 0.49}],
            "selectivity": 1.0,
            "works": True,
            "says": [{"share": 1.0, "outputs": [{"output": "y1", "weight": 1.0}]}],
        }

    graph = two_modules()
    hidden = [n.id for n in graph.neurons if n.module == "A" and n.layer.startswith("hidden")][:2]
    partition = {
        "layer": "hidden1",
        "kind": "sum",
        "groups": [group("A1", hidden[0], "x1"), group("A2", hidden[1], "x3")],
        "interaction": [[0.0, 1e-9], [1e-9, 0.0]],
        "trained_interaction": [[0.0, 0.002], [0.002, 0.0]],
        "largest_interaction": 1e-9,
        "trained_largest_interaction": 0.002,
        "leak": 0.0,
        "trained_leak": 0.01,
        "p": 0.01,
        "random_partitions": 99,
        "verdict": "supported",
        "why_not": None,
        "reading": "",
    }
    cut = {
        "level": "outputs",
        "connections": [{"key": "weights.0[0,0]", "source": "x1", "target": "hidden1 0", "weight": -0.029}],
        "loss": 0.01,
        "loss_change": 0.02,
        "loss_rise": 1e-4,
        "parts": [{"neurons": 1, "reads": ["x1"]}, {"neurons": 1, "reads": ["x3"]}],
        "reading": "",
    }
    return {
        "layers": [{"layer": "hidden1", "groups": 2, "trees": 2}],
        "partitions": [partition],
        "primary": 0,
        "trees": [[hidden[0]], [hidden[1]]],
        "cuts": [cut],
        "reading": "",
    }


def _output(name: str, r2: float) -> dict[str, Any]:
    """How well a target is predicted, the same before it was pruned."""
    score = {"r2": r2, "standard_error": 0.03, "learnt": r2 > 0.05}
    which = dict.fromkeys(("pruned", "trained", "trained_on_training_rows"), score)
    return {"output": name, "reached": True, "learnt": r2 > 0.05, "measure": "r2", "rows": 100, **which}


def _readout(loss: float) -> dict[str, Any]:
    """One output with a formula that the network confirms, one with none."""
    found = {"text": "(x1 + x3)**3", "accepted": True, "r2": 0.99994, "r2_of_targets": 1.0, "reason": None}
    through = {"inputs": ["x1", "x3"], "coefficients": [1.0, 1.0], "asymmetry": 3e-4, "reading": "x1 + x3"}
    y1 = {
        "output": "y1",
        "expression": "10.4*x1 + x3",
        "formula": found | {"substitution_loss": loss, "loss_limit": 0.1},
    }
    y2 = {"output": "y2", "expression": None, "formula": {"text": None, "accepted": False, "reason": "nothing fits"}}
    apart = {"reads": ["x2", "x4"], "additive_parts": [["x2"], ["x4"]], "through": []}
    return {
        "outputs": [
            y1 | {"symmetry": {"additive_parts": [["x1", "x3"]], "through": [through]}},
            y2 | {"symmetry": apart},
        ],
        "reading": "Accepted: y1 = (x1 + x3)**3.",
    }


def run_of(house: House, run_id: str) -> Run:
    """The row of a run."""
    with house.database.read() as rows:
        found = rows.get(Run, run_id)
    assert found is not None
    return found


@contextlib.contextmanager
def serving(house: House, *options: str, threads: int = 16, **environ: str) -> Iterator[int]:
    """The service as a process of its own, `python -m api`; gives the port. It must stop with status 0."""
    with serving_process(house, *options, threads=threads, **environ) as (port, process):
        yield port
    assert process.returncode == 0


@contextlib.contextmanager
def serving_process(
    house: House, *options: str, threads: int = 16, listener: socket.socket | None = None, **environ: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The same; gives the process, too. It listens already, so the first request waits until it serves.
    The worker of the house, here, checks what is uploaded.

    listener   a socket that another process may serve, too; this one closes its own.
    """
    own = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
    port, descriptor = own.getsockname()[1], own.fileno()
    settings = house.settings.environment() | {"BIMT_API_THREADS": str(threads), "BIMT_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [sys.executable, "-m", "api", "--fd", str(descriptor), *options],
        env=os.environ | settings | environ,
        cwd=Path(__file__).resolve().parents[2],
        pass_fds=(descriptor,),
    )
    if listener is None:
        own.close()
    ended = threading.Event()

    def work() -> None:  # there is no broker, so the worker looks for what waits
        while not ended.wait(0.1):
            if house.worker is not None:
                house.worker(INTERACTIVE)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=120).close()
        yield port, process
    finally:
        process.terminate()
        process.wait(60)
        ended.set()
        worker.join()
