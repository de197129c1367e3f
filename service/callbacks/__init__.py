"""Callbacks as declarations, and the runtime expressions in them; no web server, no database."""
