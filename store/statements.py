"""Statements that every request waits for: compiled once, then handed to the driver as they are.

For a question by key, SQLAlchemy takes several times as long as the driver: it looks up the compiled form, makes a
context, a result, an object for each row. Here a statement is compiled once for each engine; what remains is the
driver and the columns' own conversions. It runs in the session's transaction and fails with SQLAlchemy's errors. For
what is not asked at every request the session itself says it shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Insert, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

Row = TypeVar("Row")
Convert = Callable[[Any], Any]
Said: TypeAlias = Select[*tuple[Any, ...]] | Insert


class Statement(Generic[Row]):
    """A SELECT or an INSERT, with its parameters named by bindparam or, of an INSERT, by its columns.

    row       makes a row of an iterable of its values, such as `_make` of a NamedTuple
    columns   of an INSERT: those that are given; the others are null
    """

    def __init__(
        self,
        said: Said,
        row: Callable[[Iterable[Any]], Row] = tuple,  # type: ignore[assignment]
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._said = said
        self._row = row
        self._columns = columns
        self._forms: WeakKeyDictionary[Dialect, _Form] = WeakKeyDictionary()

    def all(self, session: Session, **values: Any) -> list[Row]:
        """Its rows."""
        connection = session.connection()
        return [self._row(cells) for cells in self._form(connection.dialect).ask(connection, values)]

    def first(self, session: Session, **values: Any) -> Row | None:
        """Its only row, or the first of them; None where there is none."""
        rows = self.all(session, **values)
        return rows[0] if rows else None

    def run(self, session: Session, *many: Mapping[str, Any]) -> None:
        """Execute it with each of these sets of values."""
        connection = session.connection()
        form = self._form(connection.dialect)
        for values in many:
            form.ask(connection, values)

    def _form(self, dialect: Dialect) -> _Form:
        form = self._forms.get(dialect)
        if form is None:
            form = self._forms[dialect] = _Form(self._said, dialect, self._columns)
        return form


class _Form:
    """A statement in the words of one engine.

    Constants stand in the statement itself, binds are given with each execution: (parameter, conversion or None).
    The order is that of drivers that count parameters; None where they are named.
    """

    def __init__(self, said: Said, dialect: Dialect, columns: Sequence[str] | None) -> None:
        compiled: Any = said.compile(dialect=dialect, column_keys=None if columns is None else list(columns))
        self._text = str(compiled)
        self._constants: dict[str, Any] = {}
        self._binds: list[tuple[str, Convert | None]] = []
        for name, bind in compiled.binds.items():
            convert = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if bind.required or bind.value is None:
                self._binds.append((name, convert))
            else:
                self._constants[name] = bind.value if convert is None else convert(bind.value)
        self._order: tuple[str, ...] | None = tuple(compiled.positiontup) if compiled.positional else None
        self._types = [column.type.dialect_impl(dialect) for column in said.exported_columns]
        self._results: list[tuple[int, Convert]] | None = None  # (place, conversion) of the columns that need one

    def ask(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows that come back; none of an INSERT. Raises KeyError for a value that is missing.

        Raises SQLAlchemy's errors where the driver fails, and lets go of a connection that is dead.
        """
        parameters = self._parameters(values)
        driver = connection.connection
        cursor = driver.cursor()
        try:
            cursor.execute(self._text, parameters)
            return self._converted(cursor, connection.dialect) if self._types else ()
        except connection.dialect.loaded_dbapi.Error as error:
            is_lost = connection.dialect.is_disconnect(error, driver.dbapi_connection, cursor)
            if is_lost:
                connection.invalidate(error)
            raise DBAPIError.instance(
                self._text,
                parameters,
                error,
                connection.dialect.loaded_dbapi.Error,
                hide_parameters=True,  # hashes of secrets are among them
                connection_invalidated=is_lost,
                dialect=connection.dialect,
            ) from error
        finally:
            cursor.close()

    def _parameters(self, values: Mapping[str, Any]) -> Any:
        given = dict(self._constants)
        for name, convert in self._binds:
            given[name] = values[name] if convert is None else convert(values[name])
        return given if self._order is None else tuple([given[name] for name in self._order])

    def _converted(self, cursor: Any, dialect: Dialect) -> Sequence[Sequence[Any]]:
        if self._results is None:  # some conversions depend on what the database says of a column
            known = [
                one.result_processor(dialect, said[1])
                for one, said in zip(self._types, cursor.description, strict=True)
            ]
            self._results = [(place, convert) for place, convert in enumerate(known) if convert is not None]
        rows = [list(row) for row in cursor.fetchall()]
        for row in rows:
            for place, convert in self._results:
                row[place] = convert(row[place])
        return rows
