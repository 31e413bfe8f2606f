"""A run says apart how long its training and its evidence took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward. What an older run has is both together, and nobody can part it: it says nothing from now on."""
    op.execute("ALTER TABLE run RENAME COLUMN seconds TO training_seconds")
    op.execute("UPDATE run SET training_seconds = NULL")
    op.add_column("run", sa.Column("evidence_seconds", sa.Double(), nullable=True))


def downgrade() -> None:
    """Go back."""
    op.execute("UPDATE run SET training_seconds = training_seconds + evidence_seconds")
    op.drop_column("run", "evidence_seconds")
    op.execute("ALTER TABLE run RENAME COLUMN training_seconds TO seconds")
