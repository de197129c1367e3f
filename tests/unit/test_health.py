import pytest

from service.delivery.health import COOLDOWN_FIRST, COOLDOWN_MAX, Cooldowns, Health
from tests.clock import START
from tests.rows import ONE, SECOND, TWO


def test_cooldowns_grow_with_each_failed_probe_up_to_a_limit():
    """Whoever keeps failing is probed at growing intervals, up to a maximum."""
    health, lengths = Health(), []
    for _ in range(20):
        lengths.append(health.failed(START, is_probe=True) - START)

    assert [COOLDOWN_FIRST * 2**number for number in range(7)] == lengths[:7]
    assert [COOLDOWN_MAX] * 13 == lengths[7:]


def test_a_success_resets_the_cooldowns():
    """Failures before the last success do not count."""
    health = Health()
    for _ in range(5):
        health.failed(START, is_probe=True)

    health.succeeded()

    assert (True, False) == (health.is_open, health.is_failing)
    assert START + COOLDOWN_FIRST == health.failed(START, is_probe=True)


def test_a_failure_that_was_not_a_probe_starts_no_cooldown():
    """After the failure of one of many attempts, a probe may begin at once."""
    health = Health(is_open=True)

    assert None is health.failed(START, is_probe=False)
    assert (False, True) == (health.is_open, health.is_failing)


@pytest.fixture
def cooldowns():
    """No cooldowns."""
    return Cooldowns()


def test_a_cooldown_ends_by_itself(cooldowns):
    """At the end of its cooldown a name is free again; others never were concerned."""
    cooldowns.begin(ONE, START, START + SECOND)

    assert cooldowns.is_active(ONE, START)
    assert START + SECOND == cooldowns.end_of(ONE, START)
    assert not cooldowns.is_active(TWO, START)
    assert not cooldowns.is_active(ONE, START + SECOND)
    assert None is cooldowns.end_of(ONE, START + SECOND)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_longer_of_two_cooldowns_applies(cooldowns, order):
    """A hold of an hour is not shortened by a short cooldown."""
    for seconds in order:
        cooldowns.begin(ONE, START, START + seconds * SECOND)

    assert START + 2 * SECOND == cooldowns.end_of(ONE, START)


def test_a_clock_that_is_set_back_prolongs_no_cooldown(cooldowns):
    """A cooldown applies only between its beginning and its end."""
    cooldowns.begin(ONE, START, START + SECOND)

    assert not cooldowns.is_active(ONE, START - SECOND)


def test_cooldowns_that_are_over_are_forgotten(cooldowns):
    """The number of cooldowns is that of those that are not over."""
    cooldowns.begin(ONE, START, START + SECOND)
    cooldowns.begin(TWO, START, START + 2 * SECOND)

    assert [2, 1, 0] == [cooldowns.forget_ended(START + n * SECOND) for n in range(3)]
