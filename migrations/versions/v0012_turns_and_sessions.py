"""Teams take turns by weight; tokens know the token that they were made with; files when they were checked.

Browser sessions of the version before held the id of an API token: they end, and people sign in again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Tokens that there are have no parent."""
    with op.batch_alter_table("team", schema=None) as batch_op:
        batch_op.add_column(sa.Column("weight", sa.Double(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_check_constraint(op.f("ck_team_weight"), "weight > 0")
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.String(length=40), nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_token_parent_id_token"), "token", ["parent_id"], ["id"], ondelete="CASCADE"
        )
        batch_op.create_index(op.f("ix_token_parent_id"), ["parent_id"])
    with op.batch_alter_table("file", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("damaged_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_index(op.f("ix_file_checked_at"), ["checked_at"])


def downgrade() -> None:
    """Drop what was added."""
    with op.batch_alter_table("file", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_file_checked_at"))
        batch_op.drop_column("damaged_at")
        batch_op.drop_column("checked_at")
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_token_parent_id"))
        batch_op.drop_constraint(op.f("fk_token_parent_id_token"), type_="foreignkey")
        batch_op.drop_column("parent_id")
    with op.batch_alter_table("team", schema=None) as batch_op:
        batch_op.drop_constraint(op.f("ck_team_weight"), type_="check")
        batch_op.drop_column("served_at")
        batch_op.drop_column("weight")
