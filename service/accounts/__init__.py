"""API users: the keys that let them in, the secrets that sign for them, what they may use."""
