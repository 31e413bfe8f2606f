"""Errors of the store. Their text is a sentence that can be shown to users."""

from __future__ import annotations

import errno
import re

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
SQLITE_FULL = 13  # sqlite3's code of `database or disk is full`
POSTGRES_FULL = "53100"  # PostgreSQL's disk_full
# How obstore tells it, whose errors have no codes: the machine's sentence, and those of object stores.
_SAID_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|Insufficient ?Storage|StorageFull|QuotaExceeded", re.IGNORECASE
)


class StoreError(Exception):
    """Base class. The text says what is wrong, with which object, and what to do."""


class NotFound(StoreError):
    """There is no row with this id, or it belongs to another team, which looks the same from outside."""

    def __init__(self, noun: str, thing_id: str) -> None:
        super().__init__(f"There is no {noun} `{thing_id}` in your team. Check the id, or list what there is.")
        self.noun = noun
        self.thing_id = thing_id


class Conflict(StoreError):
    """The present state does not allow this."""


class LostLease(StoreError):
    """This attempt no longer owns its job; it must stop and write nothing more."""

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(f"Job `{job_id}` is no longer owned by the attempt with fence {fence}; stop working on it.")
        self.job_id = job_id
        self.fence = fence


class QuotaExceeded(StoreError):
    """A limit of the team or of the service is reached. `quota` names which one."""

    def __init__(self, quota: str, sentence: str) -> None:
        super().__init__(sentence)
        self.quota = quota


class TooLarge(StoreError):
    """A stream is longer than allowed; nothing of it was kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The upload is larger than the limit of {limit} bytes; send less or ask for a higher limit.")
        self.limit = limit


class DamagedFile(StoreError):
    """The bytes of a stored file do not have the SHA-256 that they are stored under."""

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"The stored file `{sha256}` is damaged: its bytes no longer have the hash they were stored under. "
            "Upload the same content again, or restore it from a backup."
        )
        self.sha256 = sha256


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, says that a disk, database or bucket has no room left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        said_by_database = getattr(error, "orig", None)
        if getattr(said_by_database, "sqlite_errorcode", None) == SQLITE_FULL:
            return True
        if getattr(said_by_database, "sqlstate", None) == POSTGRES_FULL:
            return True
        if type(error).__module__.startswith("obstore") and _SAID_FULL.search(str(error)):
            return True
        error = error.__cause__
    return False
