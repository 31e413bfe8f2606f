"""Everything together, with real servers."""

from __future__ import annotations

from tests.servers import (  # noqa: F401 - fixtures are found by name
    broker,
    database_url,
    lasting_url,
    postgres_server,
    postgres_url,
    service_url,
    sqlite_template,
    sqlite_url,
)
