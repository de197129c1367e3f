"""
The plans by which databases find rows, on tables that are large enough for an index to matter.

Each operation of a store is done once on many rows. Then every statement of it is explained, with
the values of that run, and as a prepared statement with a generic plan.
"""

import re
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import groupby

import asyncpg
import orjson
import pytest
from sqlalchemy import Engine, event, text

from service.database.bulk import insert_rows
from service.database.compiled import text_for_driver
from service.database.connecting import SETTINGS
from service.database.opening import open_database
from service.domain.attempt_counts import COUNTS, Hour, no_counts
from service.domain.listening import AttemptKey
from service.domain.receivers import id_of
from service.errors import NotFound
from service.storage.accounts import NewKey
from service.storage.attempts import _settling_at_once
from service.storage.deliveries import LeaseRound as DeliveryRound
from service.storage.deliveries import _releasing_at_once
from service.storage.history import DeliveryFilter
from service.storage.invoices import _content_of_known
from service.storage.leases import LeaseRound
from service.storage.listeners import GivenAttempt, ListenerRow
from service.storage.observations import Observation
from service.storage.retention import SweepPosition
from service.storage.schema import migrate
from service.storage.sessions import Session
from service.storage.steps import _taking_at_once
from service.storage.store import Store
from service.storage.tables import (
    account_keys,
    account_secrets,
    accounts,
    attempts,
    console_links,
    console_sessions,
    deliveries,
    events,
    invoices,
    listen_keys,
    listener_attempts,
    listeners,
    mails,
    metadata,
    microseconds,
    origins,
    receiver_checks,
    receiver_hours,
    receivers,
)
from service.storage.waiting import Chain
from tests.clock import START
from tests.postgres import in_a_loop_of_its_own, new_database
from tests.rows import (
    LEASE,
    SECOND,
    a_delivery,
    a_step,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    take_step,
)

DELIVERED_COUNT = 20_000
PENDING_COUNT = 20_000
DEAD_COUNT = 300
ROW_COUNT = DELIVERED_COUNT + PENDING_COUNT + DEAD_COUNT
DUE_INVOICE_COUNT = 2_000
MAIL_COUNT = 4_000
RECEIVER_COUNT = 40
REMEMBERED_COUNT = 20_000
ACCOUNT_COUNT = 2_000
CHUNK = 2_000
ORIGIN = "https://hooks.example:443"
NOW = START + timedelta(hours=1)
HOUR = 3600 * 10**6


@pytest.fixture(scope="module")
def filled_file(tmp_path_factory):
    """A file of SQLite with many rows, which it has not counted."""
    path = tmp_path_factory.mktemp("plans") / "invoices.db"
    in_a_loop_of_its_own(filled(f"sqlite:///{path}", counted_after=None))
    return path


@pytest.fixture(scope="module")
def filled_url(postgres_server):
    """The same rows in a server that counted them before any delivery was due, and never since."""
    with new_database(postgres_server) as url:
        in_a_loop_of_its_own(filled(url, counted_after=DELIVERED_COUNT))
        yield url


@pytest.fixture(scope="module", params=["sqlite", "sqlite, counted", "postgresql"])
def plans(request, tmp_path_factory):
    """The plans of every statement, by the operation that ran it."""
    # SQLite counts its rows only if the operator runs ANALYZE; PostgreSQL does it by itself.
    explain = partial(explained, is_counted=request.param != "sqlite")
    if request.param.startswith("sqlite"):
        folder = tmp_path_factory.mktemp("plans")
        path = shutil.copy(request.getfixturevalue("filled_file"), folder)
        return in_a_loop_of_its_own(explain(f"sqlite:///{path}"))
    filled_url, server = map(request.getfixturevalue, ("filled_url", "postgres_server"))
    with new_database(server, like=filled_url) as url:
        return in_a_loop_of_its_own(explain(url))


@pytest.fixture(scope="module")
def early_plans(postgres_server, filled_url):
    """The plans of a server that counted its rows before any delivery was due, and never since."""
    with new_database(postgres_server, like=filled_url) as url:
        return in_a_loop_of_its_own(explained(url, is_counted=False))


async def filled(url, *, counted_after):
    """Fill the database of *url*; it counts its rows after *counted_after* deliveries, or never."""
    database = open_database(url)
    try:
        await migrate(database)
        await fill(database, counted_after)
    finally:
        await database.close()


async def explained(url, *, is_counted):
    """
    Do each operation once on a copy of such a database, and explain its statements.

    If *is_counted*, the database counts its rows before that.
    """
    database = open_database(url)
    try:
        if is_counted:
            await database.write(count_rows)
        statements = await recorded(Store(database))
        explain = explain_in_sqlite if url.startswith("sqlite") else partial(explain_in_server, url)
        return {
            name: [await explain(database, *statement) for statement in run]
            for name, run in statements.items()
        }
    finally:
        await database.close()


# Rows


async def fill(database, counted_after):
    """Insert settled deliveries, a backlog over many origins, and invoices that are due."""
    await database.write(insert_due_invoices)
    await database.write(insert_mails)
    for start in range(0, ROW_COUNT, CHUNK):
        end = min(ROW_COUNT, start + CHUNK)
        await database.write(partial(insert_chunk, range(start, end)))
        if end == counted_after:
            await database.write(count_rows)


def count_rows(tx):
    """Make the database count its rows now, and switch off automatic counting."""
    if tx.dialect.name == "postgresql":
        tx.execute(text("ALTER TABLE deliveries SET (autovacuum_enabled = off)")).close()
    tx.execute(text("ANALYZE")).close()


def insert_chunk(numbers, tx):
    """Insert collected invoices, each with the delivery of its event."""
    insert_rows(tx, invoices, [invoice_row(number) for number in numbers])
    insert_rows(tx, events, [event_row(number) for number in numbers])
    insert_rows(tx, deliveries, [delivery_row(number) for number in numbers])
    insert_rows(tx, attempts, [attempt_row(n) for n in numbers if status_of(n) != "pending"])


def insert_mails(tx):
    """Insert mails that are due, and some that have gone."""
    made = microseconds(START)
    rows = [
        (
            *(account_of(n), f"mail_{n:032x}", f"{n:032x}", "r@example.com", "Invoice", "<m>", b""),
            *("pending" if n % 10 < 5 else "sent", 0, made, made + n, None, None, 0, None),
        )
        for n in range(MAIL_COUNT)
    ]
    insert_rows(tx, mails, rows)


def insert_due_invoices(tx):
    """Insert invoices that are due, accounts, and the states of receivers and origins."""
    numbers = range(100_000, 100_000 + DUE_INVOICE_COUNT)
    insert_rows(tx, invoices, [invoice_row(n, due_at=microseconds(START) + n) for n in numbers])
    made = microseconds(START)
    owners = [(f"acct_{n}", n) for n in range(ACCOUNT_COUNT)]
    insert_rows(tx, accounts, [(id_, f"name {n}", made, None, None) for id_, n in owners])
    insert_rows(tx, account_keys, [(f"p{n}", id_, b"hash", made, None) for id_, n in owners])
    insert_rows(tx, account_secrets, [(id_, f"{n}", b"locked", made, None) for id_, n in owners])
    names = {receiver_of(number) for number in range(2 * RECEIVER_COUNT)}
    names |= {f"dev https://hooks.example/{number}" for number in range(REMEMBERED_COUNT)}
    # Most of them answer; a hundredth rested until some time ago.
    states = [
        receiver_row(name, None if n % 100 == 0 else made + n, made)
        for n, name in enumerate(sorted(names))
    ]
    insert_rows(tx, receivers, states)
    lasting = microseconds(NOW + LEASE)
    hashes = [(f"{n:032}".encode(), id_) for id_, n in owners]
    insert_rows(tx, console_links, [(one, id_, lasting) for one, id_ in hashes])
    insert_rows(tx, console_sessions, [(one, id_, made, lasting) for one, id_ in hashes])
    insert_rows(tx, receiver_checks, [(id_, "https://a", True, made, "[]") for _, id_ in hashes])
    counts = (0,) * len(COUNTS)
    hours = [(row[0], microseconds(NOW) - n % 30 * HOUR, *counts) for n, row in enumerate(states)]
    insert_rows(tx, receiver_hours, hours)
    hosts = sorted({ORIGIN, *(f"https://{n}.example:443" for n in range(REMEMBERED_COUNT))})
    insert_rows(tx, origins, [(name, made) for name in hosts])
    names = [(id_, f"listen://{n}", n) for id_, n in owners]
    insert_rows(tx, listeners, [(id_, origin, "t", made, 0) for id_, origin, _ in names])
    given = [(id_, f"msg_{n}", 1, origin, made, None) for id_, origin, n in names]
    insert_rows(tx, listener_attempts, given)
    insert_rows(tx, listen_keys, [(f"p{n}", id_, b"hash", made) for id_, n in owners])


def receiver_row(name, answered_at, made):
    """A row of `receivers`; one that does not answer fails."""
    values = {
        **{column.name: None for column in receivers.columns},
        **{"receiver": name, "origin": ORIGIN, "id": id_of(name), "answered_at": answered_at},
        **{"cooldown_until": made, "held_until": made, "answering_since": answered_at},
        **{"failing_since": None if answered_at else made, "reason": "It failed."},
    }
    return tuple(values.values())


def status_of(number):
    """The status of the delivery with that number; the newest are pending."""
    if number < DELIVERED_COUNT:
        return "delivered"
    return "dead" if number < DELIVERED_COUNT + DEAD_COUNT else "pending"


def account_of(number):
    """The account of the invoice: one account has most invoices."""
    return "other" if number % 10 == 0 else "dev"


def receiver_of(number):
    """The receiver of the delivery: all are on one host, and one has half of the deliveries."""
    return f"{account_of(number)} https://hooks.example/{number % 2 and number % RECEIVER_COUNT}"


def invoice_row(number, *, due_at=None):
    """A row of `invoices`, as `insert_rows` takes it."""
    values = {
        **{column.name: None for column in invoices.columns},
        **{"account_id": account_of(number), "key": f"{number:032x}", "id": f"i{number}"},
        **{"customer": "Mr. Richie Rich", "total_minor": 1, "currency": "USD"},
        **{"status": "received" if due_at else "paid", "created_at": microseconds(START)},
        **{"event_count": 0 if due_at else 1, "due_at": due_at, "lease_token": 1},
        "request_id": "r",
    }
    return tuple(values.values())


def event_row(number):
    """A row of `events`."""
    at, callbacks = microseconds(START), '{"invoice_notification":null}'
    return account_of(number), f"{number:032x}", 1, "Invoice paid", True, "sandbox", at, callbacks


def delivery_row(number):
    """A row of `deliveries`; the pending ones become due one after another."""
    status, at = status_of(number), microseconds(START)
    values = {
        **{column.name: None for column in deliveries.columns},
        **{"account_id": account_of(number), "id": f"msg_{number:032x}"},
        **{"invoice_key": f"{number:032x}", "sequence": 1, "callback": "invoice_notification"},
        **{"url": "https://a/", "origin": ORIGIN, "receiver": receiver_of(number)},
        **{"is_asked": False, "body": b"{}", "status": status},
        **{"reason": "gone" if status == "dead" else None},
        **{"attempt_count": 0 if status == "pending" else 1, "failure_count": 0},
        **{"created_at": at, "due_at": at + number, "lease_token": 1, "cause": "event"},
        "settled_at": None if status == "pending" else at + number,
    }
    return tuple(values.values())


def attempt_row(number):
    """A row of `attempts`."""
    id_ = f"msg_{number:032x}"
    made = microseconds(START), 12, 200, "delivered", None, None, "event", None
    return account_of(number), id_, 1, *made


# Statements


async def recorded(store):
    """The statements, with their parameters, of every operation of a store."""
    statements, run = {}, []

    def record(_connection, _cursor, statement, parameters, _context, _is_many):
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            run.append((statement, parameters))

    async def do(name, awaitable):
        run.clear()
        try:
            return await awaitable
        finally:
            statements[name] = list(run)

    event.listen(Engine, "before_cursor_execute", record)
    try:
        await do_one_of_each(store, do)
    finally:
        event.remove(Engine, "before_cursor_execute", record)
    return statements


async def accept_begun(store, do):
    """Accept an invoice with its first step."""
    step = a_step(an_invoice("begun", at=NOW), event=an_event(at=NOW, delivery_id="msg_begun"))
    new = [a_delivery(step, leased_until=NOW + LEASE)]
    await do("accept with a step", store.accept_begun(step, new))


async def count_each(store, do):
    """Count what waits."""
    await do("measure the backlog", store.backlog(NOW))
    await do("count open deliveries", store.history.count_open("dev", 9))


async def do_one_of_each(store, do):
    """Do every write and read once."""
    await do("accept", store.accept(an_invoice()))
    await do("accept again", store.accept(an_invoice()))
    round_ = LeaseRound(NOW, NOW + LEASE, 50)
    invoice = (await do("lease invoices", store.lease_invoices(round_))).invoices[0]
    invoice = replace(invoice, callbacks=an_invoice().callbacks)
    await do("take a step", take_step(store, a_step(invoice, event=an_event(at=NOW))))
    refunded = a_step(invoice, None, event=an_event("Refunded", at=NOW, delivery_id="msg_2"))
    await do("record an event", store.report(refunded, [a_delivery(refunded)]))
    await do("find accounts", store.find_accounts(""))
    names = [receiver_of(number) for number in (1, 3, 10)]
    await do("look at receivers", store.look_at(names, NOW))
    chains = [Chain("dev", "", "", 50), Chain("other", names[-1], "", 50)]
    await do("look along chains", store.look_along(chains, NOW))
    limits = dict.fromkeys(names, 50)
    leasing = [DeliveryRound(NOW + n * LEASE, NOW + (n + 1) * LEASE, limits, names) for n in (0, 1)]
    await do("lease deliveries", store.lease_deliveries(leasing[0]))
    await do("lease lost deliveries", store.lease_deliveries(leasing[1]))
    found = await lease_deliveries(store, now=NOW + 2 * LEASE, limit=50)
    await do("settle", store.settle(delivered(found[0], at=NOW)))
    held = failed(found[1], due_at=NOW + SECOND, held_until=NOW + SECOND, at=NOW)
    await do("settle and hold", store.settle(held))
    await do("release", store.release(found[2]))
    await list_one_of_each(store, do)
    await clear_one_of_each(store, do)
    await count_each(store, do)
    await by_hand_of_each(store, do)
    await do("lease mails", store.lease_mails(round_))
    await accounts_of_each(store, do)
    await accept_begun(store, do)


async def accounts_of_each(store, do):
    """Read what is stored of an account, and listen for one."""
    await listen_once(store.listening, do)
    await do("find a key", store.accounts.find_key("p1000", NOW))
    await do("find secrets", store.accounts.secrets_of("acct_1000", NOW))


async def by_hand_of_each(store, do):
    """Find, list, pause and resume receivers, and store what was observed."""
    known, _ = await do("list receivers", store.receivers.page("dev", NOW, after=None, limit=50))
    after = id_of(known[-1].receiver)
    await do("list receivers on", store.receivers.page("dev", NOW, after=after, limit=50))
    await do("find a receiver", store.receivers.find("dev", after, NOW))
    with suppress(NotFound):
        await do("find an unknown receiver", store.receivers.find("dev", "rcv_", NOW))
    await do("hours of a receiver", store.receivers.series_of("dev", after, NOW))
    await do("pause", store.receivers.pause(known[0], NOW))
    await do("resume", store.receivers.resume(known[0]))
    values = {"receiver": known[0].receiver, "origin": known[0].origin}
    hours = [Hour(known[0].receiver, NOW, no_counts())]
    failing = Observation(**values, hours=hours, failing_since=NOW, failed_at=NOW)
    await do("observe a failure", store.receivers.observe([failing]))
    await do(
        "observe an answer",
        store.receivers.observe([Observation(**values, answered_at=NOW + SECOND)]),
    )
    later = NOW + timedelta(days=2)
    await do("remove old hours", store.receivers.remove_old_hours(later))
    due = await do("find notices", store.receivers.due_notices(later))
    await do("give notices", store.receivers.give_notices([(due[0], None)]))
    test = replace(a_delivery(a_step(an_invoice(), event=an_event())), id="msg_t", invoice_key="t")
    await do("add a test event", store.receivers.add_test_event(test))


async def listen_once(store, do):
    """Connect a listener, and let it work on an attempt."""
    row = ListenerRow(account_id="acct_1000", origin="listen://1000", token="t")
    key = AttemptKey(account_id=row.account_id, origin=row.origin, delivery_id="msg_1000", number=1)
    await do("connect a listener", store.connect(row, START, ""))
    await do("beat for listeners", store.beat([row], NOW))
    await do("look at listeners", store.look([row]))
    await do("note what has arrived", store.note_seen(row))
    await do("give an attempt", store.give(GivenAttempt(key=key, deadline_at=NOW)))
    await do("read answers", store.answers_of([key]))
    await do("answer an attempt", store.answer(key, b"{}", START))
    await do("finish an attempt", store.finish(key))
    await do("count what waits", store.count_waiting(receiver_of(1), 9))
    await do("disconnect a listener", store.disconnect(row.account_id, row.origin, "t"))
    new = NewKey("p9999", b"hash")
    await do("add a key to listen", store.add_key("acct_1000", new, NOW, NOW + SECOND))
    await do("find a key to listen", store.find_key("p1001", START - SECOND))


async def clear_one_of_each(store, do):
    """Redeliver, sweep and forget."""
    await do("redeliver", store.redeliver("dev", f"msg_{1:032x}", NOW))
    await do("cancel", store.cancel("dev", f"msg_{1:032x}", NOW))
    await do("redeliver all", anext(store.redeliver_all("dev", DeliveryFilter(status="dead"), NOW)))
    await do("sweep", store.sweep(SweepPosition("dev"), START + SECOND))
    await do("sweep on", store.sweep(SweepPosition("dev", "n"), START + SECOND))
    await do("forget receivers", store.remove_states("receivers", "", START))
    await do("forget origins", store.remove_states("origins", "", START))
    await do("find who answered", store.answered_receivers(START))


async def browse_one_of_each(console, do):
    """Do what the console does besides."""
    known = f"{1000:032}".encode()
    session = Session(b"new", "acct_1000", NOW, NOW + LEASE)
    link = await do("find a link", console.find_link(known, NOW))
    await do("take a link", console.take_link(link, session))
    await do("find a session", console.find_session(known, NOW))
    await do("end a session", console.end_session(known))
    await do("find an account by its id", console.is_account("acct_1000"))
    await do("find the body of a delivery", console.body_of("dev", f"msg_{1:032x}"))
    await do("find receivers of an account", console.waiting_receivers("dev", NOW))
    await do("count dead deliveries of a day", console.count_dead_since("dev", START))
    urls = ["https://a", "https://b"]
    await do("find deliveries to a URL", console.find_called("dev", ORIGIN, urls, 5))
    await do("hours of receivers", console.hours_of([receiver_of(1)], NOW))
    await do("hours of an account", console.hours_of_account("dev", NOW))
    for name, wanted in {
        "count deliveries": DeliveryFilter(),
        "count dead deliveries": DeliveryFilter(status="dead"),
        "count deliveries of an origin": DeliveryFilter(origin=ORIGIN),
        "count deliveries by invoice": DeliveryFilter(invoice_id="i1"),
    }.items():
        await do(name, console.count_deliveries("dev", wanted))
    row = {"account_id": "acct_1000", "url": "https://a", "conforms": True, "checks": "[]"}
    await do("keep a check", console.keep_check({**row, "checked_at": NOW}))
    await do("find checks", console.checks_of("acct_1000"))


async def list_one_of_each(store, do):
    """Find and list the rows that accounts may see."""
    await do("find an invoice", store.history.find_invoice("dev", "i1"))
    for name, narrowed in {
        "list invoices": {},
        "list invoices by status": {"status": "received"},
        "list invoices by status to the end of a scan": {"status": "sent"},
        "list invoices after a cursor": {"after": "i20001"},
        "list one invoice by its id": {"invoice_id": "i1"},
    }.items():
        options = {"status": None, "after": None, "limit": 50, **narrowed}
        await do(name, store.history.list_invoices("dev", **options))
    page = await do("read the feed", store.history.feed("dev", after=None, limit=50))
    await do(
        "read the feed after a cursor", store.history.feed("dev", after=str(page.next), limit=50)
    )
    await do("look at the heads of feeds", store.history.feed_heads(["dev", "other"]))
    await do("find a delivery", store.history.find_delivery("dev", f"msg_{1:032x}"))
    await do("explain a delivery", store.history.facts_of_delivery("dev", f"msg_{1:032x}"))
    await do("explain a later delivery", store.history.facts_of_delivery("dev", "msg_2"))
    await do("explain an invoice", store.history.facts_of_invoice("dev", "i1"))
    await do("deliveries of an invoice", store.history.deliveries_of("dev", "i1"))
    for name, wanted, after in (
        ("list deliveries", DeliveryFilter(), None),
        ("list deliveries after a cursor", DeliveryFilter(), f"msg_{20001:032x}"),
        ("list dead deliveries", DeliveryFilter(status="dead"), None),
        ("list pending deliveries", DeliveryFilter(status="pending"), None),
        ("list delivered deliveries", DeliveryFilter(status="delivered"), None),
        ("list deliveries of an origin", DeliveryFilter(origin=ORIGIN), None),
        ("list deliveries of an unknown origin", DeliveryFilter(origin="https://no:443"), None),
        ("list deliveries since an instant", DeliveryFilter(since=NOW), None),
        ("list deliveries until an instant", DeliveryFilter(until=START), None),
        ("list deliveries by invoice", DeliveryFilter(invoice_id="i1"), None),
        (
            "list deliveries by invoice after a cursor",
            DeliveryFilter(invoice_id="i1"),
            f"msg_{2:032x}",
        ),
    ):
        await do(name, store.history.list_deliveries("dev", wanted, after=after, limit=50))
    await browse_one_of_each(store.console, do)


# Plans


class Plan:
    """The plan of one statement: the indexes it searches and the tables it scans."""

    def __init__(self, statement):
        self.statement = statement
        self.searched = Counter()
        self.walked = []
        self.is_sorted = False

    def differs_from(self, others):
        """Whether one of *others* uses other indexes."""
        return any(self.searched != other.searched for other in others)

    def __repr__(self):
        return f"{self.statement}\n{dict(self.searched)} walks {self.walked} sorts {self.is_sorted}"


NO_TABLES = r"given|\d+-ROW VALUES CLAUSE|json_each|waiting|found|counted|CONSTANT|\d+ CONSTANT"
"""The names that SQLite gives to given or intermediate rows."""


async def explain_in_sqlite(database, statement, parameters):
    """The plans of *statement*: SQLite has one for all values."""

    def explain(tx):
        names = index_names(tx)
        lines = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        plan = Plan(statement)
        for *_, line in lines:
            plan.is_sorted |= "TEMP B-TREE" in line
            if search := re.match(r"SEARCH \w+ USING (?:COVERING )?INDEX (\w+)", line):
                plan.searched[names.get(search[1], search[1])] += 1
            elif search := re.match(r"SEARCH (\w+) USING INTEGER PRIMARY KEY", line):
                plan.searched[f"{search[1]}_pkey"] += 1
            elif re.match(rf"(SEARCH|SCAN) (?!{NO_TABLES})", line):
                plan.walked.append(line)
        return [plan]

    return await database.read(explain)


def index_names(tx):
    """The names of our keys, by the names that SQLite gives to their indexes."""
    names = {}
    for table in metadata.sorted_tables:
        keys = {tuple(one.columns.keys()): one.name for one in table.constraints}
        for _, name, *_ in tx.exec_driver_sql(f"PRAGMA index_list({table.name})").all():
            columns = tx.exec_driver_sql(f"PRAGMA index_info({name})").all()
            if name.startswith("sqlite_autoindex"):
                names[name] = keys[tuple(column for *_, column in columns)] or f"{table.name}_pkey"
    return names


async def explain_in_server(url, _database, statement, parameters):
    """The plans of *statement*: for these values, and for any values."""
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        # Only an executed plan shows what each step of a recursion read.
        options = "FORMAT JSON" + (", ANALYZE" if "RECURSIVE" in statement else "")
        custom = await connection.fetchval(f"EXPLAIN ({options}) {statement}", *parameters)
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE kept AS {statement}")
        values = ", ".join(["NULL"] * len(parameters))
        run = f"EXECUTE kept({values})" if values else "EXECUTE kept"
        generic = await connection.fetchval(f"EXPLAIN ({options}) {run}")
    finally:
        await connection.close()
    return [plan_of(statement, explained) for explained in (custom, generic)]


FIRST_COLUMNS = {
    one.name: next(iter(one.columns)).name
    for table in metadata.sorted_tables
    for one in (*table.indexes, *table.constraints)
    if one.columns
}
FIRST_COLUMNS |= {
    f"{one.name}_pkey": next(iter(one.primary_key)).name for one in metadata.sorted_tables
}
"""The first column of every index."""


FEW_ROWS = {"feed_bases"}
"""Tables that do not grow: one row for each server into which the database was restored."""


def columns_of(condition):
    """The names in a *condition* of PostgreSQL, which include the columns."""
    return re.findall(r"\w+", condition)


def plan_of(statement, explained):
    """The plan that PostgreSQL has printed as JSON."""
    plan, nodes = Plan(statement), [orjson.loads(explained)[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        plan.is_sorted |= "Sort" in node["Node Type"]
        # Without a condition on its first column, the whole index is scanned.
        if FIRST_COLUMNS.get(node.get("Index Name")) in columns_of(node.get("Index Cond", "")):
            plan.searched[node["Index Name"]] += 1
        elif node.get("Relation Name") in FEW_ROWS:
            continue
        elif "Index Name" in node or node["Node Type"] == "Seq Scan":
            plan.walked.append(f"{node['Node Type']} {node.get('Relation Name')}")
    return plan


# The expected plans

_ID, _KEY = {"invoices_account_id_id"}, {"invoices_primary"}
_ROWS = {
    *("events_primary", "invoices_primary", "deliveries_order"),
    *("receivers_pkey", "origins_pkey", "listeners_primary"),
}
_LOOK = {"deliveries_waiting", "deliveries_asked", "receivers_pkey", "origins_pkey"}
_STATES, _HOURS = {"receivers_pkey", "origins_pkey"}, {"receiver_hours_primary"}
_LEASED = {"deliveries_order", "events_primary", "invoices_primary"}
_EVENTS = {"invoices_primary", "events_primary"}
_DELIVERIES = {"deliveries_primary", *_ROWS}
_ATTEMPTS = {"deliveries_primary", "attempts_primary"}
_POSITION = {"events_feed"}
_POSITION_IN_SERVER = {"events_primary"}
"""By which the position of a new event is found: on SQLite, and on PostgreSQL."""
_FILTERED = [{"deliveries_primary"}, _DELIVERIES, _ATTEMPTS]
INDEXES = {
    "accept again": [_ID],
    "accept with a step": [_POSITION, {"receivers_pkey", "origins_pkey"}],
    "lease invoices": [{"invoices_due", "processes_pkey"}, _KEY],
    "take a step": [_KEY, _POSITION, {"receivers_pkey", "origins_pkey"}],
    "record an event": [_KEY, _POSITION, {"receivers_pkey", "origins_pkey"}],
    "find accounts": [{"deliveries_waiting"}],
    "look at receivers": [_LOOK],
    "look along chains": [_LOOK],
    "lease deliveries": [
        {"deliveries_asked", "receivers_pkey", "processes_pkey", *_LEASED},
        {"deliveries_waiting", "receivers_pkey", "processes_pkey", *_LEASED},
        {"deliveries_primary"},
    ],
    "find who answered": [{"receivers_answered"}],
    "settle and hold": [{"deliveries_primary"}],
    "release": [{"deliveries_primary"}],
    "find an invoice": [_ID, _EVENTS],
    "list invoices": [_KEY, _EVENTS],
    "list invoices by status": [_KEY],
    "list invoices by status to the end of a scan": [_KEY],
    "list invoices after a cursor": [_ID, _KEY, _EVENTS],
    "list one invoice by its id": [_ID, _EVENTS],
    "find a delivery": [{"deliveries_primary", *_ROWS}, {"deliveries_primary", "attempts_primary"}],
    "explain a delivery": [_DELIVERIES, _ATTEMPTS],
    "explain a later delivery": [_DELIVERIES, _ATTEMPTS, {"deliveries_order", "events_primary"}],
    "explain an invoice": [
        _ID,
        {"deliveries_order"},
        {"mails_invoice"},
        {"events_primary"},
        _DELIVERIES,
        _ATTEMPTS,
        {"checkouts_active"},
    ],
    "deliveries of an invoice": [_ID, {"deliveries_order"}, _DELIVERIES, _ATTEMPTS],
    "list deliveries": _FILTERED[:2],
    "list deliveries after a cursor": _FILTERED,
    "list dead deliveries": [{"deliveries_dead"}, _DELIVERIES, _ATTEMPTS],
    "list pending deliveries": _FILTERED[:2],
    "list delivered deliveries": _FILTERED,
    "list deliveries of an origin": _FILTERED[:2],
    "list deliveries of an unknown origin": _FILTERED[:1],
    "list deliveries since an instant": _FILTERED[:2],
    "list deliveries until an instant": _FILTERED[:1],
    "list deliveries by invoice": [_ID, {"deliveries_order"}, _DELIVERIES, _ATTEMPTS],
    "list deliveries by invoice after a cursor": [
        {"deliveries_primary"},
        _ID,
        {"deliveries_order"},
        _DELIVERIES,
        _ATTEMPTS,
    ],
    "redeliver": [
        {"deliveries_primary", "processes_pkey"},
        {"deliveries_primary", *_ROWS},
        {"deliveries_primary", "attempts_primary"},
    ],
    "cancel": [{"deliveries_primary"}, _DELIVERIES, _ATTEMPTS],
    "redeliver all": [{"deliveries_dead"}],
    "sweep": [{"deliveries_primary"}, {"attempts_primary"}],
    "sweep on": [{"deliveries_primary"}],
    "forget receivers": [{"receivers_pkey"}, {"receivers_pkey", "deliveries_waiting"}],
    "forget origins": [{"origins_pkey"}],
    "measure the backlog": [
        {
            *("deliveries_waiting", "deliveries_order", "receivers_pkey", "processes_pkey"),
            "listeners_primary",
        },
        {"invoices_due", "processes_pkey"},
        {"checkouts_failing"},
        {"payments_failing"},
        {"mails_due", "processes_pkey"},
    ],
    "count open deliveries": [{"deliveries_waiting"}],
    "find a link": [{"console_links_pkey", "accounts_pkey"}],
    "take a link": [
        {"console_links_pkey"},
        {"console_sessions_expires"},
        {"console_sessions_account"},
    ],
    "find a session": [{"console_sessions_pkey", "accounts_pkey"}],
    "end a session": [{"console_sessions_pkey"}],
    "find an account by its id": [{"accounts_pkey"}],
    "find the body of a delivery": [{"deliveries_primary"}],
    "find receivers of an account": [_LOOK],
    "find deliveries to a URL": [{"deliveries_primary"}],
    "hours of receivers": [{"receiver_hours_primary"}],
    "hours of an account": [{"receiver_hours_primary"}],
    "count dead deliveries of a day": [{"deliveries_dead"}],
    "count deliveries": [{"deliveries_primary"}],
    "count dead deliveries": [{"deliveries_dead"}],
    "count deliveries of an origin": [{"deliveries_primary"}],
    "count deliveries by invoice": [_ID, {"deliveries_order"}],
    "keep a check": [{"receiver_checks_primary"}],
    "find checks": [{"receiver_checks_primary"}],
    "read the feed": [{"events_feed", "invoices_primary"}],
    "read the feed after a cursor": [{"events_feed", "invoices_primary"}],
    "look at the heads of feeds": [{"events_feed"}],
    "list receivers": [_LOOK, {"receivers_pkey"}, _STATES, _HOURS],
    "list receivers on": [{"receivers_id"}, _LOOK, {"receivers_pkey"}, _STATES, _HOURS],
    "find a receiver": [{"receivers_id"}, _LOOK, _STATES, _HOURS],
    "find an unknown receiver": [{"receivers_id"}, {"deliveries_waiting"}],
    "hours of a receiver": [{"receivers_id"}, _LOOK, _STATES, _HOURS],
    "resume": [{"receivers_pkey"}],
    "observe an answer": [{"receivers_pkey"}],
    "remove old hours": [{"receiver_hours_hour"}, {"receiver_hours_primary"}],
    "find notices": [
        {"receivers_failing"},
        {"receivers_still_failing"},
        {"receivers_recovering"},
        {"accounts_pkey"},
    ],
    "give notices": [{"receivers_pkey"}],
    "lease mails": [{"mails_waiting", "processes_pkey"}, {"mails_primary"}],
    "connect a listener": [{"listener_attempts_deadline"}, {"listeners_primary"}],
    "beat for listeners": [{"listeners_primary"}],
    "look at listeners": [{"listeners_primary"}],
    "note what has arrived": [{"listeners_primary"}],
    "give an attempt": [{"listener_attempts_primary"}],
    "read answers": [{"listener_attempts_primary"}],
    "answer an attempt": [{"listener_attempts_primary"}],
    "finish an attempt": [{"listener_attempts_primary"}],
    "count what waits": [{"deliveries_waiting"}],
    "disconnect a listener": [{"listeners_primary"}],
    "add a key to listen": [{"listen_keys_account"}],
    "find a key to listen": [{"listen_keys_pkey", "accounts_pkey"}],
    "find a key": [{"account_keys_pkey", "accounts_pkey"}],
    "find secrets": [{"account_secrets_primary"}],
}
"""The indexes that each operation uses, statement by statement."""

_STEP = {*_POSITION_IN_SERVER, "receivers_pkey", "origins_pkey"}
AT_ONCE = {
    "accept with a step": [_STEP],
    "take a step": [{*_KEY, *_STEP}],
}
"""Those that PostgreSQL does in one statement."""

WITH_ATTEMPTS = {name for name, indexes in INDEXES.items() if "attempts_primary" in indexes[-1]}
SORTED = {"list deliveries by invoice", "find secrets", *WITH_ATTEMPTS - {"sweep"}}
SORTED |= {"explain an invoice", "explain a later delivery"}
SORTED |= {name for name, indexes in INDEXES.items() if _EVENTS in indexes}
SORTED |= {"keep a check", "find checks"}
SORTED |= {name for name in INDEXES if name.startswith(("list deliveries", "list invoices by"))}
SORTED |= {name for name, indexes in INDEXES.items() if _HOURS in indexes}
"""These operations sort a bounded number of rows: the few deliveries of an invoice, the one or two
secrets of an account, its twenty checks, at most a hundred attempts of a delivery, the rows and the
events of a page, those that match among the rows that a page looks at, or a day of hours of the
receivers on it."""


def all_of(plans):
    """Every plan, with the name of its operation."""
    return [(name, plan) for name, run in plans.items() for kinds in run for plan in kinds]


def test_no_statement_scans_a_table(plans):
    """No statement reads a whole table, however many rows it has."""
    assert [] == [(name, plan) for name, plan in all_of(plans) if plan.walked]


def test_unbounded_results_are_not_sorted(plans):
    """A limited result is read in the order of an index, and not sorted first."""
    assert set() == {name for name, plan in all_of(plans) if plan.is_sorted} - SORTED


@pytest.mark.parametrize("name", INDEXES)
def test_every_statement_uses_its_index(plans, name):
    """Each statement uses the index that was made for it."""
    given = [set(plan.searched) for plan, *_ in plans[name] if plan.searched]
    if _POSITION in INDEXES[name]:
        given = [_POSITION if one == _POSITION_IN_SERVER else one for one in given]
    is_at_once = name in AT_ONCE and len(given) == 1

    # The same statement may run for each receiver, one after another.
    assert (AT_ONCE if is_at_once else INDEXES)[name] == [one for one, _ in groupby(given)]


def test_generic_plans_use_the_same_indexes(plans):
    """The generic plan of a prepared statement uses the same indexes as the plan for the values."""
    # The index of dead deliveries is partial: its use depends on the value of the parameter.
    kept = {name: run for name, run in plans.items() if name != "list dead deliveries"}

    assert [] == [
        (name, one) for name, run in kept.items() for one, *more in run if one.differs_from(more)
    ]


@pytest.mark.parametrize(
    "name",
    [
        "find accounts",
        "look at receivers",
        "look along chains",
        "lease deliveries",
        "lease lost deliveries",
        "measure the backlog",
        "settle",
        "settle and hold",
    ],
)
def test_a_backlog_without_row_counts_is_not_scanned(early_plans, name):
    """Without a row count of the backlog, the server still reads it by receiver, without a scan."""
    assert [] == [plan for kinds in early_plans[name] for plan in kinds if plan.walked]


@pytest.fixture(params=[None, 5, 100, 1_000])
def given_plans(request, postgres_server):
    """The plans for given rows, of a server that counted so many delivered rows, or none ever."""
    with new_database(postgres_server) as url:
        return in_a_loop_of_its_own(explained_early(url, request.param))


async def explained_early(url, count):
    """Explain the statements that write for given rows, in tables of *count* rows."""
    database = open_database(url)
    try:
        await migrate(database)
        if count:
            await database.write(partial(insert_chunk, range(count)))
            await database.write(insert_receivers)
            await database.write(count_rows)
        return [
            plan
            for one, number in GIVEN_STATEMENTS
            for plan in await explain_in_server(url, None, one, ["[]"] * number)
        ]
    finally:
        await database.close()


def insert_receivers(tx):
    """Insert the states of receivers that answer."""
    at = microseconds(START)
    names = [f"dev https://hooks.example/{n}" for n in range(2 * RECEIVER_COUNT)]
    insert_rows(tx, receivers, [receiver_row(one, at, at) for one in names])


GIVEN_STATEMENTS = (
    (_taking_at_once(), 2),
    (_settling_at_once(), 1),
    (_releasing_at_once(), 1),
    (text_for_driver(_content_of_known), 1),
)
"""Statements that every invoice needs, and how many parameters each has."""


def test_given_rows_are_found_one_by_one_in_small_tables(given_plans):
    """A plan that is made while a table is small, and kept while it grows, walks along no index."""
    assert [] == [plan for plan in given_plans if plan.walked]
