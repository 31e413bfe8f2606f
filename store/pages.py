"""Lists in pages: newest first, and each page goes on after the last id of the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list. `after` is what to ask with for the next page; None: this is the last one."""

    rows: list[Row]
    after: str | None


def newest_first(
    session: Session, query: Select[Row], key: InstrumentedAttribute[Any], *, after: str | None, limit: int
) -> Page[Row]:
    """One page of a query by falling ids. Rows that come in meanwhile are newer and so disturb no later page."""
    if after is not None:
        query = query.where(key < after)
    rows = list(session.scalars(query.order_by(key.desc()).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, getattr(rows[-1], key.key) if more else None)


def matches(column: InstrumentedAttribute[Any], words: str) -> Any:
    """The condition that a column contains these words, whatever their case; % and _ mean themselves."""
    return column.icontains(words, autoescape=True)
