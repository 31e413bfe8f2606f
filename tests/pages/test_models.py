"""Pages of models and of links, by hand: published, found by evidence, written about, shared, forked, compared."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.pages.conftest import Site, Visitor

Visit = Callable[..., Visitor]


def test_a_run_is_published_and_its_model_found_by_its_evidence(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.page
    visitor.go(f"/runs/{site.runs[2]}")
    page.click(".headline >> text=Publish and share")
    page.fill("#publish-name", "found-by-hand")
    page.fill("#publish-card", "From the page.")
    page.click("#publish button")
    page.wait_for_url(re.compile("/models/model_"))
    assert page.inner_text("h1") == "found-by-hand, version 1"
    page.click(".headline >> text=Share")
    page.wait_for_function("document.getElementById('share').getBoundingClientRect().top < innerHeight")
    visitor.go("/models")
    page.click("text=By what was found")
    page.fill("#min_modules", "2")
    page.fill("#q", "by-hand")
    page.click("form button:has-text('Show')")
    assert page.locator("tbody tr").count() == 1
    page.fill("#min_modules", "3")
    page.click("form button:has-text('Show')")
    assert "No model matches these filters" in page.inner_text("main")
    page.fill("#min_modules", "many")
    page.click("form button:has-text('Show')")
    assert "min modules: Input should be a valid integer" in page.inner_text(".notice")
    visitor.go(f"/runs/{site.runs[2]}")
    assert page.get_attribute(".headline .actions a", "href") == "/models/found-by-hand?version=1#share"
    with page.expect_navigation():  # until its scripts have begun
        page.click("text=found-by-hand, version 1")
    page.click("text=Change it")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#delete")
    page.wait_for_url(re.compile("/models$"))


def test_a_model_shows_its_card_its_aliases_and_its_versions(visit: Visit, site: Site) -> None:
    visitor = visit("reader")
    page = visitor.page
    visitor.go(f"/models/{site.model}?version=best")
    assert page.inner_text("h1") == f"{site.model}, version 1"
    assert "There is a newer version: version 2." in page.inner_text("main")
    assert page.inner_text(".written em") == "share nothing"
    assert page.get_attribute(".written a", "rel") == "noopener noreferrer nofollow"
    assert page.locator("#note, #share, #fork, #delete").count() == 0  # a reader only reads
    with page.expect_navigation():  # until its scripts have begun
        page.click("text=version 2")
    assert "The cube." in page.inner_text(".note")
    assert page.locator(f"a[href$='/models/{site.model}?version=best']").count() == 0


def test_a_note_is_written_read_and_edited_and_stays_text(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.page
    visitor.go(f"/models/{site.model}?version=1")
    page.select_option("#note-about", "neuron")
    page.fill("#note-target", "hidden1:999")
    page.fill("#note-text", "Not there.")
    page.click("#note > button")
    page.wait_for_selector("#note .notice:has-text('this network has no hidden1:999')")
    page.fill("#note-target", "hidden1:4")
    page.fill("#note-text", "<img src=x onerror=alert(1)> and **this**")
    page.click("#note > button")
    page.wait_for_selector(".note:has-text('<img src=x')")
    assert page.inner_text(".note strong") == "this"
    page.click(".note button:has-text('Edit')")
    page.fill("#note-text", "Better.")
    page.click("#note > button")
    page.wait_for_selector(".note:has-text('edition 2')")
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status


def test_a_link_made_on_the_page_shows_its_view_without_a_token_until_it_is_revoked(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.page
    visitor.go(f"/models/{site.model}?version=1")
    page.select_option("#share-module", "B")
    page.fill("#share-note", "The sine, alone.")
    page.click("#share button")
    page.wait_for_selector("#shared:not([hidden])")
    link = "/s/" + page.inner_text("#shared-link").rpartition("/s/")[2]
    guest = visit(role=None)
    assert guest.go(link).status == 200
    guest.page.wait_for_selector("svg.network.focused")
    assert "The sine, alone." in guest.page.inner_text(".notice")
    assert guest.page.locator("li.module[data-lit=true]").inner_text().startswith("Module B")
    assert guest.page.locator("button.switch").count() == 0  # a link is read-only
    page.reload()
    page.click("text=links so far")
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("button[data-revoke]").first.click()
    page.wait_for_load_state("networkidle")
    assert guest.go(link).status == 404
    guest.complaints.clear()  # the browser logs the 404


def test_a_fork_is_a_new_job_with_the_changes_and_bad_changes_are_refused(visit: Visit, site: Site) -> None:
    visitor = visit("submitter")
    page = visitor.page
    visitor.go(f"/models/{site.model}")
    page.fill("#fork-changes", "{steps}")
    page.click("#fork button")
    page.wait_for_selector("#fork .notice:has-text('The changes are not JSON')")
    page.fill("#fork-changes", '{"training": {"steps": 1234}}')
    page.fill("#fork-seeds", "5, 6")
    page.click("#fork button")
    page.wait_for_url(re.compile("/jobs/job_"))
    job_id = page.url.rsplit("/", 1)[-1]
    made = site.service.client().get(f"/api/v1/jobs/{job_id}", headers=site.service.headers()).json
    assert (made["spec"]["training"]["steps"], made["runs"]) == (1234, 2)
    site.service.client().post(f"/api/v1/jobs/{job_id}/cancel", headers=site.service.headers())


def test_a_version_and_a_run_are_compared_side_by_side(visit: Visit, site: Site) -> None:
    visitor = visit("reader")
    page = visitor.page
    visitor.go(f"/models/{site.model}")
    page.click("text=Compare")
    page.fill("#b", site.runs[2])
    page.click("form button:has-text('Compare')")
    assert page.locator("svg.network").count() == 2
    assert "read and decide the same" in page.inner_text("main")
    assert "they differ in the seed alone, 1 and 2" in page.inner_text("main")


def test_the_picture_of_a_network_says_in_words_what_is_seen(visit: Visit, site: Site) -> None:
    visitor = visit("reader")
    visitor.go(f"/runs/{site.runs[0]}")
    label = visitor.page.get_attribute("svg.network", "aria-label")
    assert label.startswith("The network of independence, seed 0. 4 inputs and 2 outputs in use")
    assert "It falls into 2 modules that share no connection." in label
    assert "Module A leads from x1 and x3 to y1." in label
