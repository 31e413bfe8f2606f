"""Bars for those who wait: only where somebody is looking, and never in the way of a script's output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .following import Moment

Told = Callable[[int], None]


@contextmanager
def byte_bar(title: str, total: int, *, wanted: bool | None) -> Iterator[Told]:
    """A bar of bytes; what it gives is told how many are through.

    wanted   None: only where standard error is a terminal
    """
    if not _looked_at(wanted):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(title, total=total)
        yield lambda done: bar.update(number, completed=done)


@contextmanager
def job_bar(title: str, *, wanted: bool | None) -> Iterator[Callable[[Moment], None]]:
    """A bar of a job; what it gives is told of every moment of it."""
    if not _looked_at(wanted):
        if wanted is not False and "ipykernel" in sys.modules:  # a notebook, which knows "back to the line's start"
            yield LineBar(title, sys.stderr)
            print(file=sys.stderr)
        else:
            yield lambda moment: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    words = TextColumn("[dim]{task.fields[words]}")
    with Progress(*columns, words, console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(escape(title), total=1.0, words="")

        def told(moment: Moment) -> None:
            bar.update(number, completed=moment.progress, words=escape(in_words(moment)))

        yield told


class LineBar:
    """A bar that is one line, written again and again over itself."""

    WIDTH = 24

    def __init__(self, title: str, file: TextIO) -> None:
        self._title = title
        self._file = file
        self._longest = 0

    def __call__(self, moment: Moment) -> None:
        filled = round(self.WIDTH * moment.progress)
        bar = "█" * filled + "░" * (self.WIDTH - filled)
        line = f"{self._title} {bar} {100 * moment.progress:3.0f} % {in_words(moment)}"
        self._longest = max(self._longest, len(line))
        self._file.write(f"\r{line:<{self._longest}}")
        self._file.flush()


def in_words(moment: Moment) -> str:
    """A moment of a job in a few words, such as `seed 2 of 6 · test loss 0.031 · about 2 min to go`."""
    if moment.state == "queued":
        ahead = moment.queue_position
        return "waiting" if ahead is None else "next in the queue" if ahead == 0 else f"{ahead} before it in the queue"
    if moment.ended:
        return moment.state
    losses = moment.losses or {}
    loss = losses.get("test_prediction_loss", losses.get("prediction_loss"))
    parts = [
        moment.note or "",
        f"loss {loss:.3g}" if isinstance(loss, int | float) else "",
        f"{duration(moment.eta_seconds)} to go" if moment.eta_seconds is not None else "",
    ]
    return " · ".join(part for part in parts if part) or moment.state


def duration(seconds: float) -> str:
    """A time as people say it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "a moment"


def _looked_at(wanted: bool | None) -> bool:
    return sys.stderr.isatty() if wanted is None else wanted
