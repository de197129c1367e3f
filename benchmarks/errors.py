"""What can go wrong with a benchmark, for whoever runs it."""


class BenchmarkError(Exception):
    """A measurement that cannot be made; the others go on, and its row says why."""
