"""Who may post alerts: bearer tokens, names with passwords, client certificates."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path

from alarmdigest.connect.bridge.rules import HttpRules
from alarmdigest.runtime import pipes
from alarmdigest.settings import SettingsError

MAX_SECRETS_BYTES = 64 * 1024


class Authentication:
    """Each way that is configured will do; without any, everybody may."""

    def __init__(self, rules: HttpRules) -> None:
        """Reads the files. Raises SettingsError with a line for each that cannot be used."""
        problems: list[str] = []
        self._tokens = _secrets(rules.bearer_file, "bearer_file", problems)
        self._logins = _secrets(rules.basic_file, "basic_file", problems)
        self._challenge = _secrets(rules.netdata_secret_file, "netdata_secret_file", problems)[:1]
        if any(b":" not in one for one in self._logins):
            problems.append(f"[http] basic_file {rules.basic_file}: write name:password in a line")
        self._by_certificate = bool(rules.tls_client_ca)
        self._names = frozenset(rules.tls_client_names)
        if problems:
            raise SettingsError(*problems)

    @property
    def is_open(self) -> bool:
        return not (self._tokens or self._logins or self._by_certificate)

    def allows(
        self, headers: Iterable[tuple[bytes, bytes]], certified: Sequence[str] | None
    ) -> bool:
        """``certified`` are the names in the client's certificate, None if it showed none that our
        CA has signed."""
        if self.is_open:
            return True
        if certified is not None and (not self._names or self._names & {*certified}):
            return True
        for name, value in headers:
            if name != b"authorization":
                continue
            way, _blank, given = value.strip().partition(b" ")
            given = given.strip()
            if way.lower() == b"bearer" and _is_among(given, self._tokens):
                return True
            if way.lower() == b"basic" and _is_among(_decoded(given), self._logins):
                return True
        return False

    def answer_challenge(self, token: str) -> dict[str, str] | None:
        """What Netdata Cloud wants to hear before it uses a webhook; None without its secret."""
        if not self._challenge:
            return None
        digest = hmac.digest(self._challenge[0], token.encode(), hashlib.sha256)
        return {"response_token": f"sha256={base64.b64encode(digest).decode()}"}


def _is_among(given: bytes, known: Sequence[bytes]) -> bool:
    """In a time that tells nothing about them."""
    found = False
    for one in known:
        found |= hmac.compare_digest(given, one)
    return found


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _secrets(file: str, key: str, problems: list[str]) -> list[bytes]:
    """The lines of a file but for empty ones and comments."""
    if not file:
        return []
    try:
        data = pipes.read(Path(file), MAX_SECRETS_BYTES)
    except OSError as error:
        problems.append(f"[http] {key}: cannot read {file}: {error.strerror}")
        return []
    lines = [line for one in data.splitlines() if (line := one.strip()) and line[:1] != b"#"]
    if not lines:
        problems.append(f"[http] {key}: {file} has no line")
    return lines


def tls_context(rules: HttpRules) -> ssl.SSLContext | None:
    """None without a certificate. Raises SettingsError.

    A client need not show a certificate to ask for /healthz: whether it must is looked at later.
    """
    if not rules.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(rules.tls_cert, rules.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"[http] cannot use tls_cert {rules.tls_cert} with tls_key {rules.tls_key}: {error}"
        ) from error
    if rules.tls_client_ca:
        try:
            context.load_verify_locations(rules.tls_client_ca)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"[http] cannot use tls_client_ca {rules.tls_client_ca}: {error}"
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is here to type its password")
