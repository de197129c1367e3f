"""An invoice keeps the number of decimals of its currency: ISO 4217 withdraws currencies."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The currencies of ISO 4217 that have not two decimals, as they were when this was written. A
# table of today would lack those that have been withdrawn since.
_OTHERS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}


def upgrade() -> None:
    """Add the column, empty for what an earlier version stores from now on, and fill it."""
    op.add_column("invoices", sa.Column("decimals", sa.Integer()))
    invoices = sa.table("invoices", sa.column("currency"), sa.column("decimals"))
    cases = [(invoices.c.currency.in_(codes.split()), n) for n, codes in _OTHERS.items()]
    op.execute(invoices.update().values(decimals=sa.case(*cases, else_=2)))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("invoices") as batch:
        batch.drop_column("decimals")
