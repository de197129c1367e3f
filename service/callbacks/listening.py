"""
The callback URLs of listeners: one for each name, the same for every account.

Such a URL is never called. It is recognised where it is accepted, byte for byte; all that follows
goes by the origin that it gets there.
"""

from urllib.parse import urlsplit

from service.callbacks.url import CallbackUrl
from service.domain.listening import is_listener_name, listener_origin

PATH = "/listen/"
"""What the names follow, below the public URL of the service."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}


class ListenUrls:
    """The URLs of the listeners of a service that is reached at *public_url*."""

    def __init__(self, public_url: str) -> None:
        self._beginning = public_url + PATH
        parts = urlsplit(public_url)
        host = (parts.hostname or "").lower()
        self._hosts = {host, *(_LOOPBACK if host in _LOOPBACK else ())}
        self._port = parts.port or _PORTS[parts.scheme.lower()]
        self._path = parts.path + PATH

    def url_of(self, name: str) -> str:
        """The callback URL of the listener *name*."""
        return self._beginning + name

    def origin_of(self, url: CallbackUrl) -> str | None:
        """The origin of the deliveries to *url*; None if that is not the URL of a listener."""
        if not url.base.startswith(self._beginning):
            return None
        name = url.base[len(self._beginning) :]
        return listener_origin(name) if is_listener_name(name) else None

    def mistake_in(self, url: CallbackUrl) -> str | None:
        """
        What is wrong with *url* if it was meant for a listener of this service and is not for one.

        It would be called, and lead back to this service.
        """
        if PATH not in url.text or url.host not in self._hosts or url.port != self._port:
            return None
        path = "/" + url.text.partition("://")[2].partition("/")[2]
        if not path.startswith(self._path):
            return None
        return (
            f"is not the URL of a listener: that is {self._beginning}NAME with exactly these "
            "characters, and with a name of 1 to 64 lower-case letters, digits and hyphens"
        )
