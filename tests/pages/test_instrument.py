"""The network as an instrument: looked at, walked, silenced, cut and stepped through, by mouse and keyboard."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from api.pages.site import glossary
from bimt_engine.data.registry import make_dataset
from bimt_engine.spec import Spec
from bimt_engine.training.loop import Training
from store import jobs, runs
from store.settings import OPERATION_QUEUES
from tests.answering import SharedProcess, operations_on, shared_process  # noqa: F401  (a fixture is found by name)
from tests.api.makers import now, submit_job, work_on
from tests.pages.conftest import Site, Visitor
from tests.pages.test_pages import AUDIT, CONTRAST
from tests.pages.trained import SPECS, SUM, publish_trained

Visit = Callable[..., Visitor]
DESK = {"viewport": {"width": 1280, "height": 900}}
NO_SERVICE = "**/interventions"  # without its answers, what is shown was computed in the browser


@dataclass
class Bench:
    """A service with a worker, and a run of each of SPECS."""

    site: Site
    runs: dict[str, str]

    def open(self, visit: Visit, name: str = "mlp", *, view: str = "", **options: Any) -> Any:
        """The page of a run, with its examples loaded."""
        visitor = visit(**DESK | options)
        visitor.go(f"/runs/{self.runs[name]}{view}")
        return ready(visitor.page)


def ready(page: Any) -> Any:
    """The page, when it can be touched and its examples are there."""
    page.wait_for_selector("#instrument[data-ready]")
    page.dispatch_event("#instrument .stage", "pointerenter")
    page.wait_for_selector("#instrument[data-sample]")
    return page


@pytest.fixture(scope="module")
def bench(
    site: Site,
    shared_process: SharedProcess,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    service, folder, ended = site.service, tmp_path_factory.mktemp("trained"), threading.Event()
    operations = operations_on(service.settings, service.database, service.files, shared_process)

    def answer() -> None:
        while not ended.wait(0.05):
            for queue in OPERATION_QUEUES:
                operations.serve(queue)

    thread = threading.Thread(target=answer)
    thread.start()
    yield Bench(site, {name: publish_trained(service, folder, name) for name in SPECS})
    ended.set()
    thread.join(60)


def hidden(page: Any) -> Any:
    """The first hidden neuron that is left."""
    return page.locator("svg.network .neuron:not([data-end]):not(.unused)").first


def until(page: Any, holds: Callable[[], bool], what: str) -> None:
    """Wait for something that no selector says. (The page's policy forbids what `wait_for_function` evaluates.)"""
    for _ in range(400):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail(f"not within 20 s: {what}")


def without_service(page: Any) -> None:
    """From now on only the browser computes."""
    page.route(NO_SERVICE, lambda route: route.fulfill(status=200, json={"before": {}, "trials": []}))


def test_the_network_its_modules_and_the_headline_are_above_the_fold_and_nothing_is_lost_below(
    visit: Visit, bench: Bench
) -> None:
    for scheme in ("light", "dark"):
        page = bench.open(visit, color_scheme=scheme)
        for name in ("svg.network", "#parts", "#metric", ".views"):
            box = page.locator(name).first.bounding_box()
            assert 0 <= box["y"] < box["y"] + box["height"] <= 900, name
        assert page.locator(".views .view").count() == 4
        headings = page.locator("h2").all_inner_texts()
        assert {"In numbers", "What each module decides", "Training", "Downloads"} <= set(headings)
        assert page.evaluate(AUDIT) == []
        assert page.evaluate(CONTRAST) == []


def test_what_is_silenced_is_answered_in_sight_and_nothing_moves_meanwhile(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    places = "names => names.map(name => Math.round(document.querySelector(name).getBoundingClientRect().y))"
    fixed = ["#parts .switch", "#metric-note", ".views", "#step", "footer"]
    before = page.evaluate(places, fixed)
    panel = page.locator(".panel").bounding_box()
    for name in ("#parts", ".verdict-line"):  # whole, before anything is pressed
        box = page.locator(name).bounding_box()
        assert box["y"] + box["height"] <= panel["y"] + panel["height"], name
    without_service(page)
    page.locator("#parts .switch").first.click()
    page.wait_for_selector("#metric[data-by=sample]")
    assert page.evaluate(places, fixed) == before
    page.unroute(NO_SERVICE)
    page.reload()
    page.wait_for_selector("#metric[data-by=service]")
    assert page.evaluate(places, fixed) == before
    for name in ("#metric", "#parts", "#silenced", "#what-if-words", "#answer"):
        box = page.locator(name).bounding_box()
        assert panel["y"] <= box["y"], name
        assert box["y"] + box["height"] <= panel["y"] + panel["height"], name
    hidden(page).click()  # what is told of it lies below, and can be reached
    page.wait_for_selector("#selected:not([hidden])")
    page.locator("#selected button").first.scroll_into_view_if_needed()
    box, metric = (page.locator(name).first.bounding_box() for name in ("#selected button", "#metric"))
    assert box["y"] + box["height"] <= panel["y"] + panel["height"]
    assert metric["y"] >= panel["y"]  # the headline stays in sight
    page.click("#all-on")
    page.focus("#step")
    page.keyboard.press("Home")
    page.wait_for_selector("#step-words:has-text('Step 0 of')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#step-words:has-text('Step 500 of')")
    page.locator(".panel").evaluate("panel => panel.scrollTo(0, 0)")
    assert page.evaluate(places, fixed) == before


def test_on_a_phone_it_is_one_column_and_no_wider(visit: Visit, bench: Bench) -> None:
    for name in SPECS:
        page = bench.open(visit, name, viewport={"width": 390, "height": 844})
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"
        ends = page.locator("caption").evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().right)")
        assert max(ends) <= 390, f"a caption of {name} is cut off"
        left = page.locator(".instrument > *").evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().x)")
        assert len(set(left)) == 1


def test_a_card_tells_of_what_the_pointer_is_over_and_its_neighbours_are_lit(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    assert page.locator("#hover-card").is_hidden()
    hidden(page).hover()
    card = page.inner_text("#hover-card")
    assert all(word in card for word in ("activation", "reads", "feeds", "module"))
    assert re.search(r"± .+, \S+ to \S+", card)
    edges = page.evaluate(
        "async (run) => (await (await fetch(`/api/v1/runs/${run}/graph`)).json()).edges", bench.runs["mlp"]
    )
    neuron = hidden(page).get_attribute("data-neuron")
    near = [each for each in edges if neuron in (each["source"], each["target"])]
    assert page.locator("svg.network .connection.near").count() == len(near)
    ends = {end for each in near for end in (each["source"], each["target"])}
    assert page.locator("svg.network .neuron.near").count() == len(ends)
    faded = page.locator("svg.network .connection:not(.near)").first
    until(page, lambda: float(faded.evaluate("(e) => getComputedStyle(e).opacity")) < 0.3, "the rest is faded")
    page.mouse.move(2, 2)
    assert page.locator("svg.network .near").count() == 0
    page.locator("svg.network .grip").first.hover(force=True)
    card = page.inner_text("#hover-card")
    assert all(word in card for word in ("weight", "length", "share of the cost", "loss without it"))


def test_silencing_answers_at_once_in_place_several_add_up_and_the_service_confirms(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    published = page.inner_text("#metric")
    without_service(page)
    hidden(page).click()
    page.wait_for_selector("#metric[data-by=sample]")
    one = page.inner_text("#metric")
    assert re.fullmatch(r"\S+ → \S+", one)
    assert "computed here on all" in page.inner_text("#metric-note")
    assert page.locator("#answer").is_visible()
    assert page.locator("svg.network .neuron.off").count() == 1
    assert page.locator("svg.network .connection.dead").count() > 0
    page.locator("#parts .switch").first.click()
    until(page, lambda: page.inner_text("#metric") != one, "another metric")
    assert page.locator("#off li").count() == 2
    here, address = page.inner_text("#metric"), page.url
    page.unroute(NO_SERVICE)
    page.reload()
    page.wait_for_selector("#metric[data-by=service]")
    assert page.url == address  # the whole view is in the address
    assert page.inner_text("#metric") == here
    assert "train loss" in page.inner_text("#what-if-words")
    page.click("#all-on")
    trial = {"metrics": {"validation_prediction_loss": 2.0}, "effects": {"y1": 0.961, "y2": 1.2}}
    answer = {"before": {"validation_prediction_loss": 1.0}, "trials": [trial]}
    page.route(NO_SERVICE, lambda route: route.fulfill(status=200, json=answer))
    page.locator("#parts .switch").first.click()
    page.wait_for_selector("#moved:has-text('0.961')")
    words = page.locator("#moved td:last-child").all_inner_texts()
    assert [said.split(":")[0] for said in words] == ["loses most of its variation", "is lost"]
    page.click("#all-on")
    assert page.inner_text("#metric") == published
    assert page.locator("svg.network .off, svg.network .dead").count() == 0


@pytest.mark.parametrize("name", SPECS)
def test_every_architecture_is_computed_in_the_browser_as_the_service_computes_it(
    visit: Visit, bench: Bench, name: str
) -> None:
    page = bench.open(visit, name)
    assert page.get_attribute("#instrument", "data-sample") == "computed"
    hidden(page).dispatch_event("click")
    page.wait_for_selector("#metric[data-by=service]")
    exact = (page.inner_text("#metric"), page.inner_text("#moved"))
    without_service(page)
    page.reload()
    page.wait_for_selector("#metric[data-by=sample]")
    assert (page.inner_text("#metric"), page.inner_text("#moved")) == exact


def test_neurons_are_walked_selected_and_silenced_by_keyboard(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('neuron')"):
            break
    here = "document.activeElement.dataset.neuron"
    assert page.evaluate(here).startswith("output:")
    assert page.locator("#hover-card").is_visible()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(here).startswith("hidden1:")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(here).startswith("input:")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    last = page.evaluate(here)
    page.keyboard.press("Home")
    assert page.evaluate(here) != last
    page.keyboard.press("Enter")
    assert page.inner_text("#selected h3") == page.evaluate(here).replace(":", " ")
    page.keyboard.press("x")
    page.wait_for_selector("#metric[data-by]")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.keyboard.press("Escape")
    assert page.locator("#selected").is_hidden()
    page.keyboard.press("Escape")
    assert page.locator("#off li").count() == 0
    page.keyboard.press("?")
    assert "silence it" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_levels_change_colours_shapes_and_the_list_and_are_kept_in_the_address(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    page.check("input[name=level][value=trees]")
    names = page.locator("#parts strong").all_inner_texts()
    assert names[0] == "T1"
    outlines = page.locator("svg.network .shape").evaluate_all(
        "(all) => [...new Set(all.map((e) => e.getAttribute('d').replace(/[\\d.-]+/g, '')))]"
    )
    assert len(outlines) >= min(len(names), 2)
    assert set(page.locator("svg.network .letter").all_text_contents()) == set(names)
    assert "level=trees" in page.url
    page.reload()
    page.wait_for_selector("#instrument[data-ready]")
    assert page.is_checked("input[name=level][value=trees]")
    page.keyboard.press("l")
    assert not page.is_checked("input[name=level][value=trees]")


def test_groups_are_shown_first_unless_there_are_none_or_the_tests_rejected_them(
    visit: Visit, bench: Bench, tmp_path: Path
) -> None:
    seen = set()
    for name in [*SPECS, SUM]:
        if name == SUM:
            bench = replace(bench, runs={SUM: publish_trained(bench.site.service, tmp_path, SUM)})
        page = bench.open(visit, name)
        address = f"/api/v1/runs/{bench.runs[name]}/interior"
        interior = page.evaluate("async (address) => (await (await fetch(address)).json()).interior", address)
        primary = interior["primary"]
        told = primary is not None and interior["partitions"][primary]["verdict"] != "not supported"
        shown = page.locator("input[name=level]:checked").get_attribute("value")
        assert shown == ("groups" if told else "outputs"), name
        seen.add(told)
        if told:  # what the picture shows has rows among the effects, in words and in the small view
            groups = [of["name"] for of in interior["partitions"][primary]["groups"]]
            assert page.locator("table.effects").first.locator("tbody th").all_inner_texts() == groups
            assert page.locator("svg.heat .tick[text-anchor=end]").all_text_contents() == groups
    assert seen == {True, False}


def test_a_part_has_one_colour_and_one_shape_in_picture_list_and_table(visit: Visit, site: Site) -> None:
    page = (visitor := visit(**DESK)).page
    visitor.go(f"/runs/{site.runs[0]}")
    page.wait_for_selector("#instrument[data-ready]")
    seen: dict[str, set[str]] = {}
    for level, heading in (("groups", "Groups"), ("outputs", "Modules"), ("trees", "Trees")):
        page.check(f"input[name=level][value={level}]")
        assert page.inner_text("#parts-title") == heading
        if level == "trees":
            continue
        for name, tone in page.locator("#parts .part").evaluate_all(
            "all => all.map((e) => [e.querySelector('strong').textContent, e.querySelector('svg').classList[1]])"
        ):
            seen.setdefault(name, set()).add(tone[-1])
        for name, tone in page.locator("svg.network .neuron:has(.letter)").evaluate_all(
            "all => all.map((e) => [e.querySelector('.letter').textContent, /module-(.)/.exec(e.classList)[1]])"
        ):
            seen.setdefault(name, set()).add(tone)
    for name, tone in page.locator(".inside th[data-tone]").evaluate_all(
        "all => all.map((e) => [e.dataset.part, e.querySelector('.dot').className.slice(-1)])"
    ):
        seen.setdefault(name, set()).add(tone)
    assert seen == {"A": {"1"}, "B": {"2"}, "A1": {"1"}, "A2": {"3"}}
    shapes = page.locator(".inside .dot").evaluate_all(
        "all => all.map((e) => getComputedStyle(e).clipPath.slice(0, 7))"
    )
    assert shapes == ["circle(", "polygon"]


def test_the_threshold_fades_the_lightest_recounts_the_modules_and_computes_its_loss(
    visit: Visit, bench: Bench
) -> None:
    page = bench.open(visit)
    slider = page.locator("#threshold")
    total = int(slider.get_attribute("max"))
    assert page.inner_text("#threshold-words").startswith(f"{total} of {total} connections")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"#threshold-words:has-text('{total - 2} of {total} connections'):has-text('here')")
    cut = page.locator("svg.network .connection.cut").evaluate_all("(all) => all.map((e) => e.dataset.connection)")
    edges = page.evaluate(
        "async (run) => (await (await fetch(`/api/v1/runs/${run}/graph`)).json()).edges", bench.runs["mlp"]
    )
    assert set(cut) == {each["key"] for each in sorted(edges, key=lambda each: abs(each["weight"]))[:2]}
    assert "without refitting" in page.inner_text("#metric-note")
    page.wait_for_selector("#threshold-words:has-text('dashed: not refitted')")  # the loss of every threshold
    assert page.locator(".chart .own").count() == 1
    view = page.locator(".view:has(#threshold)")
    legend = view.locator("> .legend").bounding_box()
    assert view.locator("figcaption button").evaluate("e => e.getBoundingClientRect().right") <= legend["x"] + 1
    assert view.locator(".legend").evaluate("e => e.scrollWidth <= e.clientWidth")
    edge, least = view.locator("svg.chart").evaluate(
        "e => [Number(e.dataset.y.split(' ')[3]), "
        "Math.min(...e.querySelector('.own').getAttribute('d').match(/ [\\d.]+/g).map(Number))]"
    )
    assert (view.locator(".beyond").count() == 1) == (least <= edge)  # where it is cut off, a sign says so
    assert f"cut={total - 2}" in page.url
    page.keyboard.press("Home")
    page.wait_for_selector(f"#threshold-words:has-text('0 of {total} connections · no module')")
    page.keyboard.press("End")
    page.wait_for_selector("svg.network:not(:has(.cut))")
    assert "cut=" not in page.url


@pytest.mark.parametrize("name", SPECS)
def test_the_training_of_every_architecture_is_gone_through_step_by_step_and_played(
    visit: Visit, bench: Bench, name: str
) -> None:
    page = bench.open(visit, name)
    page.focus("#step")
    page.keyboard.press("Home")
    page.wait_for_selector("#step-words:has-text('Step 0 of')")
    page.wait_for_selector("#step-canvas:not([hidden])")
    rows = page.locator("svg.network .row").evaluate_all("all => all.map((e) => getComputedStyle(e).opacity)")
    assert set(rows) <= {"1"}  # layers keep their names
    assert page.locator("svg.network .neuron").first.evaluate("e => getComputedStyle(e).opacity") == "0"
    drawn = "document.getElementById('step-canvas').toDataURL().length"
    first = page.evaluate(drawn)
    assert page.url.endswith("step=0")
    assert page.locator("svg.chart .cursor").count() >= 1
    page.keyboard.press("ArrowRight")
    until(page, lambda: page.evaluate(drawn) != first, "another picture")
    page.click("#play")
    page.wait_for_selector("#step-words:has-text('pruned and refitted')")
    page.wait_for_selector("#play:has-text('Play')")
    assert page.locator("#step-canvas").is_hidden()


def test_a_run_that_trains_shows_its_network_at_the_newest_snapshot(visit: Visit, bench: Bench) -> None:
    service = bench.site.service
    job = submit_job(service)
    claim = work_on(service, job)
    run = claim.runs[0]
    spec = Spec.model_validate(SPECS["recurrent"])
    training = Training.begin(spec, make_dataset(spec.dataset, seed=0), seed=0)
    snapshots = [update.snapshot for update in training.updates() if update.snapshot]

    def append(number: int) -> None:
        kept = service.files.put_bytes(snapshots[number].to_bytes())
        with service.database.write() as rows:
            runs.append_snapshot(rows, claim, run.id, snapshots[number].step, kept, now=now())

    with service.database.write() as rows:
        runs.start(rows, claim, run.id, now())
        history = [
            {"step": step, "prediction_loss": 1.0 / (1 + step), "connection_cost": 2.0} for step in (0, 100, 150)
        ]
        runs.append_history(rows, claim, run.id, history)
    page = (visitor := visit("reader")).page
    visitor.go(f"/runs/{run.id}")
    assert "appears here with its first snapshot" in page.inner_text("#live-step")
    sizes = page.locator("figure svg.chart .axis").evaluate_all(
        "(all) => all.map((e) => e.getBoundingClientRect().height)"
    )
    assert len(sizes) == 4
    assert max(sizes) - min(sizes) < 2  # letters of charts beside one another are alike
    append(0)
    visitor.go(f"/runs/{run.id}")
    page.wait_for_selector("#live-canvas:not([hidden])")
    assert "at step 0" in page.inner_text("#live-step")
    first = page.evaluate("document.getElementById('live-canvas').toDataURL()")
    append(-1)
    page.wait_for_selector(f"#live-step:has-text('at step {snapshots[-1].step}')")
    assert page.evaluate("document.getElementById('live-canvas').toDataURL()") != first
    with service.database.write() as rows:
        jobs.finish(rows, claim, state="cancelled", reason="a test", now=now())


def test_words_open_their_definitions(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    hidden(page).click(modifiers=["Shift"])  # selects, without silencing
    assert page.locator("#off li").count() == 0
    words = page.locator("[data-term]").evaluate_all("(all) => [...new Set(all.map((e) => e.dataset.term))]")
    told = page.evaluate("async () => await (await fetch('/glossary.json')).json()")
    assert len(words) > 3
    assert [word for word in words if word not in told] == []
    page.locator("#parts-title [data-term]").click()
    page.wait_for_selector("dialog:has-text('connected component')")
    page.click("dialog button:has-text('Close')")
    page.click(".sentence [data-term='pooled R²']")  # beside the R² of each output
    page.wait_for_selector("dialog:has-text('sum of their mean squared errors')")
    page.goto(f"{bench.site.url}/glossary")
    assert page.locator("dt:text-is('wiring length')").count() == 1


def test_loops_have_arrows_layers_their_names_and_no_two_ends_are_called_alike(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit, "recurrent")
    paths = page.locator("svg.network path.connection").evaluate_all("(all) => all.map((e) => e.getAttribute('d'))")
    assert paths  # within the hidden layer
    assert all((path.count("M"), path.count("L")) == (2, 2) for path in paths)
    page = bench.open(visit, "transformer")
    rows = page.locator("svg.network .row").all_text_contents()
    assert rows == ["inputs", "residual", "attention 1", "hidden 1", "outputs"]
    titles = page.locator("svg.network .neuron[data-end] title").all_text_contents()
    called = [title.split(", module")[0] for title in titles]
    assert len(called) == len(set(called))


def test_a_network_on_sheets_lies_within_its_picture_and_its_names_do_not_overlap(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit, "grid")
    boxes = page.locator("svg.network circle, svg.network text.label").evaluate_all(
        "(all) => all.map((e) => { const b = e.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height]; })"
    )
    width, height = page.evaluate(
        "(({ width, height }) => [width, height])(document.querySelector('svg.network').viewBox.baseVal)"
    )
    assert all(left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in boxes)
    names = page.locator("svg.network text.label").evaluate_all(
        "(all) => all.map((e) => { const b = e.getBBox(); return [b.x, b.y + 3, b.x + b.width, b.y + b.height - 3]; })"
    )
    for number, (left, top, right, bottom) in enumerate(names):
        for a, b, c, d in names[number + 1 :]:
            assert right <= a or c <= left or bottom <= b or d <= top


def test_many_connections_are_painted_and_answer_as_elements_do(visit: Visit, bench: Bench) -> None:
    page = (visitor := visit(**DESK)).page

    def as_if_many(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(" data-layout=", ' data-painted="" data-layout=', 1))

    page.route(f"**/runs/{bench.runs['mlp']}", as_if_many)
    visitor.go(f"/runs/{bench.runs['mlp']}")
    drawn = ready(page).locator("svg.network line.connection")
    assert drawn.evaluate_all("all => all.every(each => getComputedStyle(each).visibility === 'hidden')")
    count = """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
      .reduce((sum, value, at) => sum + (at % 4 === 3 ? value : 0), 0)"""

    def ink() -> int:
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return int(page.locator("canvas.lines").evaluate(count))

    page.mouse.move(1, 1)
    whole = ink()
    assert whole > 0
    # Where the picture has a line the canvas has it too: ends and middles are under the pointer.
    x, y = page.locator("svg.network line.connection").last.evaluate(
        "each => { const p = new DOMPoint(each.x1.baseVal.value * 0.6 + each.x2.baseVal.value * 0.4, "
        "each.y1.baseVal.value * 0.6 + each.y2.baseVal.value * 0.4).matrixTransform(each.getScreenCTM()); "
        "return [p.x, p.y]; }"
    )
    alpha = page.locator("canvas.lines").evaluate(
        "(canvas, [x, y]) => { const box = canvas.getBoundingClientRect(); "
        "return Math.max(...canvas.getContext('2d').getImageData(x - box.x - 3, y - box.y - 3, 7, 7).data.filter("
        "(_, at) => at % 4 === 3)); }",
        [x, y],
    )
    assert alpha > 100
    page.mouse.move(x, y)
    page.wait_for_selector("#hover-card:not([hidden])")
    assert ink() < whole  # all others are faint
    page.mouse.move(1, 1)
    assert ink() == whole
    page.locator("#threshold").fill("2")
    assert 0 < ink() < 0.8 * whole


def test_a_model_and_a_link_have_the_same_instrument(visit: Visit, bench: Bench) -> None:
    client, headers = bench.site.service.client(), bench.site.service.headers()
    made = client.post("/api/v1/models", json={"run_id": bench.runs["mlp"], "name": "touched"}, headers=headers)
    assert made.status_code < 300, made.json
    shared = client.post("/api/v1/models/touched/versions/1/shares", json={"view": {}}, headers=headers).json
    visitor = visit(**DESK)
    visitor.go("/models/touched")
    hidden(ready(visitor.page)).click()
    visitor.page.wait_for_selector("#metric[data-by]")
    guest = visit(role=None, **DESK)
    guest.go("/s/" + shared["token"])
    guest.page.wait_for_selector("#instrument[data-ready]")
    hidden(guest.page).hover()
    assert "reads" in guest.page.inner_text("#hover-card")
    hidden(guest.page).click()
    assert guest.page.locator("#selected").is_visible()
    guest.page.click("#keys")  # lists what works here
    assert set(guest.page.locator("dialog kbd").all_inner_texts()).isdisjoint({"X", "Space"})
    assert "silence" not in guest.page.inner_text("dialog")
    guest.page.keyboard.press("Escape")
    assert "Nothing can be silenced here" in guest.page.inner_text("#sample-words")


def test_space_on_a_neuron_plays_and_a_step_does_away_with_the_threshold(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("location.hash.includes('cut=')")
    assert page.inner_text("#threshold-words")
    page.locator('.neuron[tabindex="0"]').focus()
    top = page.evaluate("scrollY")
    page.keyboard.press(" ")
    page.wait_for_selector("#step-canvas:not([hidden])")
    page.wait_for_selector("#play:has-text('Pause')")
    assert page.evaluate("document.activeElement.matches('.neuron')")
    assert page.inner_text("#threshold-words") == ""
    assert "cut=" not in page.url
    assert page.evaluate("scrollY") == top
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#step-canvas", state="hidden")
    assert "connections" in page.inner_text("#threshold-words")
    assert "step=" not in page.url


def test_a_module_is_named_in_place_and_is_called_so_wherever_it_is_shown(visit: Visit, bench: Bench) -> None:
    service, run = bench.site.service, bench.runs["mlp"]
    address = f"/api/v1/runs/{run}"
    page = bench.open(visit)
    page.click("#parts .part >> nth=0")
    letter = re.match(r"\w+", page.inner_text("#selected h3"))[0]
    page.click("#parts details summary")  # above the fold, beside the name
    panel, summary = (page.locator(name).bounding_box() for name in (".panel", "#parts details summary"))
    assert summary["y"] + summary["height"] <= panel["y"] + panel["height"]
    page.fill("#parts input[name=name]", "square <b>")
    page.fill("#parts textarea", "Only x1 leads to it.")
    page.click("#parts form button")
    page.wait_for_selector("#parts .part:has-text('square <b>')")
    assert page.inner_text("#selected h3").startswith(f"{letter} · square <b>:")
    assert "Only x1 leads to it." in page.inner_text("#selected")
    page.wait_for_selector(
        f".modules .light:has-text('{letter} · square <b>'), .inside th:has-text('{letter} · square <b>')"
    )
    page.reload()
    page.wait_for_selector("#instrument[data-ready]")
    titles = page.locator("svg.network .neuron title").all_text_contents()
    assert any(f"{letter} (square <b>)" in title for title in titles)
    small = page.request.get(f"{bench.site.url}/runs/{run}/thumbnail.svg")
    assert f"{letter}: square &lt;b&gt;" in small.text()
    client, headers = service.client(), service.headers()
    for name in ("graph", "graph?format=graphml", "card.md"):
        text = client.get(f"{address}/{name}", headers=headers).text
        assert re.search("square (<b>|&lt;b|&amp;lt;b|\\\\<b)", text), name
    # A longer name stands on a line of its own, and on several where it must; all buttons stay in sight.
    longer = "product of two inputs, and Donaudampfschifffahrtsgesellschaft"
    for name in ("product of two inputs", longer[:60]):
        page.click(".modules .light >> nth=0")  # the heading of a card offers it, too
        page.click(".modules details summary")
        page.fill(".modules input[name=name]", name)
        page.click(".modules form button")
        page.wait_for_selector(f"#parts .part:has-text('{name}')")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            edge = page.locator(".panel").evaluate("e => e.getBoundingClientRect().left + e.clientWidth")
            for box in page.locator("#parts button").evaluate_all(
                "all => all.map((e) => e.getBoundingClientRect().right)"
            ):
                assert box <= edge, (name, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert min(page.locator("#parts .quiet").evaluate_all("all => all.map((e) => e.clientWidth)")) > 80
        page.set_viewport_size({"width": 1280, "height": 900})
        page.click(".modules .light >> nth=0")
    # Another has named it meanwhile: nothing is overwritten unseen.
    seen = client.get(f"{address}/names", headers=headers).json["names"][letter]
    late = {"name": "mine", "replaces": None}
    assert client.put(f"{address}/names/{letter}", headers=headers, json=late).status_code == 409
    reader = service.headers("reader")
    assert client.put(f"{address}/names/{letter}", headers=reader, json=late).status_code == 403
    assert client.put(f"{address}/names/ZZ9", headers=headers, json=late).status_code == 404
    gone = {"replaces": seen["number"]}
    assert client.put(f"{address}/names/{letter}", headers=headers, json=gone).json["names"] == {}


def test_indices_are_lowered_wherever_a_name_stands_and_the_accessible_text_stays_plain(
    visit: Visit, bench: Bench
) -> None:
    page = bench.open(visit)
    assert "x₁" in page.locator("svg.network .label").all_text_contents()
    assert any(text.startswith("x1") for text in page.locator("svg.network .neuron title").all_text_contents())
    page.click("svg.network .neuron:has(title:text-matches('^x1')) circle", force=True)
    page.wait_for_selector("#selected:not([hidden]) h3")
    plain = page.evaluate(
        """() => {
        const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
        const found = [];
        while (texts.nextNode()) {
            const { textContent, parentElement } = texts.currentNode;
            const exempt = parentElement.closest("title, pre, code, option, script");
            if (/(?<![\\w.])[xy]\\d+(?!\\w)/.test(textContent) && !exempt) found.push(textContent);
        }
        return found;
    }"""
    )
    assert plain == []
    assert page.locator("#selected h3").inner_text().startswith("x1")
    assert page.locator("svg.network").get_attribute("aria-label").count("x1")


def test_the_hidden_neurons_of_a_tree_are_silenced_and_restored_together(visit: Visit, bench: Bench) -> None:
    page = bench.open(visit)
    box = page.locator("input[name=level][value=trees]")
    box.check()
    button = page.locator(".tree-switch:not(:disabled)").first
    button.click()
    page.wait_for_selector("#off li")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.locator("#off li").count() == 0


def test_runs_of_different_data_are_said_to_be_before_a_number_of_them_stands_beside_another(
    visit: Visit, bench: Bench, site: Site
) -> None:
    page = (visitor := visit("reader", **DESK)).page
    visitor.go(f"/compare?a={bench.runs['mlp']}&b={bench.runs['grid']}")
    assert page.inner_text("#data.notice").startswith("These were trained on different data (formula and digits)")
    assert (
        page.evaluate("document.querySelector('#data').compareDocumentPosition(document.querySelector('#sides'))") == 4
    )
    visitor.go(f"/compare?a={site.runs[0]}&b={site.runs[1]}")
    assert page.inner_text("#data") == "Both were trained on the same data, in other rows: each seed draws its own."
    assert page.locator("#data.notice").count() == 0
    for show in ("scatter", "curves", "parallel"):
        visitor.go(f"/?show={show}&group=none")
        assert "different data sets" in page.inner_text("#mixed"), show
        visitor.go(f"/?show={show}&job={site.job}")
        assert page.locator("#mixed").count() == 0, show
    visitor.go("/?group=method")  # no median over all of it
    assert "loss" not in page.inner_text(".group-name:has-text('BIMT')")


def test_every_number_and_verdict_of_a_run_opens_its_definition(visit: Visit, site: Site, bench: Bench) -> None:
    known = {word for _, words in glossary() for word, _ in words}
    page = (visitor := visit("reader")).page
    for path in (f"/runs/{bench.runs['grid']}", f"/models/{site.model}", f"/runs/{site.runs[0]}"):
        visitor.go(path)
        page.wait_for_load_state("networkidle")
        terms = page.locator("[data-term]").evaluate_all("all => all.map((each) => each.dataset.term)")
        assert set(terms) <= known, path
        silent = page.evaluate(
            """() => [...document.querySelectorAll(".verdict, #metric-label, .tiles dt, main th.number[scope=col]")]
            .filter((each) => each.textContent.trim() && !each.closest("#versions"))
            .filter((each) => !each.matches("[data-term]") && !each.querySelector("[data-term]"))
            .map((each) => each.textContent)"""
        )
        assert silent == [], path
    page.locator("li.module button.verdict").first.click()
    page.wait_for_selector("dialog[open] p:has-text('conclusion of a statement')")
