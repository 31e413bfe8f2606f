"""What people write about parts of a version: a note keeps its history and its authors."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.errors import Conflict
from store.identifiers import new_id
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
    """The notes as they are now, without those that were taken away."""
    newest = (
        select(func.max(Annotation.number))
        .where(
            Annotation.model_id == version.model_id,
            Annotation.version == version.number,
        )
        .group_by(Annotation.about, Annotation.target)
        .add_columns(Annotation.about, Annotation.target)
        .subquery()
    )
    number, about, target = newest.c
    query = select(Annotation).join(
        newest, (Annotation.number == number) & (Annotation.about == about) & (Annotation.target == target)
    )
    query = query.where(Annotation.model_id == version.model_id, Annotation.version == version.number)
    rows = session.scalars(query.order_by(Annotation.about, Annotation.target))
    return [row for row in rows if row.text]


def history(session: Session, version: ModelVersion, *, about: str, target: str) -> list[Annotation]:
    """All that was ever written about one thing, newest first."""
    query = select(Annotation).where(
        Annotation.model_id == version.model_id,
        Annotation.version == version.number,
        Annotation.about == about,
        Annotation.target == target,
    )
    return list(session.scalars(query.order_by(Annotation.number.desc())))


def _newest_number(session: Session, version: ModelVersion, about: str, target: str) -> int:
    query = select(func.max(Annotation.number)).where(
        Annotation.model_id == version.model_id,
        Annotation.version == version.number,
        Annotation.about == about,
        Annotation.target == target,
    )
    return session.scalar(query) or 0
