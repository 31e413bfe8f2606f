"""The network as an SVG inside the page: it follows the colour theme, and its modules can be highlighted."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup, escape

from bimt_engine.analysis.graph import Graph, Neuron
from bimt_engine.analysis.statements import network_statement, neuron_label
from bimt_engine.figures.layout import has_sheets, lay_out_once

WIDTH = 900.0  # user units of the viewBox; the page scales them
MARGIN = 60.0
MAX_CONNECTIONS = 4_000  # of a larger network a page becomes slow; it shows the figure of the engine instead
LETTER = 0.62  # width of a letter, as a share of its size
PAGE, SMALL = 15.0, 30.0  # size of letters on a page, and in small pictures and on phones; user units
MAX_GRIPS = 400  # connections; more of them lie too close to be clicked one by one
TONES = 8  # colours for modules; the ninth module has the first colour again


def network_picture(
    graph: Graph, *, title: str, max_connections: int = MAX_CONNECTIONS, grips: bool = True
) -> Markup | None:
    """The graph drawn in layers, inputs at the bottom; None when it is too large for a page.

    grips   add wide invisible lines, so that connections can be clicked one by one.

    Sheets (neurons with two coordinates) are drawn in perspective, one above the other.
    """
    if not graph.neurons or len(graph.connections) > max_connections:
        return None
    layers = _layer_order(graph)
    sheet = has_sheets(graph)
    gap = 190.0 if sheet else max(120.0, min(190.0, 560.0 / max(1, len(layers) - 1)))
    bottom = MARGIN + gap * (len(layers) - 1) + (70 if sheet else 0)
    wired = {end for c in graph.connections for end in (c.source, c.target)}
    place = {
        neuron: (MARGIN + (WIDTH - 2 * MARGIN) * at.x, bottom - gap * at.y)
        for neuron, at in lay_out_once(graph, layers).items()
    }
    tones = module_tones(graph)
    height = bottom + MARGIN
    label = f"{title}. {network_statement(graph)}"
    parts = [
        f'<svg class="network" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">',
        f"<title>{escape(title)}</title>",
    ]
    parts += _connections(graph, place, grips=grips and len(graph.connections) <= MAX_GRIPS)
    crowded = len(graph.neurons) > 300
    named = [
        n for n in graph.neurons if n.name and n.layer in (layers[0], layers[-1]) and (n.id in wired or not crowded)
    ]
    fits = {size: _fitting(named, place, wired, size) for size in (PAGE, SMALL)}
    for neuron in graph.neurons:
        label = ""
        if neuron.id in fits[PAGE]:
            label = "label" if neuron.id in fits[SMALL] else "label tight"
        parts.append(
            _neuron(
                neuron,
                place[neuron.id],
                neuron.id in wired,
                graph.part_of.get(neuron.id),
                tones,
                layers,
                crowded,
                label,
            )
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def _fitting(named: list[Neuron], place: Mapping[str, tuple[float, float]], wired: set[str], size: float) -> set[str]:
    """Ids of the neurons whose names fit at this letter size; connected neurons come first, then left to right."""
    taken: dict[str, list[tuple[float, float]]] = {}
    fits = set()
    for neuron in sorted(named, key=lambda n: (n.id not in wired, place[n.id][0])):
        half = (len(_short(neuron.name)) * LETTER * size + 0.4 * size) / 2
        x, y = place[neuron.id]
        row = taken.setdefault(f"{neuron.layer} {y:.0f}", [])
        if all(x + half <= left or x - half >= right for left, right in row):
            row.append((x - half, x + half))
            fits.add(neuron.id)
    return fits


def module_tones(graph: Graph) -> dict[str, int]:
    """Name of a part (a group inside a module, or a module without groups) → number of its colour, 1 … 8."""
    return {part: i % TONES + 1 for i, part in enumerate(graph.parts)}


def _layer_order(graph: Graph) -> list[str]:
    named = [layer["name"] for layer in graph.meta.get("layers", ()) if isinstance(layer, Mapping) and "name" in layer]
    return named or list(dict.fromkeys(n.layer for n in graph.neurons))


def _connections(graph: Graph, place: Mapping[str, tuple[float, float]], *, grips: bool) -> list[str]:
    heaviest = max((abs(c.weight) for c in graph.connections), default=1.0) or 1.0
    module_of = {n.id: n.module for n in graph.neurons}
    called = {n.id: neuron_label(n) for n in graph.neurons}
    parts = []
    for c in sorted(graph.connections, key=lambda c: abs(c.weight)):
        (x1, y1), (x2, y2) = place[c.source], place[c.target]
        share = math.sqrt(abs(c.weight) / heaviest)
        sign = "plus" if c.weight > 0 else "minus"
        inside = {m for m in (module_of[c.source], module_of[c.target]) if m}
        module = f' data-module="{escape(" ".join(sorted(inside)))}"' if inside else ""
        weight = f"{c.weight:.3g}".replace("-", "−")
        title = f"<title>{escape(f'{called[c.source]} → {called[c.target]}: weight {weight}')}</title>"
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        key = f' data-connection="{escape(c.key)}"'
        parts.append(
            f'<line class="connection {sign}"{module}{key} {ends} '
            f'stroke-width="{1.2 + 3.2 * share:.2f}" stroke-opacity="{0.45 + 0.5 * share:.2f}">'
            f"{title}</line>"
        )
        if grips:
            parts.append(f'<line class="grip"{key} {ends}>{title}</line>')
    return parts


def _neuron(
    neuron: Neuron,
    place: tuple[float, float],
    wired: bool,
    part: str | None,
    tones: Mapping[str, int],
    layers: list[str],
    crowded: bool,
    kind: str,
) -> str:
    x, y = place
    end = neuron.layer in (layers[0], layers[-1])
    radius = (7.5 if end else 6.0) if wired else (4.0 if end else 2.2)
    if crowded:
        radius *= 0.6
    module = f' data-module="{escape(neuron.module)}"' if neuron.module else ""
    if neuron.group:
        module += f' data-group="{escape(neuron.group)}"'
    tone = f" module-{tones[part]}" if part else ""
    title = neuron_label(neuron)
    if neuron.module:
        title += f", module {neuron.module}"
    if neuron.group:
        title += f", group {neuron.group}"
    label = ""
    if kind:
        below = neuron.layer == layers[0]
        kind += f"{' below' if below else ''}{'' if wired else ' unused'}"
        label = (
            f'<text class="{kind}" x="{x:.1f}" y="{y + (26 if below else -16):.1f}" '
            f'text-anchor="middle">{escape(_short(neuron.name))}</text>'
        )
    unused, ends = "" if wired else " unused", ' data-end=""' if end else ""
    group = f'class="neuron{tone}{unused}"{module} data-neuron="{escape(neuron.id)}"{ends}'
    return (
        f'<g {group}><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(title)}</title></circle>{label}</g>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


# A thumbnail is a document of its own, so it holds its own colours, for light and for dark.
_STYLE = """
.plus{stroke:#2a5d9f}.minus{stroke:#c8501e;stroke-dasharray:7 4}.neuron circle{fill:#1c1f24}
.unused circle{fill:#d5d1c7}
.module-1 circle{fill:#0072b2}.module-2 circle{fill:#b87400}.module-3 circle{fill:#00825f}.module-4 circle{fill:#b0507f}
.module-5 circle{fill:#2b86bd}.module-6 circle{fill:#c24e00}.module-7 circle{fill:#80612b}.module-8 circle{fill:#6b4c9a}
.label{fill:#1c1f24;font:600 30px system-ui,sans-serif}.label.unused,.tight{display:none}
.below{transform:translateY(12px)}
@media (prefers-color-scheme:dark){
.plus{stroke:#6aa9f0}.minus{stroke:#f0805f}.neuron circle{fill:#e9e7e2}.unused circle{fill:#3b4049}
.label{fill:#e9e7e2}
.module-1 circle{fill:#5ab0e8}.module-2 circle{fill:#f0b440}.module-3 circle{fill:#3ccfa3}.module-4 circle{fill:#e79bc4}
.module-5 circle{fill:#8fd0f5}.module-6 circle{fill:#f5894a}.module-7 circle{fill:#cbab6c}.module-8 circle{fill:#b39ae0}
}
"""


def picture_file(graph: Graph) -> str | None:
    """The graph as a stand-alone SVG document for thumbnails; None when it is too large."""
    drawn = network_picture(graph, title="network", max_connections=1_500, grips=False)
    if drawn is None:
        return None
    return (
        str(drawn)
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace("<title>network</title>", f"<style>{_STYLE}</style>", 1)
    )
