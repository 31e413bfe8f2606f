"""Networks that users upload; an upload becomes a data set or a network, and a job may be about one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, and where uploads and jobs name a network."""
    op.create_table(
        "network",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("team_id", sa.String(length=40), nullable=False),
        sa.Column("member_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("config", sa.LargeBinary(), nullable=True),
        sa.Column("header", sa.LargeBinary(), nullable=True),
        sa.Column("errors", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("format IN ('onnx', 'safetensors')", name=op.f("ck_network_format")),
        sa.CheckConstraint("state IN ('checking', 'ready', 'refused')", name=op.f("ck_network_state")),
        sa.ForeignKeyConstraint(
            ["member_id"], ["member.id"], name=op.f("fk_network_member_id_member"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["sha256"], ["file.sha256"], name=op.f("fk_network_sha256_file"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(["team_id"], ["team.id"], name=op.f("fk_network_team_id_team"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_network")),
    )
    with op.batch_alter_table("network", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_network_sha256"), ["sha256"], unique=False)
        batch_op.create_index(batch_op.f("ix_network_state_checked_at"), ["state", "checked_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_network_team_id_id"), ["team_id", "id"], unique=False)
    json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    with op.batch_alter_table("upload", schema=None) as batch_op:
        batch_op.add_column(sa.Column("config", json, nullable=True))
        _name_a_network(batch_op, "upload", "CASCADE")
    with op.batch_alter_table("job", schema=None) as batch_op:
        _name_a_network(batch_op, "job", "SET NULL")


def downgrade() -> None:
    """Take all of it away; bytes that only networks needed are collected later."""
    for table in ("job", "upload"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_index(batch_op.f(f"ix_{table}_network_id"))
            batch_op.drop_constraint(batch_op.f(f"fk_{table}_network_id_network"), type_="foreignkey")
            batch_op.drop_column("network_id")
    with op.batch_alter_table("upload", schema=None) as batch_op:
        batch_op.drop_column("config")
    op.drop_table("network")


def _name_a_network(batch_op: BatchOperations, table: str, ondelete: str) -> None:
    batch_op.add_column(sa.Column("network_id", sa.String(length=40), nullable=True))
    batch_op.create_foreign_key(
        batch_op.f(f"fk_{table}_network_id_network"), "network", ["network_id"], ["id"], ondelete=ondelete
    )
    batch_op.create_index(batch_op.f(f"ix_{table}_network_id"), ["network_id"], unique=False)
