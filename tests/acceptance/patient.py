"""
The service that asks for its database once an hour: `python -m tests.acceptance.patient serve`.

What it does sooner is no answer of the next try.
"""

from __future__ import annotations

from datetime import timedelta

from service.__main__ import main
from service.cli import database

if __name__ == "__main__":
    database.POLL = timedelta(hours=1)
    main()
