"""Names of things: a word for people, then 26 characters that sort by time of birth (a ULID)."""

from __future__ import annotations

import base64
import os
import re
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u; sorts as ASCII does

PREFIXES = frozenset(
    (
        "team",
        "member",
        "token",
        "dataset",
        "upload",
        "job",
        "attempt",
        "run",
        "graph",
        "clustering",
        "model",
        "version",
        "alias",
        "annotation",
        "share",
        "webhook",
        "delivery",
        "audit",
        "log",
        "file",
    )
)

_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET.encode())  # from the usual base 32
_ID = re.compile(r"^([a-z]+)_([0-9a-hjkmnp-tv-z]{26})\Z")

_lock = threading.Lock()
_last = 0  # the number inside the last id of this process; the next one is always greater


def new_id(prefix: str) -> str:
    """A new id such as `job_01jd…`: 48 bits of milliseconds, 80 random bits.

    Ids made by one process rise strictly, even within one millisecond or when the clock steps back.
    """
    if prefix not in PREFIXES:
        raise ValueError(f"`{prefix}` is not a known prefix of ids; known are {', '.join(sorted(PREFIXES))}.")
    global _last
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    with _lock:
        if number >> 80 <= _last >> 80:
            number = _last + 1 + int.from_bytes(os.urandom(4), "big")
        _last = number
    return f"{prefix}_{_in_base_32(number)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether the text has the form of an id with this prefix."""
    found = _ID.match(text)
    return found is not None and found.group(1) == prefix


def _in_base_32(number: int) -> str:
    """128 bits as 26 characters."""
    return base64.b32encode(number.to_bytes(20, "big"))[-26:].translate(_CROCKFORD).decode()
