"""The grammar of callback URLs, checked on the raw text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.callbacks.url import CallbackUrl, parse_url

LABEL_63 = "a" * 63
HOST_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "a" * 61])


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com/"),
        ("https://example.com:443", "HTTPS://Example.COM/Path"),
        ("https://example.com:8443", "https://example.com:8443/a/b?c=d"),
        ("https://example.com:1", "https://example.com:1"),
        ("https://example.com:65535", "https://example.com:65535"),
        ("http://localhost:3000", "http://localhost:3000/hook"),
        ("http://my_service:80", "http://my_service/"),
        ("http://xn--bcher-kva.example:80", "http://xn--bcher-kva.example"),
        ("http://a-b.c--d.e:80", "http://a-b.c--d.e"),
        (f"http://{LABEL_63}.example:80", f"http://{LABEL_63}.example"),
        (f"http://{HOST_253}:80", f"http://{HOST_253}"),
        ("http://1a.2b:80", "http://1a.2b"),
        ("http://1.example:80", "http://1.example"),
        ("http://0x7f.example:80", "http://0x7f.example"),
        ("http://0xyz:80", "http://0xyz"),
        ("http://192.0.2.1:80", "http://192.0.2.1"),
        ("http://0.0.0.0:80", "http://0.0.0.0"),
        ("http://255.255.255.255:80", "http://255.255.255.255"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[2001:db8::a]:8080", "http://[2001:DB8::A]:8080/x"),
        ("http://[::ffff:192.0.2.1]:80", "http://[::ffff:192.0.2.1]/"),
        ("http://[::ffff:192.0.2.1]:80", "http://[::FFFF:c000:201]/"),
        ("http://[::1]:80", "http://[0:0:0:0:0:0:0:1]"),
        ("http://[2001:db8::a]:80", "http://[2001:0db8:0::000A]:/"),
        ("https://h.example:443", "https://h.example?only=query"),
        ("https://h.example:443", "https://h.example/?"),
        ("https://h.example:443", "https://h.example//a//"),
        ("https://h.example:443", "https://h.example/a/../b/./%2e%2E/c"),
        ("https://h.example:443", "https://h.example/@user:pw/a:b"),
        ("https://h.example:443", "https://h.example/-._~!$&'()*+,;=:@%20%C3%a9"),
        ("https://h.example:443", "https://h.example/?-._~!$&'()*+,;=:@/?%20"),
    ],
)
def test_a_valid_url_is_kept_byte_for_byte(origin: str, text: str) -> None:
    """A valid URL is kept byte for byte, and its origin has an explicit port."""
    url = parse_url(text)

    assert origin == url.origin
    assert text == url.text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("empty", ""),
        ("longer than 8000", "https://h.example/" + "a" * 7983),
        ("http:// or https://", "h.example"),
        ("http:// or https://", "//h.example/"),
        ("http:// or https://", "/path"),
        ("http:// or https://", "ftp://h.example/"),
        ("http:// or https://", "ws://h.example/"),
        ("http:// or https://", "tcp://h.example/"),
        ("http:// or https://", "file:///etc/passwd"),
        ("http:// or https://", "javascript:alert(1)"),
        ("http:// or https://", "httpss://h.example/"),
        ("http:// or https://", "http:h.example"),
        ("http:// or https://", "http:/h.example"),
        ("host", "http://"),
        ("host", "http:///path"),
        ("host", "https://?a"),
        ("host", "http://:80/"),
        ("user name", "http://user@h.example/"),
        ("user name", "http://user:pw@h.example/"),
        ("user name", "http://@h.example/"),
        ("user name", "http://h.example:80@evil.example/"),
        ("fragment", "http://h.example/#"),
        ("fragment", "http://h.example/a#b"),
        ("fragment", "http://h.example#b"),
        ("port", "http://h.example:0/"),
        ("port", "http://h.example:65536/"),
        ("port", "http://h.example:+80/"),
        ("port", "http://h.example:-80/"),
        ("port", "http://h.example:80a/"),
        ("port", "http://h.example:0x50/"),
        ("port", "http://h.example:80:80/"),
        ("port", "http://h.example:" + "9" * 2000),
        ("port", "http://[::1]:x/"),
        ("name a host", "http://::1/"),
        ("character 18", "http://h.example: 80/"),
        ("character 18", "http://h.example:８０/"),
        ("host name", "http://."),
        ("host name", "http://h.example../"),
        ("host name", "http://.h.example/"),
        ("host name", "http://h..example/"),
        ("host name", "http://-h.example/"),
        ("host name", "http://h-.example/"),
        ("host name", "http://*/"),
        ("host name", "http://h%2eexample/"),
        ("host name", "http://h,example/"),
        ("host name", f"http://{LABEL_63}a.example/"),
        ("host name", f"http://{HOST_253}a/"),
        ("IPv4", "http://127.0.0.1./"),
        ("IPv4", "http://127.1/"),
        ("IPv4", "http://127.0.1/"),
        ("IPv4", "http://2130706433/"),
        ("IPv4", "http://0/"),
        ("IPv4", "http://0x7f.1/"),
        ("IPv4", "http://0x7f000001/"),
        ("IPv4", "http://0X7F.0.0.0x1/"),
        ("IPv4", "http://127.0.0.0x/"),
        ("IPv4", "http://0177.0.0.1/"),
        ("IPv4", "http://127.0.0.01/"),
        ("IPv4", "http://127.0.0.256/"),
        ("IPv4", "http://1.2.3.4.5/"),
        ("IPv4", "http://h.example.1/"),
        ("IPv4", "http://00.0.0.0/"),
        ("IPv6", "http://[]/"),
        ("IPv6", "http://[::1/"),
        ("host name", "http://1]/"),
        ("IPv6", "http://[127.0.0.1]/"),
        ("IPv6", "http://[h.example]/"),
        ("IPv6", "http://[::1%25eth0]/"),
        ("IPv6", "http://[1:2:3:4:5:6:7:8:9]/"),
        ("IPv6", "http://[::1]x/"),
        ("IPv6", "http://[::1]x:80/"),
        ("IPv6", "http://[[::1]]/"),
        ("IPv6", "http://[v1.a]/"),
        ("%", "http://h.example/%"),
        ("%", "http://h.example/%2"),
        ("%", "http://h.example/%zz"),
        ("%", "http://h.example/%%20"),
        ("%", "http://h.example/?%u0041"),
        ("bracket", "http://h.example/a[0]"),
        ("bracket", "http://h.example/?a[]=1"),
        ("character 1;", " http://h.example/"),
        ("character 18", "http://h.example/ "),
        ("character 18", "http://h.example/\n"),
        ("character 18", "http://h.example/\r\nx: y"),
        ("character 3", "ht\ttp://h.example/"),
        ("character 18", "http://h.example/\x00"),
        ("character 18", "http://h.example/\x7f"),
        ("character 18", "http://h.example/é"),
        ("character 18", "http://h.example/\ud800"),
        ("character 17", "http://h.example\\@evil.example/"),
        ("character 8", "http://①②⑦.0.0.1/"),
        ("character 10", "http://12。0。0。1/"),
        ("character 8", "http://ｈ.example/"),
        ("character 18", "http://h.example/{id}"),
        ("character 18", "http://h.example/|"),
        ("character 18", 'http://h.example/"'),
        ("character 18", "http://h.example/^"),
        ("character 18", "http://h.example/`"),
        ("character 18", "http://h.example/<"),
    ],
)
def test_an_ambiguous_url_is_refused(words: str, text: str) -> None:
    """A text that programs could interpret differently is refused with a reason."""
    with pytest.raises(ValueError, match="URL") as refusal:
        parse_url(text)

    assert words in str(refusal.value)


def test_the_longest_url_is_accepted() -> None:
    """A URL of 8,000 characters is accepted."""
    text = "https://h.example/" + "a" * 7982

    assert text == parse_url(text).text


def test_parts_are_separated() -> None:
    """The host is in lower case and without brackets; the text is unchanged."""
    text = "HTTP://[2001:DB8::1]/A"

    assert CallbackUrl(text, "http", "2001:db8::1", 80) == parse_url(text)


URL_LIKE = st.text("htps:/.@[]#?%0123456789abcdefx-_\\ é\t").map("http://".__add__)


@given(st.text(st.characters(exclude_categories=())) | URL_LIKE)
def test_any_text_is_accepted_or_refused(text: str) -> None:
    """Any text is kept unchanged, if it is a URL in ASCII, or refused with a ValueError."""
    try:
        url = parse_url(text)
    except ValueError:
        return

    assert text == url.text
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert 1 <= url.port <= 65535
    assert url.origin == parse_url(url.origin).origin
