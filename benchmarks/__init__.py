"""Measures the service on this machine, beside its floor and what one would write instead."""
