"""What can go wrong with what is remembered, said so that a person can act on it."""

from __future__ import annotations


class StoreError(Exception):
    """A sentence for people: what is wrong, which thing it is, what to do."""


class NotFound(StoreError):
    """There is no such thing, or it belongs to another team: the two look the same from outside."""

    def __init__(self, noun: str, thing_id: str) -> None:
        super().__init__(f"There is no {noun} `{thing_id}` in your team. Check the id, or list what there is.")
        self.noun = noun
        self.thing_id = thing_id


class Conflict(StoreError):
    """The thing is not in a state that allows this."""


class LostLease(StoreError):
    """This attempt no longer owns its job: stop at once and write nothing more."""

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(f"Job `{job_id}` is no longer owned by the attempt with fence {fence}; stop working on it.")
        self.job_id = job_id
        self.fence = fence


class QuotaExceeded(StoreError):
    """The team has used up what it was given. `quota` names which one."""

    def __init__(self, quota: str, sentence: str) -> None:
        super().__init__(sentence)
        self.quota = quota


class TooLarge(StoreError):
    """A stream is longer than allowed; nothing of it was kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The upload is larger than the limit of {limit} bytes; send less or ask for a higher limit.")
        self.limit = limit


class DamagedFile(StoreError):
    """The bytes under a name do not have that name's SHA-256."""
