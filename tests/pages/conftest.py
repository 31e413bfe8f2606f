"""A real browser on a real service. Without Chromium these tests are skipped, except in CI."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bimt_engine.figures.registry import JOB_FIGURES
from bimt_engine.figures.style import to_svg
from store import datasets, jobs, networks, runs
from tests.api.makers import House, interior_document, make_house, now, publish_runs, serving, submit_job
from tests.api.test_thread import upload
from tests.servers import sqlite_template  # noqa: F401  (a fixture is found by name)

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Site:
    """A service that answers requests: a job that has ended, one that waits, a table, one that was refused, a model
    and a link to it."""

    service: House
    url: str
    job: str
    runs: list[str]
    waiting: str
    dataset: str
    refused: str
    network: str
    model: str
    link: str


@dataclass
class Visitor:
    """A page of the browser, and the errors that it logged."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> Any:
        """Open a path of ours."""
        return self.page.goto(self.url + path)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Site]:  # noqa: F811
    """One service for all tests."""
    home = tmp_path_factory.mktemp("site")
    shutil.copy(sqlite_template, home / "bimt.sqlite")
    service = make_house(home / "home", database_url=f"sqlite:///{home / 'bimt.sqlite'}")
    job = submit_job(service, seeds=(0, 1, 2), tags=("paper",))
    found = publish_runs(service, job)
    store_comparison(service, job, found)
    with service.database.write() as rows:
        for run_id in found:
            runs.add_body(rows, run_id, "interior", interior_document())
    waiting = submit_job(service, name="waiting")
    dataset = upload(service, file_name="progress.csv").json["id"]
    refused, network = refuse_upload(service), bring_network(service)
    model, link = publish(service, found)
    with serving(service) as port:
        yield Site(service, f"http://127.0.0.1:{port}", job, found, waiting, dataset, refused, network, model, link)
    service.database.close()


def refuse_upload(service: House) -> str:
    """The id of a large upload whose check has found a fault: there it stays, with the reason."""
    detail = "Row 2, column `b` holds '1.2.3', which is not a number; correct the cell or remove the row."
    error = {"in": "file", "pointer": "/file", "detail": detail, "row": 2, "column": "b"}
    kept = service.files.put_bytes(b"a,b\n1,2\n2,1.2.3\n")
    with service.database.write() as rows:
        dataset = datasets.register(
            rows,
            team_id=service.teams["ours"],
            member_id=service.members["ours", "submitter"],
            name="broken.csv",
            kind="uploaded",
            state="checking",
            sha256=kept.sha256,
            bytes=kept.bytes,
            format="csv",
            now=now(),
        )
        assert datasets.set_check_result(rows, dataset.id, now=now(), errors=[error])
    return str(dataset.id)


def bring_network(service: House) -> str:
    """The id of an uploaded network that was checked."""
    kept = service.files.put_bytes(b"a network")
    header = {
        "parameters": 12_345,
        "producer": "pytorch",
        "operators": {"Gemm": 3, "Relu": 2},
        "tensors": [["hidden.weight", [20, 4]], ["output.weight", [2, 20]]],
        "notes": ["The input `x` has a free batch axis."],
    }
    with service.database.write() as rows:
        network = networks.register(
            rows,
            team_id=service.teams["ours"],
            member_id=service.members["ours", "submitter"],
            name="network.onnx",
            format="onnx",
            file=kept,
            config=None,
            now=now(),
        )
        assert networks.set_check_result(rows, network.id, now=now(), header=header)
    return str(network.id)


def store_comparison(service: House, job: str, found: list[str]) -> None:
    """The documents that a worker would have computed of all runs of the job; there is no worker here."""
    modules = [
        {"name": "A", "inputs": ["x1", "x3"], "outputs": ["y1"], "met_in": 3, "same_ends_in": 3, "supported_in": 3}
    ]
    stability = {
        "runs": 3,
        "agreement": 3,
        "reading": "3 of 3 runs divide inputs and outputs the same way.",
        "modules": modules,
    }
    points = [
        {
            "run": run,
            "cost_strength": None,
            "seed": seed,
            "loss": 0.1 / (seed + 1),
            "wiring": 9.0 + seed,
            "efficient": seed != 1,
        }
        for seed, run in enumerate(found)
    ]
    front = {"points": points, "knee": points[0], "suggested_cost_strength": 0.01, "tolerance": 0.05}
    figure = JOB_FIGURES["pareto"](front)
    assert figure is not None
    drawn = base64.b64encode(to_svg(figure)).decode()
    with service.database.write() as rows:
        for name, document in (("stability", stability), ("pareto", front), ("pareto.svg", drawn)):
            jobs.add_body(rows, job, name, {"run_ids": found, "order": {}, "document": document})


def publish(service: House, found: list[str]) -> tuple[str, str]:
    """Two versions of a model with an alias, a note and a link: the model's name and the path of the link."""

    def call(method: str, path: str, body: dict[str, Any]) -> Any:
        answer = service.client().open(f"/api/v1{path}", method=method, headers=service.headers(), json=body)
        assert answer.status_code < 300, answer.json
        return answer.json

    card = "## For whom\nTwo modules that *share nothing*.\n\n- `x1` and `x3`\n- [the paper](https://arxiv.org/abs/2305.08746)"
    for run_id in found[:2]:
        call("POST", "/models", {"run_id": run_id, "name": "two-formulas", "card": card})
    call("PUT", "/models/two-formulas/aliases/best", {"version": 1})
    call(
        "POST",
        "/models/two-formulas/versions/2/annotations",
        {"about": "module", "target": "A", "text": "The **cube**."},
    )
    view = {"module": "B", "part": "network", "figure": "network.svg", "note": "The sine."}
    made = call("POST", "/models/two-formulas/versions/2/shares", {"view": view})
    return "two-formulas", "/s/" + made["token"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("In CI there must be a Chromium; install the package `chromium`.")
        pytest.skip("There is no Chromium on this machine; install the package `chromium` to drive the pages.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def signed_in(chromium: Any, site: Site) -> Callable[[str], Any]:
    """The cookies of a role, which signs in by the form once for all tests."""
    states: dict[str, Any] = {}

    def cookies_of(role: str) -> Any:
        if role not in states:
            context = chromium.new_context()
            sign_in(context.new_page(), site, role)
            states[role] = context.storage_state()
            context.close()
        return states[role]

    return cookies_of


def sign_in(page: Any, site: Site, role: str) -> None:
    """By the form."""
    page.goto(site.url + "/login")
    page.fill("#token", site.service.tokens["ours", role])
    page.click("main button")
    page.wait_for_url(site.url + "/")


@pytest.fixture
def visit(chromium: Any, site: Site, signed_in: Callable[[str], Any]) -> Iterator[Callable[..., Visitor]]:
    """Open an empty browser window, signed in as a role; None: not signed in. At the end it must have logged no error.

    own_session   sign in anew, for a test that ends the session.
    """
    windows: list[tuple[Any, Visitor]] = []

    def open_window(role: str | None = "admin", *, own_session: bool = False, **options: Any) -> Visitor:
        shared = role is not None and not own_session
        context = chromium.new_context(**options, **({"storage_state": signed_in(str(role))} if shared else {}))
        page = context.new_page()
        page.set_default_timeout(60_000)  # of a busy machine
        visitor = Visitor(page, site.url)
        page.on("pageerror", lambda error: visitor.complaints.append(f"error: {error}"))
        page.on("console", lambda message: visitor.complaints.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((site.url, "data:"))
                else visitor.complaints.append(f"foreign request: {request.url}")
            ),
        )
        if role is not None and own_session:
            sign_in(page, site, role)
        windows.append((context, visitor))
        return visitor

    yield open_window
    for context, _ in windows:
        context.close()
    assert [complaint for _, visitor in windows for complaint in visitor.complaints] == []
