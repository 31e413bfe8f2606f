"""What a team shows to others: runs under a name, in versions, with words that point to versions.

private    its author alone
team       everybody in the team
unlisted   everybody who knows its id
public     everybody, in lists too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, true, update
from sqlalchemy.orm import Session, undefer

from store import runs
from store.database import insert_into
from store.errors import Conflict, NotFound
from store.identifiers import is_id, new_id
from store.pages import Page, matches, newest_first
from store.tables import Model, ModelAlias, ModelVersion, Run

VISIBILITIES = ("private", "team", "unlisted", "public")
NEWEST = "newest"  # the word that always means the last version; nobody can point it elsewhere


@dataclass(frozen=True)
class Reader:
    """Who wants to read. Admins of a team see what is private in it."""

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
    """The run as the next version under this name of the team; the first one makes the model.

    visibility   of a new model, `team` by default; given for an old one, it is changed.
    Raises NotFound for the run, Conflict where it has not succeeded or somebody else's private model has the name.
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
    """A model of the reader's own team, to be changed. Raises NotFound."""
    model = get(session, reader, name_or_id)
    if model.team_id != reader.team_id:
        raise NotFound("model", name_or_id)
    return model


def readable(reader: Reader) -> ColumnElement[bool]:
    """The condition that this reader may see a model whose id or name they know."""
    at_home = and_(
        Model.team_id == reader.team_id,
        or_(Model.visibility != "private", Model.member_id == reader.member_id, true() if reader.is_admin else false()),
    )
    return or_(at_home, Model.visibility.in_(("unlisted", "public")))


def page(
    session: Session,
    reader: Reader,
    *,
    q: str | None = None,
    everybody: bool = False,
    after: str | None = None,
    limit: int = 50,
    **evidence: Any,
) -> Page[Model]:
    """The team's models, or everybody's public ones too, newest first.

    q          looked for in names and cards
    evidence   as in runs.with_evidence, asked of the newest version: min_modules, max_connections, …
    """
    listed = and_(readable(reader), Model.team_id == reader.team_id)
    query: Select[Any] = select(Model).where(or_(listed, Model.visibility == "public") if everybody else listed)
    newest = and_(ModelVersion.model_id == Model.id, ModelVersion.number == Model.versions)
    query = query.join(ModelVersion, newest).join(Run, Run.id == ModelVersion.run_id)
    query = runs.with_evidence(query, **evidence)
    if q:
        query = query.where(or_(matches(Model.name, q), matches(ModelVersion.card, q)))
    return newest_first(session, query, Model.id, after=after, limit=limit)


def version(session: Session, model: Model, number: int) -> ModelVersion:
    """One version. Raises NotFound."""
    found = session.get(ModelVersion, (model.id, number))
    if found is None:
        raise NotFound("version", f"{model.name}/{number}")
    return found


def find_version(session: Session, model: Model, word: str) -> ModelVersion:
    """The version that a number, `newest` or one of the model's words means now. Raises NotFound."""
    if word.isdecimal():
        return version(session, model, int(word))
    number = model.versions if word == NEWEST else aliases(session, model).get(word)
    if number is None:
        raise NotFound("version", f"{model.name}/{word}")
    return version(session, model, number)


def same_run(session: Session, model: Model, run_id: str) -> ModelVersion | None:
    """The newest version that shows this run, if there is one."""
    query = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.run_id == run_id)
    return session.scalar(query.order_by(ModelVersion.number.desc()).limit(1))


def showing(session: Session, reader: Reader, run_id: str) -> list[tuple[Model, int]]:
    """The reader's team's models that show this run, each with the number of the version, newest first."""
    query = select(Model, ModelVersion.number).join(ModelVersion, ModelVersion.model_id == Model.id)
    query = query.where(ModelVersion.run_id == run_id, Model.team_id == reader.team_id, readable(reader))
    query = query.order_by(ModelVersion.created_at.desc(), ModelVersion.number.desc())
    return [(model, number) for model, number in session.execute(query)]


def newest(session: Session, some: Sequence[Model]) -> dict[str, tuple[ModelVersion, Run]]:
    """Model id → its newest version with the run behind it, for all of these in one question."""
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
    """The run behind a version, whoever owns it: whoever may read the model may read its run."""
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
    """Write the card anew."""
    version.card = card
    session.flush()
    return version


def record_verification(
    session: Session, version: ModelVersion, *, verification: dict[str, Any], now: datetime
) -> None:
    """What came out when the version's claims were worked out again from its weights."""
    version.verification, version.verified_at = verification, now
    session.flush()


def delete(session: Session, model: Model) -> None:
    """Forget the model with its versions, words, notes and links; its runs stay."""
    session.delete(model)
    session.flush()


def point(
    session: Session, model: Model, alias: str, number: int | None, *, member_id: str, now: datetime
) -> ModelAlias:
    """From now on the word means this version; None: nothing. What it meant before stays on record. Raises NotFound."""
    if number is not None:
        version(session, model, number)
    row = ModelAlias(id=new_id("alias"), model_id=model.id, alias=alias, number=number, member_id=member_id, at=now)
    session.add(row)
    session.flush()
    return row


def aliases(session: Session, model: Model) -> dict[str, int]:
    """What each word means now."""
    newest = select(func.max(ModelAlias.id)).where(ModelAlias.model_id == model.id).group_by(ModelAlias.alias)
    rows = session.scalars(select(ModelAlias).where(ModelAlias.id.in_(newest)).order_by(ModelAlias.alias))
    return {row.alias: row.number for row in rows if row.number is not None}


def alias_history(
    session: Session, model: Model, alias: str, *, after: str | None = None, limit: int = 50
) -> Page[ModelAlias]:
    """What a word has meant, newest first."""
    query = select(ModelAlias).where(ModelAlias.model_id == model.id, ModelAlias.alias == alias)
    return newest_first(session, query, ModelAlias.id, after=after, limit=limit)
