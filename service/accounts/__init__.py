"""Accounts of API users: authentication, signing secrets, rate limits, administration."""
