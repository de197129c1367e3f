"""Caches of keys and secrets, so that not every request reads the database."""

from async_lru import alru_cache

CACHE_SECONDS = 5
"""How long it may take until a rotation or a disabled account is noticed by every process."""

ENTRIES_MAX = 10_000
"""How many keys, or accounts, are cached; the one that was used longest ago is removed first."""

cached = alru_cache(maxsize=ENTRIES_MAX, ttl=CACHE_SECONDS)
"""
Cache what a coroutine function returns, in a cache of its own; errors are not cached.

Concurrent callers share one read. Entries age by the time of the event loop, which never jumps,
from the moment at which they were read: using an entry does not prolong it.
"""
