"""`python -m measurements job`: what people wait for, from submitting a small job until its results are published.

The service runs on this machine as `make up` runs it, on SQLite, with one worker. One job goes first and is not
counted, so that the training process has imported everything. Processor time is that of all processes of the service.
Nothing is asserted: the figures depend on the machine and on what else it does. Writes reports/job.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from measurements.load import Connection
from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals

POLL_SECONDS = 0.05
LONGEST_SECONDS = 600.0  # for a job; a worker that cannot start would be waited for without end
ENDED = ("succeeded", "failed", "cancelled")


def main(arguments: list[str]) -> int:
    """Measure, print, and write reports/job.json. 1: the service did not start, or a job did not succeed."""
    parser = argparse.ArgumentParser(prog="python -m measurements job", description="From submitted to published.")
    parser.add_argument("--recipe", default="independence", help="default %(default)s")
    parser.add_argument("--jobs", type=int, default=5, help="jobs of one seed, one after another; default %(default)s")
    parser.add_argument("--seeds", type=int, default=20, help="of the one large job; default %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console, stopping = Console(highlight=False), stop_at_signals()
    home = Path(tempfile.mkdtemp(prefix="bimt-job-"))
    try:
        with service(home, stopping) as (address, token, first):
            assert token is not None, "a fresh database has no admin yet"
            connection = Connection(address, token)
            one = {"recipe": args.recipe, "seeds": [0]}
            published(connection, stopping, one)
            single = [published(connection, stopping, one).figures for _ in range(args.jobs)]
            many = published(connection, stopping, one | {"seeds": list(range(args.seeds))}).figures
            connection.close()
        with service(home, stopping) as (_, _, second):
            pass
    except CannotStart as why:
        console.print(f"Not measured: {why}")
        return 1
    except AskedToStop:
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    report = {
        "recipe": args.recipe,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "start_seconds": {"first": first, "second": second},
        "one_seed": {"jobs": single, "median": {key: statistics.median(job[key] for job in single) for key in many}},
        "many_seeds": {"seeds": args.seeds} | many,
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "job.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    said = "{name}: {seconds:.2f} s from submitted to published, {cpu_seconds:.2f} s of processor time"
    console.print(said.format(name=f"one seed, median of {args.jobs}", **report["one_seed"]["median"]), soft_wrap=True)
    console.print(said.format(name=f"{args.seeds} seeds", **many), soft_wrap=True)
    console.print(f"start: {first:.2f} s, again {second:.2f} s; wrote {args.folder}/job.json")
    return 0


@contextmanager
def service(
    home: Path, stopping: threading.Event, *, gpus: tuple[str, ...] = ()
) -> Iterator[tuple[str, str | None, float]]:
    """The service in this folder: its address, the admin token of a first start, and the seconds until it answered.

    gpus   devices of the only workers; (): one worker on the CPU.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BIMT_")}
    plan = Plan(home=home, workers=0 if gpus else 1, gpus=gpus)
    supervisor = Supervisor(plan, environ=environ, say=lambda said: None, stopping=stopping)
    began = time.monotonic()
    try:
        token = supervisor.start()
        yield supervisor.address, token, time.monotonic() - began
    finally:
        was_asked = stopping.is_set()
        supervisor.stop()  # sets `stopping`, which the next start looks at
        if not was_asked:
            stopping.clear()


@contextmanager
def own_service(stopping: threading.Event, *, gpus: tuple[str, ...] = ()) -> Iterator[tuple[Connection, float]]:
    """A service with nothing in it, removed afterwards: an admin's connection, and the seconds until it answered."""
    home = Path(tempfile.mkdtemp(prefix="bimt-job-"))
    try:
        with service(home, stopping, gpus=gpus) as (address, token, started):
            assert token is not None, "a fresh database has no admin yet"
            connection = Connection(address, token)
            yield connection, started
            connection.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Published:
    """A job that has succeeded: seconds since it was submitted, and processor time of the service meanwhile."""

    id: str
    seconds: float
    cpu_seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """For the report."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}


def published(connection: Connection, stopping: threading.Event, body: dict[str, Any]) -> Published:
    """Submit a job and wait for its end. Raises CannotStart where it is refused or does not succeed."""
    began, cpu = time.monotonic(), _processor_seconds()
    status, answer, _ = connection.ask("POST", "/jobs", json.dumps(body).encode())
    if status != 202:
        raise CannotStart(f"The job was refused with {status}: {answer.decode()}")
    job_id = json.loads(answer)["id"]
    while (job := json.loads(connection.ask("GET", f"/jobs/{job_id}")[1]))["state"] not in ENDED:
        if stopping.wait(POLL_SECONDS):
            raise AskedToStop
        if time.monotonic() - began > LONGEST_SECONDS:
            raise CannotStart(f"The job was still {job['state']} after {LONGEST_SECONDS:.0f} s.")
    if job["state"] != "succeeded":
        raise CannotStart(f"The job {job['state']}: {job.get('error') or 'its runs say why'}.")
    return Published(job_id, time.monotonic() - began, _processor_seconds() - cpu)


def _processor_seconds() -> float:
    """Of all processes below this one, those that have ended included."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        used += sum(times[:4])  # its own and that of its ended children, each in user and system mode
    return used
