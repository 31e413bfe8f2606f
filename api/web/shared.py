"""The page of a link: one version in the view that it was shared in, for people without a token."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

from api.auth import Access, decide
from api.resources import shares
from api.services import services
from api.web.runs import evidence

pages = Blueprint("shared", __name__, template_folder="templates")


@pages.get("/s/<string:token>")
@decide(Access.ANYONE)
def shared_page(token: str) -> Response:
    """The network with its module lit up and its figure open, as whoever shared it had them."""
    with services().database.read() as rows:
        share, model, version, run = shares.shared(rows, token)
        shown = shares.shown(rows, share, model, version, run)
        found = evidence(rows, run, title=f"The network of {shown.model}", connections=shown.view.connections)
    found["figures"] = sorted(
        (name for name in shown.figures if name.endswith(".svg")),
        key=lambda name: (name != shown.view.figure, name),
    )
    page = render_template("shared.html", shown=shown, token=token, address=f"/api/v1/s/{token}", **found)
    return shares.unlisted(make_response(page))
