"""The page of a link: one version in the view that it was shared in, for people without a token."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

from api import evidence
from api.auth import Access, decide
from api.resources import shares
from api.services import services
from api.web import reading
from api.web.picture import module_tones, network_picture
from store import runs

pages = Blueprint("shared", __name__, template_folder="templates")


@pages.get("/s/<string:token>")
@decide(Access.ANYONE)
def shared_page(token: str) -> Response:
    """The network with its module lit up and its figure open, as whoever shared it had them."""
    with services().database.read() as rows:
        share, model, version, run = shares.shared(rows, token)
        shown = shares.shown(rows, share, model, version, run)
        whole = evidence.graph_of(rows, run)
        found = [module.body for module in runs.modules(rows, run.id)]
        metrics = reading.metrics(runs.body(rows, run.id, "metrics") or {}, run)
    graph = evidence.heaviest(whole, shown.view.connections)
    figures = sorted(shown.figures, key=lambda name: (name != shown.view.figure, name))
    page = render_template(
        "shared.html",
        shown=shown,
        token=token,
        metrics=metrics,
        picture=network_picture(graph, title=f"The network of {shown.model}"),
        left_out=len(whole.connections) - len(graph.connections),
        modules=reading.modules(found, module_tones(whole)),
        matrix=reading.effect_matrix(found),
        figures=figures,
    )
    return shares.unlisted(make_response(page))
