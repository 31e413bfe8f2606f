"""Progress bars on standard error: by default only where it is a terminal, never in a script's output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .events import JobEvent

OnBytes = Callable[[int], None]


@contextmanager
def byte_bar(title: str, total: int, *, wanted: bool | None) -> Iterator[OnBytes]:
    """A bar of bytes; call the yielded function with the number of bytes that are through.

    wanted   None: only where standard error is a terminal
    """
    if not _visible(wanted):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(escape(title), total=total)
        yield lambda done: bar.update(number, completed=done)


@contextmanager
def job_bar(title: str, *, wanted: bool | None) -> Iterator[Callable[[JobEvent], None]]:
    """A bar of a job; call the yielded function with every event of it."""
    if not _visible(wanted):
        if wanted is not False and "ipykernel" in sys.modules:  # a notebook: no terminal, but it understands \r
            yield LineBar(title, sys.stderr)
            print(file=sys.stderr)
        else:
            yield lambda event: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    words = TextColumn("[dim]{task.fields[words]}")
    with Progress(*columns, words, console=Console(stderr=True), transient=True) as bar:
        number = bar.add_task(escape(title), total=1.0, words="")

        def show(event: JobEvent) -> None:
            bar.update(number, completed=event.progress, words=escape(in_words(event)))

        yield show


class LineBar:
    """A bar of one line that overwrites itself."""

    WIDTH = 24

    def __init__(self, title: str, file: TextIO) -> None:
        self._title = title
        self._file = file
        self._longest = 0

    def __call__(self, event: JobEvent) -> None:
        """Draw the state after an event."""
        filled = round(self.WIDTH * event.progress)
        bar = "█" * filled + "░" * (self.WIDTH - filled)
        line = f"{self._title} {bar} {100 * event.progress:3.0f} % {in_words(event)}"
        self._longest = max(self._longest, len(line))
        self._file.write(f"\r{line:<{self._longest}}")
        self._file.flush()


def in_words(event: JobEvent) -> str:
    """The state of a job in a few words, such as `seed 2 of 6 · test loss 0.031 · about 2 min to go`."""
    if event.state == "queued":
        ahead = event.queue_position
        return "waiting" if ahead is None else "next in the queue" if ahead == 0 else f"{ahead} before it in the queue"
    if event.ended:
        return event.state
    losses = event.losses or {}
    kinds = ("validation_prediction_loss", "test_prediction_loss", "prediction_loss")
    loss = next((losses[kind] for kind in kinds if kind in losses), None)
    parts = [
        event.note or "",
        f"loss {loss:.3g}" if isinstance(loss, int | float) else "",
        f"{duration(event.eta_seconds)} to go" if event.eta_seconds is not None else "",
    ]
    return " · ".join(part for part in parts if part) or event.state


def duration(seconds: float) -> str:
    """A duration, rounded, in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


def _visible(wanted: bool | None) -> bool:
    return sys.stderr.isatty() if wanted is None else wanted
