"""`python -m standalone demo`: real data in, modules and pictures out, then everything stops.

Everything takes the way of a user's own data: over HTTP, through the queue, to a worker and back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from standalone.supervisor import AskedToStop, CannotStart, Plan, Supervisor, stop_at_signals
from store.settings import table

TWO_MODULES = {(("x1", "x3"), ("y1",)), (("x2", "x4"), ("y2",))}  # what the formulas of `independence` are made of
LONGEST_SECONDS = 600.0  # a job that takes longer here has hung
LOOK_SECONDS = 0.25  # between two looks at a job


class Unexpected(Exception):
    """A sentence: what the demo should have shown, and what came instead."""


class Interrupted(Exception):
    """Ctrl-C was pressed."""


@dataclass(frozen=True)
class DemoJob:
    """One of the two jobs: its name, its title for people, and the body of POST /jobs."""

    name: str
    title: str
    body: dict[str, Any]


def main(arguments: list[str]) -> int:
    """Run the demo. 0: everything came out as it must. 1: a sentence says what did not."""
    parser = argparse.ArgumentParser(
        prog="python -m standalone demo", description="Real data in, modules and pictures out."
    )
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the pictures go; default %(default)s")
    parser.add_argument("--keep", action="store_true", help="at the end leave the pages open until Ctrl-C")
    args = parser.parse_args(arguments)
    console = Console(highlight=False)
    began = time.monotonic()
    try:
        with started(console) as (supervisor, token):
            demo = Demo(supervisor, token, args.folder, console)
            demo.run()
            seconds = time.monotonic() - began
            console.print(
                f"\nwall time {seconds:.0f} s, peak memory of all processes {demo.peak_bytes / 2**20:.0f} MiB"
            )
            if args.keep:
                console.print(f"\nThe pages stay open until Ctrl-C. Sign in with  {token}", soft_wrap=True)
                supervisor.watch()
    except (CannotStart, Unexpected, httpx.HTTPError) as why:
        console.print(f"[bold red]The demo failed:[/] {escape(str(why))}")
        return 1
    except (Interrupted, AskedToStop):
        console.print("Interrupted; everything is stopped.")
        return 130
    console.print("Everything is stopped; nothing is left running.")
    if not args.keep:
        console.print(
            "To look at the pages: `make demo KEEP=1`, or `python -m standalone demo --keep`.", soft_wrap=True
        )
    return 0


@contextmanager
def started(console: Console) -> Iterator[tuple[Supervisor, str]]:
    """The embedded default in a fresh temporary home, with its first admin token; stopped and deleted at the end."""
    stopping = stop_at_signals()
    home = Path(tempfile.mkdtemp(prefix="bimt-demo-"))
    ours = {setting.name for setting in table()}  # settings of this shell are for other homes than this one
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    supervisor = Supervisor(
        Plan(home=home),
        environ=environ,
        say=lambda line: console.print(f"[dim]{escape(line)}[/]", soft_wrap=True),
        stopping=stopping,
    )
    try:
        token = supervisor.start()
        assert token is not None, "a fresh home has no admin yet"
        yield supervisor, token
    finally:
        supervisor.stop()
        shutil.rmtree(home, ignore_errors=True)


class Demo:
    """Uploads, submits, watches and shows."""

    def __init__(self, supervisor: Supervisor, token: str, folder: Path, console: Console) -> None:
        self.supervisor = supervisor
        self.folder = folder
        self.console = console
        self.peak_bytes = 0
        self.http = httpx.Client(
            base_url=f"{supervisor.address}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            transport=httpx.HTTPTransport(retries=3),
            trust_env=False,  # a proxy of the user's is for other machines than this one
        )

    def run(self) -> None:
        """All of it. Raises Unexpected."""
        self.folder.mkdir(parents=True, exist_ok=True)
        table_file = write_diabetes(self.folder / "diabetes.csv")
        dataset = self.upload(table_file, targets=["progression"])
        demo_jobs = [
            DemoJob(
                "diabetes",
                "Which measurements predict the progression of diabetes?",
                {"dataset": dataset["id"], "recipe": "table", "seeds": [0], "name": "diabetes"},
            ),
            DemoJob(
                "independence",
                "Two formulas in one network: y1 = (x1 + x3)³, y2 = x2² + sin(πx4)",
                {"recipe": "independence", "seeds": [0], "name": "independence"},
            ),
        ]
        jobs = [self.send("POST", "/jobs", json=demo_job.body) for demo_job in demo_jobs]
        jobs = self.watch(jobs)
        for demo_job, job in zip(demo_jobs, jobs, strict=True):
            modules = self.show(demo_job, job)
            if demo_job.name == "independence" and reads_and_decides(modules) != TWO_MODULES:
                raise Unexpected(
                    "independence must separate into {x1, x3} → y1 and {x2, x4} → y2, "
                    f"but it came out as {describe(modules)}."
                )

    def upload(self, path: Path, *, targets: list[str]) -> dict[str, Any]:
        """The data set, checked by the service."""
        with path.open("rb") as stream:
            dataset = self.send(
                "POST", "/datasets", files={"file": (path.name, stream, "text/csv")}, data={"targets": targets}
            )
        deadline = time.monotonic() + LONGEST_SECONDS
        while dataset["state"] == "checking" and time.monotonic() < deadline:
            self.pause()
            dataset = self.send("GET", f"/datasets/{dataset['id']}")
        if dataset["state"] != "ready":
            raise Unexpected(f"The table should be ready, but it is {dataset['state']}: {dataset['errors']}")
        self.console.print(
            f"\nuploaded   {path}: {dataset['rows']} rows, {dataset['columns']} columns, target {', '.join(targets)}"
        )
        return dataset

    def watch(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The jobs when they have ended, with a bar for each until then. Raises Unexpected where one failed."""
        columns = (TextColumn("{task.description:14}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("[dim]{task.fields[note]}"), console=self.console) as progress:
            bars = {job["id"]: progress.add_task(job["name"], total=1.0, note="waiting", start=False) for job in jobs}
            deadline = time.monotonic() + LONGEST_SECONDS
            said: dict[str, str] = {}
            while time.monotonic() < deadline:
                jobs = [self.send("GET", f"/jobs/{job['id']}") for job in jobs]
                for job in jobs:
                    if job["state"] != "queued":
                        progress.start_task(bars[job["id"]])
                    if job["state"] in ("succeeded", "failed", "cancelled"):
                        progress.stop_task(bars[job["id"]])
                    progress.update(bars[job["id"]], completed=job["progress"], note=note_of(job))
                    if not self.console.is_terminal and said.get(job["id"]) != job["state"]:  # no bar is seen there
                        said[job["id"]] = job["state"]
                        self.console.print(f"{job['name']:14} {job['state']}")
                if all(job["state"] in ("succeeded", "failed", "cancelled") for job in jobs):
                    break
                self.pause()
        for job in jobs:
            if job["state"] != "succeeded":
                raise Unexpected(
                    f"The job {job['name']} should have succeeded, but it is {job['state']}: {job['reason']}"
                )
        return jobs

    def show(self, demo_job: DemoJob, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Print what was found, and write the pictures; returns the modules."""
        run = self.send("GET", f"/jobs/{job['id']}/runs")["items"][0]
        modules: list[dict[str, Any]] = self.send("GET", f"/runs/{run['id']}/modules")["modules"]
        pictures = []
        for suffix in ("svg", "png"):
            pictures.append(self.folder / f"{demo_job.name}.{suffix}")
            pictures[-1].write_bytes(self.fetch(f"/runs/{run['id']}/figures/network.{suffix}"))
        metrics = self.send("GET", f"/runs/{run['id']}")["metrics"]
        explained = metrics.get("test_r2")
        share = f"  ({100 * explained:.1f} % of the variance explained)" if explained is not None else ""
        say = partial(self.console.print, soft_wrap=True)
        say(f"\n[bold]{demo_job.name}[/]  {escape(demo_job.title)}")
        say(f"  {run['test_metric_name']:22} {run['test_metric']:.4g}{share}")
        say(f"  {'connections kept':22} {run['connections']}")
        say(f"  {'modules':22} {len(modules)}")
        for module in modules:
            say(f"    {escape(module['reading'])}")
        say(f"  {'pictures':22} {', '.join(str(picture) for picture in pictures)}")
        say(f"  {'page':22} {self.supervisor.address}/runs/{run['id']}")
        return modules

    def send(self, method: str, address: str, **how: Any) -> Any:
        """The JSON answer. Raises Unexpected with the service's own sentence where it refuses."""
        return self._send(method, address, **how).json()

    def fetch(self, address: str) -> bytes:
        """The bytes of an answer. Raises Unexpected."""
        return self._send("GET", address).content

    def _send(self, method: str, address: str, **how: Any) -> httpx.Response:
        response = self.http.request(method, address, **how)
        if response.is_error:
            raise Unexpected(f"{method} {address} was answered with {response.status_code}: {response.text[:500]}")
        return response

    def pause(self) -> None:
        """Wait a little; processes that have crashed are started again. Raises Interrupted."""
        self.supervisor.restart_crashed()
        self.peak_bytes = max(self.peak_bytes, tree_bytes())
        if self.supervisor.stopping.wait(LOOK_SECONDS):
            raise Interrupted


def write_diabetes(path: Path) -> Path:
    """scikit-learn's diabetes study as CSV: 442 patients, ten measurements, how the disease went on in a year."""
    from sklearn.datasets import load_diabetes

    study = load_diabetes(scaled=False)
    header = ",".join([*study.feature_names, "progression"])
    lines = [
        ",".join(f"{value:g}" for value in (*row, target)) for row, target in zip(study.data, study.target, strict=True)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def note_of(job: dict[str, Any]) -> str:
    """What stands beside the bar."""
    losses = job["losses"] or {}
    kinds = ("validation_prediction_loss", "test_prediction_loss", "prediction_loss")
    loss = next((losses[kind] for kind in kinds if kind in losses), None)
    if job["state"] == "running" and loss is not None:
        return f"{job['note'] or ''}  validation loss {loss:.3g}"
    return str(job["state"])


def reads_and_decides(modules: list[dict[str, Any]]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each module what it reads and what it decides."""
    return {(tuple(sorted(module["inputs"])), tuple(sorted(module["outputs"]))) for module in modules}


def describe(modules: list[dict[str, Any]]) -> str:
    """The same for people."""
    parts = [f"{{{', '.join(reads)}}} → {', '.join(decides)}" for reads, decides in sorted(reads_and_decides(modules))]
    return " and ".join(parts) or "no module at all"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


def tree_bytes() -> int:
    """Bytes of this process and its descendants. On Linux shared pages count once, in shares; elsewhere in each."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError, ValueError):
            total += _proportional(process.pid) or process.memory_info().rss
    return total


def _proportional(pid: int) -> int | None:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        return None
    for line in rollup.read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
