"""Rows about what a run found: its graph, its modules and their effects, its files and figures."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base, CompressedJson, Identifier


class RunBody(Base):
    """A document of a run that is read whole, by name."""

    __tablename__ = "run_body"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    body: Mapped[Any] = mapped_column(CompressedJson)


class RunFile(Base):
    """A published file of a run, such as weights.safetensors."""

    __tablename__ = "run_file"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class Figure(Base):
    """A picture or film of a run, such as network.svg."""

    __tablename__ = "figure"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)


class Graph(Base):
    """The pruned network of a run as neurons and connections."""

    __tablename__ = "graph"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), unique=True)
    neurons: Mapped[int]
    connections: Mapped[int] = mapped_column(index=True)
    body: Mapped[dict[str, Any]] = mapped_column(CompressedJson, deferred=True)


class Clustering(Base):
    """One way to part a graph into modules, with its score."""

    __tablename__ = "clustering"
    __table_args__ = (UniqueConstraint("graph_id", "method"), Index(None, "method", "modularity"))

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    graph_id: Mapped[str] = mapped_column(ForeignKey("graph.id", ondelete="CASCADE"))
    method: Mapped[str] = mapped_column(String(64))
    modules: Mapped[int]
    modularity: Mapped[float | None]
    body: Mapped[dict[str, Any]] = mapped_column(CompressedJson, deferred=True)


class Module(Base):
    """A cluster of neurons with what it reads, what it decides, and how sure that is."""

    __tablename__ = "module"
    __table_args__ = (
        CheckConstraint("neurons >= 0", name="neurons"),
        CheckConstraint("connections >= 0", name="connections"),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    neurons: Mapped[int]
    connections: Mapped[int]
    selectivity: Mapped[float | None]
    sufficiency: Mapped[float | None]
    reading: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]] = mapped_column(CompressedJson)


class Effect(Base):
    """What happens to one target when one module is set to zero, to its mean, or resampled.

    p, p_holm   against random groups of its size: of this cell alone, and corrected for the number of cells.
    """

    __tablename__ = "effect"
    __table_args__ = (ForeignKeyConstraint(["run_id", "module"], ["module.run_id", "module.name"], ondelete="CASCADE"),)

    run_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    module: Mapped[str] = mapped_column(String(16), primary_key=True)
    target: Mapped[str] = mapped_column(String(200), primary_key=True)
    zero: Mapped[float | None]
    mean: Mapped[float | None]
    resample: Mapped[float | None]
    p_holm: Mapped[float | None]
    p: Mapped[float | None]
