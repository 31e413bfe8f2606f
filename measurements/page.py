"""`python -m measurements page`: how quickly the page of a run answers, and pictures of the pages.

A service of its own trains the recipes; Chromium opens the page of each run. Measured: seconds until the network can be
touched, milliseconds from silencing a neuron to the new metric on the screen, frames a second while the threshold is
dragged through all connections, kilobytes (of scripts and styles, and of the document with what it shows), and seconds
until a film is made. Pictures at 1280 × 900, light and dark, and one film. Nothing is asserted: the figures depend on
the machine and on what else it does. Writes reports/page.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from measurements.job import own_service, published
from measurements.load import Connection
from standalone.supervisor import AskedToStop, CannotStart, stop_at_signals

RECIPES = ("independence", "modular_addition", "two_memories")
FILMED = "independence"  # whose film goes with the pictures
VIEWPORT: Any = {"width": 1280, "height": 900}
PAGES = {"runs": "/", "jobs": "/jobs", "words": "/glossary"}
SILENCED = 5  # neurons, one after another
DRAG = """async () => {
  const slider = document.getElementById("threshold");
  const frame = () => new Promise(requestAnimationFrame);
  const steps = 120;
  await frame();
  const began = performance.now();
  for (let i = 1; i <= steps; i++) {
    slider.value = Math.round(slider.max * (1 - i / steps));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await frame();
  }
  const seconds = (performance.now() - began) / 1000;
  slider.value = slider.max;
  for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
  return steps / seconds;
}"""
SILENCE = """(which) => new Promise((done) => {
  const neuron = [...document.querySelectorAll("svg.network .neuron:not([data-end]):not(.unused)")][which];
  if (!neuron) return done(null);
  const metric = document.getElementById("metric");
  const began = performance.now();
  new MutationObserver((_, watching) => {
    if (!metric.dataset.by) return;
    watching.disconnect();
    requestAnimationFrame(() => done(performance.now() - began));
  }).observe(metric, { attributes: true, childList: true });
  neuron.dispatchEvent(new MouseEvent("click", { bubbles: true }));
})"""


def main(arguments: list[str]) -> int:
    """Measure, draw, and write reports/page.json. 1: the service did not start, or there is no Chromium."""
    parser = argparse.ArgumentParser(prog="python -m measurements page", description="How quickly the page answers.")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="default %(default)s")
    parser.add_argument("--images", type=Path, help="write pictures of the pages into this folder")
    parser.add_argument("--folder", type=Path, default=Path("reports"))
    args = parser.parse_args(arguments)
    console, stopping = Console(highlight=False), stop_at_signals()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        console.print("Not measured: there is no Chromium; install the package `chromium`.")
        return 1
    try:
        with own_service(stopping) as (connection, _):
            runs = {}
            for recipe in args.recipes:
                job = published(connection, stopping, {"recipe": recipe, "seeds": [0]}).id
                runs[recipe] = json.loads(connection.ask("GET", f"/jobs/{job}/runs")[1])["items"][0]["id"]
            found = look(chromium, connection.address, connection.token, runs, args.images)
            for recipe, run in runs.items():
                found[recipe]["film_seconds"], gif = film(connection, run)
                if args.images is not None and recipe == FILMED:
                    (args.images / f"film-{recipe}.gif").write_bytes(gif)
    except CannotStart as why:
        console.print(f"Not measured: {why}")
        return 1
    except AskedToStop:
        return 130
    report = {"processors": os.cpu_count(), "load_average": os.getloadavg()[0], "runs": found}
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "page.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for recipe, figures in found.items():
        console.print(
            f"{recipe}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()), soft_wrap=True
        )
    return 0


def film(connection: Connection, run: str) -> tuple[float, bytes]:
    """Seconds from the first request for a film until it is there, and the film as GIF."""
    began = time.monotonic()
    while (answer := connection.ask("GET", f"/runs/{run}/film.mp4?wait=30"))[0] == 202:
        pass
    seconds = time.monotonic() - began
    if answer[0] != 200:
        raise CannotStart(f"The film of {run} was answered with {answer[0]}: {answer[1][:300].decode()}")
    return seconds, connection.ask("GET", f"/runs/{run}/film.gif?wait=30")[1]


def look(chromium: str, address: str, token: str, runs: dict[str, str], images: Path | None) -> dict[str, Any]:
    """The figures of each run's page; pictures of all pages where a folder for them is given."""
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=VIEWPORT, color_scheme=scheme)
            page.goto(f"{address}/login")
            page.fill("#token", token)
            page.click("main button")
            page.wait_for_url(f"{address}/")
            for name, run in runs.items():
                figures = measure(page, f"{address}/runs/{run}")
                found.setdefault(name, figures)
                if images is not None:
                    draw(page, images / f"run-{name}-{scheme}.png")
            for name, path in PAGES.items() if images is not None else ():
                page.goto(address + path)
                page.wait_for_load_state("networkidle")
                draw(page, images / f"{name}-{scheme}.png")  # type: ignore[operator]
            page.close()
        browser.close()
    return found


def draw(page: Any, path: Path) -> None:
    """What is seen of the page without scrolling, as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.mouse.move(1, 1)
    page.screenshot(path=path)


def measure(page: Any, address: str) -> dict[str, float]:
    """The figures of one page."""
    answers: list[Any] = []

    def keep(answer: Any) -> None:
        answers.append(answer)

    page.goto("about:blank")  # what the page before still loads is not counted
    page.on("response", keep)
    page.goto(address)
    page.wait_for_selector("#instrument[data-ready]")
    ready = page.evaluate("performance.now()") / 1000
    page.remove_listener("response", keep)
    scripts = sum(_bytes(answer) for answer in answers if "/static/" in answer.url)
    document = next(_bytes(answer) for answer in answers if answer.url == address)
    page.dispatch_event("#instrument .stage", "pointerenter")
    page.wait_for_selector("#instrument[data-sample]")
    waits = []
    for which in range(SILENCED):
        if (wait := page.evaluate(SILENCE, which)) is not None:
            waits.append(wait)
        page.evaluate("document.getElementById('all-on').click()")
        page.wait_for_selector("#metric:not([data-by])")
    frames = page.evaluate(DRAG)
    page.goto(address)
    page.wait_for_selector("#instrument[data-ready]")
    return {
        "interactive_seconds": ready,
        "silencing_milliseconds": statistics.median(waits) if waits else 0.0,
        "threshold_frames_per_second": frames,
        "static_kilobytes": scripts / 1000,
        "document_kilobytes": document / 1000,
    }


def _bytes(answer: Any) -> int:
    return 0 if 300 <= answer.status < 400 else len(answer.body())  # a redirection has no body
