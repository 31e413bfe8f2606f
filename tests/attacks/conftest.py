"""The attacks run against the same service as the tests of the API."""

from tests.api.conftest import client, house, make  # noqa: F401  (fixtures are found by name)
from tests.servers import sqlite_template, sqlite_url  # noqa: F401
