"""Lists in pages: in the order of a key, and each page goes on after the last key of the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")
LONGEST_NUMBER = 9  # digits that fit an INTEGER of every database


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list. `after` is what to ask with for the next page; None: this is the last one."""

    rows: list[Row]
    after: str | None


def newest_first(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], *, after: str | None, limit: int
) -> Page[Row]:
    """One page of a query by falling keys. Rows that come in meanwhile are newer and so disturb no later page."""
    return _page(session, query.order_by(key.desc()), key, key.__lt__, after=after, limit=limit)


def oldest_first(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], *, after: str | None, limit: int
) -> Page[Row]:
    """One page of a query by rising keys. Rows that come in meanwhile are newer and stand on later pages."""
    return _page(session, query.order_by(key), key, key.__gt__, after=after, limit=limit)


def _page(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], beyond: Any, *, after: str | None, limit: int
) -> Page[Row]:
    if after is not None:
        where = _as_key(key, after)
        if where is None:
            return Page([], None)
        query = query.where(beyond(where))
    rows = list(session.scalars(query.limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, str(getattr(rows[-1], key.key)) if more else None)


def _as_key(key: InstrumentedAttribute[Any], after: str) -> Any:
    """The cursor's key in the type of its column; None where it was the key of another list: nothing comes after it."""
    if key.type.python_type is not int:
        return after
    return int(after) if after.isdecimal() and len(after) <= LONGEST_NUMBER else None


def matches(column: InstrumentedAttribute[Any], words: str) -> Any:
    """The condition that a column contains these words, whatever their case; % and _ mean themselves."""
    return column.icontains(words, autoescape=True)
