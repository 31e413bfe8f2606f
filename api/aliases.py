"""Old names on the wire, which keep working for one version beside the new ones.

This is the only table of them. An old address is a deprecated route in openapi.json, and its answers carry the header
`Deprecation` (RFC 9745) and a `Link` to the new address. tests/api/test_aliases.py asks every line of it.
"""

from __future__ import annotations

from typing import Any

from flask import Response, request

DEPRECATED_SINCE = 1_795_910_400  # Unix time of 2026-11-29, as RFC 9745 wants it

# New rule → old rule, both below /api/v1 and with the same parameters.
ADDRESSES = {"/operations/<string:operation_id>": "/errands/<string:operation_id>"}

# New key → old key in `parts` of /readyz.
READINESS_PARTS = {"operations": "errands"}


def with_old_keys(document: dict[str, Any], table: dict[str, str]) -> dict[str, Any]:
    """The document with each renamed entry under its old key, too."""
    return document | {old: document[new] for new, old in table.items() if new in document}


def mark_deprecated(response: Response, new_rule: str) -> Response:
    """The response of an old address, with the headers that name the new one."""
    new, old = (rule.partition("<")[0] for rule in (new_rule, ADDRESSES[new_rule]))
    response.headers["Deprecation"] = f"@{DEPRECATED_SINCE}"
    response.headers.add("Link", f'<{request.path.replace(old, new, 1)}>; rel="successor-version"')
    return response
