"""The pages in a browser: by mouse and by keyboard, in light and dark, on wide and narrow screens."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from store import jobs, runs
from store.tables import Run
from tests.api.makers import now, publish_run, publish_runs, submit_job, work_on
from tests.pages.conftest import Site, Visitor

Visit = Callable[..., Visitor]

AUDIT = (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8").rstrip().rstrip(";")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8").rstrip().rstrip(";")


def every_page(site: Site) -> dict[str, str]:
    return {
        "runs": "/",
        "runs on parallel axes": f"/?job={site.job}&show=parallel&within=seed:0:1",
        "jobs": "/jobs?group=owner&sort=runs",
        "job that has ended": f"/jobs/{site.job}",
        "job that waits": f"/jobs/{site.waiting}",
        "run": f"/runs/{site.runs[0]}",
        "data": "/datasets",
        "data that were refused": "/datasets?state=refused",
        "data set": f"/datasets/{site.dataset}",
        "data set that was refused": f"/datasets/{site.refused}",
        "network": f"/networks/{site.network}",
        "runs in a table": "/?show=table&group=none",
        "runs as a scatter": f"/?show=scatter&job={site.job}",
        "runs as curves": f"/?show=curves&job={site.job}",
        "new job": f"/new?dataset={site.dataset}",
        "models": "/models?min_modules=2",
        "models that are not there": "/models?min_modules=two&q=nothing",
        "model": f"/models/{site.model}",
        "older version": f"/models/{site.model}?version=best",
        "compare": f"/compare?a={site.model}@1&b={site.model}@2",
        "compare with a run": f"/compare?a={site.model}@1&b={site.runs[2]}",
        "compare what": "/compare",
        "link": site.link,
        "team": "/team",
        "addresses": "/docs",
        "problems": "/problems",
        "words": "/glossary",
        "a problem": "/problems/conflict",
    }


NO_PAGES = {"version_page", "static", "favicon", "login_form"}  # a redirect, files; the form is looked at below


def test_every_route_that_renders_a_page_is_looked_at(site: Site) -> None:
    routes = site.service.app.url_map
    known = routes.bind("localhost")
    seen = {known.match(path.partition("?")[0])[0] for path in every_page(site).values()}
    pages = {
        rule.endpoint
        for rule in routes.iter_rules()
        if "GET" in (rule.methods or ()) and "pages" in rule.endpoint.partition(".")[0] and "." not in rule.rule
    }
    assert {endpoint for endpoint in pages - seen if endpoint.partition(".")[2] not in NO_PAGES} == set()


@pytest.mark.parametrize(
    "viewport", [{"width": 1280, "height": 800}, {"width": 360, "height": 740}], ids=["desk", "phone"]
)
def test_every_page_is_whole_readable_and_named(visit: Visit, site: Site, viewport: dict[str, int]) -> None:
    """Each is looked at in both colour schemes, which need no script and no second answer."""
    page = (visitor := visit(viewport=viewport)).page
    for name, path in every_page(site).items():
        page.emulate_media(color_scheme="light")
        answer = visitor.go(path)
        page.wait_for_load_state("networkidle")
        assert answer.status == 200, name
        assert page.evaluate(AUDIT) == [], name
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"
        assert page.evaluate(CONTRAST) == [], f"{name} in the light"
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(CONTRAST) == [], f"{name} in the dark"


def test_the_sign_in_form_and_a_missing_page_are_readable_too(visit: Visit) -> None:
    for scheme in ("light", "dark"):
        visitor = visit(role=None, color_scheme=scheme)
        visitor.go("/login")
        assert visitor.page.evaluate(AUDIT) == []
        assert visitor.page.evaluate(CONTRAST) == []
        assert visitor.go("/problems/nonsense").status == 404
        assert visitor.page.evaluate(AUDIT) == []
        visitor.complaints.clear()  # the browser logs the 404


def test_a_run_shows_its_network_and_lights_up_a_module(visit: Visit, site: Site) -> None:
    visitor = visit("reader")
    visitor.go("/")
    visitor.page.click(f"main a[href='/runs/{site.runs[0]}'] >> nth=0")
    visitor.page.wait_for_url(re.compile("/runs/run_"))
    page = visitor.page
    assert page.locator("svg.network .neuron").count() == 46
    assert page.locator("svg.network line.connection").count() == 42
    ends = page.locator("li.module >> nth=0").locator("dl.ends")
    assert ends.locator("div:has-text('reads') .name").all_inner_texts() == ["x1", "x3"]
    assert ends.locator("div:has-text('decides') .name").all_inner_texts() == ["y1"]
    assert "In the network as trained its neurons move y1 by 0.90 of its variance" in page.inner_text(".modules")
    assert page.locator("table.effects").first.locator("td >> text=p 0.01 (Holm)").count() == 2
    predicted = page.locator("table.outputs tbody tr").all_inner_texts()
    assert [row.split("\t") for row in predicted] == [
        ["y1", "0.9998", "0.9998", "0.9998", "learnt"],
        ["y2", "0.02", "0.02", "0.02", "not learnt"],
    ]
    assert "trained in 8.1 s (kernel on cpu)" in page.inner_text(".headline")
    assert "analysed in 3.2 s" in page.inner_text(".headline")
    page.click("button:has-text('Module A')")
    assert page.url.endswith("#module=A")
    lit = page.locator("svg.network .neuron.lit")
    assert lit.count() == page.locator("svg.network .neuron[data-module=A]").count() == 8
    page.reload()
    assert page.locator("svg.network .neuron.lit").count() == 8
    page.keyboard.press("Escape")
    assert page.locator("svg.network.focused").count() == 0
    assert page.locator("figure .chart").count() == 4
    assert page.locator("nav >> text=New job").count() == 0


def test_groups_inside_a_module_have_its_colour_and_their_interactions(visit: Visit, site: Site) -> None:
    for role, path in (("reader", f"/runs/{site.runs[0]}"), ("reader", f"/models/{site.model}"), (None, site.link)):
        page = (visitor := visit(role=role)).page
        visitor.go(path)
        assert "2 separate groups; what they compute is added up." in page.inner_text(".inside"), path
        assert page.locator(".inside th[scope=row] .dot").count() == 2
        page.wait_for_selector("#instrument[data-ready]")  # shapes take the place of circles
        dot, shape = (
            page.locator(where).first.evaluate(f"each => getComputedStyle(each).{style}")
            for where, style in ((".inside .dot", "backgroundColor"), ("svg.network .neuron.module-1 .shape", "fill"))
        )
        assert dot == shape
        assert page.locator(".inside table.matrix").count() == 2


def test_a_long_expression_does_not_widen_the_page_nor_a_long_role_the_panel(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader")).page
    visitor.go(f"/runs/{site.runs[0]}")
    page.locator(".formulas summary").first.click()
    wide = page.locator(".formulas pre").first.evaluate(
        "(pre) => { pre.textContent = 'x1*'.repeat(1300); const page = document.documentElement;"
        "return page.scrollWidth - page.clientWidth; }"
    )
    assert wide <= 0
    page.wait_for_selector("#instrument[data-ready]")
    lines = page.locator("#parts .part .quiet").first.evaluate(
        "(role) => { role.textContent = 'a long name '.repeat(90);"
        "return role.getBoundingClientRect().height / parseFloat(getComputedStyle(role).lineHeight); }"
    )
    assert lines < 3.5, "the verdict below it stays in sight"


def test_everything_can_be_reached_by_keyboard(visit: Visit, site: Site) -> None:
    visitor = visit()
    visitor.go(f"/runs/{site.runs[0]}")
    page = visitor.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(200):  # each number leads to its definition, so there are many stops on the way
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText"))
        if reached[-1] == "Module B":
            break
    assert reached[-1] == "Module B"
    page.keyboard.press("Enter")
    assert page.locator("svg.network .neuron.lit").count() == 11


def test_a_table_is_uploaded_its_columns_chosen_and_a_job_submitted(visit: Visit, site: Site, tmp_path: Path) -> None:
    table = tmp_path / "houses.csv"
    table.write_text(
        "rooms,age,price\n" + "".join(f"{i % 6},{i * 7 % 40},{i % 6 * 30 - i * 7 % 40}.5\n" for i in range(60))
    )
    visitor = visit("submitter")
    page = visitor.page
    visitor.go("/new")
    page.set_input_files("#file", str(table))
    page.click("#types summary")
    page.wait_for_selector("#columns tr")
    assert page.locator("#dataset option:checked").inner_text() == "houses.csv (60 rows)"
    roles, types = "#columns select[data-column]", "#columns select[data-type-of]"
    assert [page.locator(f"{roles} >> nth={i}").input_value() for i in range(3)] == ["input", "input", "target"]
    assert [page.locator(f"{types} >> nth={i}").input_value() for i in range(3)] == ["integer", "integer", "number"]
    page.select_option(f"{types} >> nth=0", "category")
    page.select_option(f"{types} >> nth=1", "text")
    assert page.locator(f"{roles} >> nth=1").input_value() == "not used"
    page.fill("#hidden", "5")
    page.fill("#steps", "300")
    page.fill("#seeds", "0–2")
    page.fill("#strengths", "0.001, 0.01")
    page.fill("#name", "houses by rooms")
    page.fill("#tags", "first, rooms")
    assert page.inner_text("#submit").split() == ["Train", "6", "networks"]
    page.click("#submit")
    page.wait_for_url(re.compile("/jobs/job_"))
    assert page.inner_text("h1") == "houses by rooms"
    job_id = page.url.rsplit("/", 1)[-1]
    sent = site.service.client().get(f"/api/v1/jobs/{job_id}", headers=site.service.headers()).json
    assert (sent["runs"], sent["tags"], sent["steps"]) == (6, ["first", "rooms"], 1800)
    assert sent["spec"]["network"]["hidden"] == [5]
    data = sent["spec"]["dataset"]
    assert (data["inputs"], data["targets"], data["columns"]["rooms"]["type"]) == (["rooms"], ["price"], "category")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#cancel")
    assert page.locator("#state .cancelled").count() == 0  # only after it was confirmed
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#cancel")
    page.wait_for_selector("#state .cancelled")


def test_a_recipe_is_submitted_with_two_clicks(visit: Visit, site: Site) -> None:
    visitor = visit("submitter")
    visitor.go("/")
    with visitor.page.expect_navigation():  # until its scripts have begun
        visitor.page.click("text=New job")
    visitor.page.check("input[value=independence]")
    assert visitor.page.input_value("#hidden") == "20, 20"
    visitor.page.click("#submit")
    visitor.page.wait_for_url(re.compile("/jobs/job_"))
    assert visitor.page.inner_text("h1") == "independence"
    job_id = visitor.page.url.rsplit("/", 1)[-1]
    site.service.client().post(f"/api/v1/jobs/{job_id}/cancel", headers=site.service.headers())


def test_automatic_cost_strengths_are_counted_and_submitted(visit: Visit, site: Site) -> None:
    visitor = visit("submitter")
    visitor.go("/new")
    visitor.page.check("input[value=independence]")
    visitor.page.fill("#strengths", "auto")
    assert visitor.page.inner_text("#submit").split() == ["Train", "7", "networks"]
    visitor.page.click("#submit")
    visitor.page.wait_for_url(re.compile("/jobs/job_"))
    job_id = visitor.page.url.rsplit("/", 1)[-1]
    client, headers = site.service.client(), site.service.headers()
    assert client.get(f"/api/v1/jobs/{job_id}", headers=headers).json["runs"] == 7
    client.post(f"/api/v1/jobs/{job_id}/cancel", headers=headers)


def test_a_bad_table_is_refused_with_row_and_column(visit: Visit, tmp_path: Path) -> None:
    table = tmp_path / "bad.csv"
    table.write_text("a,b\n1,2\n2,1.2.3\n3,4\n4,5\n5,6\n")
    visitor = visit("submitter")
    visitor.go("/datasets")
    visitor.page.set_input_files("#file", str(table))
    visitor.page.wait_for_selector("#upload-problem:not([hidden])")
    shown = visitor.page.inner_text("#upload-problem")
    assert "row 2" in shown.lower()
    assert "b" in shown
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status


def test_wrong_fields_are_marked_where_they_are(visit: Visit) -> None:
    visitor = visit("submitter")
    page = visitor.page
    visitor.go("/new")
    page.check("input[value=independence]")
    page.fill("#steps", "-5")
    page.fill("#seeds", "0, x")
    page.click("#submit")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.get_attribute("#steps", "aria-invalid") == "true"
    assert page.get_attribute("#seeds", "aria-invalid") == "true"
    assert page.get_attribute("#hidden", "aria-invalid") is None
    assert page.locator(".field:has(#steps) .wrong").inner_text().startswith("Input should be greater than")
    shown = page.inner_text("#problem").splitlines()
    assert shown[0] == "2 fields are wrong."  # without the pointers, which are for programs
    assert [line.partition(":")[0] for line in shown if ":" in line] == ["training, steps", "seeds, 1"]
    page.fill("#spec", "{") if page.is_visible("#spec") else page.evaluate(
        "document.getElementById('spec').value = '{'"
    )
    page.click("#submit")
    page.wait_for_selector("#problem:has-text('not JSON')")
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]


def test_a_job_moves_while_it_is_watched_and_ends_by_itself(visit: Visit, site: Site) -> None:
    service = site.service
    job_id = submit_job(service, name="watched")
    visitor = visit("reader")
    visitor.go(f"/jobs/{job_id}")
    page = visitor.page
    assert page.inner_text("#state") == "queued"
    claim = work_on(service, job_id)
    with service.database.write() as rows:
        losses = {"prediction_loss": 0.5, "validation_prediction_loss": 0.6, "test_prediction_loss": 0.7}
        jobs.renew(rows, claim, now=now(), lease_seconds=60, progress=0.42, losses=losses, note="half")
    page.wait_for_selector("#state .running")
    page.wait_for_function("document.getElementById('percent').textContent === '42'")
    assert sorted(page.inner_text("#losses").split("\n")) == ["0.5", "0.6", "train loss", "validation loss"]
    visitor.go(f"/jobs/{job_id}")  # as the service renders it
    assert sorted(page.inner_text("#losses").split("\n")) == ["0.5", "0.6", "train loss", "validation loss"]
    with service.database.write() as rows:
        jobs.release(rows, claim, reason="a test", now=now())
    publish_runs(service, job_id)
    page.wait_for_selector("#state .succeeded")
    page.wait_for_selector(".runs.few img")
    assert "seed 0 begins" in page.inner_text("pre")


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "beside another"])
def test_a_run_that_is_trained_and_not_yet_tested_is_not_at_its_end(
    visit: Visit, site: Site, seeds: tuple[int, ...]
) -> None:
    service = site.service
    job_id = submit_job(service, seeds=seeds)
    claim = work_on(service, job_id)
    run = claim.runs[0]
    with service.database.write() as rows:
        runs.start(rows, claim, run.id, now())
        steps = rows.get_one(Run, run.id).steps
        runs.append_history(rows, claim, run.id, [{"step": steps, "prediction_loss": 0.1}])
        note = "seed 0: pruning: 4,213 connections left"
        jobs.renew(rows, claim, now=now(), lease_seconds=60, progress=0.3, note=note)
    for script in (False, True):
        page = visit("reader", java_script_enabled=script).page
        with page.expect_response(lambda answer: f"/jobs/{job_id}" in answer.url) if script else nullcontext():
            page.goto(f"{site.url}/runs/{run.id}")
        assert note in page.inner_text("#live-words")
        bar = page.locator("#live progress")
        if len(seeds) == 1:
            assert float(bar.get_attribute("value") or 1) == 0.3
        else:
            assert bar.get_attribute("value") is None
    with service.database.write() as rows:
        jobs.finish(rows, claim, state="cancelled", reason="a test", now=now())


def test_jobs_that_failed_are_not_called_in_progress(visit: Visit, site: Site) -> None:
    service = site.service
    claim = work_on(service, submit_job(service, name="in vain"))
    with service.database.write() as rows:
        jobs.finish(rows, claim, state="failed", reason="a test", now=now())
    page = (visitor := visit("reader")).page
    visitor.go("/")
    assert page.locator("section:has(#work) a:has-text('in vain')").count() == 1
    assert page.inner_text("#work") == "Jobs in progress, and the last that failed"


def test_runs_that_have_ended_are_shown_with_their_median_while_others_are_at_work(visit: Visit, site: Site) -> None:
    service = site.service
    job_id = submit_job(service, seeds=(0, 1, 2))
    visitor = visit("reader")
    visitor.go(f"/jobs/{job_id}")
    page = visitor.page
    claim = work_on(service, job_id)
    publish_run(service, claim, claim.runs[0])
    page.wait_for_selector("#runs .succeeded")
    assert page.locator("tfoot").count() == 0  # one is no distribution
    assert page.locator(".runs.few img").count() == 1
    publish_run(service, claim, claim.runs[1])
    page.wait_for_selector("tfoot >> text=median of 2")
    assert page.locator("#runs .succeeded").count() == 2
    assert "seed 1 begins" in page.inner_text("#log pre")
    assert page.inner_text("#state") == "running"
    with service.database.write() as rows:
        jobs.finish(rows, claim, state="cancelled", reason="a test", now=now())


def test_the_list_of_jobs_moves_too(visit: Visit, site: Site) -> None:
    job_id = submit_job(site.service, name="moving")
    visitor = visit("reader")
    visitor.go("/jobs?q=moving")
    worker = threading.Thread(target=lambda: (time.sleep(0.3), publish_runs(site.service, job_id)))
    worker.start()
    visitor.page.wait_for_selector("tr .state.succeeded")
    worker.join()


def test_a_page_says_what_is_there_without_any_script(visit: Visit, site: Site) -> None:
    visitor = visit("reader", java_script_enabled=False)
    visitor.go(f"/runs/{site.runs[0]}")
    assert visitor.page.locator("svg.network line.connection").count() == 42
    assert visitor.page.locator("figure .chart").count() == 4
    assert "Module A" in visitor.page.inner_text(".modules")


def test_names_from_people_stay_text(visit: Visit, site: Site) -> None:
    evil = "<img src=x onerror=alert(1)>"
    job_id = submit_job(site.service, name=evil)
    visitor = visit()
    for path in ("/", "/jobs", f"/jobs/{job_id}"):
        visitor.go(path)
        assert evil in visitor.page.inner_text("main")
        assert visitor.page.locator("main img[src=x]").count() == 0
    site.service.client().post(f"/api/v1/jobs/{job_id}/cancel", headers=site.service.headers())


def test_signing_out_ends_it(visit: Visit) -> None:
    visitor = visit("reader", own_session=True)
    visitor.page.click("text=Sign out")
    visitor.page.wait_for_url(re.compile("/login"))
    visitor.go("/jobs")
    assert "/login?next=" in visitor.page.url
