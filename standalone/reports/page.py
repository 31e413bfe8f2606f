"""A page of pictures: every seed's pruned network beside its numbers, none of them picked."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from bimt_engine.recipes.shelf import load_recipe
from standalone.reports.runs import Row

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
.seeds { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #8886; border-radius: .5rem; padding: .5rem }
figure img { width: 100%; background: #fff; border-radius: .3rem }
figcaption { font-size: .85rem; font-variant-numeric: tabular-nums }
"""


def write_page(path: Path, rows: dict[str, list[Row]], entries: dict[str, Any]) -> None:
    """Write one self-contained HTML file, pictures inside."""
    sections = "\n".join(_section(name, rows[name], entries[name]) for name in rows)
    title = "Reproduction over unpicked seeds"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{sections}</html>",
        encoding="utf-8",
    )


def _section(name: str, rows: list[Row], entry: dict[str, Any]) -> str:
    recipe = load_recipe(name)
    figures = "".join(_seed(row, entry["metric"]) for row in sorted(rows, key=lambda row: row["seed"]))
    return (
        f"<h2>{html.escape(recipe.title)}</h2><p>{html.escape(recipe.claim)} <em>{html.escape(recipe.figure)}</em></p>"
        f"<p>{entry['metric'].replace('_', ' ')}: median {entry['median']:.3g}, worst {entry['worst']:.3g} "
        f"over {entry['seeds']} seeds.</p><div class=seeds>{figures}</div>"
    )


def _seed(row: Row, metric: str) -> str:
    caption = f"seed {row['seed']} · trained {row['trained'][metric]:.3g}"
    evidence = row.get("evidence")
    if evidence:
        caption += f" · pruned {evidence['metrics'][metric]:.3g} · {len(evidence['graph']['edges'])} connections"
    else:
        caption += f" · {row['kept']['connections']} connections carry it"
    return f"<figure>{_picture(row)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _picture(row: Row) -> str:
    """The pruned network where there is one, else the training curves."""
    from bimt_engine.analysis.graph import Graph
    from bimt_engine.figures.curves import draw_curves
    from bimt_engine.figures.network import draw_network
    from bimt_engine.figures.render import to_png

    evidence = row.get("evidence")
    figure = draw_network(Graph.from_json(evidence["graph"])) if evidence else draw_curves(row["history"])
    png = base64.b64encode(to_png(figure)).decode()
    return f'<img alt="{row["recipe"]}, seed {row["seed"]}" src="data:image/png;base64,{png}">'
