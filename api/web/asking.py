"""What pages are asked with: ids in the path, where a list goes on, words in the query; and rows shown as JSON."""

from __future__ import annotations

import json
from typing import Any

from flask import request
from pydantic import TypeAdapter, ValidationError

from api.problems import Problem


def known(text: str, form: Any) -> str:
    """An id or name of the right form; anything else is simply not there."""
    try:
        identifier: str = TypeAdapter(form).validate_python(text)
    except ValidationError:
        raise Problem("not-found", "There is nothing at this address.") from None
    return identifier


def after(name: str = "after") -> str | None:
    """Where the list goes on; whatever cannot be such a place counts as none."""
    text = request.args.get(name, "")
    return text if text.isascii() and text.isprintable() and 0 < len(text) < 60 else None


def pretty(document: Any) -> str:
    """JSON for people."""
    return json.dumps(document, indent=2, ensure_ascii=False)
