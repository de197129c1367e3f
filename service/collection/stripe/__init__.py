"""Stripe Checkout as a collector; `client.py` alone imports the library of Stripe."""
