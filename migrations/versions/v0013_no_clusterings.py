"""The table of clusterings goes: nothing read it, and all that it held stands elsewhere.

Connected components are the rows of `module` and the bodies of their documents, groups inside them are the rows of
`interior_group`, and the communities of Leiden's method are a document of the run (`run_body`, "communities").
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the table."""
    with op.batch_alter_table("clustering", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_clustering_method_modularity"))
    op.drop_table("clustering")


def downgrade() -> None:
    """The table as it was, without rows."""
    op.create_table(
        "clustering",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("graph_id", sa.String(length=40), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("modules", sa.Integer(), nullable=False),
        sa.Column("modularity", sa.Double(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["graph_id"], ["graph.id"], name=op.f("fk_clustering_graph_id_graph"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clustering")),
        sa.UniqueConstraint("graph_id", "method", name=op.f("uq_clustering_graph_id_method")),
    )
    with op.batch_alter_table("clustering", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_clustering_method_modularity"), ["method", "modularity"], unique=False)
