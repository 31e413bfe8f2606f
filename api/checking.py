"""Large uploads are looked at after the answer, one at a time in each process of the API.

The row says that a check is due, and who does it says every few seconds that it goes on. So one that was cut off, by
the end of its process or by force, is begun again by whichever process is there: see store.datasets.take_check.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from api.checks import understand
from api.problems import Problem
from store import datasets
from store.database import Database
from store.errors import NotFound
from store.files import Files
from store.settings import Settings
from store.tables import Dataset

log = logging.getLogger("api")

LOOK_SECONDS = 15.0  # for checks that another process has left
SIGN_SECONDS = 5.0  # between two signs of life
SILENCE = timedelta(seconds=30)  # whoever was silent for so long is gone
LEAVE_SECONDS = 2.0  # at the end of the process


class _CutShort(Exception):
    """The process ends, or another one has taken over."""


class Checker:
    """The thread that checks. It is started when it is first needed, and ends with the process within a second."""

    def __init__(self, settings: Settings, database: Database, files: Files, now: Callable[[], datetime]) -> None:
        self._settings, self._database, self._files, self._now = settings, database, files, now
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._due = threading.Event()
        self._over = threading.Event()
        self._idle = threading.Condition()
        self._asked = self._answered = 0

    def look(self) -> None:
        """There is, or may be, a check to do: see to it in the background."""
        with self._idle:
            self._asked += 1
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checks", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
        self._due.set()

    def wait(self, seconds: float = 60.0) -> None:
        """Return when everything that was asked for so far is done; for tests. Raises TimeoutError."""
        with self._idle:
            wanted = self._asked
            if not self._idle.wait_for(lambda: self._answered >= wanted, seconds):
                raise TimeoutError(f"A check has not ended within {seconds:.0f} s.")

    def stop(self) -> None:
        """End a check that is under way and give it back."""
        self._over.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(LEAVE_SECONDS)
        atexit.unregister(self.stop)

    # --- on the thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._over.is_set():
            self._due.clear()
            with self._idle:
                asked = self._asked
            try:
                while (row := self._take()) is not None:
                    self._check(row)
            except Exception:
                log.exception("checks of uploads have to wait")
            with self._idle:
                self._answered = asked
                self._idle.notify_all()
            self._due.wait(LOOK_SECONDS)

    def _take(self) -> Dataset | None:
        if self._over.is_set():
            return None
        now = self._now()
        with self._database.write() as rows:
            return datasets.take_check(rows, now=now, silent_since=now - SILENCE)

    def _check(self, row: Dataset) -> None:
        try:
            with self._alive(row) as look_up, self._files.path(row.sha256 or "") as path:
                preview, roles, errors = self._understand(path, row, look_up)
            with self._database.write() as rows:
                datasets.judge(
                    rows,
                    row.id,
                    now=self._now(),
                    preview=preview or None,
                    roles=roles or None,
                    task=roles.get("task"),
                    rows=preview.get("rows"),
                    columns=len(preview["columns"]) if preview else None,
                    errors=errors or None,
                )
        except _CutShort:
            log.info("the check of data set %s was cut short; it will be begun again", row.id)
        except NotFound:
            log.info("data set %s was deleted while it was checked", row.id)
        except Exception:
            log.exception("the check of data set %s failed; it will be begun again", row.id)

    def _understand(
        self, path: Path, row: Dataset, look_up: Callable[[], None]
    ) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """(preview, roles, errors) of the file: either the first two or the last."""
        asked, form = dict(row.roles or {}), row.format or ""
        try:
            return *understand(path, form=form, settings=self._settings, asked=asked, look_up=look_up), []
        except Problem as problem:
            return {}, {}, problem.errors

    @contextmanager
    def _alive(self, row: Dataset) -> Iterator[Callable[[], None]]:
        """Give signs of life as long as this lasts; gives what raises _CutShort when the check must end.

        On a thread of its own, because it may take long until a large file is here.
        """
        ended, lost = threading.Event(), threading.Event()
        since = row.checked_at or self._now()

        def sign() -> None:
            nonlocal since
            while not ended.wait(SIGN_SECONDS):
                with suppress(Exception):  # the database is away: the next sign tells, or somebody takes over
                    now = self._now()
                    with self._database.write() as rows:
                        if not datasets.hold_check(rows, row.id, since=since, now=now):
                            lost.set()
                            return
                    since = now

        def look_up() -> None:
            if self._over.is_set() or lost.is_set():
                raise _CutShort

        signs = threading.Thread(target=sign, name="check-alive", daemon=True)
        signs.start()
        try:
            yield look_up
        finally:
            ended.set()
            signs.join()
            if self._over.is_set():
                with suppress(Exception), self._database.write() as rows:
                    datasets.hold_check(rows, row.id, since=since, now=None)
