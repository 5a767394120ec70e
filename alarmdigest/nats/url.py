"""Server URLs: what is wrong with one, what it says of a login, how it may be shown."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 4222

#: Where a server is looked for, unless one is named.
LOCAL_SERVER = "nats://127.0.0.1:4222"


def redacted(url: str) -> str:
    """The URL without user, password or token, for logs and messages; also one that is wrong."""
    before, at, place = url.rpartition("@")
    scheme, colon, _credentials = before.partition("://")
    host, port_colon, port = place.rpartition(":")
    if port_colon and not port.isdigit() and not port.startswith("//") and not host.count("["):
        place = f"{host}:***"
    return f"{scheme}://{place}" if at and colon else place


def login_in(url: str) -> tuple[str, str]:
    """User and password of a URL, empty for none; a token is a user without a password."""
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def check_credentials(url: str) -> None:
    """Raises ValueError where a password is taken for a host, a port or a path.

    What urllib and pynats2 would say of such a URL has the password in it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it is no URL") from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError("characters like / # ? [ in a password must be written as %2F %23 %3F %5B")
