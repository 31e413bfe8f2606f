"""The wall of runs: filtered, sorted, grouped, selected, as pictures, table, scatter, curves and file; two compared."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from werkzeug.datastructures import MultiDict

from api.pages.wall import QUANTITIES, SORTS, View
from store.runs.search import SORTED_BY
from tests.api.makers import publish_runs, submit_job
from tests.pages.conftest import Site, Visitor

Visit = Callable[..., Visitor]
DESK = {"viewport": {"width": 1280, "height": 900}}


def view_of(site: Site, address: str) -> View:
    with site.service.app.test_request_context(address):
        return View.asked()


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/?q=two&sort=connections&falling=1&show=scatter&x=modules&y=test_loss",
        "/?state=any&method=l1&data=digits&group=none&show=table&tag=paper",
    ],
)
def test_a_view_is_the_same_after_its_own_address(site: Site, address: str) -> None:
    view = view_of(site, address)
    assert view_of(site, view.address()) == view
    assert MultiDict(parse_qs(urlsplit(view.address()).query)) == MultiDict(parse_qs(urlsplit(address).query))


def test_what_an_address_asks_for_in_vain_is_as_if_it_had_not_asked(site: Site) -> None:
    assert view_of(site, "/?sort=password&group=x&show=y&x=z&run=run_1&job=1&data=../x&method=magic") == view_of(
        site, "/"
    )


def test_everything_that_runs_are_sorted_by_has_a_label() -> None:
    assert set(SORTS) == {"", *SORTED_BY}
    assert set(QUANTITIES) >= {"connections", "validation_loss", "test_metric"}


def rows_of_table(page: Any, column: int) -> list[str]:
    return page.locator(f"tbody tr td:nth-child({column})").all_inner_texts()


def test_runs_are_filtered_sorted_and_grouped_and_the_address_says_so(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/?job={site.job}")
    assert page.locator("ul.runs li").count() == 3
    page.select_option("#show", "table")
    page.wait_for_selector("tbody tr")
    assert "show=table" in page.url
    page.click("thead >> text=Connections")
    page.wait_for_selector("th[aria-sort=ascending]")
    rising = [int(text) for text in rows_of_table(page, 6)]
    assert rising == sorted(rising)
    page.click("thead >> text=Connections")
    page.wait_for_selector("th[aria-sort=descending]")
    assert [int(text) for text in rows_of_table(page, 6)] == rising[::-1]
    page.select_option("#group", "method")
    page.wait_for_selector("h3.group-name")
    page.fill("#q", "no such job")
    page.keyboard.press("Enter")
    page.wait_for_selector(".empty:has-text('No run matches')")
    page.click(".empty a")
    page.wait_for_url(site.url + "/")


def test_seeds_of_one_job_do_not_fill_the_wall(visit: Visit, site: Site) -> None:
    job = submit_job(site.service, name="many seeds", seeds=tuple(range(7)))
    publish_runs(site.service, job)
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/?q=many+seeds")
    assert page.locator("ul.runs li").count() == 4
    assert "7 runs" in page.inner_text(".group-name")
    page.click(".group-name >> text=all 7")
    page.wait_for_selector("ul.runs li >> nth=6")
    assert page.inner_text("h1") == "Runs of many seeds"


def test_points_of_a_scatter_are_named_and_lead_to_their_runs(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/?job={site.job}&show=scatter&y=test_metric")
    dots = page.locator("svg.chart a")
    assert dots.count() == 3
    assert re.match(r".+, seed \d.*: connections \d+, test metric \S+", dots.first.get_attribute("aria-label"))
    page.select_option("#x", "modules")
    page.wait_for_selector("svg.chart .axis:has-text('modules')")
    assert "x=modules" in page.url
    dots.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/runs/run_"))


def test_curves_of_seeds_lie_in_one_chart(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/?job={site.job}&show=curves&group=job")
    assert page.locator("svg.chart a path.line").count() == 3
    assert page.locator(".legend li").count() == 1


def test_a_selection_is_compared_shown_alone_tagged_and_deleted(visit: Visit, site: Site) -> None:
    jobs = [submit_job(site.service, name=f"chosen {word}", seeds=(0,)) for word in ("one", "two", "three")]
    runs = [publish_runs(site.service, job)[0] for job in jobs]
    page = (visitor := visit("admin", **DESK)).page
    visitor.go("/?q=chosen")
    assert page.locator("#selection").is_hidden()
    for run in runs[:2]:
        page.check(f"[data-pick='{run}']")
    assert page.inner_text("#selection-words") == "2 runs selected"
    page.click("[data-act=show]")
    page.wait_for_url(re.compile(r"run=.*run="))
    assert page.locator("[data-pick]").count() == 2
    for run in runs[:2]:
        page.check(f"[data-pick='{run}']")
    page.once("dialog", lambda dialog: dialog.accept("kept"))
    with page.expect_navigation():
        page.click("[data-act=tag]")
    visitor.go("/?tag=kept")
    assert page.locator("[data-pick]").count() == 2
    for run in runs[:2]:
        page.check(f"[data-pick='{run}']")
    page.click("[data-act=compare]")
    page.wait_for_url(re.compile(r"/compare\?a=run_.*&b=run_"))
    assert re.findall("chosen (one|two), seed 0", page.inner_text("h2 >> nth=0") + page.inner_text("h2 >> nth=1"))
    visitor.go("/jobs?q=chosen")
    page.check(f"[data-pick='{jobs[2]}']")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("[data-act=delete]")
    assert page.locator("[data-pick]").count() == 3
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation():
        page.click("[data-act=delete]")
    assert page.locator("[data-pick]").count() == 2


def test_a_view_is_downloaded_as_csv_with_names_that_no_spreadsheet_computes(site: Site) -> None:
    job = submit_job(site.service, name="=1+1", seeds=(4, 5))
    publish_runs(site.service, job)
    client = site.service.client()
    client.post("/login", data={"token": site.service.tokens["ours", "reader"]})
    answer = client.get(f"/runs.csv?job={job}&sort=seed&falling=1", headers=site.service.headers("reader"))
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["seed"] for row in rows] == ["5", "4"]
    assert {row["job"] for row in rows} == {"'=1+1"}
    assert all(float(row["connections"]) > 0 for row in rows)


def test_a_neuron_that_is_selected_marks_its_counterpart_in_the_other(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/compare?a={site.runs[0]}&b={site.runs[1]}")
    page.wait_for_selector("#sides[data-ready]")
    first, second = (page.locator(f"figure[data-graph] >> nth={which}") for which in (0, 1))
    first.locator(".neuron[data-end]:not(.unused)").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("figure[data-graph] .near")
    assert "#a:" in page.url
    name = page.inner_text("#linked-words").partition(":")[0]
    assert page.inner_text("#linked-words").endswith(f"In the other: {name}.")
    assert second.locator(".neuron.near title").first.text_content()
    page.keyboard.press("Escape")
    page.click("button[data-pair] >> nth=0")
    assert page.get_attribute("button[data-pair] >> nth=0", "aria-pressed") == "true"
    for figure in (first, second):
        assert figure.locator(".neuron.near").count() == 8
    page.reload()
    page.wait_for_selector("figure[data-graph] .neuron.near")
    assert "Module A here and module A there" in page.inner_text("#linked-words")
