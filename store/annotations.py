"""What people write about parts of a version: a note keeps its history and its authors."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from store.errors import Conflict
from store.identifiers import new_id
from store.pages import Page, newest_first
from store.tables import Annotation, ModelVersion

ABOUT = ("run", "module", "neuron", "connection")


def annotate(
    session: Session,
    version: ModelVersion,
    *,
    about: str,
    target: str,
    text: str,
    member_id: str,
    now: datetime,
    replaces: int | None = None,
) -> Annotation:
    """Write a note, or write it anew; an empty text takes it away.

    replaces   the number of the note that the writer saw; None: they saw none.
    Raises Conflict where somebody else has written meanwhile.
    """
    newest = _newest_number(session, version, about, target)
    seen = replaces or 0
    collision = Conflict(f"Somebody else has written about {about} `{target}` meanwhile; read it, then write again.")
    if newest != seen:
        raise collision
    note = Annotation(
        id=new_id("annotation"),
        model_id=version.model_id,
        version=version.number,
        about=about,
        target=target,
        number=seen + 1,
        text=text,
        member_id=member_id,
        at=now,
    )
    try:
        with session.begin_nested():
            session.add(note)
            session.flush()
    except IntegrityError:
        raise collision from None
    return note


def current(session: Session, version: ModelVersion) -> list[Annotation]:
    """All notes as they are now, part by part, without those that were taken away."""
    return list(session.scalars(_current(version).order_by(Annotation.about, Annotation.target)))


def page(session: Session, version: ModelVersion, *, after: str | None = None, limit: int = 50) -> Page[Annotation]:
    """The same, page by page, the note that was written last first."""
    return newest_first(session, _current(version), Annotation.id, after=after, limit=limit)


def history(
    session: Session, version: ModelVersion, *, about: str, target: str, after: str | None = None, limit: int = 50
) -> Page[Annotation]:
    """All that was ever written about one thing, newest first."""
    query = select(Annotation).where(*_on(version, about, target))
    return newest_first(session, query, Annotation.number, after=after, limit=limit)


def _current(version: ModelVersion) -> Select[Annotation]:
    newer = aliased(Annotation)
    same = _on(version, Annotation.about, Annotation.target, newer)
    outdated = exists().where(*same, newer.number > Annotation.number)
    query = select(Annotation).where(Annotation.model_id == version.model_id, Annotation.version == version.number)
    return query.where(Annotation.text != "", ~outdated)


def _on(version: ModelVersion, about: Any, target: Any, row: Any = Annotation) -> tuple[ColumnElement[bool], ...]:
    """The conditions that a note is about this part of this version."""
    here = row.model_id == version.model_id, row.version == version.number
    return *here, row.about == about, row.target == target


def _newest_number(session: Session, version: ModelVersion, about: str, target: str) -> int:
    return session.scalar(select(func.max(Annotation.number)).where(*_on(version, about, target))) or 0
