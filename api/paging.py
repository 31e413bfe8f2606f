"""Cursors of lists: opaque to whoever gets them, a key of the last row to us."""

from __future__ import annotations

import base64
import binascii
import json

from api.problems import Problem, wrong


def cursor(key: str | None) -> str | None:
    """The cursor that leads to what comes after this key; None: there is nothing more."""
    if key is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def key_of(text: str | None) -> str | None:
    """The key inside a cursor. Raises the problem of a wrong `after`."""
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, UnicodeError):
        key = None
    if not isinstance(key, str) or not key.isascii() or not key.isprintable() or len(key) > 80:
        sentence = "This is no cursor of ours; send the `next` of the page before, or leave `after` out."
        raise Problem("invalid-fields", sentence, [wrong("/after", sentence, place="query")])
    return key
