"""The attacks run against the same service as the tests of the API."""

from tests.api.conftest import any_house, client, house, make  # noqa: F401  (fixtures are found by name)
from tests.servers import (  # noqa: F401
    database_url,
    postgres_server,
    postgres_url,
    service_url,
    sqlite_template,
    sqlite_url,
)
