"""Pages of a service with real workers: interventions by hand, training step by step, downloads, awkward names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.client.conftest import TINY
from tests.end_to_end.test_supervisor import Up, served
from tests.pages.conftest import Visitor

Visit = Callable[..., Visitor]
LIMIT = 240_000  # milliseconds, less than pytest-timeout has; other tests run beside this one


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    """A whole service, with workers."""
    with served(BIMT_LOGIN_RATE_LIMIT="none") as up:
        yield up


def api_client(service: Up) -> httpx.Client:
    """Requests to the API of this service as its first member."""
    headers = {"Authorization": f"Bearer {service.token}"}
    return httpx.Client(base_url=service.address + "/api/v1", headers=headers, timeout=60)


def trained(http: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    """The job of this request with its runs, after it has succeeded."""
    job = http.post("/jobs", json=request).json()
    while http.get(f"/jobs/{job['id']}/events?wait=20").json()["state"] in ("queued", "running"):
        pass  # each request waits for a change
    job = http.get(f"/jobs/{job['id']}").json()
    assert job["state"] == "succeeded", job["reason"]
    return job | {"runs": http.get(f"/jobs/{job['id']}/runs").json()["items"]}


@pytest.fixture(scope="module")
def job(service: Up) -> dict[str, Any]:
    """A job of two runs that has succeeded, with its runs."""
    with api_client(service) as http:
        return trained(http, {"spec": TINY, "seeds": [0, 1], "cost_strengths": [0.001], "name": "live"})


@pytest.fixture
def page(chromium: Any, service: Up) -> Iterator[Any]:
    """A window, signed in. At the end it must have logged no error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    window = context.new_page()
    window.set_default_timeout(LIMIT)
    complaints: list[str] = []
    window.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    window.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    window.goto(service.address + "/login")
    window.fill("#token", service.token)
    window.click("main button")
    window.wait_for_url(service.address + "/")
    yield window
    context.close()
    assert complaints == []


def test_a_module_and_a_connection_are_switched_off_by_hand_and_every_output_says_so(
    page: Any, service: Up, job: dict[str, Any]
) -> None:
    page.goto(f"{service.address}/runs/{job['runs'][0]['id']}")
    page.wait_for_selector("#instrument[data-ready]")
    page.click("#parts .switch >> nth=0")
    page.wait_for_selector("#metric[data-by=service]")
    assert page.locator("#moved th").all_inner_texts() == ["y1", "y2"]
    assert any(words in page.inner_text("#moved") for words in ("is lost", "loses most"))
    assert re.search(r"validation loss: \S+ → \S+", page.inner_text("#what-if-words"))
    before = page.inner_text("#moved")
    page.reload()  # the address remembers what is off
    page.wait_for_selector("#metric[data-by=service]")
    assert page.inner_text("#moved") == before
    page.click("#all-on")
    assert page.locator("#answer").is_hidden()
    page.click("#connections summary")
    page.locator("#connections input[data-connection] >> nth=0").focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#moved tr")
    assert page.locator("svg.network .connection.off").count() == 1
    page.locator("svg.network .grip:not(.off) >> nth=0").dispatch_event("click")
    page.wait_for_selector("#off li >> nth=1")


def test_a_file_that_is_generated_on_request_is_downloaded(page: Any, service: Up, job: dict[str, Any]) -> None:
    page.goto(f"{service.address}/runs/{job['runs'][0]['id']}")
    with page.expect_download(timeout=LIMIT) as waiting:
        page.click("a[data-generated='The ONNX file']")
        page.wait_for_selector("#download-status:has-text('is ready'), #download-problem:not([hidden])")
        assert page.inner_text("#download-problem") == ""
    assert waiting.value.suggested_filename.endswith("model.onnx")
    assert page.inner_text("#download-status") == "The ONNX file is ready."


def test_the_runs_of_a_job_are_compared_when_its_page_is_opened(page: Any, service: Up, job: dict[str, Any]) -> None:
    page.goto(f"{service.address}/jobs/{job['id']}")
    page.wait_for_selector("#comparison figure img")
    page.wait_for_function("document.querySelector('#comparison figure img').naturalWidth > 0")
    assert "runs part inputs and outputs" in page.inner_text("#comparison")
    page.reload()
    assert page.locator("#comparison-words").count() == 0  # it was stored


def test_names_of_columns_with_punctuation_stay_whole_on_the_page_of_a_run(page: Any, service: Up) -> None:
    names = ["Temp: inside", "a; b", "x, y", '"q"', "<b>"]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(names)
    for i in range(80):
        inputs = [(i * step % 41) / 20 - 1 for step in (7, 11, 17, 29)]
        writer.writerow([*inputs, inputs[0] + inputs[1] * inputs[2] - inputs[3]])
    with api_client(service) as http:
        sent = {"file": ("names.csv", table.getvalue(), "text/csv")}
        dataset = http.post("/datasets", files=sent).json()
        spec = {name: part for name, part in TINY.items() if name != "dataset"}
        (run,) = trained(http, {"dataset": dataset["id"], "spec": spec, "seeds": [0], "name": "names"})["runs"]
    page.goto(f"{service.address}/runs/{run['id']}")
    assert page.locator("dl.ends .name").all_inner_texts() == names
    assert page.locator("table.effects >> nth=0").locator("thead th").all_inner_texts() == ["Module", "<b>"]
    assert page.locator("table.outputs tbody th").all_inner_texts() == ["<b>"]
    assert "regression of <b>" in page.inner_text(".headline")
    titles = page.locator("svg.network .neuron[data-end] title").all_text_contents()
    assert sorted(re.sub(r", module A(, group A\d)?$", "", title) for title in titles) == sorted(names)
    assert page.locator("main b").count() == 0
