"""Errands: two queues more for jobs and workers, and lists of jobs by kind."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BEFORE = "queue IN ('cpu', 'gpu')"
AFTER = "queue IN ('cpu', 'gpu', 'errands', 'chores')"


def upgrade() -> None:
    """Go forward."""
    _check_queues(AFTER)
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_team_id_kind_id"), ["team_id", "kind", "id"], unique=False)


def downgrade() -> None:
    """Go back; errands, which the older version does not know, are dropped."""
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_team_id_kind_id"))
    op.execute("DELETE FROM job WHERE queue IN ('errands', 'chores')")
    op.execute("DELETE FROM worker WHERE queue IN ('errands', 'chores')")
    _check_queues(BEFORE)


def _check_queues(queues: str) -> None:
    for table in ("job", "worker"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_constraint(batch_op.f(f"ck_{table}_queue"), type_="check")
            batch_op.create_check_constraint(batch_op.f(f"ck_{table}_queue"), queues)
