"""The page of a team, by hand: members, tokens, quotas."""

from __future__ import annotations

from collections.abc import Callable

from tests.pages.conftest import Site, Visitor

Visit = Callable[..., Visitor]


def test_a_token_made_on_the_page_is_shown_once_works_and_is_revoked(visit: Visit, site: Site) -> None:
    visitor = visit("submitter")
    page = visitor.page
    visitor.go("/team")
    assert page.locator("#scope-admin, #invite, select[data-member]").count() == 0  # only scopes that the member has
    page.click("text=A new token")
    page.fill("#token-name", "laptop")
    page.click("#token button")
    page.wait_for_selector("#secret:not([hidden])")
    secret = page.inner_text("#secret-text")
    me = site.service.client().get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"})
    assert sorted(me.json["scopes"]) == ["read", "submit"]
    page.reload()
    assert secret not in page.content()
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("button[aria-label='Revoke laptop']")
    page.wait_for_selector("tr:has-text('laptop') .state.cancelled")
    assert site.service.client().get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_an_admin_adds_a_member_changes_their_role_and_disables_them(visit: Visit, site: Site) -> None:
    visitor = visit()
    page = visitor.page
    visitor.go("/team")
    page.click("text=Add a member")
    page.fill("#member-name", "Grace")
    page.select_option("#member-role", "reader")
    page.click("#invite button")
    page.wait_for_selector("#secret:not([hidden])")
    as_grace = {"Authorization": f"Bearer {page.inner_text('#secret-text')}"}
    assert site.service.client().get("/api/v1/me", headers=as_grace).json["role"] == "reader"
    page.reload()
    with page.expect_response(lambda answer: answer.request.method == "PATCH"):
        page.select_option("select[aria-label='Role of Grace']", "member")
    assert site.service.client().get("/api/v1/me", headers=as_grace).json["role"] == "member"
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("button[aria-label='Disable: Grace']")
    page.wait_for_selector("tr:has-text('Grace') .state.cancelled")
    assert site.service.client().get("/api/v1/me", headers=as_grace).status_code == 401
    assert "member.invite" in page.inner_text("main")


def test_the_last_admin_cannot_give_up_and_is_told_why(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    visitor.go("/team")
    page.select_option("select[aria-label='Role of admin of ours']", "reader")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.input_value("select[aria-label='Role of admin of ours']") == "admin"
    visitor.complaints.clear()  # the browser logs the 409


def test_a_webhook_is_made_tried_disabled_and_deleted_by_hand(visit: Visit, site: Site) -> None:
    visitor = visit("sharer")
    page = visitor.page
    visitor.go("/team")
    page.click("text=A new webhook")
    page.fill("#hook-url", "https://127.0.0.1/hear")
    page.click("#webhook button")
    page.wait_for_selector("#webhook .notice:not([hidden])")  # an address of the service's own network is refused
    page.fill("#hook-url", "https://hooks.example.org/bimt")
    page.uncheck("#event-3")
    page.click("#webhook button")
    page.wait_for_selector("#secret:not([hidden])")
    assert page.inner_text("#secret-text").startswith("whsec_")
    page.reload()
    hook = page.locator("section.card[aria-label='https://hooks.example.org/bimt']")
    assert hook.locator(".pill").all_inner_texts() == ["job.failed", "job.succeeded"]
    hook.locator("text=Send a test message").click()
    page.wait_for_selector("tr:has-text('ping') .state.queued")
    hook.locator("text=Disable").click()
    page.wait_for_selector("section.card .state.refused")
    page.on("dialog", lambda dialog: dialog.accept())
    hook.locator("text=Delete").click()
    page.wait_for_selector("text=hooks.example.org", state="detached")
    visitor.complaints[:] = [c for c in visitor.complaints if "422" not in c]  # the browser logs the status
