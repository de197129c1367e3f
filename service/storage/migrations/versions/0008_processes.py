"""Which process holds a lease, and which processes are alive."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_LEASED = ("invoices", "deliveries")


def upgrade() -> None:
    """Add the table of processes; present leases belong to no process, and run out."""
    op.create_table(
        "processes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("beat_count", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    for table in _LEASED:
        op.add_column(table, sa.Column("leased_by", sa.Integer))


def downgrade() -> None:
    """Remove the table; leases run out in their time."""
    for table in _LEASED:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("leased_by")
    op.drop_table("processes")
