"""Accepts invoices over REST, collects them, and calls the API user back."""

__version__ = "0.1.0"
