"""Alembic's environment: all migrations in one locked transaction, alike on SQLite and PostgreSQL.

SQLite     its driver begins transactions implicitly, which would leave a failed migration half applied, so BEGIN is
           issued here. Tables are changed by copying (batch mode), with foreign keys off until the check at the end.
PostgreSQL an advisory lock makes concurrent processes migrate one after the other.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, create_engine, event, pool

from store.tables import Base

LOCK = 0x62696D74  # "bimt" in ASCII; any number that no other lock uses


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write plain types into migrations, so that they do not depend on types of the store, which may change."""
    if kind != "type":
        return False
    name = type(item).__name__
    if name == "Utc":
        return "sa.DateTime(timezone=True)"
    if name == "CompressedJson":
        return "sa.LargeBinary()"
    if name == "JSON":
        autogen.imports.add("from sqlalchemy.dialects import postgresql")
        return 'sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")'
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations on this connection."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
        render_item=render_item,
        transactional_ddl=True,
    )
    context.run_migrations()


def main() -> None:
    """Migrate the database that store.migrate names or, at the command line, BIMT_DATABASE_URL."""
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("BIMT_DATABASE_URL")
    if not url:
        raise SystemExit("Say which database: BIMT_DATABASE_URL=sqlite:////tmp/draft.sqlite alembic …")
    engine = create_engine(url, poolclass=pool.NullPool)
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            if not sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            migrate(connection)
            if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                raise RuntimeError(f"The migration would leave rows that refer to nothing: {broken[:5]}.")
    finally:
        engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=60000")
    connection.execute("PRAGMA foreign_keys=OFF")


main()
