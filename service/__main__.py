"""
The door: `invoices` and `python -m service`.

A callback whose expression does not parse is refused where it is declared, which is while the
modules are imported. Whoever starts the service then gets the reason, and not a traceback.
"""

from __future__ import annotations

import sys

from service.errors import ConfigurationError

try:
    from service.cli.commands import main
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)

__all__ = ["main"]

if __name__ == "__main__":
    main()
