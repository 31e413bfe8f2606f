"""Large uploads are looked at after the answer, one at a time in each process; a check that died is begun again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from api.checks import understand
from api.problems import Problem
from api.services import Services
from store import datasets
from store.errors import NotFound
from store.tables import Dataset

log = logging.getLogger("api")


def check_later(here: Services, dataset_id: str) -> None:
    """Check a stored upload in the background: it becomes `ready` or `refused`."""
    _executor().submit(_check, here, dataset_id)


def check_again(here: Services, row: Dataset) -> None:
    """Begin a check anew when whoever had begun it is gone. Called by whoever looks at a data set that waits."""
    silence = timedelta(seconds=2 * here.settings.check_seconds + 10)
    if row.state != "checking" or row.checked_at is None or here.now() - row.checked_at < silence:
        return
    with here.database.write() as rows:
        stale = datasets.to_check(rows, now=here.now(), silent_since=here.now() - silence)
    for dataset in stale:
        check_later(here, dataset.id)


@cache
def _executor() -> ThreadPoolExecutor:
    """One thread: checks of large files take a core each, and requests go first."""
    return ThreadPoolExecutor(1, thread_name_prefix="check")


def _check(here: Services, dataset_id: str) -> None:
    try:
        with here.database.read() as rows:
            row = rows.get(Dataset, dataset_id)
            if row is None or row.state != "checking" or row.sha256 is None:
                return
            sha256, form, asked = row.sha256, row.format or "", dict(row.roles or {})
        with here.files.path(sha256) as path:
            preview, roles, errors = _understand(here, path, form, asked)
        with here.database.write() as rows:
            datasets.judge(
                rows,
                dataset_id,
                now=here.now(),
                preview=preview or None,
                roles=roles or None,
                task=roles.get("task"),
                rows=preview.get("rows"),
                columns=len(preview["columns"]) if preview else None,
                errors=errors or None,
            )
    except NotFound:
        log.info("data set %s was deleted while it was checked", dataset_id)
    except Exception:
        log.exception("the check of data set %s failed; it will be begun again", dataset_id)


def _understand(
    here: Services, path: Path, form: str, asked: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """(preview, roles, errors) of the file: either the first two or the last."""
    try:
        return *understand(path, form=form, settings=here.settings, asked=asked), []
    except Problem as problem:
        return {}, {}, problem.errors


def wait_for_checks() -> None:
    """Return when every check that was begun so far in this process has ended. For shutting down, and for tests."""
    _executor().submit(lambda: None).result()
