"""
The tables in SQLAlchemy Core; `migrations/` creates them, and a test compares the two.

Instants are whole microseconds since 1970 in UTC and money is whole minor units, so that
SQLite and PostgreSQL hold, compare and index exactly the same values.

The keys of an account's rows begin with the account, and so do the conditions of every statement
that reads or changes them: the rows of an account are stored together, and accounts could be
distributed over databases.

There are no foreign keys. A row that refers to another one is written by the transaction that
writes that other row or holds its lease; checking each reference would cost as much as storing it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeDecorator

from service.database.bulk import COMPUTED
from service.domain.attempt_counts import COUNTS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(instant: datetime | None) -> int | None:
    """*instant* as the database holds it."""
    return None if instant is None else (instant - EPOCH) // _MICROSECOND


def binary_text() -> Text:
    """Text that is compared byte by byte, whatever the language of the database."""
    return Text().with_variant(Text(collation="C"), "postgresql")


class Instant(TypeDecorator[datetime]):
    """An aware datetime in UTC, stored as whole microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        """Whole microseconds, for the database."""
        return microseconds(value)

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:
        """The instant, from whole microseconds."""
        return None if value is None else EPOCH + timedelta(microseconds=value)


class TransactionNumber(ColumnElement[int]):
    """The number of the present transaction; 0 on SQLite, where transactions have none."""

    inherit_cache = True


@compiles(TransactionNumber, "sqlite")
def _no_number(_element: TransactionNumber, _compiler: SQLCompiler, **_options: Any) -> str:
    return "0"


@compiles(TransactionNumber, "postgresql")
def _number(_element: TransactionNumber, _compiler: SQLCompiler, **_options: Any) -> str:
    return TRANSACTION_NUMBER


TRANSACTION_NUMBER = "CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)"
"""On PostgreSQL: 64 bits, which do not wrap around."""

metadata = MetaData()

invoices = Table(
    "invoices",
    metadata,
    Column("account_id", Text),
    # Generated, and in the order of time: newest first is the order of the key.
    Column("key", Text),
    Column("id", Text, nullable=False),
    # The content, in the order of `domain.invoice.CONTENT`.
    Column("title", Text),
    Column("customer", Text, nullable=False),
    Column("customer_email", Text),
    Column("total_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("callback_url", Text),
    # A BCP 47 tag; null is the default.
    Column("locale", Text),
    # Of the currency, as it was then; null where a version before 0006 stored the invoice.
    Column("decimals", Integer),
    Column("status", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    # The callbacks evaluated at acceptance, as JSON; see `invoices.stored_callbacks`.
    Column("callbacks", Text),
    Column("event_count", Integer, nullable=False),
    # When the collection continues; null once it has ended.
    Column("due_at", Instant),
    Column("leased_until", Instant),
    Column("lease_token", BigInteger, nullable=False),
    # The request that created it, by which logs and traces are found.
    Column("request_id", Text, nullable=False),
    Column("traceparent", Text),
    # The process that holds the lease, where processes are recorded.
    Column("leased_by", Integer),
    # What came back to the customer, and what came in beyond the total; null is nothing.
    Column("amount_refunded_minor", BigInteger),
    Column("overpaid_minor", BigInteger),
    # Whether a payment came in that is not of the amount and currency of the invoice.
    Column("mismatch", Boolean),
    PrimaryKeyConstraint("account_id", "key", name="invoices_primary"),
    UniqueConstraint("account_id", "id", name="invoices_account_id_id"),
)
Index(
    "invoices_due",
    invoices.c.due_at,
    sqlite_where=invoices.c.due_at.is_not(None),
    postgresql_where=invoices.c.due_at.is_not(None),
)

events = Table(
    "events",
    metadata,
    Column("account_id", Text),
    Column("invoice_key", Text),
    Column("sequence", Integer, autoincrement=False),
    Column("description", Text, nullable=False),
    Column("paid", Boolean, nullable=False),
    Column("collector", Text, nullable=False),
    Column("at", Instant, nullable=False),
    # The callbacks that it names, as JSON: {name: id} or, with a body of its own,
    # {name: [id, body]}. The id is that of the delivery; null where none was made.
    Column("callbacks", Text),
    # Its place in the feed of the account, see `feed`; 0 where a version before 0011 stored it.
    Column("position", BigInteger, nullable=False, server_default=TransactionNumber()),
    PrimaryKeyConstraint("account_id", "invoice_key", "sequence", name="events_primary"),
)
Index(
    "events_feed",
    events.c.account_id,
    events.c.position,
    events.c.invoice_key,
    events.c.sequence,
)

# What is added to the numbers of transactions, on PostgreSQL; the greatest row counts.
feed_bases = Table(
    "feed_bases", metadata, Column("base", BigInteger, primary_key=True, autoincrement=False)
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("account_id", Text),
    # Also the webhook-id, and in the order of time: newest first is the order of the key.
    Column("id", Text),
    Column("invoice_key", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("callback", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("attempt_count", Integer, nullable=False),
    # Attempts that the receiver failed; lost ones are not counted.
    Column("failure_count", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Column("leased_until", Instant),
    Column("lease_token", BigInteger, nullable=False),
    # Why the next attempt is made.
    Column("cause", Text, nullable=False),
    # See `domain.delivery.receiver_of`; a blank where a version before 0007 stored the delivery.
    Column("receiver", binary_text(), nullable=False, server_default=" "),
    # The API user asked for the next attempt by hand: no hold, cooldown or schedule applies.
    Column("is_asked", Boolean, nullable=False, server_default=false()),
    # The process that holds the lease, where processes are recorded.
    Column("leased_by", Integer),
    PrimaryKeyConstraint("account_id", "id", name="deliveries_primary"),
)
# In this order the deliveries of one callback of an invoice follow each other.
Index(
    "deliveries_order",
    deliveries.c.account_id,
    deliveries.c.invoice_key,
    deliveries.c.callback,
    deliveries.c.sequence,
    unique=True,
)
# By receiver first: the next one is one step of the index away, however many rows one has.
Index(
    "deliveries_waiting",
    deliveries.c.receiver,
    deliveries.c.due_at,
    sqlite_where=deliveries.c.status == "pending",
    postgresql_where=deliveries.c.status == "pending",
)
Index(
    "deliveries_asked",
    deliveries.c.receiver,
    # As each of them writes a condition on a boolean.
    sqlite_where=text("is_asked = 1"),
    postgresql_where=text("is_asked"),
)
Index(
    "deliveries_dead",
    deliveries.c.account_id,
    deliveries.c.id,
    sqlite_where=deliveries.c.status == "dead",
    postgresql_where=deliveries.c.status == "dead",
)

attempts = Table(
    "attempts",
    metadata,
    Column("account_id", Text),
    Column("delivery_id", Text),
    Column("number", Integer, autoincrement=False),
    Column("started_at", Instant, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status_code", Integer),
    Column("outcome", Text, nullable=False),
    Column("detail", Text),
    Column("response_body", Text),
    Column("cause", Text, nullable=False),
    # What was sent and what came back, as JSON: see `storage.transmissions`. Null where it is not
    # known, and of older attempts.
    Column("transmission", Text),
    PrimaryKeyConstraint("account_id", "delivery_id", "number", name="attempts_primary"),
)

mails = Table(
    "mails",
    metadata,
    Column("account_id", Text),
    # In the order of time.
    Column("id", Text),
    Column("invoice_key", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    # The exact bytes of every attempt; null once the mail is no longer pending.
    Column("body", LargeBinary),
    Column("status", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("settled_at", Instant),
    Column("leased_until", Instant),
    Column("lease_token", BigInteger, nullable=False),
    Column("leased_by", Integer),
    PrimaryKeyConstraint("account_id", "id", name="mails_primary"),
)
Index("mails_invoice", mails.c.account_id, mails.c.invoice_key)
Index(
    "mails_waiting",
    mails.c.account_id,
    mails.c.due_at,
    sqlite_where=mails.c.status == "pending",
    postgresql_where=mails.c.status == "pending",
)
Index(
    "mails_due",
    mails.c.due_at,
    sqlite_where=mails.c.status == "pending",
    postgresql_where=mails.c.status == "pending",
)

mail_attempts = Table(
    "mail_attempts",
    metadata,
    Column("account_id", Text),
    Column("mail_id", Text),
    Column("number", Integer, autoincrement=False),
    Column("started_at", Instant, nullable=False),
    Column("outcome", Text, nullable=False),
    # The reply code of SMTP, if the server gave one.
    Column("code", Integer),
    Column("detail", Text),
    PrimaryKeyConstraint("account_id", "mail_id", "number", name="mail_attempts_primary"),
)

# What the last attempts have shown, as far as every process has to know it, and what people want.
receivers = Table(
    "receivers",
    metadata,
    Column("receiver", binary_text(), primary_key=True),
    Column("origin", Text, nullable=False),
    # Null while it fails.
    Column("answered_at", Instant),
    Column("failing_since", Instant),
    # No attempt before then: after a failed probe, and as it asked with Retry-After.
    Column("cooldown_until", Instant),
    Column("held_until", Instant),
    # As the API names it: see `domain.receivers.id_of`. Null where a version before 0013 wrote it.
    Column("id", Text),
    # The account wants no attempts; null is the usual case.
    Column("paused_at", Instant),
    # When it failed last, and what was wrong then; the text is null while it answers.
    Column("failed_at", Instant),
    Column("reason", Text),
    # Since when each attempt was answered; null while it fails.
    Column("answering_since", Instant),
    # What the account was told last about its failures; null once it was told of their end.
    Column("notice", Text),
)
Index("receivers_id", receivers.c.id, receivers.c.receiver)
# Those whose account is to be told: that they fail, that they still fail, that they have recovered.
is_failing_unnoticed = and_(receivers.c.failing_since.is_not(None), receivers.c.notice.is_(None))
is_failing_noticed = and_(receivers.c.failing_since.is_not(None), receivers.c.notice.is_not(None))
is_answering_noticed = and_(receivers.c.failing_since.is_(None), receivers.c.notice.is_not(None))
Index(
    "receivers_failing",
    receivers.c.failing_since,
    sqlite_where=is_failing_unnoticed,
    postgresql_where=is_failing_unnoticed,
)
Index(
    "receivers_still_failing",
    receivers.c.notice,
    receivers.c.failing_since,
    sqlite_where=is_failing_noticed,
    postgresql_where=is_failing_noticed,
)
Index(
    "receivers_recovering",
    receivers.c.answering_since,
    sqlite_where=is_answering_noticed,
    postgresql_where=is_answering_noticed,
)
Index(
    "receivers_answered",
    receivers.c.answered_at,
    sqlite_where=receivers.c.answered_at.is_not(None),
    postgresql_where=receivers.c.answered_at.is_not(None),
)

# What the attempts of one hour came to.
receiver_hours = Table(
    "receiver_hours",
    metadata,
    Column("receiver", binary_text()),
    # The beginning of the hour.
    Column("hour", Instant, autoincrement=False),
    *(Column(name, Integer, nullable=False) for name in COUNTS),
    PrimaryKeyConstraint("receiver", "hour", name="receiver_hours_primary"),
)
Index("receiver_hours_hour", receiver_hours.c.hour, receiver_hours.c.receiver)

# An origin belongs to no account: while no connection to it can be made, all of them wait.
origins = Table(
    "origins",
    metadata,
    Column("origin", Text, primary_key=True),
    # No attempt before then. Versions before 0007 stored here what Retry-After asked for.
    Column("held_until", Instant, nullable=False),
)

# The processes that take leases, where they share a server.
processes = Table(
    "processes",
    metadata,
    Column("id", Integer, primary_key=True),
    # Raised by the process itself: others see that it is alive.
    Column("beat_count", BigInteger, nullable=False),
    Column("started_at", Instant, nullable=False),
    # Set once, when it has stopped or was found to be dead: its leases have ended with it.
    Column("ended_at", Instant),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    # Given by the operator, and shown to no API user.
    Column("name", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
    # Where notices about its receivers go; null is nowhere.
    Column("email", Text),
    UniqueConstraint("name", name="accounts_name"),
)

account_keys = Table(
    "account_keys",
    metadata,
    # The public part of the key, by which it is found.
    Column("prefix", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    # SHA-256 of the whole key. A slow hash is not needed for 256 random bits.
    Column("hash", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    # Set by a rotation: the old key works until then.
    Column("expires_at", Instant),
)
Index("account_keys_account", account_keys.c.account_id)

account_secrets = Table(
    "account_secrets",
    metadata,
    Column("account_id", Text),
    Column("id", Text),
    # The signing secret, encrypted with a key that is not in the database.
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    PrimaryKeyConstraint("account_id", "id", name="account_secrets_primary"),
)

account_pay_keys = Table(
    "account_pay_keys",
    metadata,
    Column("account_id", Text, primary_key=True),
    # The public part of every pay token of the account, by which the account is found.
    Column("prefix", Text, nullable=False),
    # The key that makes the tokens, encrypted like the signing secrets.
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("prefix", name="account_pay_keys_prefix"),
)

account_stripe_keys = Table(
    "account_stripe_keys",
    metadata,
    Column("account_id", Text, primary_key=True),
    # The API key and the webhook secrets, encrypted like the signing secrets.
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)

checkouts = Table(
    "checkouts",
    metadata,
    Column("account_id", Text),
    # In the order of time; the idempotency keys of its calls begin with it.
    Column("id", Text),
    Column("invoice_key", Text, nullable=False),
    Column("status", Text, nullable=False),
    # Of how many idempotency keys Stripe has stored a failure.
    Column("failure_count", Integer, nullable=False),
    # What Stripe calls the session, and where it is paid; null until Stripe has answered.
    Column("session_id", Text),
    Column("url", Text),
    # Whether an attempt to pay was declined.
    Column("is_declined", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    # When Stripe is asked next; null once the session has ended, unless a webhook is about it. A
    # lease moves it.
    Column("due_at", Instant),
    # Since when Stripe gives no answer about it; null while it does.
    Column("failing_since", Instant),
    PrimaryKeyConstraint("account_id", "id", name="checkouts_primary"),
)
# Invariant 9: of the checkouts of an invoice, one at most can be paid.
Index(
    "checkouts_active",
    checkouts.c.account_id,
    checkouts.c.invoice_key,
    unique=True,
    sqlite_where=checkouts.c.status.in_(("creating", "open", "processing")),
    postgresql_where=checkouts.c.status.in_(("creating", "open", "processing")),
)
Index(
    "checkouts_due",
    checkouts.c.due_at,
    sqlite_where=checkouts.c.due_at.is_not(None),
    postgresql_where=checkouts.c.due_at.is_not(None),
)
Index(
    "checkouts_failing",
    checkouts.c.failing_since,
    sqlite_where=checkouts.c.failing_since.is_not(None),
    postgresql_where=checkouts.c.failing_since.is_not(None),
)

payments = Table(
    "payments",
    metadata,
    Column("account_id", Text),
    # That of the checkout; of the invoice, where the sandbox collected it.
    Column("id", Text),
    Column("invoice_key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    # What Stripe calls the payment; null in the sandbox.
    Column("payment_intent", Text),
    Column("received_at", Instant, nullable=False),
    # The dispute that Stripe has reported last.
    Column("dispute_id", Text),
    # When the collector is asked about refunds and the dispute; null when nothing is pending.
    Column("due_at", Instant),
    Column("failing_since", Instant),
    PrimaryKeyConstraint("account_id", "id", name="payments_primary"),
)
Index("payments_invoice", payments.c.account_id, payments.c.invoice_key)
Index("payments_intent", payments.c.account_id, payments.c.payment_intent)
Index(
    "payments_due",
    payments.c.due_at,
    sqlite_where=payments.c.due_at.is_not(None),
    postgresql_where=payments.c.due_at.is_not(None),
)
Index(
    "payments_failing",
    payments.c.failing_since,
    sqlite_where=payments.c.failing_since.is_not(None),
    postgresql_where=payments.c.failing_since.is_not(None),
)

# A refund is one row for each payment that it takes from.
refunds = Table(
    "refunds",
    metadata,
    Column("account_id", Text),
    Column("id", Text),
    Column("payment_id", Text),
    Column("invoice_key", Text, nullable=False),
    # Null where it was made at the dashboard of Stripe.
    Column("idempotency_key", Text),
    # What the request asked for; null is all that is left.
    Column("asked_minor", BigInteger),
    Column("amount_minor", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("failure_count", Integer, nullable=False),
    # What Stripe calls it; null until Stripe has answered, and in the sandbox.
    Column("refund_id", Text),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("account_id", "id", "payment_id", name="refunds_primary"),
)
Index("refunds_invoice", refunds.c.account_id, refunds.c.invoice_key)
Index("refunds_payment", refunds.c.account_id, refunds.c.payment_id)

# The webhooks that were taken, so that one that comes twice is taken once.
stripe_events = Table(
    "stripe_events",
    metadata,
    Column("account_id", Text),
    Column("id", Text),
    # The payment that it is about, which may be recorded later, and the dispute about that.
    Column("payment_intent", Text),
    Column("dispute_id", Text),
    Column("received_at", Instant, nullable=False),
    PrimaryKeyConstraint("account_id", "id", name="stripe_events_primary"),
)
Index("stripe_events_intent", stripe_events.c.account_id, stripe_events.c.payment_intent)
Index("stripe_events_received", stripe_events.c.received_at)

# Signing in to the console: a one-time link, and what it or a key was exchanged for.
console_links = Table(
    "console_links",
    metadata,
    # SHA-256 of the token: whoever reads the database can open no page with it.
    Column("hash", LargeBinary, primary_key=True),
    # Null where it opens the console of every account, for the operator.
    Column("account_id", Text),
    Column("expires_at", Instant, nullable=False),
)
Index("console_links_expires", console_links.c.expires_at)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("account_id", Text),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)
Index("console_sessions_account", console_sessions.c.account_id, console_sessions.c.created_at)
Index("console_sessions_expires", console_sessions.c.expires_at)

# The last result of `check-receiver` of each account and URL that the console has run.
receiver_checks = Table(
    "receiver_checks",
    metadata,
    Column("account_id", Text),
    Column("url", Text),
    Column("conforms", Boolean, nullable=False),
    Column("checked_at", Instant, nullable=False),
    # The checks as JSON, as `check-receiver --json` prints them.
    Column("checks", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "url", name="receiver_checks_primary"),
)

# The connections of listeners: one for each name of an account, the newest.
listeners = Table(
    "listeners",
    metadata,
    Column("account_id", Text),
    # See `domain.listening`; also the origin of its deliveries.
    Column("origin", Text),
    # Identifies the connection: a newer one has another.
    Column("token", Text, nullable=False),
    # When the process that has the connection said last that it works.
    Column("beat_at", Instant, nullable=False),
    # How many events of the connection have arrived, where another process was told so.
    Column("seen_count", BigInteger, nullable=False),
    PrimaryKeyConstraint("account_id", "origin", name="listeners_primary"),
)

# Attempts that a listener works on. Any process takes the answer; the one that holds the lease
# reads it, and removes the row when the attempt ends.
listener_attempts = Table(
    "listener_attempts",
    metadata,
    Column("account_id", Text),
    Column("delivery_id", Text),
    Column("number", Integer, autoincrement=False),
    Column("origin", Text, nullable=False),
    Column("deadline_at", Instant, nullable=False),
    # The answer as JSON, if another process than the holder took it.
    Column("answer", LargeBinary),
    PrimaryKeyConstraint("account_id", "delivery_id", "number", name="listener_attempts_primary"),
)
Index("listener_attempts_deadline", listener_attempts.c.deadline_at)

# Keys that permit nothing but to listen.
listen_keys = Table(
    "listen_keys",
    metadata,
    # The public part of the key, by which it is found.
    Column("prefix", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    # SHA-256 of the whole key, as for the keys of accounts.
    Column("hash", LargeBinary, nullable=False),
    Column("expires_at", Instant, nullable=False),
)
Index("listen_keys_account", listen_keys.c.account_id, listen_keys.c.expires_at)

is_invoice_of_delivery = and_(
    invoices.c.account_id == deliveries.c.account_id,
    invoices.c.key == deliveries.c.invoice_key,
)
is_event_of_delivery = and_(
    events.c.account_id == deliveries.c.account_id,
    events.c.invoice_key == deliveries.c.invoice_key,
    events.c.sequence == deliveries.c.sequence,
)
is_attempt_of_delivery = and_(
    attempts.c.account_id == deliveries.c.account_id,
    attempts.c.delivery_id == deliveries.c.id,
)


# Literals: `insert_rows` gives statements no parameters but those of the row.
_ZERO, _ONE = literal_column("0", BigInteger), literal_column("1", BigInteger)


def _position(dialect_name: str, event: Mapping[str, ColumnElement[Any]]) -> ColumnElement[int]:
    """The position of an *event* that is inserted; `feed` says what it is for."""
    before = events.alias("before")
    of_account = before.c.account_id == event["account_id"]
    if dialect_name == "sqlite":
        newest = select(func.max(before.c.position)).where(of_account).scalar_subquery()
        return func.coalesce(newest, _ZERO) + _ONE
    earlier = (
        select(before.c.position)
        .where(
            of_account,
            before.c.invoice_key == event["invoice_key"],
            before.c.sequence == event["sequence"] - _ONE,
        )
        .scalar_subquery()
    )
    return func.greatest(feed_base() + literal_column(TRANSACTION_NUMBER, BigInteger), earlier)


def feed_base() -> ColumnElement[int]:
    """What is added to the numbers of transactions."""
    base = select(func.max(feed_bases.c.base)).scalar_subquery()
    return func.coalesce(base, _ZERO)


events.c.position.info[COMPUTED] = _position
