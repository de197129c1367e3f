"""The Python receiver that docs/receiver.md prints."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/receiver.md"


def printed_code():
    """The program, as it is printed."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


class PrintedReceiver:
    """The program with a database in memory: its application, to be closed at the end."""

    def __init__(self):
        code = printed_code()
        assert 1 == code.count('"receiver.db"')
        names = {"__name__": "receiver"}
        exec(compile(code.replace("receiver.db", ":memory:"), str(PAGE), "exec"), names)
        self.app = names["app"]
        self._database = names["database"]

    def close(self):
        """Close its database."""
        self._database.close()
