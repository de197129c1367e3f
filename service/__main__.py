"""The entry point of `invoices` and of `python -m service`."""

from service.cli.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
