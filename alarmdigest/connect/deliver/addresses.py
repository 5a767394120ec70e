"""URLs of targets, and what is put into them for each user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

USER_ID = "UserID"
MAIL_SCHEMES = ("mailto", "mailtos")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
# Of a UserID only what changes no address: libraries decode what we encode, some of them twice, and
# then "/", "," or "?" would lead elsewhere, or to others.
_HARMLESS = re.compile(r"[\w+@-][\w.+@-]*")


class Unaddressable(Exception):
    """Nothing can be sent to this user by this target: says why, in one line."""


class Endpoint(NamedTuple):
    """Whom a URL connects to: what is down there is down for all of its URLs."""

    scheme: str
    host: str
    port: int


class UrlTemplate:
    """A URL with placeholders such as ``{UserID}`` and ``{mail}``. Its text holds secrets: nothing
    shows it."""

    __slots__ = ("_text", "names", "scheme")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        self._text = text.strip()
        scheme, separator, _rest = self._text.partition("://")
        if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            raise ValueError("this is no URL: it should look like mailtos://user:password@host")
        self.scheme = scheme.lower()
        self.names = tuple(dict.fromkeys(_PLACEHOLDER.findall(self._text)))

    def __repr__(self) -> str:
        return f"UrlTemplate({self.scheme}://…)"

    def fill(self, user_id: str, values: Mapping[str, str]) -> str:
        """With each value percent-encoded. Raises Unaddressable."""
        for name in self.names:
            if name == USER_ID:
                self._check_user(user_id)
            elif name not in values:
                raise Unaddressable(f"[users] has no {name} for this user")
        return _PLACEHOLDER.sub(
            lambda match: quote(user_id if match[1] == USER_ID else values[match[1]], safe=""),
            self._text,
        )

    def _check_user(self, user_id: str) -> None:
        if not _HARMLESS.fullmatch(user_id):
            raise Unaddressable(
                "this UserID cannot stand in a URL (letters, digits and . _ + - @ can): give the "
                "user a placeholder in [users] instead"
            )
        if "@" in user_id and re.search(r"\{UserID\}(@|%40)", self._text):
            raise Unaddressable("this UserID has an @, and the URL puts another one behind it")


def endpoint_of(url: str) -> Endpoint:
    """Of a URL that was filled."""
    try:
        parts = urlsplit(url)
        return Endpoint(parts.scheme.lower(), parts.hostname or "", parts.port or 0)
    except ValueError:  # its own syntax, as some services have
        return Endpoint(url.partition("://")[0].lower(), "", 0)
