"""The lists of runs, jobs and models: filtered, sorted, grouped, selected, as a file; two compared."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from werkzeug.datastructures import MultiDict

from api.pages.filters import View
from api.pages.jobs import JobList
from api.pages.networks import ModelList
from api.pages.runs import QUANTITIES, SORTS, RunList
from store import jobs, models, runs
from store.runs.search import SORTED_BY
from tests.api.makers import now, publish_runs, submit_job, work_on
from tests.pages.conftest import Site, Visitor
from tests.pages.test_pages import AUDIT

Visit = Callable[..., Visitor]
DESK = {"viewport": {"width": 1280, "height": 900}}


def view_of(site: Site, address: str) -> View:
    lists = {each.path: each for each in (RunList, JobList, ModelList)}
    with site.service.app.test_request_context(address):
        return lists[urlsplit(address).path].asked()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/?q=two&sort=connections&falling=1&show=scatter&x=modules&y=test_loss",
        "/?state=any&method=l1&data=digits&group=none&show=table&tag=paper",
        "/jobs?q=two&sort=data&falling=1&group=owner&state=failed&tag=paper",
        "/models?min_modules=2&reads=x1&sort=selectivity&group=data&everybody=true",
    ],
)
def test_a_view_is_the_same_after_its_own_address(site: Site, address: str) -> None:
    view = view_of(site, address)
    assert view_of(site, view.address()) == view
    assert MultiDict(parse_qs(urlsplit(view.address()).query)) == MultiDict(parse_qs(urlsplit(address).query))


@pytest.mark.parametrize("path", ["/", "/jobs", "/models"])
def test_what_an_address_asks_for_in_vain_is_as_if_it_had_not_asked(site: Site, path: str) -> None:
    asked = f"{path}?sort=password&group=x&show=y&x=z&run=run_1&job=1&data=../x&owner=me&falling=2"
    assert view_of(site, asked) == view_of(site, path)


@pytest.mark.parametrize(("path", "sorts"), [("/jobs", jobs.SORTED_BY), ("/models", models.SORTED_BY)])
def test_a_list_is_sorted_by_each_of_its_columns_and_by_no_other(
    visit: Visit, site: Site, path: str, sorts: dict[str, Any]
) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(path)
    heads = page.locator("thead a").evaluate_all(
        "all => all.map((each) => new URL(each.href).searchParams.get('sort'))"
    )
    assert set(heads) == set(sorts)
    shown = sorted(page.locator("tbody th[scope=row] a").all_inner_texts())
    for name in sorts:
        page.locator(f"thead a[href*='sort={name}']").click()
        page.wait_for_selector("th[aria-sort=ascending]")
        page.locator("th[aria-sort] a").click()
        page.wait_for_selector("th[aria-sort=descending]")
        assert sorted(page.locator("tbody th[scope=row] a").all_inner_texts()) == shown, name


def test_jobs_are_narrowed_grouped_and_sorted_and_the_address_says_so(visit: Visit, site: Site) -> None:
    for name in ("table b", "Table a", "table c"):
        submit_job(site.service, name=name, seeds=(0,), tags=("listed",))
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/jobs")
    names = page.locator("tbody th[scope=row] a")
    page.fill("#tag", "listed")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list-summary:has-text('3 jobs.')")
    page.click("thead >> text=Job")
    page.wait_for_selector("th[aria-sort=ascending]")
    assert names.all_inner_texts() == ["Table a", "table b", "table c"]
    page.select_option("#group", "owner")
    page.wait_for_selector("tr.group")
    assert page.inner_text("tr.group") == "submitter of ours 3 jobs"
    assert {"tag=listed", "sort=name", "group=owner"} == set(urlsplit(page.url).query.split("&"))
    page.select_option("#owner", label="reader of ours")
    page.wait_for_selector(".empty:has-text('No job matches')")
    page.go_back()  # the form sends every field again
    page.wait_for_selector("tr.group")
    page.select_option("#method", "bimt")
    page.wait_for_url(re.compile("method=bimt"))
    assert "tag=listed" in page.url


def test_a_list_of_jobs_tells_whose_turn_it_is_and_how_long_is_left(visit: Visit, site: Site) -> None:
    service = site.service
    job = submit_job(service, seeds=(0,), name="its turn")
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/jobs?q=its+turn")
    turn = f"tr[data-job='{job}'] [data-show=turn]"
    assert re.fullmatch(r"next in the queue|\d+ before it in the queue", page.inner_text(turn))
    claim = work_on(service, job)
    with service.database.write() as rows:
        due = now() + timedelta(seconds=3000)
        jobs.renew(rows, claim, now=now(), lease_seconds=600, progress=0.5, due_at=due)
    for told in ("the script", "the server"):
        page.wait_for_selector(f"{turn}:text-matches('^about (50|49) min .* left$')")
        if told == "the script":
            page.reload()
    with service.database.write() as rows:
        jobs.finish(rows, claim, state="cancelled", reason="a test", now=now())


def test_an_upload_that_was_refused_is_listed_with_the_reason_and_is_no_choice_elsewhere(
    visit: Visit, site: Site
) -> None:
    page = (visitor := visit("submitter", **DESK)).page
    visitor.go("/datasets")
    rows = page.locator("tbody tr")
    assert rows.count() > 1
    assert page.inner_text("tr:has-text('broken.csv') .reason").startswith("Row 2, column b holds '1.2.3'")
    assert page.inner_text(".reason code") == "b"
    page.select_option("#state", "refused")
    page.wait_for_url(re.compile(r"/datasets\?state=refused$"))
    assert rows.count() == page.locator(".state.refused").count() == 1
    page.fill("#q", "nothing")
    page.keyboard.press("Enter")
    page.wait_for_selector("p:has-text('No data set matches these filters')")
    for path in ("/", "/jobs"):
        visitor.go(path)
        assert site.dataset in page.locator("#data option").evaluate_all("all => all.map((each) => each.value)")
        assert page.locator(f"#data option[value='{site.refused}']").count() == 0, path


def test_models_are_grouped_by_what_they_were_trained_on(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/models?min_modules=2&sort=connections")
    assert page.locator("details.more-filters[open]").count() == 1
    page.select_option("#group", "data")
    page.wait_for_selector("tr.group")
    assert set(urlsplit(page.url).query.split("&")) == {"min_modules=2", "sort=connections", "group=data"}


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


def test_seeds_of_one_job_do_not_fill_the_list(visit: Visit, site: Site) -> None:
    job = submit_job(site.service, name="many seeds", seeds=tuple(range(7)))
    publish_runs(site.service, job)
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/?q=many+seeds")
    assert page.locator("ul.runs li").count() == 4
    assert "7 runs" in page.inner_text(".group-name")
    page.click(".group-name >> text=all 7")
    page.wait_for_selector("ul.runs li >> nth=6")
    assert page.inner_text("h1") == "Runs of many seeds"


def test_jobs_of_one_run_share_a_row_and_are_named_on_their_cards(visit: Visit, site: Site) -> None:
    for name, seeds in (("lone one", (0,)), ("lone two", (0,)), ("lone pair", (0, 1)), ("lone three", (0,))):
        publish_runs(site.service, submit_job(site.service, name=name, seeds=seeds))
    page = (visitor := visit("reader", **DESK)).page
    visitor.go("/?q=lone")
    lists = page.locator("ul.runs")
    assert [lists.nth(at).locator("h3, h4").all_inner_texts() for at in range(lists.count())] == [
        ["seed 0"],
        ["seed 1", "seed 0"],
        ["lone two", "lone one"],
    ]
    assert page.evaluate(AUDIT) == []
    heads = page.locator(".group-name a:not(.small a)").all_inner_texts()
    assert heads == ["lone three", "lone pair"]
    tops = lists.nth(2).locator("li").evaluate_all("all => all.map((each) => each.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    visitor.go("/?q=lone&group=none")
    assert page.locator("ul.runs h3").count() == 5
    assert page.evaluate(AUDIT) == []


def test_twelve_groups_of_a_chart_look_different(visit: Visit, site: Site) -> None:
    for name in range(8):
        publish_runs(site.service, submit_job(site.service, name=f"toned {name}", seeds=(0,)))
    page = (visitor := visit("reader", **DESK)).page
    for show, mark in (("curves", "path.line"), ("scatter&y=test_metric", "circle.dot")):
        visitor.go(f"/?q=toned&show={show}&group=job")
        looks = page.locator(f"svg.chart {mark}").evaluate_all(
            "all => all.map(getComputedStyle).map((of) => [of.stroke, of.fill, of.strokeDasharray].join())"
        )
        assert len(looks) == len(set(looks)) == 8, show
        legend = page.locator(".legend .swatch").evaluate_all(
            "all => all.map(getComputedStyle).map((of) => [of.borderTopColor, of.borderTopStyle].join())"
        )
        assert len(legend) == len(set(legend)) == 8, show


def test_points_of_a_scatter_are_named_and_lead_to_their_runs(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/?job={site.job}&show=scatter&y=test_metric")
    dots = page.locator("svg.chart a")
    assert dots.count() == 3
    assert re.match(r".+, seed \d.*: connections \d+, test loss \S+", dots.first.get_attribute("aria-label"))
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

    def rows_of(address: str) -> list[dict[str, str]]:
        answer = client.get(address, headers=site.service.headers("reader"))
        assert answer.content_type.startswith("text/csv")
        return list(csv.DictReader(io.StringIO(answer.text)))

    rows = rows_of(f"/runs.csv?job={job}&sort=seed&falling=1")
    assert [row["seed"] for row in rows] == ["5", "4"]
    assert {row["job"] for row in rows} == {"'=1+1"}
    assert all(float(row["connections"]) > 0 for row in rows)
    assert [(row["job"], row["runs"], row["owner"]) for row in rows_of("/jobs.csv?q=%3D1")] == [
        ("'=1+1", "2", "submitter of ours")
    ]
    (model,) = rows_of(f"/models.csv?q={site.model}")
    assert (model["model"], model["version"], int(model["modules"]) > 0) == (site.model, "2", True)


def test_the_runs_of_a_job_are_called_by_their_seeds(site: Site) -> None:
    job = submit_job(site.service, seeds=(4, 5))
    with site.service.database.read() as rows:
        first, _ = runs.of_job(rows, site.service.teams["ours"], job)
    answer = site.service.client().get(f"/runs/{first.id}", headers=site.service.headers("reader"))
    assert re.findall(r'class="pill" href="/runs/\w+"[^>]*>([^<]*)</a>', answer.text) == ["4", "5"]


def test_the_pictures_of_a_comparison_have_the_colours_of_the_modules_that_its_table_tells(
    visit: Visit, site: Site
) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/compare?a={site.runs[0]}&b={site.runs[1]}")
    for which in (0, 1):
        picture = page.locator("#sides figure").nth(which)
        for cell in page.locator(f"main table >> nth=0 >> tbody td:nth-child({which + 1}):has(strong)").all():
            module, tone = cell.locator("strong").inner_text(), cell.locator(".dot").get_attribute("class")
            colours = picture.locator(f".neuron[data-module='{module}']").evaluate_all(
                "(all) => all.map((each) => [...each.classList].find((name) => name.startsWith('module-')))"
            )
            assert set(colours) == {f"module-{tone[-1]}"}


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


def test_an_axis_that_is_narrowed_narrows_the_wall_by_pointer_and_by_keys(visit: Visit, site: Site) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/?job={site.job}&show=parallel")
    page.wait_for_selector("svg.parallel[data-ready]")
    lines, rows = page.locator("svg.parallel path.line"), page.locator("tr[data-row]:visible")
    assert (lines.count(), rows.count()) == (3, 3)
    least = page.get_by_role("slider", name="seed, at least")
    least.focus()
    page.keyboard.press("ArrowUp")
    assert (page.locator("path.line.out").count(), rows.count()) == (1, 2)
    assert page.inner_text("#within") == "2 of 3 runs lie within."
    assert least.get_attribute("aria-valuenow") == "1"
    assert "within=seed%3A1%3A2" in page.url
    page.reload()
    page.wait_for_selector("svg.parallel[data-ready]")
    assert rows.count() == 2
    assert "within=seed" in page.get_attribute("a[download]", "href")
    page.select_option("#show", "pictures")
    page.wait_for_selector("ul.runs li")
    assert page.locator("ul.runs li").count() == 2
    assert "2 runs within limits of seed" in page.inner_text("#list-summary")
    page.go_back()
    page.wait_for_selector("svg.parallel[data-ready]")
    page.get_by_role("slider", name="seed, at most").focus()
    page.keyboard.press("Escape")
    assert rows.count() == 3
    assert "within" not in page.url
    band = page.locator(".along[data-name=seed] .band")
    band.hover(position={"x": 16, "y": 130})  # between 1 and 2
    page.mouse.down()
    page.get_by_role("slider", name="seed, at most").hover()
    page.mouse.up()
    assert (rows.count(), page.inner_text("#within")) == (1, "1 of 3 runs lie within.")
    page.click("#free")
    assert rows.count() == 3
    page.get_by_role("slider", name="seed, at most").hover()
    page.mouse.down()
    band.hover(position={"x": 16, "y": 130}, force=True)  # the handle follows
    page.mouse.up()
    assert page.inner_text("#within") == "2 of 3 runs lie within."


def test_limits_are_kept_by_the_service_too_and_what_is_none_is_none(site: Site) -> None:
    client = site.service.client()
    address = f"/runs.csv?job={site.job}&sort=seed"
    for within, seeds in (
        ("seed:1:2", "12"),
        ("seed:0:1&within=test_loss:0:1", "01"),
        ("seed:2:1", "012"),
        ("seed:nan:1", "012"),
        ("password:0:1", "012"),
    ):
        text = client.get(f"{address}&within={within}", headers=site.service.headers("reader")).text
        assert "".join(row["seed"] for row in csv.DictReader(io.StringIO(text))) == seeds, within
