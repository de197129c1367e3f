import pytest

from service.telemetry import busiest
from service.telemetry.busiest import ACCOUNTS_MAX, PERIOD_SECONDS, PERIODS, BusiestAccounts
from service.telemetry.busiest import forget_figures as forget


class Seconds:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    """The clock of all accounts."""
    return Seconds()


@pytest.fixture
def accounts(seconds):
    """The accounts of a process that is alone."""
    return BusiestAccounts("invoices", clock_seconds=seconds)


@pytest.fixture
def worker(tmp_path, seconds):
    """Makes the accounts of a worker; all workers share a folder."""
    return lambda number: BusiestAccounts("invoices", tmp_path, number, seconds)


def exposed(accounts, name="in_flight"):
    """The samples of one of the metrics, by account."""
    (family,) = [one for one in accounts.collect() if one.name.endswith(f"_{name}")]
    return {one.labels["account"]: one.value for one in family.samples}


def test_attempts_in_flight_and_waiting_are_exposed_by_account(accounts):
    """Each figure of an account that has attempts is one series."""
    accounts.count = lambda: {"acc_1": (3, 4), "acc_2": (1, 0), "acc_idle": (0, 0)}

    assert {"acc_1": 3, "acc_2": 1} == exposed(accounts)
    assert {"acc_1": 4, "acc_2": 0} == exposed(accounts, "waiting")


def test_ten_accounts_are_exposed_at_most(accounts):
    """The busiest ones are exposed, and of equally busy ones always the same."""
    accounts.count = lambda: {f"acc_{n:03}": (1, 0) for n in range(100)} | {"acc_big": (0, 2)}

    assert ACCOUNTS_MAX == len(exposed(accounts))
    assert ["acc_big", *(f"acc_{n:03}" for n in range(9))] == list(exposed(accounts))


def test_the_series_of_an_account_that_left_the_ten_ends(accounts):
    """The accounts are chosen anew at every scrape; none keeps its series with a 0."""
    accounts.count = lambda: {"acc_1": (3, 0)}
    before = exposed(accounts)
    accounts.count = dict

    assert {"acc_1": 3} == before
    assert {} == exposed(accounts)


def test_refused_attempts_are_those_of_the_last_minute(accounts, seconds):
    """An attempt that was refused a minute ago is not exposed any more."""
    accounts.attempt_refused("acc_1")
    seconds.now += (PERIODS - 1) * PERIOD_SECONDS
    accounts.attempt_refused("acc_1")
    within = exposed(accounts, "refused")
    seconds.now += PERIOD_SECONDS
    later = exposed(accounts, "refused")
    seconds.now += PERIODS * PERIOD_SECONDS

    assert ({"acc_1": 2}, {"acc_1": 1}) == (within, later)
    assert {} == exposed(accounts, "refused")


def test_the_accounts_that_are_remembered_are_bounded(accounts, monkeypatch):
    """Of more accounts than can be remembered, the first ones go on being counted."""
    monkeypatch.setattr(busiest, "REMEMBERED_MAX", 2)
    for account_id in ("acc_1", "acc_2", "acc_3", "acc_1"):
        accounts.attempt_refused(account_id)

    assert {"acc_1": 2, "acc_2": 1} == exposed(accounts, "refused")


def test_the_figures_of_workers_are_summed_before_the_ten_are_chosen(worker, monkeypatch):
    """An account that is second everywhere may be the busiest of all."""
    monkeypatch.setattr(busiest, "ACCOUNTS_MAX", 1)
    workers = [worker(number) for number in range(3)]
    for number, one in enumerate(workers):
        one.count = lambda number=number: {f"acc_{number}": (5, 0), "acc_all": (4, 1)}
        one.share()

    assert [{"acc_all": 12}] * 3 == [exposed(one) for one in workers]
    assert [{"acc_all": 3}] * 3 == [exposed(one, "waiting") for one in workers]


def test_an_ended_worker_has_no_figures(worker, tmp_path):
    """What a worker had in flight is not exposed after its end."""
    first, second = worker(0), worker(1)
    second.count = lambda: {"acc_1": (1, 0)}
    second.share()
    before = exposed(first)
    forget(1, tmp_path)
    forget(1, tmp_path)

    assert {"acc_1": 1} == before
    assert {} == exposed(first)


def test_a_file_that_cannot_be_read_does_not_fail_the_scrape(worker, tmp_path):
    """The figures of the other workers are exposed."""
    first = worker(0)
    first.count = lambda: {"acc_1": (1, 0)}
    (tmp_path / "accounts_1.json").write_text("{")
    (tmp_path / "accounts_2.json").mkdir()

    assert {"acc_1": 1} == exposed(first)


def test_a_folder_that_cannot_be_written_does_not_fail_the_process(worker, tmp_path):
    """The figures of that worker are missing in the sums, and nothing else."""
    first = worker(0)
    tmp_path.rmdir()

    first.share()

    assert {} == exposed(worker(1))
