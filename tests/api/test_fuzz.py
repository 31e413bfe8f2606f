"""Schemathesis asks every address what its description allows and what it forbids: no 5xx, no undescribed answer.

`FUZZ_EXAMPLES` says how many examples for each operation; few by default, because this is part of every test run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis import GenerationMode

from api import openapi
from tests.api.makers import House, make_house, publish_runs, submit_job
from tests.api.test_thread import upload
from tests.engine.networks.files.makers import model

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
CHAINS = 12  # in a lot
pytestmark = [
    pytest.mark.timeout(300 + 2 * EXAMPLES),
    # werkzeug's test client keeps a large multipart body in a temporary file that nobody closes; ours are closed.
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <_io.FileIO name=\d+ mode='rb.':pytest.PytestUnraisableExceptionWarning"
    ),
]
SLOWEST = 5.0  # seconds of our own processor time; the machine may be busy

# Rules that JSON Schema cannot say (formulas, roles, phases) refuse what the schema lets pass: that is 4xx, too.
# A body that is wrong may be refused for its size before anybody reads it.
CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "401", "404", "409", "413", "415", "422", "400", "429", "503"]
            },
            "negative_data_rejection": {
                "expected-statuses": [
                    "400",
                    "401",
                    "403",
                    "404",
                    "405",
                    "406",
                    "409",
                    "413",
                    "415",
                    "422",
                    "428",
                    "429",
                ]
            },
        }
    }
)


# A stream has no end to wait for, and without workers the service is not ready: other tests have both.
ELSEWHERE = ("/api/v1/jobs/{job_id}/events", "/readyz")
OPERATIONS = [
    (method, path)
    for path, methods in json.loads(openapi.FILE.read_text(encoding="utf-8"))["paths"].items()
    for method in methods
    if path not in ELSEWHERE
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, lasting_url: Callable[[Path], str]) -> Iterator[House]:
    """A service that has one of everything, for all operations together, so that they meet what others left behind."""
    home = tmp_path_factory.mktemp("fuzzed")
    house = make_house(home / "home", database_url=lasting_url(home))
    [run_id] = publish_runs(house, submit_job(house))
    upload(house)
    client, headers = house.client(), house.headers()
    client.post("/api/v1/models", headers=headers, json={"run_id": run_id, "name": "known"})
    client.put("/api/v1/models/known/aliases/stable", headers=headers, json={"version": 1})
    yield house
    house.database.close()


@pytest.fixture(scope="module")
def description(fuzzed: House) -> Any:
    """The description of the addresses, bound to that service."""
    return schemathesis.openapi.from_wsgi("/openapi.json", fuzzed.app, config=CONFIG)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{m} {p}" for m, p in OPERATIONS])
def test_no_request_breaks_the_description(
    fuzzed: House, description: Any, method: str, path: str, mode: GenerationMode
) -> None:
    operation = description[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return  # there is nothing that could be wrong
    ids = known_ids(fuzzed) if mode is GenerationMode.POSITIVE else {}

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(mode), known=st.booleans())
    def ask(case: Any, known: bool) -> None:
        if known:  # half of the good requests name something that is there
            case.path_parameters = {name: ids.get(name, value) for name, value in (case.path_parameters or {}).items()}
            if path == "/api/v1/jobs" and ids and isinstance(case.body, dict):
                case.body = on_our_data(case.body, ids["dataset_id"])
            if any(parameter.name == "wait" for parameter in operation.query):
                case.query = {**(case.query or {}), "wait": 0}  # no worker is here, so nothing comes of waiting
        began = time.thread_time()
        response = case.call(headers=fuzzed.headers("admin"))
        took = time.thread_time() - began
        assert response.status_code < 500
        assert took < SLOWEST
        if arrived_whole(case, response.request.url):
            case.validate_response(response, headers=fuzzed.headers("admin"))

    ask()


def test_no_chain_of_requests_breaks_the_description(fuzzed: House, description: Any) -> None:
    """What one answer names, the next request uses: made, read, changed, deleted, asked for once more."""
    followed: Counter[str] = Counter()
    faults: list[Exception] = []

    class Chain(description.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            good = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE  # nothing is wrong
            if good and case.operation.label == "POST /api/v1/jobs" and isinstance(case.body, dict):
                case.body = on_our_data(case.body, known_ids(fuzzed)["dataset_id"])
            if "wait" in {parameter.name for parameter in case.operation.query}:
                case.query = {**(case.query or {}), "wait": 0}

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": fuzzed.headers("admin")}

        def step(self, input: Any) -> Any:
            if elsewhere(input.case):
                return None
            output = super().step(input)
            if input.is_applied and output.response.status_code < 300:
                followed[input.case.operation.label] += 1
            return output

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            try:
                assert response.status_code < 500
                if arrived_whole(case, response.request.url):
                    case.validate_response(response, **more)  # where `headers` are known to be ours, not made up
            except Exception as fault:
                faults.append(fault)  # a replay may not meet it again, and then hypothesis tells something else
                raise

    rules = settings(
        max_examples=CHAINS,
        stateful_step_count=12,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    lots = max(1, EXAMPLES // CHAINS)
    for number in range(10 * lots):
        if number >= lots and len(followed) >= 3:
            break  # a lot may end at its first chain, see below: then more of them are drawn
        # The service remembers what earlier chains did, and hypothesis takes that for a fault of its own strategies
        # when it tries to vary one of them: so chains come in small lots that know nothing of one another.
        with contextlib.suppress(FlakyStrategyDefinition):
            seed(number)(Chain)
            Chain.run(settings=rules)
        assert not faults, faults
    print(f"followed: {dict(followed)}")
    assert len(followed) >= 3, f"Hardly any answer led to another: {followed}"


def arrived_whole(case: Any, url: str) -> bool:
    """Whether the query reads as it was meant: an empty list leaves no trace there, and a list of one its one entry."""
    meant = case.query or {}
    sent = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    return set(meant) <= sent and not any(isinstance(value, list) and len(value) == 1 for value in meant.values())


def elsewhere(case: Any) -> bool:
    """Whether the case is at an address that other tests ask."""
    return case.operation.path in ELSEWHERE


def known_ids(house: House) -> dict[str, str]:
    """One thing of each noun that can be named in a path."""
    client, headers = house.client(), house.headers()
    # An example before may have deleted or renamed what was there.
    if not client.get("/api/v1/datasets", headers=headers).json["items"]:
        upload(house)
    if not client.get("/api/v1/networks", headers=headers).json["items"]:
        data = {"file": (io.BytesIO(model().SerializeToString()), "own.onnx")}
        client.post("/api/v1/networks", data=data, headers=headers)
    run_id = client.get("/api/v1/runs?state=succeeded", headers=headers).json["items"][0]["id"]
    client.post("/api/v1/models", headers=headers, json={"run_id": run_id, "name": "known"})
    link = client.post("/api/v1/models/known/versions/1/shares", headers=headers, json={})
    hooks = client.get("/api/v1/webhooks", headers=headers).json["items"]
    hook = hooks[0] if hooks else client.post("/api/v1/webhooks", headers=headers, json={"url": "https://a.org"}).json
    client.patch(f"/api/v1/webhooks/{hook['id']}", headers=headers, json={"disabled": False})
    ping = client.post(f"/api/v1/webhooks/{hook['id']}/ping", headers=headers)
    return {
        "webhook_id": hook["id"],
        "delivery_id": ping.json["id"],
        "job_id": client.get("/api/v1/jobs", headers=headers).json["items"][-1]["id"],
        "run_id": client.get("/api/v1/runs?state=succeeded", headers=headers).json["items"][0]["id"],
        "dataset_id": client.get("/api/v1/datasets", headers=headers).json["items"][-1]["id"],
        "network_id": client.get("/api/v1/networks", headers=headers).json["items"][-1]["id"],
        "name": "network",
        "suffix": "svg",
        "model": "known",
        "version": "1",
        "alias": "stable",
        "token": link.json.get("token", "gone"),
    }


def on_our_data(body: dict[str, Any], dataset_id: str) -> dict[str, Any]:
    """The same job, on data that are there: what the schema alone would hardly ever hit."""
    kept = {name: value for name, value in body.items() if name not in ("recipe", "roles")} | {"dataset": dataset_id}
    if isinstance(kept.get("spec"), dict):
        kept["spec"] = {name: value for name, value in kept["spec"].items() if name != "dataset"}
    return kept
