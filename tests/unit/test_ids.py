import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from service.domain.ids import _Ids, lower_bound

MILLISECOND = timedelta(milliseconds=1)


@pytest.fixture
def new_id():
    """Generates ids with its own state, so that clocks of other tests have no effect."""
    return _Ids().new


def test_an_id_is_a_uuid_of_version_7(new_id):
    """Version and variant are as in RFC 9562, and the first 48 bits are the milliseconds."""
    before = time.time_ns() // 1_000_000
    uuid = UUID(new_id())
    after = time.time_ns() // 1_000_000

    assert (7, RFC_4122) == (uuid.version, uuid.variant)
    assert before <= uuid.int >> 80 <= after


def test_ids_are_32_hexadecimal_digits(new_id):
    """An id needs no escaping, and ids sort as text."""
    id_ = new_id()

    assert 32 == len(id_)
    assert set(id_) <= set("0123456789abcdef")


def test_a_later_id_is_greater(new_id):
    """The ids of one process sort in the order in which they were made."""
    ids = [new_id() for _ in range(10_000)]

    assert sorted(set(ids)) == ids


def test_a_clock_that_is_set_back_keeps_the_order(new_id, monkeypatch):
    """After the clock was set back, ids continue after the last one."""
    before = new_id()
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)

    assert before < new_id() < new_id()


def test_the_lower_bound_is_between_before_and_after(new_id, monkeypatch):
    """Ids of the instant and later are above the bound; ids of the millisecond before are below."""
    instant = datetime.now(UTC) + timedelta(hours=1)
    instant = instant.replace(microsecond=0)
    at = int(instant.timestamp()) * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: at - 1)
    earlier = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: at)

    assert earlier < lower_bound(instant) < new_id()
    assert lower_bound(instant - MILLISECOND) < earlier
