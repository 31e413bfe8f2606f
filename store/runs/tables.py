"""Tables of runs: the run, what it records while it trains, and what it publishes at the end."""

from __future__ import annotations

from datetime import datetime
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

from store.columns import Base, CompressedJson, Identifier, Utc, one_of
from store.jobs.tables import STATES

OF_MODULES = -1  # in place of the number of a partition: the part is a module
PARTITION_KINDS = ("sum", "composition")
VERDICTS = ("supported", "not supported", "not testable")


class Run(Base):
    """One network trained in a job: one seed, one cost strength.

    test_metric_name … connection_cost   summary of the evidence, for lists and searches; interior_modules: supported
               groups of neurons inside the modules, NULL in runs that were not examined for them.
    replicas   number of networks trained in one batch, this one included; needed to reproduce the same bits.
    training_seconds, evidence_seconds   time of all steps, over all attempts (its share of a batch); time of
               evaluation and figures.
    """

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        one_of("state", STATES),
        CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled')) = (ended_at IS NOT NULL)", name="ended_has_a_time"
        ),
        Index(None, "team_id", "id"),
        Index(None, "team_id", "state", "id"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id", ondelete="RESTRICT"))
    number: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    cost_strength: Mapped[float | None]
    method: Mapped[str | None] = mapped_column(String(32))  # copied from the spec, as dataset_kind is, for searching
    dataset_kind: Mapped[str | None] = mapped_column(String(32))
    spec: Mapped[dict[str, Any]] = mapped_column(CompressedJson, deferred=True)
    steps: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int]
    stepper: Mapped[str | None] = mapped_column(String(32))
    device: Mapped[str | None] = mapped_column(String(64))
    training_seconds: Mapped[float | None]
    bytes: Mapped[int] = mapped_column(BigInteger)  # of its published files
    checkpoint_sha256: Mapped[str | None] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)
    checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(Utc)
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    test_metric_name: Mapped[str | None] = mapped_column(String(64))
    test_metric: Mapped[float | None]
    connections: Mapped[int | None]
    modules: Mapped[int | None]
    modularity: Mapped[float | None]
    selectivity: Mapped[float | None]
    connection_cost: Mapped[float | None]
    evidence_seconds: Mapped[float | None]
    replicas: Mapped[int | None]
    interior_modules: Mapped[int | None]


class HistoryChunk(Base):
    """Consecutive rows of a run's learning curve."""

    __tablename__ = "history_chunk"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    first_step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[list[dict[str, Any]]] = mapped_column(CompressedJson)


class Snapshot(Base):
    """The network at one step of its training."""

    __tablename__ = "snapshot"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("file.sha256", ondelete="RESTRICT"), index=True)


class LogChunk(Base):
    """Consecutive lines of a job's log: {at, level, text, run_id?}."""

    __tablename__ = "log_chunk"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(Utc)
    lines: Mapped[list[dict[str, Any]]] = mapped_column(CompressedJson)


class RunBody(Base):
    """A named document of a run that is read whole."""

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
    """A figure or film of a run, such as network.svg."""

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


class Module(Base):
    """A cluster of neurons: its inputs, its outputs and the evidence for them."""

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

    p, p_holm   compared with random groups of the same size: uncorrected, and with Holm's correction over all cells.
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


class InteriorGroup(Base):
    """A group of hidden neurons inside a module, in one partition of the neurons up to a layer.

    partition           number of the partition in the document `interior`; is_primary: it is drawn and reported first.
    layer, kind, largest_interaction, trained_largest_interaction, p, verdict   of the whole partition.
    trees               parts into which it falls without common inputs.
    moves               the output that it moves most; NULL where it moves none by 1 % of its variance.
    effect              on that output, as a share of its variance.
    representation      the irreducible representation that holds most of it; NULL where the data have no group.
    """

    __tablename__ = "interior_group"
    __table_args__ = (
        CheckConstraint("neurons >= 0", name="neurons"),
        one_of("kind", PARTITION_KINDS),
        one_of("verdict", VERDICTS),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    is_primary: Mapped[bool]
    layer: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    module: Mapped[str] = mapped_column(String(16))
    neurons: Mapped[int]
    trees: Mapped[int]
    moves: Mapped[str | None] = mapped_column(String(200))
    effect: Mapped[float | None]
    selectivity: Mapped[float | None]
    largest_interaction: Mapped[float | None]
    trained_largest_interaction: Mapped[float | None]
    p: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(String(16))
    representation: Mapped[str | None] = mapped_column(String(64))


class PartInput(Base):
    """What a part of the network reads: a module the columns of the data, a group inside one its terminals.

    partition   that of the group; OF_MODULES: the part is a module.
    share       of all that moves the neurons of a group; NULL for modules.
    """

    __tablename__ = "part_input"

    run_id: Mapped[str] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    input: Mapped[str] = mapped_column(String(200), primary_key=True)
    partition: Mapped[int] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    share: Mapped[float | None]
