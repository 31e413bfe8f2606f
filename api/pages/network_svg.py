"""The network as an SVG inside the page: it follows the colour theme, and its modules can be highlighted."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from markupsafe import Markup, escape

from api.evidence import heaviest
from bimt_engine.analysis.graph import Graph, Neuron
from bimt_engine.analysis.statements.network import network_statement, neuron_label
from bimt_engine.analysis.statements.wording import listed, typeset_plainly
from bimt_engine.figures.layout import LEAN, SHEET_HEIGHT, has_sheets, lay_out_once, nearest

WIDTH = 900.0  # user units of the viewBox; the page scales them
MARGIN = 64.0
MAX_CONNECTIONS = 4_000  # drawn on a page, the heaviest; with more it becomes slow
MAX_ELEMENTS = 1_000  # connections; of more, scripts paint them on a canvas: a change of one draws all elements anew
MAX_IN_A_THUMBNAIL = 1_000
LETTER, WIDE = 0.62, 1.1  # width of a letter, as a share of its size; of a wide one
PAGE, SMALL = 15.0, 30.0  # size of letters on a page, and in small pictures and on phones; user units
LABEL_ABOVE, LABEL_BELOW = 16.0, 28.0  # from the middle of a neuron to the line on which its name stands
FURTHEST, LEADING = 2, 1.1  # lines; from one to the next, in sizes of a letter
LETTERS = 14  # of a name on one line
LINES = 3  # of a name; a longer one loses its middle, so that a unit at its end stays
MAX_NAMED_ON_A_SHEET = 20  # neurons of a layer
MAX_GRIPS = 400  # connections; more of them lie too close to be clicked one by one
MAX_CALLED = 44  # letters of the line with the names of parts, in a small picture
TONES = 8  # colours for modules; the ninth module has the first colour again


def network_picture(
    graph: Graph,
    *,
    title: str,
    max_connections: int = MAX_CONNECTIONS,
    grips: bool = True,
    names: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Markup | None:
    """The graph drawn in layers, inputs at the bottom; None when it has no neurons.

    max_connections   that are drawn, the heaviest; the words are about all.
    grips   add wide invisible lines, so that connections can be pointed at one by one; without them the picture is a
            small one, whose lightest connections are drawn wider.
    names   what people call its modules and groups: part → {name, …}.

    Sheets (neurons with two coordinates) are drawn in perspective, one above the other. What stays within a layer or
    returns to an earlier one is bent and has an arrow.
    """
    if not graph.neurons:
        return None
    drawn = heaviest(graph, max_connections)
    layers = _layer_order(graph)
    sheet = has_sheets(graph)
    gap = max(96.0, min(230.0 if sheet else 170.0, (500.0 if sheet else 440.0) / max(1, len(layers) - 1)))
    lean = SHEET_HEIGHT / 2 * gap if sheet else 0.0  # how far a sheet reaches above and below its row
    bottom = MARGIN + gap * (len(layers) - 1) + lean
    wired = {end for c in graph.connections for end in (c.source, c.target)}
    place = {
        neuron: (MARGIN + (WIDTH - 2 * MARGIN) * at.x, bottom - gap * at.y)
        for neuron, at in lay_out_once(graph, layers).items()
    }
    tones = module_tones(graph)
    height = bottom + lean + MARGIN
    label = f"{title}. {network_statement(graph)}"
    painted = ' data-painted=""' if grips and len(drawn.connections) > MAX_ELEMENTS else ""
    called = names_apart(graph, layers)
    parts = [
        f'<svg class="network" viewBox="0 0 {WIDTH:.0f} {height:.0f}" data-layout="{MARGIN:g} {bottom:.2f} {gap:.2f} '
        f'{LEAN if sheet else 0:g} {SHEET_HEIGHT if sheet else 0:g}"{painted} role="img" aria-label="{escape(label)}">',
        f"<title>{escape(title)}</title>",
    ]
    if grips and not sheet:
        parts += [
            f'<text class="row" x="4" y="{bottom - gap * depth + 4:.1f}">{escape(_row_name(layer))}</text>'
            for depth, layer in enumerate(layers)
        ]
    parts += _connections(drawn, place, called, small=not grips, grips=grips and len(graph.connections) <= MAX_GRIPS)
    crowded = len(graph.neurons) > 300
    named = [
        n for n in graph.neurons if n.name and n.layer in (layers[0], layers[-1]) and (n.id in wired or not crowded)
    ]
    if sheet:  # names of a whole sheet would overlap: each is shown when its neuron is pointed at
        count = {layer: sum(n.layer == layer for n in named) for layer in layers}
        named = [n for n in named if count[n.layer] <= MAX_NAMED_ON_A_SHEET]
    room = _room(graph, place)
    lines = {n.id: [_short(called[n.id])] for n in named}
    fits = {SMALL: _fitting(named, place, lines, wired, SMALL, layers[0], room)}
    fits[PAGE] = _fitting(named, place, lines, wired, PAGE, layers[0], room)
    if grips and not sheet:  # on several lines, unless that leaves less room to others
        for fewer in range(0, 10, 2):
            several = lines | {n.id: _lines(called[n.id], letters - fewer) for n, letters in _letters(named, place)}
            fitting = _fitting(named, place, several, wired, PAGE, layers[0], room)
            if fitting.keys() >= fits[PAGE].keys() and sum(fitting.values()) <= sum(fits[PAGE].values()):
                lines, fits[PAGE] = several, fitting
                break
    for neuron in graph.neurons:
        label = ""
        if neuron.id in fits[PAGE]:
            is_small = neuron.id in fits[SMALL] and not fits[PAGE][neuron.id]
            label = "label" if is_small else "label tight"
        parts.append(
            _neuron(
                neuron,
                place[neuron.id],
                called[neuron.id],
                lines=lines.get(neuron.id, []),
                wired=neuron.id in wired,
                tone=tones.get(graph.part_of.get(neuron.id, "")),
                ends=(layers[0], layers[-1]),
                room=room[neuron.layer],
                kind=label,
                aside=fits[PAGE].get(neuron.id, 0),
                names=names,
            )
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def names_apart(graph: Graph, layers: list[str]) -> dict[str, str]:
    """Neuron id -> what it is called; an output with the name of an input is called so with `(output)`."""
    of_inputs = {n.name for n in graph.neurons if n.name and n.layer == layers[0]}
    return {
        n.id: f"{n.name} (output)" if n.layer == layers[-1] != layers[0] and n.name in of_inputs else neuron_label(n)
        for n in graph.neurons
    }


def _row_name(layer: str) -> str:
    """`attention2` as it stands beside its row."""
    return {"input": "inputs", "output": "outputs"}.get(layer, re.sub(r"(?<=[a-z])(?=\d+$)", " ", layer))


def _room(graph: Graph, place: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Layer → the radius at which its neurons do not touch, beside one another or on a sheet behind, 2.4 at least."""
    heights: dict[str, set[float]] = {}
    for neuron in graph.neurons:
        heights.setdefault(neuron.layer, set()).add(round(place[neuron.id][1], 1))
    room = {layer: min([30.0, *(b - a for a, b in itertools.pairwise(sorted(ys)))]) for layer, ys in heights.items()}
    beside = nearest({n.id: (place[n.id][0], (n.layer, round(place[n.id][1], 1))) for n in graph.neurons}, most=30.0)
    for neuron in graph.neurons:
        room[neuron.layer] = min(room[neuron.layer], beside[neuron.id])
    return {layer: min(10.0, max(2.4, 0.4 * gap)) for layer, gap in room.items()}


def _fitting(
    named: list[Neuron],
    place: Mapping[str, tuple[float, float]],
    lines: Mapping[str, list[str]],
    wired: set[str],
    size: float,
    lowest: str,
    room: Mapping[str, float],
) -> dict[str, int]:
    """Ids of the neurons whose names fit at this letter size, and how many lines further out they stand than others.

    Connected neurons come first, then left to right. On a page a name of one that has no room beside its neighbour
    stands up to FURTHEST lines further out.

    lowest   the layer whose names stand below its neurons.
    """
    taken = [(*place[n.id], n.id) for n in named]
    boxes: list[tuple[float, float, float, float]] = []
    fits: dict[str, int] = {}
    crowded: set[str] = set()  # layers in which a connected neuron has no room for its name: no other has one
    for neuron in sorted(named, key=lambda n: (n.id not in wired, place[n.id][0])):
        reach = min(8.0, room[neuron.layer] + 1)  # of a neuron, around its middle
        half = (max(map(_width, lines[neuron.id])) + 0.4) * size / 2
        x, y = place[neuron.id]
        more = (len(lines[neuron.id]) - 1) * size
        outer = neuron.id in wired and size == PAGE and not more
        if neuron.id not in wired and neuron.layer in crowded:
            continue
        for aside in range(FURTHEST + 1) if outer else (0,):
            line = (
                y + LABEL_BELOW + aside * LEADING * size
                if neuron.layer == lowest
                else y - LABEL_ABOVE - aside * LEADING * size
            )
            top = line - 0.85 * size - (0 if neuron.layer == lowest else more)
            low = top + size + more
            free = all(x + half <= a or x - half >= b or low <= c + 1e-6 or top >= d - 1e-6 for a, b, c, d in boxes)
            clear = all(
                other == neuron.id or abs(a - x) >= half + reach or b + reach <= top or b - reach >= low
                for a, b, other in taken
            )
            if free and (clear or size != PAGE):
                boxes.append((x - half, x + half, top, low))
                fits[neuron.id] = aside
                break
        else:
            crowded.add(neuron.layer)
    return fits


def module_tones(graph: Graph) -> dict[str, int]:
    """Name of a part (a group inside a module, or a module without groups) → number of its colour, 1 … 8."""
    return {part: graph.part_numbers[part] % TONES + 1 for part in graph.parts}


def _layer_order(graph: Graph) -> list[str]:
    named = [layer["name"] for layer in graph.meta.get("layers", ()) if isinstance(layer, Mapping) and "name" in layer]
    return named or list(dict.fromkeys(n.layer for n in graph.neurons))


def _connections(
    graph: Graph, place: Mapping[str, tuple[float, float]], called: Mapping[str, str], *, small: bool, grips: bool
) -> list[str]:
    module_of = {n.id: n.module for n in graph.neurons}
    beside: dict[tuple[str, str], list[str]] = {}  # connections between the same two neurons, in their order
    for c in graph.connections:
        beside.setdefault((c.source, c.target), []).append(c.key)
    least, faint, most = (2.6, 0.7, 4.4) if small else (1.2, 0.45, 4.4)
    # Many lines lie over one another: they are thin and faint, and the heavy ones stand out.
    crowd = min(1.0, math.sqrt(MAX_GRIPS / max(1, len(graph.connections))))
    least, faint, most = crowd * least, crowd * faint, (0.4 + 0.6 * crowd) * most
    # What one layer is scaled up by, the next can be scaled down by: in a crowd a layer of small weights would be lost.
    row_of = {n.id: n.layer if crowd < 1 else "" for n in graph.neurons}
    greatest = dict.fromkeys(row_of.values(), 0.0)
    for c in graph.connections:
        greatest[row_of[c.target]] = max(greatest[row_of[c.target]], abs(c.weight))
    parts = []
    for c in sorted(graph.connections, key=lambda c: abs(c.weight)):
        share = (abs(c.weight) / (greatest[row_of[c.target]] or 1.0)) ** (1 - crowd / 2)
        sign = "plus" if c.weight > 0 else "minus"
        inside = {m for m in (module_of[c.source], module_of[c.target]) if m}
        module = f' data-module="{escape(" ".join(sorted(inside)))}"' if inside else ""
        weight = f"{c.weight:.3g}".replace("-", "−")
        title = f"<title>{escape(f'{called[c.source]} → {called[c.target]}: weight {weight}')}</title>"
        key = f' data-connection="{escape(c.key)}"'
        among = beside[c.source, c.target]
        tag, shape = _stroke(place[c.source], place[c.target], among.index(c.key), len(among))
        width, opacity = least + (most - least) * share, faint + (0.95 - faint) * share
        parts.append(
            f'<{tag} class="connection {sign}"{module}{key} {shape} '
            f'stroke-width="{width:.2f}" stroke-opacity="{opacity:.2f}">{title}</{tag}>'
        )
        if grips:
            parts.append(f'<{tag} class="grip"{key} {shape}>{title}</{tag}>')
    return parts


def _stroke(start: tuple[float, float], end: tuple[float, float], which: int, of: int) -> tuple[str, str]:
    """(tag, attributes) of a connection: a straight line upwards, an arc with an arrow within a row or downwards.

    which, of   its number among those between the same two neurons, and how many they are: they are bent apart.
    """
    (x1, y1), (x2, y2) = start, end
    aside = (which - (of - 1) / 2) * (12.0 if of <= 4 else 5.0)
    if start == end:
        wide, high = 22.0 + 9 * which, 40.0 + 16 * which
        top = y1 - 0.75 * high
        arrow = f"M{x1 - 4:.1f} {top - 5:.1f} L{x1 + 4:.1f} {top:.1f} L{x1 - 4:.1f} {top + 5:.1f}"
        bends = f"C{x1 - wide:.1f} {y1 - high:.1f} {x1 + wide:.1f} {y1 - high:.1f} {x1:.1f} {y1:.1f}"
        return "path", f'd="M{x1:.1f} {y1:.1f} {bends} {arrow}"'
    if y2 < y1 - 1e-6 and not aside:
        return "line", f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    length = math.hypot(x2 - x1, y2 - y1)
    right, down = (x2 - x1) / length, (y2 - y1) / length
    # Within a row what runs to the right bends upwards and what runs to the left downwards: both are seen.
    bow = aside if y2 < y1 - 1e-6 else 2 * aside + min(90.0, 26 + 0.2 * length)
    bend_x, bend_y = (x1 + x2) / 2 + 2 * bow * down, (y1 + y2) / 2 - 2 * bow * right
    curve = f"M{x1:.1f} {y1:.1f} Q{bend_x:.1f} {bend_y:.1f} {x2:.1f} {y2:.1f}"
    if y2 < y1 - 1e-6:
        return "path", f'd="{curve}"'
    tip_x, tip_y = (x1 + x2) / 2 + bow * down + 5 * right, (y1 + y2) / 2 - bow * right + 5 * down
    wings = " ".join(
        f"{'L' if n else 'M'}{x:.1f} {y:.1f}"
        for n, (x, y) in enumerate(
            [
                (tip_x - 9 * right + 5 * down, tip_y - 9 * down - 5 * right),
                (tip_x, tip_y),
                (tip_x - 9 * right - 5 * down, tip_y - 9 * down + 5 * right),
            ]
        )
    )
    return "path", f'd="{curve} {wings}"'


def _neuron(
    neuron: Neuron,
    place: tuple[float, float],
    called: str,
    *,
    lines: list[str],
    wired: bool,
    tone: int | None,
    ends: tuple[str, str],
    room: float,
    kind: str,
    aside: int,
    names: Mapping[str, Mapping[str, Any]],
) -> str:
    x, y = place
    end = neuron.layer in ends
    radius = (min(room, 8.5) if end else room) if wired else min(room, 4.0 if end else 2.4)
    module = f' data-module="{escape(neuron.module)}"' if neuron.module else ""
    if neuron.group:
        module += f' data-group="{escape(neuron.group)}"'
    title = called
    if neuron.module:
        title += f", module {_part(neuron.module, names)}"
    if neuron.group:
        title += f", group {_part(neuron.group, names)}"
    label = ""
    if kind:
        below = neuron.layer == ends[0]
        kind += f"{' below' if below else ''}{'' if wired else ' unused'}"
        above = -LABEL_ABOVE - PAGE * (len(lines) - 1)
        line = y + (LABEL_BELOW if below else above) + (aside if below else -aside) * LEADING * PAGE
        at = f'x="{x:.1f}" y="{line:.1f}" text-anchor="middle"'
        if len(lines) == 1:
            label = f'<text class="{kind}" {at}>{escape(typeset_plainly(lines[0]))}</text>'
        else:  # on phones, where letters are larger, one line
            spans = "".join(
                f'<tspan x="{x:.1f}" dy="{PAGE * (n > 0):g}">{escape(typeset_plainly(line))}</tspan>'
                for n, line in enumerate(lines)
            )
            alone = f'x="{x:.1f}" y="{y + (LABEL_BELOW if below else -LABEL_ABOVE):.1f}" text-anchor="middle"'
            label = (
                f'<text class="{kind} lines" {at}>{spans}</text>'
                f'<text class="{kind} alone" {alone}>{escape(typeset_plainly(_short(called)))}</text>'
            )
    colour, unused, of_end = (
        f" module-{tone}" if tone else "",
        "" if wired else " unused",
        ' data-end=""' if end else "",
    )
    group = f'class="neuron{colour}{unused}"{module} data-neuron="{escape(neuron.id)}"{of_end}'
    return (
        f'<g {group}><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(title)}</title></circle>{label}</g>"
    )


def _part(letter: str, names: Mapping[str, Mapping[str, Any]]) -> str:
    given = (names.get(letter) or {}).get("name")
    return f"{letter} ({given})" if given else letter


def _width(line: str) -> float:
    """As a share of the size of its letters."""
    return sum(WIDE if letter in "MWmw%@" or letter > "\u2e7f" else LETTER for letter in line)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def _letters(named: list[Neuron], place: Mapping[str, tuple[float, float]]) -> list[tuple[Neuron, int]]:
    """Each with the number of letters that have room between it and its neighbours of the same layer."""
    across = {n.id: place[n.id][0] for n in named}
    gaps = {
        layer: min((b - a for a, b in itertools.pairwise(sorted(across[n.id] for n in of_it))), default=WIDTH / 2)
        for layer in {n.layer for n in named}
        if (of_it := [n for n in named if n.layer == layer])
    }
    return [(n, max(18, min(24, int(gaps[n.layer] / (LETTER * PAGE))))) for n in named]


def _lines(name: str, letters: int) -> list[str]:
    """A name on LINES lines at most. Of a longer one the words in its middle are left out."""
    lines = textwrap.wrap(name, letters) or [name]
    if len(lines) <= LINES:
        return lines
    last = textwrap.wrap(name[::-1], letters - 2)[0][::-1]
    return [*lines[: LINES - 1], f"… {last}"]


# A thumbnail is a document of its own, so it holds its own colours, for light and for dark.
_STYLE = """
.connection{fill:none}.plus{stroke:#2a5d9f}.minus{stroke:#c8501e;stroke-dasharray:7 4}.neuron circle{fill:#1c1f24}
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


def picture_file(graph: Graph, names: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> str | None:
    """The graph as a stand-alone SVG document for thumbnails, with the names of parts below; None: no neurons."""
    drawn = network_picture(graph, title="network", max_connections=MAX_IN_A_THUMBNAIL, grips=False, names=names)
    if drawn is None:
        return None
    document = (
        re.sub(r'<title>(?!network<)[^<]*</title>| data-[a-z]+="[^"]*"', "", str(drawn))  # nothing points at an image
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace("<title>network</title>", f"<style>{_STYLE}</style>", 1)
    )
    if not (called := names_given(names)):
        return document
    width, height = re.search(r'viewBox="0 0 (\d+) (\d+)"', document).groups()  # type: ignore[union-attr]
    line = typeset_plainly(called if len(called) <= MAX_CALLED else called[: MAX_CALLED - 1] + "…")
    below = f'<text class="label" x="{MARGIN / 2:g}" y="{int(height) + 26}">{escape(line)}</text></svg>'
    document = document.replace(f'viewBox="0 0 {width} {height}"', f'viewBox="0 0 {width} {int(height) + 44}"', 1)
    return f"{document.removesuffix('</svg>')}{below}"


def names_given(names: Mapping[str, Mapping[str, Any]]) -> str:
    """`A: adder, B1 and B2: sine`, of the parts that people have named, each name once; empty: of none."""
    given: dict[str, list[str]] = {}
    for part, of in sorted(names.items()):
        if of.get("name"):
            given.setdefault(str(of["name"]), []).append(part)
    return ", ".join(f"{listed(parts)}: {name}" for name, parts in given.items())
