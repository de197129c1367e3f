import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.delivery.signing import Signer
from service.development import DEV_SECRET

AT = datetime(2025, 3, 1, 12, 0, 0, 900_000, tzinfo=UTC)
BODY = '{"description":"Invoice paid – thanks","paid":true}'.encode()


def secret_of(key: bytes) -> str:
    """The signing secret for the bytes *key*."""
    return "whsec_" + base64.b64encode(key).decode()


OLD, NEW = secret_of(b"o" * 32), secret_of(b"n" * 32)


def test_the_signature_is_the_example_of_the_standard():
    """The signed headers equal the example of the Standard Webhooks specification."""
    signer = Signer(("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))

    headers = signer.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )

    assert {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    } == headers


@pytest.mark.parametrize("known", [OLD, NEW])
def test_every_secret_signs(known):
    """During a rotation, a receiver with either secret can verify the signature."""
    headers = Signer((NEW, OLD)).headers("msg_1", datetime.now(UTC), BODY)

    assert 2 == len(headers["webhook-signature"].split(" "))
    Webhook(known).verify(BODY, headers)


def test_other_secrets_do_not_verify():
    """A signature does not verify with another secret."""
    headers = Signer((OLD,)).headers("msg_1", datetime.now(UTC), BODY)

    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY, headers)


def test_the_time_zone_does_not_change_the_signature():
    """The same instant in another time zone has the same signature."""
    elsewhere = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert Signer((NEW,)).headers("msg_1", AT, BODY) == Signer((NEW,)).headers(
        "msg_1", elsewhere, BODY
    )


def test_the_timestamp_is_whole_seconds():
    """The timestamp is rounded down to whole seconds."""
    assert "1740830400" == Signer((NEW,)).headers("msg_1", AT, BODY)["webhook-timestamp"]


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_24_to_64_bytes_are_accepted(size):
    """Secrets of 24 to 64 bytes are accepted, with base64 padding or without."""
    padded = secret_of(b"k" * size)

    assert Signer((padded,)).headers("msg_1", AT, BODY) == Signer((padded.rstrip("="),)).headers(
        "msg_1", AT, BODY
    )


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        secret_of(b"k" * 23),
        secret_of(b"k" * 65),
        secret_of(b"k" * 32).removeprefix("whsec_"),
        "whpk_" + "a" * 32,
        "whsec_" + "not base64! " * 4,
        "whsec_" + "ключ" * 12,
        "whsec_whsec_" + "a" * 32,
    ],
)
def test_unusable_secrets_are_refused_without_being_shown(secret):
    """An invalid secret is refused, and the message does not contain it."""
    with pytest.raises(ValueError, match="base64 of 24 to 64 bytes") as refusal:
        Signer((NEW, secret))

    assert not secret.removeprefix("whsec_") or secret not in str(refusal.value)


def test_a_signer_without_secrets_is_refused():
    """A signer without a secret raises an error, so no event is sent unsigned."""
    with pytest.raises(ValueError, match="At least one"):
        Signer(())


def test_its_representation_shows_no_secret():
    """The representation of a signer contains no secret."""
    assert "<Signer with 2 secrets>" == repr(Signer((NEW, OLD)))


def test_the_development_secret_is_recognisable():
    """The development secret is valid, and its decoded text says what it is."""
    Webhook(DEV_SECRET).verify(BODY, Signer((DEV_SECRET,)).headers("m", datetime.now(UTC), BODY))

    encoded = DEV_SECRET.removeprefix("whsec_")
    assert b"invoices-development-secret-only" == base64.b64decode(encoded)
