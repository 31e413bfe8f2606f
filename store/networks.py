"""Networks of a team: uploaded files, ONNX or safetensors, and what their check found in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column, undefer

from store import datasets, files
from store.columns import Base, CompressedJson, Identifier, Utc, new_id, one_of
from store.database import Page, matches, newest_first
from store.errors import NotFound
from store.files import StoredFile
from store.jobs.tables import Job

NETWORK_FORMATS = ("onnx", "safetensors")
NETWORK_STATES = ("checking", "ready", "refused")


class Network(Base):
    """An uploaded network.

    config       of a safetensors file: which network its weights are of; NULL where the file says it itself
    header       what the check found: operators or kind, tensors, shapes, notes
    parameters   numbers that can be trained
    """

    __tablename__ = "network"
    __table_args__ = (
        one_of("format", NETWORK_FORMATS),
        one_of("state", NETWORK_STATES),
        Index(None, "team_id", "id"),
        Index(None, "state", "checked_at"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    member_id: Mapped[str] = mapped_column(ForeignKey("member.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    config: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson)
    header: Mapped[dict[str, Any] | None] = mapped_column(CompressedJson, deferred=True)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(CompressedJson, deferred=True)
    created_at: Mapped[datetime] = mapped_column(Utc)
    checked_at: Mapped[datetime | None] = mapped_column(Utc)


def register(
    session: Session,
    *,
    team_id: str,
    member_id: str,
    name: str,
    format: str,
    file: StoredFile,
    config: dict[str, Any] | None,
    now: datetime,
    reserved: int = 0,
) -> Network:
    """A new network of the team, `checking` until `set_check_result`.

    reserved   bytes that the team's quota counts for it already, because they were declared by an upload.
    Raises QuotaExceeded.
    """
    datasets.check_quota(session, team_id, file.bytes - reserved)
    files.upsert(session, file, now=now)
    network = Network(
        id=new_id("network"),
        team_id=team_id,
        member_id=member_id,
        name=name,
        format=format,
        state="checking",
        sha256=file.sha256,
        bytes=file.bytes,
        parameters=None,
        config=config,
        header=None,
        errors=None,
        created_at=now,
        checked_at=None,
    )
    session.add(network)
    session.flush()
    return network


def set_check_result(
    session: Session,
    network_id: str,
    *,
    now: datetime,
    header: dict[str, Any] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> bool:
    """End the check: `ready`, or `refused` if there are errors. False if the network no longer waits for a check."""
    result = {
        "state": "refused" if errors else "ready",
        "header": header,
        "parameters": None if header is None else header["parameters"],
        "errors": errors,
        "checked_at": now,
    }
    changed = (
        update(Network)
        .where(Network.id == network_id, Network.state == "checking")
        .values(result)
        .returning(Network.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(changed) is not None


def get(session: Session, team_id: str, network_id: str) -> Network:
    """A network of the team, with its header. Raises NotFound."""
    query = select(Network).where(Network.id == network_id, Network.team_id == team_id)
    query = query.options(undefer(Network.header), undefer(Network.errors))
    network = session.scalar(query.execution_options(populate_existing=True))
    if network is None:
        raise NotFound("network", network_id)
    return network


def page(
    session: Session,
    team_id: str,
    *,
    state: str | None = None,
    q: str | None = None,
    explained: bool = False,
    with_headers: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page[Network]:
    """The team's networks, newest first; `explained`: with why one was refused."""
    query = select(Network).where(Network.team_id == team_id)
    if with_headers:
        query = query.options(undefer(Network.header))
    if explained:
        query = query.options(undefer(Network.errors))
    if state is not None:
        query = query.where(Network.state == state)
    if q:
        query = query.where(matches(Network.name, q))
    return newest_first(session, query, Network.id, after=after, limit=limit)


def with_content(session: Session, team_id: str, sha256: str) -> Network | None:
    """The team's newest network with these bytes, or None."""
    query = select(Network).where(Network.team_id == team_id, Network.sha256 == sha256)
    return session.scalar(query.order_by(Network.id.desc()).limit(1))


def delete(session: Session, team_id: str, network_id: str) -> str:
    """Delete a network; returns the SHA-256 of its file, to be freed afterwards unless others need it: see files.free.

    Raises NotFound, and Conflict while queued or running trainings use it.
    """
    network = get(session, team_id, network_id)
    datasets.raise_if_needed(session, Job.network_id == network_id, f"network `{network_id}`")
    session.delete(network)
    session.flush()
    return network.sha256
