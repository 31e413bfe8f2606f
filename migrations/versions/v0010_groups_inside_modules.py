"""Groups of neurons inside modules, and what each part of a network reads, as rows that searches go by.

Modules of earlier runs get the rows of their inputs; their runs were not examined for groups.
"""

from __future__ import annotations

import json
import zlib

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OF_MODULES = -1
MAX_INPUTS = 1_000

module = sa.table("module", sa.column("run_id"), sa.column("name"), sa.column("body", sa.LargeBinary()))
part_input = sa.table(
    "part_input", sa.column("run_id"), sa.column("input"), sa.column("partition", sa.Integer()), sa.column("part")
)


def upgrade() -> None:
    """Add both tables and the number of groups of a run, and fill in the inputs of the modules that there are."""
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("interior_modules", sa.Integer(), nullable=True))
    op.create_table(
        "interior_group",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column("layer", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("module", sa.String(length=16), nullable=False),
        sa.Column("neurons", sa.Integer(), nullable=False),
        sa.Column("trees", sa.Integer(), nullable=False),
        sa.Column("moves", sa.String(length=200), nullable=True),
        sa.Column("effect", sa.Double(), nullable=True),
        sa.Column("selectivity", sa.Double(), nullable=True),
        sa.Column("largest_interaction", sa.Double(), nullable=True),
        sa.Column("trained_largest_interaction", sa.Double(), nullable=True),
        sa.Column("p", sa.Double(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("representation", sa.String(length=64), nullable=True),
        sa.CheckConstraint("kind IN ('sum', 'composition')", name=op.f("ck_interior_group_kind")),
        sa.CheckConstraint("neurons >= 0", name=op.f("ck_interior_group_neurons")),
        sa.CheckConstraint(
            "verdict IN ('supported', 'not supported', 'not testable')", name=op.f("ck_interior_group_verdict")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_interior_group_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "partition", "name", name=op.f("pk_interior_group")),
    )
    op.create_table(
        "part_input",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("input", sa.String(length=200), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("part", sa.String(length=16), nullable=False),
        sa.Column("share", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_part_input_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "input", "partition", "part", name=op.f("pk_part_input")),
    )
    for run_id, name in op.get_bind().execute(sa.select(module.c.run_id, module.c.name)).all():
        here = (module.c.run_id == run_id, module.c.name == name)
        stored: bytes = op.get_bind().execute(sa.select(module.c.body).where(*here)).scalar_one()
        body = json.loads(zlib.decompress(stored))
        rows = [
            {"run_id": run_id, "input": read, "partition": OF_MODULES, "part": name}
            for read in list(dict.fromkeys(body.get("inputs") or ()))[:MAX_INPUTS]
        ]
        if rows:
            op.get_bind().execute(sa.insert(part_input), rows)


def downgrade() -> None:
    """Drop what was added."""
    op.drop_table("part_input")
    op.drop_table("interior_group")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_column("interior_modules")
