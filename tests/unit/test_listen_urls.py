"""The URL of a listener is recognised byte for byte, wherever the service is reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.callbacks.listening import ListenUrls
from service.callbacks.url import parse_url

PUBLIC = "https://invoices.example.com/billing"


def evaluated(base):
    """The URL that is made of the callback URL *base*."""
    return replace(parse_url(f"{base}/invoices/1"), base=base)


@pytest.mark.parametrize(
    "public_url", ["http://127.0.0.1:8080", "http://[::1]:8080", PUBLIC, "https://i.example:444"]
)
def test_the_url_of_a_listener_is_recognised(public_url):
    """The URL that is given out is the one that is recognised, and no mistake."""
    urls = ListenUrls(public_url)
    url = evaluated(urls.url_of("laptop"))

    assert f"{public_url}/listen/laptop" == urls.url_of("laptop")
    assert "listen://laptop" == urls.origin_of(url)


@pytest.mark.parametrize(
    "base",
    [
        "https://invoices.example.com/billing/listen/Laptop",
        "https://INVOICES.example.com/billing/listen/laptop",
        "https://invoices.example.com:443/billing/listen/laptop",
        "https://invoices.example.com/billing/listen/laptop/x",
    ],
)
def test_what_was_meant_for_a_listener_is_a_mistake(base):
    """Another spelling would be called and lead back to the service: it is explained."""
    urls = ListenUrls(PUBLIC)

    assert None is urls.origin_of(evaluated(base))
    assert f"{PUBLIC}/listen/NAME" in urls.mistake_in(evaluated(base))


@pytest.mark.parametrize(
    "base",
    [
        "https://api.example.com/billing/listen/laptop",
        "https://invoices.example.com:444/billing/listen/laptop",
        "https://invoices.example.com/listen/laptop",
        "https://invoices.example.com/other/billing/listen/laptop",
        "https://api.example.com/https://invoices.example.com/billing/listen/laptop",
    ],
)
def test_other_urls_are_those_of_receivers(base):
    """What only looks like the URL of a listener is neither one nor a mistake."""
    urls = ListenUrls(PUBLIC)

    assert None is urls.origin_of(evaluated(base))
    assert None is urls.mistake_in(evaluated(base))


def test_the_origin_of_a_url_is_that_of_no_listener():
    """No callback URL has an origin by which its deliveries would go to a listener."""
    with pytest.raises(ValueError, match="http"):
        parse_url("listen://laptop/invoices/1")
