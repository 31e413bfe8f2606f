"""Pages of a service with real workers: interventions by hand, training step by step, downloads, awkward names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
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


def uploaded(http: httpx.Client, name: str, table: str) -> dict[str, Any]:
    """The data set of this CSV, when it has been checked: on a busy machine that is after the answer."""
    dataset = http.post("/datasets", files={"file": (name, table, "text/csv")}).json()
    while dataset["state"] == "checking":
        dataset = http.get(f"/datasets/{dataset['id']}").json()
    return dict(dataset)


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
    assert re.search(r"validation loss\s+\S+ → \S+", page.inner_text(".headline-metric"))
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
    assert "runs divide inputs and outputs" in page.inner_text("#comparison")
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
        dataset = uploaded(http, "names.csv", table.getvalue())
        spec = {name: part for name, part in TINY.items() if name != "dataset"}
        (run,) = trained(http, {"dataset": dataset["id"], "spec": spec, "seeds": [0], "name": "names"})["runs"]
    page.goto(f"{service.address}/runs/{run['id']}")
    assert page.locator("dl.ends .name").all_inner_texts() == names
    assert page.locator("table.effects >> nth=0").locator("thead th").all_inner_texts()[1:] == ["<b>"]
    assert page.locator("table.outputs tbody th").all_inner_texts() == ["<b>"]
    assert "regression of <b>" in page.inner_text(".headline")
    titles = page.locator("svg.network .neuron[data-end] title").all_text_contents()
    assert sorted(re.sub(r", module A(, group A\d)?$", "", title) for title in titles) == sorted(names)
    assert page.locator("main b").count() == 0


def test_a_row_of_ones_own_is_predicted_and_its_path_is_lit(page: Any, service: Up) -> None:
    table = "size,colour,price\n" + "".join(
        f"{'' if i % 17 == 5 else i % 9},{('red', 'green', 'blue')[i % 3]},{i % 9 * 2 + (0, 5, 1)[i % 3]}.25\n"
        for i in range(200)
    )
    with api_client(service) as http:
        dataset = uploaded(http, "row.csv", table)
        spec = {name: part for name, part in TINY.items() if name != "dataset"}
        (run,) = trained(http, {"dataset": dataset["id"], "spec": spec, "seeds": [0], "name": "row"})["runs"]
        asked = {"inputs": [{"size": 4, "colour": "blue"}]}
        told = http.post(f"/runs/{run['id']}/predict?wait=20", json=asked).json()["outputs"][0][0]
    page.goto(f"{service.address}/runs/{run['id']}")
    page.wait_for_selector("#instrument[data-ready]")
    page.click("#ask summary")
    assert page.locator("#cell-2 option").all_inner_texts()[-3:] == ["blue", "green", "red"]
    page.fill("#cell-1", "4")
    page.select_option("#cell-2", "blue")
    page.click("#row button")
    page.wait_for_selector("#path-words:has-text('connections carry this row')")
    assert page.inner_text("#predicted").startswith("price = ")
    assert float(page.inner_text("#predicted").removeprefix("price = ")) == pytest.approx(told, rel=5e-3)
    assert page.locator("svg.network .near").count() > 0
    before = page.inner_text("#predicted")
    page.fill("#cell-1", "")  # no value: as the table has it
    page.click("#row button")
    page.wait_for_selector(f"#predicted:not(:has-text('{before}'))")
    page.wait_for_selector("#predicted:has-text('price = ')")


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until what the selector names has the focus."""
    for _ in range(300):
        page.keyboard.press("Tab")
        if page.evaluate("(where) => document.activeElement.matches(where)", selector):
            return
    pytest.fail(f"no Tab leads to {selector}")


def test_the_whole_way_is_gone_by_keyboard_alone(page: Any, service: Up, tmp_path: Path) -> None:
    table = tmp_path / "keys.csv"
    table.write_text("a,b,target\n" + "".join(f"{i % 7},{i * 5 % 11},{i % 7 * 3 + 0.25}\n" for i in range(120)))
    page.on("filechooser", lambda chooser: chooser.set_files(str(table)))  # long before the key that opens it
    tab_to(page, ".who form button")  # out, and in again
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    tab_to(page, "#token")
    page.keyboard.insert_text(service.token)
    page.keyboard.press("Enter")
    page.wait_for_url(service.address + "/")
    tab_to(page, "a[href='/new']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/new")
    tab_to(page, "#file")
    page.keyboard.press("Enter")
    page.wait_for_selector("#first-rows tr")
    tab_to(page, "#steps")
    page.keyboard.press("Control+A")
    page.keyboard.type("1500")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/job_*")
    page.wait_for_selector("#state .succeeded")
    page.wait_for_selector("#runs a")
    tab_to(page, "#runs a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#instrument[data-ready]")
    tab_to(page, "svg.network .neuron")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    page.wait_for_selector("#off li")
    page.wait_for_selector("#metric[data-by=service]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#silenced", state="hidden")
    tab_to(page, "details:has(#publish) > summary")
    page.keyboard.press("Enter")
    tab_to(page, "#publish button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/models/*")
    tab_to(page, "#share button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#shared-link:visible")
    link = page.get_attribute("#shared-link", "href")
    assert "/s/share_" in link
    page.goto(service.address + "/")
    tab_to(page, ".who form button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.goto(link)
    page.wait_for_selector("svg.network")
