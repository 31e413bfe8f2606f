"""The queues of operations are called interactive and batch; members have no passwords."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

RENAMED = {"errands": "interactive", "chores": "batch"}
BEFORE = "queue IN ('cpu', 'gpu', 'errands', 'chores')"
AFTER = "queue IN ('cpu', 'gpu', 'interactive', 'batch')"


def upgrade() -> None:
    """Rename the queues in jobs and workers, and drop the password hash, which nothing reads."""
    _rename(RENAMED, AFTER)
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.drop_column("password_hash")


def downgrade() -> None:
    """Rename the queues back and add the empty column again."""
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.add_column(sa.Column("password_hash", sa.String(length=200), nullable=True))
    _rename({new: old for old, new in RENAMED.items()}, BEFORE)


def _rename(names: dict[str, str], condition: str) -> None:
    """Rename in all rows. The constraint is absent meanwhile: neither set of names satisfies both conditions."""
    for table in ("job", "worker"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_constraint(batch_op.f(f"ck_{table}_queue"), type_="check")
        for old, new in names.items():
            op.execute(f"UPDATE {table} SET queue = '{new}' WHERE queue = '{old}'")
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_check_constraint(batch_op.f(f"ck_{table}_queue"), condition)
