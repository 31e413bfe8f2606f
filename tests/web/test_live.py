"""The page of a run of a real service: tried out by hand, watched step by step, taken along."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.client.conftest import TINY
from tests.web.conftest import Visitor
from tests.whole.test_supervisor import Up, served, wait_for

Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    """A whole service, with workers."""
    with served(BIMT_LOGIN_RATE_LIMIT="none") as up:
        yield up


@pytest.fixture(scope="module")
def job(service: Up) -> dict[str, Any]:
    """A job of two runs that has succeeded, with its runs."""
    headers = {"Authorization": f"Bearer {service.token}"}
    with httpx.Client(base_url=service.address + "/api/v1", headers=headers, timeout=60) as http:

        def get(path: str) -> Any:
            return http.get(path).json()

        asked = {"spec": TINY, "seeds": [0, 1], "cost_strengths": [0.001], "name": "live"}
        made = http.post("/jobs", json=asked).json()
        ended = ("succeeded", "failed", "cancelled")
        wait_for(lambda: get(f"/jobs/{made['id']}")["state"] in ended, "the job has ended")
        assert get(f"/jobs/{made['id']}")["state"] == "succeeded"
        return made | {"runs": get(f"/jobs/{made['id']}/runs")["items"]}


@pytest.fixture
def page(chromium: Any, service: Up) -> Iterator[Any]:
    """A window, signed in. At the end it must have complained about nothing."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    window = context.new_page()
    window.set_default_timeout(30_000)
    complaints: list[str] = []
    window.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    window.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
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
    page.click("button.switch >> nth=0")
    page.wait_for_selector("#moved tr")
    outputs = page.locator("#moved th").all_inner_texts()
    assert outputs == ["y1", "y2"]
    assert any(words in page.inner_text("#moved") for words in ("is lost", "loses most"))
    assert re.search(r"test loss: \S+ → \S+", page.inner_text("#what-if-words"))
    before = page.inner_text("#moved")
    page.reload()  # the address remembers what is off
    page.wait_for_selector("#moved tr")
    assert page.inner_text("#moved") == before
    page.click("#all-on")
    assert page.locator("#answer").is_hidden()
    page.click("#what-if summary")
    page.locator("#what-if input[data-connection] >> nth=0").focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#moved tr")
    assert page.locator("svg.network line.connection.off").count() == 1
    page.locator("svg.network line.grip >> nth=1").click(force=True)
    page.wait_for_selector("#off li >> nth=1")


def test_the_training_is_gone_through_step_by_step_and_by_keyboard(page: Any, service: Up, job: dict[str, Any]) -> None:
    page.goto(f"{service.address}/runs/{job['runs'][0]['id']}")
    page.locator("#film").scroll_into_view_if_needed()
    page.wait_for_selector("#film-canvas")
    page.wait_for_selector("#film-said:has-text('Step 1')")
    last = page.evaluate("document.getElementById('film-canvas').toDataURL()")
    assert "of 1\u202f500" in page.inner_text("#film-said")
    page.focus("#film-step")
    page.keyboard.press("Home")
    page.wait_for_selector("#film-said:has-text('Step 0 of')")
    assert page.evaluate("document.getElementById('film-canvas').toDataURL()") != last
    assert page.get_attribute("#film-step", "aria-valuetext").startswith("Step 0 of")
    assert page.url.endswith("#step=0")
    page.click("#film-play")
    page.wait_for_selector("#film-play:has-text('Pause')")
    page.wait_for_selector("#film-play:has-text('Play')")
    assert page.evaluate("document.getElementById('film-canvas').toDataURL()") == last


def test_what_is_made_when_first_asked_for_is_downloaded(page: Any, service: Up, job: dict[str, Any]) -> None:
    page.goto(f"{service.address}/runs/{job['runs'][0]['id']}")
    with page.expect_download(timeout=60_000) as waiting:
        page.click("a[data-made='The ONNX file']")
    assert waiting.value.suggested_filename.endswith("model.onnx")
    assert page.inner_text("#made-words") == "The ONNX file is there."


def test_the_runs_of_a_job_are_compared_when_somebody_looks(page: Any, service: Up, job: dict[str, Any]) -> None:
    page.goto(f"{service.address}/jobs/{job['id']}")
    page.wait_for_selector("#together .chart")
    assert "runs part inputs and outputs" in page.inner_text("#together")
    page.reload()
    assert page.locator("#together-words").count() == 0  # it was kept
