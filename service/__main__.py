"""
The entry point of `invoices` and of `python -m service`.

A callback whose expression does not parse is refused where it is declared, while the modules are
imported. The command then ends with the reason instead of a traceback.
"""

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
