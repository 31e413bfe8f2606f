"""ONNX files that were made before took standardised numbers and did not say so: they are made anew when asked for.

A module's weights file goes with its ONNX file, since the two are made together.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

run = sa.table("run", sa.column("id"), sa.column("bytes"))
run_file = sa.table("run_file", sa.column("run_id"), sa.column("name"), sa.column("bytes"))


def upgrade() -> None:
    """Go forward."""
    made_before = sa.or_(run_file.c.name == "model.onnx", run_file.c.name.like("module-%"))
    freed = sa.select(sa.func.coalesce(sa.func.sum(run_file.c.bytes), 0)).where(run_file.c.run_id == run.c.id)
    has_some = sa.exists().where(run_file.c.run_id == run.c.id, made_before)
    smaller = run.c.bytes - freed.where(made_before).scalar_subquery()
    op.execute(sa.update(run).where(has_some).values(bytes=smaller))
    op.execute(sa.delete(run_file).where(made_before))


def downgrade() -> None:
    """Go back."""
