"""Time that no test has to wait for."""

from __future__ import annotations

from tests.postgres import execute


def let_leases_run_out(url):
    """All leases end now: what was in flight when a process died may be taken by the others."""
    execute(
        url,
        *(
            f"UPDATE {table} SET leased_until = 1 WHERE leased_until IS NOT NULL"
            for table in ("invoices", "deliveries")
        ),
    )
