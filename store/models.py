"""Models: runs that a team publishes under a name, in versions; aliases, annotations and read-only links (shares).

Over 500 lines: a version, its aliases, annotations and shares are always read together.

private    visible to its author and the team's admins
team       to the team
unlisted   to everyone who knows its id
public     to everyone, in lists too
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Select,
    String,
    Text,
    UniqueConstraint,
    and_,
    exists,
    false,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column, undefer

from store import runs
from store.columns import Base, CompressedJson, Identifier, Utc, is_id, new_id, one_of, small_json
from store.database import Page, insert_into, matches, newest_first, sorted_page
from store.errors import Conflict, NotFound
from store.runs.search import dataset_name, with_evidence
from store.runs.tables import Run
from store.teams import Member, new_secret

VISIBILITIES = ("private", "team", "unlisted", "public")
ABOUT = ("run", "module", "neuron", "connection")  # what an annotation can be about
NEWEST = "newest"  # the reserved alias of the last version

_LINK = re.compile(r"^share_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9a-f]{8})\Z")


class Model(Base):
    """A name under which a team publishes runs."""

    __tablename__ = "model"
    __table_args__ = (
        UniqueConstraint("team_id", "name"),
        one_of("visibility", VISIBILITIES),
        Index(None, "visibility", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(120))
    visibility: Mapped[str] = mapped_column(String(16))
    versions: Mapped[int]  # the number of the newest one
    created_at: Mapped[datetime] = mapped_column(Utc)
    updated_at: Mapped[datetime] = mapped_column(Utc)


class ModelVersion(Base):
    """A run under a model's name. A published run cannot be deleted."""

    __tablename__ = "model_version"
    __table_args__ = (CheckConstraint("number >= 1", name="number"),)

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="RESTRICT"), index=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    card: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Utc)
    verified_at: Mapped[datetime | None] = mapped_column(Utc)
    verification: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson)


class ModelAlias(Base):
    """An alias of a version since `at`. The newest row of an alias counts; one without a number removes it."""

    __tablename__ = "model_alias"
    __table_args__ = (Index(None, "model_id", "alias", "id"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    alias: Mapped[str] = mapped_column(String(64))
    number: Mapped[int | None]
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(Utc)


class Annotation(Base):
    """A text about a part of a version. The greatest number counts; one with an empty text removes it."""

    __tablename__ = "annotation"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version"], ["model_version.model_id", "model_version.number"], ondelete="CASCADE"
        ),
        UniqueConstraint("model_id", "version", "about", "target", "number"),
        one_of("about", ABOUT),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    version: Mapped[int]
    about: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(200))
    number: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(Utc)


class Share(Base):
    """A read-only link to one version, with the state of the page (`view`). Only a hash of the secret is stored."""

    __tablename__ = "share"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "version"], ["model_version.model_id", "model_version.number"], ondelete="CASCADE"
        ),
        Index(None, "model_id", "version"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"), index=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    version: Mapped[int]
    ident: Mapped[str] = mapped_column(String(12), unique=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    view: Mapped[dict[str, Any] | None] = mapped_column(small_json())
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    created_at: Mapped[datetime] = mapped_column(Utc)
    expires_at: Mapped[datetime | None] = mapped_column(Utc)
    revoked_at: Mapped[datetime | None] = mapped_column(Utc)


@dataclass(frozen=True)
class Reader:
    """The member who reads. Admins of a team see its private models too."""

    team_id: str
    member_id: str
    is_admin: bool = False


def publish(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    run_id: str,
    name: str,
    now: datetime,
    card: str = "",
    visibility: str | None = None,
) -> ModelVersion:
    """The run as the next version of the team's model of this name, which is created if there is none.

    visibility   of a new model, `team` by default; that of an existing model is changed if it is given.
    Raises NotFound for the run, Conflict if it has not succeeded or another member's private model has the name.
    """
    run = runs.get(session, team_id, run_id)
    if run.state != "succeeded":
        raise Conflict(f"Run `{run_id}` is {run.state}; only a run that succeeded can be published.")
    row = insert_into(session, Model).values(
        id=new_id("model"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        visibility=visibility or "team",
        versions=0,
        created_at=now,
        updated_at=now,
    )
    session.execute(row.on_conflict_do_nothing(index_elements=[Model.team_id, Model.name]))
    values: dict[str, Any] = {"versions": Model.versions + 1, "updated_at": now}
    if visibility is not None:
        values["visibility"] = visibility
    mine = or_(Model.visibility != "private", Model.member_id == member_id)
    counted = (
        update(Model)
        .where(Model.team_id == team_id, Model.name == name, mine)
        .values(values)
        .returning(Model.id, Model.versions)
        .execution_options(synchronize_session=False)
    )
    found = session.execute(counted).one_or_none()
    if found is None:
        raise Conflict(f"The name `{name}` is taken by a model that you cannot see; choose another one.")
    version = ModelVersion(
        model_id=found.id, number=found.versions, run_id=run_id, member_id=member_id, card=card, created_at=now
    )
    session.add(version)
    session.flush()
    return version


def get(session: Session, reader: Reader, name_or_id: str) -> Model:
    """A model by its id, or by its name in the reader's team. Raises NotFound."""
    which = Model.id == name_or_id
    if not is_id(name_or_id, "model"):
        which = and_(Model.name == name_or_id, Model.team_id == reader.team_id)
    model = session.scalar(select(Model).where(which, readable(reader)).execution_options(populate_existing=True))
    if model is None:
        raise NotFound("model", name_or_id)
    return model


def own(session: Session, reader: Reader, name_or_id: str) -> Model:
    """A model of the reader's own team, which the reader may change. Raises NotFound."""
    model = get(session, reader, name_or_id)
    if model.team_id != reader.team_id:
        raise NotFound("model", name_or_id)
    return model


def readable(reader: Reader) -> ColumnElement[bool]:
    """The condition that this reader may see a model whose id or name they know."""
    in_team = and_(
        Model.team_id == reader.team_id,
        or_(Model.visibility != "private", Model.member_id == reader.member_id, true() if reader.is_admin else false()),
    )
    return or_(in_team, Model.visibility.in_(("unlisted", "public")))


SORTED_BY = {
    "name": func.lower(Model.name),
    "version": Model.versions,
    "owner": select(func.lower(Member.name)).where(Member.id == Model.member_id).scalar_subquery(),
    "data": func.lower(func.coalesce(dataset_name(Run.job_id), Run.dataset_kind)),
    "method": Run.method,
    "modules": Run.modules,
    "connections": Run.connections,
    "modularity": Run.modularity,
    "selectivity": Run.selectivity,
    "test_metric": Run.test_metric,
    "verified": ModelVersion.verified_at,
    "changed": Model.updated_at,
}
"""What a list of models may be sorted by; the newest first otherwise."""


def page(
    session: Session,
    reader: Reader,
    *,
    q: str | None = None,
    everybody: bool = False,
    sort: str | None = None,
    falling: bool = False,
    after: str | None = None,
    limit: int = 50,
    **evidence: Any,
) -> Page[Model]:
    """The team's models, with `everybody` also the public models of all teams, newest first or sorted.

    q          looked for in names and cards
    sort       one of SORTED_BY, of the newest version. A sorted list has one page.
    evidence   limits on the newest version as in runs.search.with_evidence: min_modules, max_connections, …
    """
    listed = and_(readable(reader), Model.team_id == reader.team_id)
    query: Select[Any] = select(Model).where(or_(listed, Model.visibility == "public") if everybody else listed)
    newest = and_(ModelVersion.model_id == Model.id, ModelVersion.number == Model.versions)
    query = query.join(ModelVersion, newest).join(Run, Run.id == ModelVersion.run_id)
    query = with_evidence(query, **evidence)
    if q:
        query = query.where(or_(matches(Model.name, q), matches(ModelVersion.card, q)))
    by = SORTED_BY[sort] if sort else None
    return sorted_page(session, query, Model.id, by=by, falling=falling, after=after, limit=limit)


def version(session: Session, model: Model, number: int) -> ModelVersion:
    """One version. Raises NotFound."""
    found = session.get(ModelVersion, (model.id, number))
    if found is None:
        raise NotFound("version", f"{model.name}/{number}")
    return found


def find_version(session: Session, model: Model, word: str) -> ModelVersion:
    """The version that a number, `newest` or an alias refers to now. Raises NotFound."""
    if word.isdecimal():
        return version(session, model, int(word))
    number = model.versions if word == NEWEST else aliases(session, model).get(word)
    if number is None:
        raise NotFound("version", f"{model.name}/{word}")
    return version(session, model, number)


def same_run(session: Session, model: Model, run_id: str) -> ModelVersion | None:
    """The newest version of the model that holds this run, or None."""
    query = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.run_id == run_id)
    return session.scalar(query.order_by(ModelVersion.number.desc()).limit(1))


def showing(session: Session, reader: Reader, run_id: str) -> list[tuple[Model, int]]:
    """(model, version number) of the team's models that hold this run, newest first."""
    query = select(Model, ModelVersion.number).join(ModelVersion, ModelVersion.model_id == Model.id)
    query = query.where(ModelVersion.run_id == run_id, Model.team_id == reader.team_id, readable(reader))
    query = query.order_by(ModelVersion.created_at.desc(), ModelVersion.number.desc())
    return [(model, number) for model, number in session.execute(query)]


def newest(session: Session, some: Sequence[Model]) -> dict[str, tuple[ModelVersion, Run]]:
    """Model id → (newest version, its run), for all these models in one query."""
    query = (
        select(ModelVersion, Run)
        .join(Model, and_(Model.id == ModelVersion.model_id, Model.versions == ModelVersion.number))
        .join(Run, Run.id == ModelVersion.run_id)
        .where(Model.id.in_([model.id for model in some]))
    )
    return {found.model_id: (found, run) for found, run in session.execute(query)}


def versions(
    session: Session, model: Model, *, after: str | None = None, limit: int = 50
) -> Page[tuple[ModelVersion, Run]]:
    """Versions with their runs, newest first."""
    query = select(ModelVersion).where(ModelVersion.model_id == model.id)
    page = newest_first(session, query, ModelVersion.number, after=after, limit=limit)
    ids = [version.run_id for version in page.rows]
    found = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(ids)).options(undefer(Run.spec)))}
    return Page([(version, found[version.run_id]) for version in page.rows], page.after)


def run_of(session: Session, version: ModelVersion) -> Run:
    """The run of a version, of any team: who may read the model may read its run."""
    return session.scalars(select(Run).where(Run.id == version.run_id).options(undefer(Run.spec))).one()


def change(
    session: Session, model: Model, *, now: datetime, visibility: str | None = None, name: str | None = None
) -> Model:
    """Change what is given. Raises Conflict where the name is taken."""
    if name is not None and name != model.name:
        taken = select(Model.id).where(Model.team_id == model.team_id, Model.name == name)
        if session.scalar(taken) is not None:
            raise Conflict(f"There is already a model `{name}` in the team; choose another name.")
        model.name = name
    model.visibility = visibility or model.visibility
    model.updated_at = now
    session.flush()
    return model


def change_card(session: Session, version: ModelVersion, card: str) -> ModelVersion:
    """Replace the card."""
    version.card = card
    session.flush()
    return version


def record_verification(
    session: Session, version: ModelVersion, *, verification: dict[str, Any], now: datetime
) -> None:
    """Store the result of recomputing the version's evidence from its weights."""
    version.verification, version.verified_at = verification, now
    session.flush()


def delete(session: Session, model: Model) -> None:
    """Delete the model with its versions, aliases, annotations and shares; its runs stay."""
    session.delete(model)
    session.flush()


def point(
    session: Session, model: Model, alias: str, number: int | None, *, member_id: str, now: datetime
) -> ModelAlias:
    """Point an alias to a version, or with None remove it; earlier targets stay in its history. Raises NotFound."""
    if number is not None:
        version(session, model, number)
    row = ModelAlias(id=new_id("alias"), model_id=model.id, alias=alias, number=number, member_id=member_id, at=now)
    session.add(row)
    session.flush()
    return row


def aliases(session: Session, model: Model) -> dict[str, int]:
    """Alias → number of the version that it points to now."""
    newest = select(func.max(ModelAlias.id)).where(ModelAlias.model_id == model.id).group_by(ModelAlias.alias)
    rows = session.scalars(select(ModelAlias).where(ModelAlias.id.in_(newest)).order_by(ModelAlias.alias))
    return {row.alias: row.number for row in rows if row.number is not None}


def alias_history(
    session: Session, model: Model, alias: str, *, after: str | None = None, limit: int = 50
) -> Page[ModelAlias]:
    """The targets that an alias has had, newest first."""
    query = select(ModelAlias).where(ModelAlias.model_id == model.id, ModelAlias.alias == alias)
    return newest_first(session, query, ModelAlias.id, after=after, limit=limit)


# --- annotations ---


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
    """Write or replace an annotation; an empty text removes it.

    replaces   number of the annotation that the writer read; None if there was none.
    Raises Conflict if another one was written after that.
    """
    newest = _newest_number(session, version, about, target)
    seen = replaces or 0
    collision = Conflict(f"Another member has written about {about} `{target}` meanwhile; read it, then write again.")
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


def current_annotations(session: Session, version: ModelVersion) -> list[Annotation]:
    """The current annotations, sorted by target, without removed ones."""
    return list(session.scalars(_current(version).order_by(Annotation.about, Annotation.target)))


def page_annotations(
    session: Session, version: ModelVersion, *, after: str | None = None, limit: int = 50
) -> Page[Annotation]:
    """The same in pages, the one written last first."""
    return newest_first(session, _current(version), Annotation.id, after=after, limit=limit)


def annotation_history(
    session: Session, version: ModelVersion, *, about: str, target: str, after: str | None = None, limit: int = 50
) -> Page[Annotation]:
    """All annotations of one target, newest first, removed and replaced ones included."""
    query = select(Annotation).where(*_on(version, about, target))
    return newest_first(session, query, Annotation.number, after=after, limit=limit)


def _current(version: ModelVersion) -> Select[Annotation]:
    newer = aliased(Annotation)
    same = _on(version, Annotation.about, Annotation.target, newer)
    outdated = exists().where(*same, newer.number > Annotation.number)
    query = select(Annotation).where(Annotation.model_id == version.model_id, Annotation.version == version.number)
    return query.where(Annotation.text != "", ~outdated)


def _on(version: ModelVersion, about: Any, target: Any, row: Any = Annotation) -> tuple[ColumnElement[bool], ...]:
    """The conditions that an annotation belongs to this version and target."""
    here = row.model_id == version.model_id, row.version == version.number
    return *here, row.about == about, row.target == target


def _newest_number(session: Session, version: ModelVersion, about: str, target: str) -> int:
    return session.scalar(select(func.max(Annotation.number)).where(*_on(version, about, target))) or 0


# --- shares ---


def create_share(
    session: Session,
    version: ModelVersion,
    *,
    team_id: str,
    member_id: str,
    view: dict[str, Any] | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[str, Share]:
    """A new link: its token, which is not stored, and its row."""
    ident, text, digest = new_secret("share")
    share = Share(
        id=new_id("share"),
        team_id=team_id,
        model_id=version.model_id,
        version=version.number,
        ident=ident,
        secret_sha256=digest,
        view=view,
        member_id=member_id,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(share)
    session.flush()
    return text, share


def open_share(session: Session, text: str, now: datetime) -> Share | None:
    """The link with this token; None if it is unknown, expired or revoked."""
    parts = _LINK.match(text)
    if parts is None:
        return None
    ident, secret, checksum = parts.groups()
    if checksum != f"{zlib.crc32(secret.encode()) & 0xFFFFFFFF:08x}":
        return None
    share = session.scalar(select(Share).where(Share.ident == ident, Share.revoked_at.is_(None)))
    if share is None or (share.expires_at is not None and share.expires_at <= now):
        return None
    right = hmac.compare_digest(share.secret_sha256, hashlib.sha256(secret.encode()).digest())
    return share if right else None


def revoke_share(session: Session, team_id: str, share_id: str, now: datetime) -> Share:
    """Make the link invalid from now on. Revoking twice has no effect. Raises NotFound."""
    share = session.scalar(select(Share).where(Share.id == share_id, Share.team_id == team_id))
    if share is None:
        raise NotFound("share", share_id)
    share.revoked_at = share.revoked_at or now
    session.flush()
    return share


def page_shares(
    session: Session, team_id: str, *, model_id: str | None = None, after: str | None = None, limit: int = 50
) -> Page[Share]:
    """The team's links, newest first."""
    query = select(Share).where(Share.team_id == team_id)
    if model_id is not None:
        query = query.where(Share.model_id == model_id)
    return newest_first(session, query, Share.id, after=after, limit=limit)
