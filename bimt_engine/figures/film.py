"""The training as a film: connections fade and grow, and neurons are seen trading places.

A snapshot says which neuron is in which slot. Between two snapshots every neuron moves from its old slot to its new
one and takes its connections along; a ring marks it while it moves. Frames become MP4 for the page and GIF for slides.
(arXiv 2305.08746, the films beside the paper)
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from bimt_engine.analysis.graph import Graph
from bimt_engine.analysis.statements.wording import held_out_part
from bimt_engine.figures.curves import shade_phases
from bimt_engine.figures.layout import Row, coordinates, lay_out_wiring
from bimt_engine.figures.network import draw_background, set_limits
from bimt_engine.figures.style import (
    DASH,
    INK,
    NEGATIVE,
    POSITIVE,
    QUIET,
    figure_style,
    log_scale,
    module_colour,
    pretty,
)
from bimt_engine.networks.wiring import Wiring
from bimt_engine.training.state import Snapshot

Frame = UInt8[np.ndarray, "height width 3"]

STILL, MOVING = 2, 7  # frames from one snapshot to the next, without and with moves of neurons
LAST = 36  # frames at the end, all alike
MAX_FRAMES = 480  # twenty seconds; with many snapshots neurons move faster
MAX_SNAPSHOTS = 160  # more are thinned out evenly; the film stays under a minute
MAX_LINES = 450  # connections of a frame, the heaviest; drawing them is nearly all of a film's time
MANY_LINES = 80  # connections; with more, lines grow thinner and paler
DASHED = 0.15  # of the heaviest of a row; on lighter, thinner lines dashes cannot be seen, and cost time
SEEN = 0.02  # of the heaviest of a row; lighter connections could not be seen
SIZE, DOTS_PER_INCH = (8.0, 6.4), 100  # inches; even numbers of dots, which H.264 asks for
CAPTION_AT, CAPTION_POINTS = (24, 29), 11  # dots from the left and the top, to its base line
FRAMES_PER_SECOND = 24
GIF_EVERY, GIF_WIDTH = 3, 480  # frames; dots


@dataclass(frozen=True)
class Instant:
    """One state between two snapshots, by identity of the neurons.

    positions   layer -> (neurons, axes); weights: parameter -> matrix by identity; moving: layer -> which neurons move.
    """

    step: float
    positions: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    moving: Mapping[str, np.ndarray]


def draw_film(
    snapshots: Sequence[Snapshot],
    wiring: Wiring,
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    graph: Graph | None = None,
) -> Iterator[Frame]:
    """The frames of the film, one after another.

    snapshots   in the order of their steps; at least one.
    names       layer -> what its neurons are called, by identity; for inputs and outputs.
    history     rows of the training, for the loss below the network.
    graph       the pruned network: its modules give the neurons their colours from the start.
    """
    with figure_style():
        canvas = _Canvas(wiring, names or {}, sorted(history, key=lambda row: row["step"]), graph)
        before, frame = None, None
        for instant in instants(_thinned(snapshots), wiring):
            if frame is None or instant is not before:  # the end is drawn once and repeated
                before, frame = instant, canvas.draw(instant)
            yield frame


# --- from snapshots to instants -----------------------------------------------------------------


def _thinned(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    if len(snapshots) <= MAX_SNAPSHOTS:
        return list(snapshots)
    chosen = np.unique(np.linspace(0, len(snapshots) - 1, MAX_SNAPSHOTS).round().astype(int))
    return [snapshots[i] for i in chosen]


def instants(snapshots: Sequence[Snapshot], wiring: Wiring) -> Iterator[Instant]:
    """Every state that is shown: weights and positions are interpolated between snapshots."""
    before = _by_identity(snapshots[0], wiring)
    quick = int(np.clip(MAX_FRAMES // len(snapshots), STILL, MOVING))
    yield before
    for snapshot in snapshots[1:]:
        after = _by_identity(snapshot, wiring)
        seen = _seen(before, wiring)
        moving = {
            name: (positions != after.positions[name]).any(axis=1) & seen[name]
            for name, positions in before.positions.items()
        }
        count = quick if any(moved.any() for moved in moving.values()) else STILL
        for number in range(1, count + 1):
            share = number / count
            glide = share * share * (3 - 2 * share)  # slow at both ends

            def between(a: np.ndarray, b: np.ndarray, at: float = glide) -> np.ndarray:
                return a + at * (b - a)

            yield Instant(
                step=before.step + share * (after.step - before.step),
                positions={name: between(p, after.positions[name]) for name, p in before.positions.items()},
                weights={name: between(w, after.weights[name]) for name, w in before.weights.items()},
                moving=moving if number < count else {name: np.zeros_like(moved) for name, moved in moving.items()},
            )
        before = after
    for _ in range(LAST):
        yield before


def _by_identity(snapshot: Snapshot, wiring: Wiring) -> Instant:
    """A snapshot with rows and columns in the order of identity, so that the same entry is the same pair of neurons."""
    positions, moving = {}, {}
    for layer in wiring.neuron_layers:
        places_of = np.asarray(layer.positions, dtype=np.float64)
        order = _order(snapshot, layer.name, layer.neurons)
        by_identity = np.empty_like(places_of)
        by_identity[order] = places_of
        positions[layer.name], moving[layer.name] = by_identity, np.zeros(layer.neurons, dtype=bool)
    weights = {}
    for joint in wiring.weight_layers:
        matrix = np.asarray(snapshot.weights[joint.parameter], dtype=np.float64)
        rows = _repeated(_order(snapshot, joint.target, wiring.layer(joint.target).neurons), joint.target_copies)
        columns = _repeated(_order(snapshot, joint.source, wiring.layer(joint.source).neurons), joint.source_copies)
        by_identity = np.empty_like(matrix)
        by_identity[np.ix_(rows, columns)] = matrix
        weights[joint.parameter] = by_identity
    return Instant(float(snapshot.step), positions, weights, moving)


def _seen(instant: Instant, wiring: Wiring) -> dict[str, np.ndarray]:
    """Which neurons have a connection that can be seen; the movement of others is not marked."""
    seen = {layer.name: np.zeros(layer.neurons, dtype=bool) for layer in wiring.neuron_layers}
    for joint in wiring.weight_layers:
        share = np.abs(instant.weights[joint.parameter])
        visible = share > SEEN * (share.max(initial=0.0) or 1.0)
        seen[joint.target] |= visible.any(axis=1).reshape(joint.target_copies, -1).any(axis=0)
        seen[joint.source] |= visible.any(axis=0).reshape(joint.source_copies, -1).any(axis=0)
    return seen


def _order(snapshot: Snapshot, layer: str, neurons: int) -> np.ndarray:
    return np.asarray(snapshot.orders.get(layer, np.arange(neurons)))


def _repeated(order: np.ndarray, copies: int) -> np.ndarray:
    return np.concatenate([copy * len(order) + order for copy in range(copies)])


# --- the canvas ---------------------------------------------------------------------------------


class _Canvas:
    """The picture that stays, and on it the artists that change from frame to frame."""

    def __init__(
        self,
        wiring: Wiring,
        names: Mapping[str, Sequence[str]],
        history: list[Mapping[str, Any]],
        graph: Graph | None,
    ) -> None:
        self.wiring, self.history = wiring, history
        self.layout, self.joints = lay_out_wiring(wiring)
        self.figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH)
        self.canvas = FigureCanvasAgg(self.figure)
        below = 0.19 if history else 0.03
        self.axes = self.figure.add_axes((0.03, below, 0.94, 0.92 - below))
        draw_background(self.axes, self.layout)
        set_limits(self.axes, self.layout)
        low, high = self.axes.get_ylim()
        self.axes.set_ylim(low - 0.12, high + 0.12)  # space for the names; no layout engine runs here
        self.cursor: Any = self._draw_history() if history else None
        self.solid, self.dashed = _Segments(zorder=2), _Segments(zorder=2, linestyle=DASH)
        for lines in (self.solid, self.dashed):
            self.axes.add_collection(lines)
        self.spots = [(row, number, which) for number, row in enumerate(self.layout.rows) for which in _copies(row)]
        parts: dict[tuple[str, int], int | None] = {}
        if graph is not None:
            numbers, part_of = graph.part_numbers, graph.part_of
            parts = {(n.layer, n.neuron): numbers.get(part_of.get(n.id, "")) for n in graph.neurons}
        self.colours = [
            module_colour(parts.get((row.layer, i))) if parts else QUIET
            for row, _, _ in self.spots
            for i in range(wiring.layer(row.layer).neurons)
        ]
        size = float(np.clip(6_000 / max(len(self.colours), 1), 5, 70))
        self.dots = self.axes.scatter(
            [0] * len(self.colours), [0] * len(self.colours), s=size, c=self.colours, zorder=3
        )
        self.names = self._make_names(names)
        for artist in self._changing():
            artist.set_animated(True)
        self.canvas.draw()
        self.ground = self.canvas.copy_from_bbox(self.figure.bbox)

    def _changing(self) -> list[Any]:
        words = [text for _, _, text in self.names]
        return [self.solid, self.dashed, self.dots, *words, *([self.cursor] if self.cursor else [])]

    def _draw_history(self) -> Any:
        axes = self.figure.add_axes((0.08, 0.045, 0.89, 0.105))
        shade_phases(axes, self.history, labelled=False)
        held_out = f"{held_out_part(self.history, 'prediction_loss')}_prediction_loss"
        for key, colour, dash in (("prediction_loss", POSITIVE, "-"), (held_out, NEGATIVE, "--")):
            there = [(row["step"], row[key]) for row in self.history if row.get(key) is not None]
            axes.plot([s for s, _ in there], [v for _, v in there], dash, color=colour, linewidth=1.1)
        values = [row["prediction_loss"] for row in self.history]
        if min(values) > 0:
            log_scale(axes, "y", np.array(values))
        axes.tick_params(labelsize=7, length=2)
        axes.set_ylabel("loss", fontsize=8)
        if len(self.history) > 1:
            axes.set_xlim(self.history[0]["step"], self.history[-1]["step"])
        return axes.axvline(0, color=INK, linewidth=1.0)

    def _make_names(self, names: Mapping[str, Sequence[str]]) -> list[tuple[str, int, Any]]:
        """Texts that follow the inputs and the outputs; not where they would cover one another."""
        made = []
        for row, below in ((self.layout.rows[0], True), (self.layout.rows[-1], False)):
            called = list(names.get(row.layer, ()))
            if row.panels > 1 or not 0 < len(called) <= 12:
                continue
            style: dict[str, Any] = {
                "ha": "center",
                "va": "top" if below else "bottom",
                "fontsize": 9 if len(called) <= 12 else 7,
            }
            made += [(row.layer, i, self.axes.text(0, 0, pretty(name[:14]), **style)) for i, name in enumerate(called)]
        return made

    def draw(self, instant: Instant) -> Frame:
        self.canvas.restore_region(self.ground)
        where = {
            (number, which): _places(instant.positions[row.layer], row, number, which, sheets=self.layout.sheets)
            for row, number, which in self.spots
        }
        self._set_lines(instant, where)
        self.dots.set_offsets(np.concatenate([where[number, which] for _, number, which in self.spots]))
        moving = np.concatenate([instant.moving[row.layer] for row, _, _ in self.spots])
        self.dots.set_edgecolor([INK if moves else "white" for moves in moving])
        self.dots.set_linewidth([1.6 if moves else 0.6 for moves in moving])
        last = len(self.layout.rows) - 1
        for layer, identity, text in self.names:
            number = 0 if layer == self.layout.rows[0].layer else last
            x, y = where[number, 0][identity]
            text.set_position((x, y + (0.09 if number else -0.09)))
        row = max((r for r in self.history if r["step"] <= instant.step), key=lambda r: r["step"], default=None)
        numbers = (
            "" if row is None else f"     λ = {row.get('cost_strength', 0):g}     loss {row['prediction_loss']:.2e}"
        )
        if self.cursor:
            self.cursor.set_xdata([instant.step, instant.step])
        for artist in self._changing():
            self.figure.draw_artist(artist)
        return _with_caption(self.canvas, f"step {round(instant.step):,}{numbers}")

    def _set_lines(self, instant: Instant, where: Mapping[tuple[int, int], np.ndarray]) -> None:
        segments, shares, positive = [], [], []
        for joint in self.joints:
            matrix = instant.weights[joint.weights.parameter]
            share = np.abs(matrix) / (np.abs(matrix).max(initial=0.0) or 1.0)
            rows, columns = np.nonzero(share > SEEN)
            starts = _ends(columns, joint.source_row, self.layout.rows[joint.source_row], where, leaves=True)
            ends = _ends(rows, joint.target_row, self.layout.rows[joint.target_row], where, leaves=False)
            segments.append(np.stack([starts, ends], axis=1))
            shares.append(share[rows, columns])
            positive.append(matrix[rows, columns] > 0)
        share = np.concatenate(shares) if shares else np.zeros(0)
        chosen = np.argsort(share, kind="stable")[-MAX_LINES:]
        share, plus, ends = share[chosen], np.concatenate(positive)[chosen], np.concatenate(segments)[chosen]
        boldness = min(1.0, (MANY_LINES / max(len(share), 1)) ** 0.5)  # 1 in a sparse picture, towards 0 in a dense one
        colours = np.where(plus[:, None], to_rgb(POSITIVE), to_rgb(NEGATIVE))
        colours = np.concatenate([colours, (0.08 + 0.84 * share[:, None]) * (0.35 + 0.65 * boldness)], axis=1)
        widths = 0.3 + 2.9 * boldness * share
        is_dashed = ~plus & (share > DASHED)
        for lines, which in ((self.solid, ~is_dashed), (self.dashed, is_dashed)):
            lines.show(ends[which], colours[which], widths[which])


class _Segments(LineCollection):
    """Straight lines that change from frame to frame.

    All are one segment from (0, 0) to (1, 0), each under a transform of its own: a path for each line and frame would
    cost more time to make and to collect as garbage than to draw.
    """

    def __init__(self, **style: Any) -> None:
        super().__init__([[(0.0, 0.0), (1.0, 0.0)]], **style)

    def show(
        self,
        ends: Float[np.ndarray, "lines 2 2"],
        colours: Float[np.ndarray, "lines 4"],
        widths: Float[np.ndarray, " lines"],
    ) -> None:
        """Where the lines begin and end in the units of the axes, their colours (RGBA), and widths in points."""
        start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
        self._transforms = np.zeros((len(ends), 3, 3))
        self._transforms[:, :2, 0], self._transforms[:, :2, 2], self._transforms[:, 2, 2] = along, start, 1.0
        self._transforms[:, 0, 1], self._transforms[:, 1, 1] = -along[:, 1], along[:, 0]
        self.set_offsets(np.zeros((len(ends), 2)))  # as many as lines; what it draws repeats over them
        self.set_color(colours)
        self.set_linewidth(widths.tolist())


def _with_caption(canvas: FigureCanvasAgg, words: str) -> Frame:
    """What has been drawn, with a line of text above it. Pillow sets text twenty times as fast as matplotlib."""
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    ImageDraw.Draw(image).text(CAPTION_AT, words, fill=INK, font=_caption_font(), anchor="ls")
    return np.array(image)


@cache
def _caption_font() -> ImageFont.FreeTypeFont:
    dots = CAPTION_POINTS * DOTS_PER_INCH / 72
    return ImageFont.truetype(findfont("DejaVu Sans"), dots, layout_engine=ImageFont.Layout.BASIC)


def _copies(row: Row) -> range:
    return range(max(row.panels, row.roles))


def _ends(
    entries: np.ndarray, number: int, row: Row, where: Mapping[tuple[int, int], np.ndarray], *, leaves: bool
) -> Float[np.ndarray, "connections 2"]:
    """Where the connections of these rows or columns of a matrix end; what leaves several roles leaves the last."""
    neurons = len(where[number, 0])
    which = entries // neurons
    if leaves and row.roles > 1:
        which = np.full_like(which, row.roles - 1)
    all_places = np.stack([where[number, copy] for copy in _copies(row)])
    return all_places[np.minimum(which, len(all_places) - 1), entries % neurons]


def _places(
    positions: Float[np.ndarray, "neurons axes"], row: Row, number: int, which: int, *, sheets: bool
) -> Float[np.ndarray, "neurons 2"]:
    """x and y of all neurons of a layer, drawn as copy or role `which` of row `number`."""
    deep = positions[:, 1] if positions.shape[1] > 1 else np.full(len(positions), 0.5)
    return np.stack(coordinates(positions[:, 0], deep, row, number, which, sheets=sheets), axis=1)


# --- frames to files ------------------------------------------------------------------------------


def write_film(frames: Iterable[Frame]) -> tuple[bytes, bytes]:
    """The film as MP4 (H.264) and as a smaller GIF. The same frames give the same bytes on the same machine."""
    kept: list[Image.Image] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with _Encoder(path) as encoder:
            for number, frame in enumerate(frames):
                encoder.take(frame)
                if number % GIF_EVERY == 0:
                    height = round(GIF_WIDTH * frame.shape[0] / frame.shape[1])
                    kept.append(Image.fromarray(frame).resize((GIF_WIDTH, height), Image.Resampling.BOX))
        if not kept:
            raise ValueError("a film has at least one frame")
        return path.read_bytes(), _gif(kept, 1000 * GIF_EVERY // FRAMES_PER_SECOND)


class _Encoder:
    """ffmpeg, from imageio-ffmpeg's wheel, as a child that is fed frames.

    It gets a session of its own: with a terminal in reach it would try to change its settings and be stopped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Encoder:
        return self

    def take(self, frame: Frame) -> None:
        """One more frame; all have the size of the first."""
        if self._child is None:
            self._child = self._start(frame.shape[1], frame.shape[0])
        try:
            self._child.stdin.write(np.ascontiguousarray(frame).data)  # type: ignore[union-attr]
        except BrokenPipeError:
            self._child.wait()
            raise self._failed() from None

    def _start(self, width: int, height: int) -> subprocess.Popen[bytes]:
        rate = str(FRAMES_PER_SECOND)
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "pipe:0"]
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p", "-threads", "1"]
        exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
        quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        return subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *raw, *coded, *exact, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._child is None:
            return
        with self._child as child:  # closes the pipes and waits
            if kind is not None:
                child.kill()
                return
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # type: ignore[union-attr]
            if child.wait():
                raise self._failed()

    def _failed(self) -> RuntimeError:
        said = self._child.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
        return RuntimeError(f"ffmpeg could not write the film: {said[-500:]}")


def _gif(images: list[Image.Image], milliseconds: int) -> bytes:
    palette = images[-1].quantize(64)  # one palette for all, so that colours do not flicker
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    written = io.BytesIO()
    first.save(written, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=False)
    return written.getvalue()
