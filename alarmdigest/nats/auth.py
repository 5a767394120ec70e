"""How we are let in: the fields of CONNECT, and the certificates.

All files are read again for each connection, so a replaced file takes effect at the next one. A
pipe can be read only once; its first content is kept. What the files hold never appears in a log
message or a ``repr``.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from alarmdigest.nats.errors import LoginError
from alarmdigest.runtime import pipes

# A decorated block, as nsc and nk write it; what stands between its lines is the group.
BLOCK = re.compile(r"-{3,}BEGIN (?P<what>[A-Z ]+)-{3,}\s+(?P<text>\S+)\s+-{3,}END ")
# What nobody means to be a file's name: a seed, also among the lines of a whole credentials file.
SEED = re.compile(r"\bS[UAO][A-Z2-7]{50,}\b")
# Credentials are small: whoever names a disk by mistake is told so, and nothing fills the memory.
MAX_FILE_BYTES = 64 * 1024
# Not just _INBOX: with this one our user can be kept from reading answers to others.
INBOX_PREFIX = "_INBOX.alarmdigest"
NO_NKEYS = "needs the package nkeys: pip install 'alarmdigest[nkeys]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who we are, whom we trust, and where we may be answered.

    At most one of user, token, creds and nkey is set.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    creds: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = INBOX_PREFIX

    @property
    def wants_tls(self) -> bool:
        """Whether a connection without TLS will not do."""
        return self.tls_first or self.tls_ca is not None or self.tls_cert is not None

    def connect_fields(self, nonce: str) -> dict[str, str]:
        """What CONNECT says about us. ``nonce`` is the server's, empty if it has none.

        Raises LoginError for a file that cannot be used.
        """
        if self.creds is not None:
            text = _read(self.creds)
            jwt, seed = _block(self.creds, text, "JWT"), _block(self.creds, text, "SEED")
            return {"jwt": jwt, **_signed(self.creds, seed, nonce)}
        if self.nkey is not None:
            text = _read(self.nkey)
            seed = _block(self.nkey, text, "SEED") if "---" in text else text.strip()
            signed = _signed(self.nkey, seed, nonce)
            return {"nkey": _public_key(self.nkey, seed), **signed}
        token = _read_line(self.token_file) if self.token_file is not None else self.token
        if token:
            return {"auth_token": token}
        if self.user:
            given = self.password_file
            password = _read_line(given) if given is not None else self.password
            return {"user": self.user, "pass": password}
        return {}

    def tls_context(self) -> ssl.SSLContext:
        """For a verified connection. Raises LoginError for a file that cannot be used."""
        for file in (self.tls_ca, self.tls_cert, self.tls_key):
            if file is not None:
                _must_not_be_pipe(file)
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ValueError) as error:
            raise LoginError(f"cannot use the certificates in {self.tls_ca}: {error}") from None
        if self.tls_cert is not None:
            try:
                # Without this OpenSSL asks at the terminal for the passphrase, if there is one.
                context.load_cert_chain(self.tls_cert, self.tls_key, password=lambda: "")
            except (OSError, ValueError) as error:
                raise LoginError(
                    f"cannot use the certificate {self.tls_cert} with the key {self.tls_key}: "
                    f"{error} (it must be PEM, and the key not encrypted)"
                ) from None
        return context

    def check(self) -> list[str]:
        """Try all files once, before anything is started; what is unwise about them, one line each.

        Raises LoginError for all files that cannot be used or that anybody may overwrite, and where
        a package is missing.
        """
        warnings: list[str] = []
        problems: list[str] = []
        with collecting_problems(problems):
            self.connect_fields(nonce="a try")
        with collecting_problems(problems):
            self.tls_context()
        for file in (self.password_file, self.token_file, self.creds, self.nkey, self.tls_key):
            if file is not None:
                with collecting_problems(problems):
                    warnings += exposure(file)
        if problems:
            raise LoginError(*dict.fromkeys(problems))  # one that is missing fails twice
        return warnings

    def contents(self) -> dict[str, bytes]:
        """For each setting that names a file a digest of what it holds, to see whether that has
        changed; empty for one that cannot be read."""
        files = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: _digest(file) for name, file in files if isinstance(file, Path)}


@contextmanager
def collecting_problems(problems: list[str]) -> Iterator[None]:
    """Have a LoginError end this block only, with what it says among the problems."""
    try:
        yield
    except LoginError as error:
        problems += error.args


def exposure(file: Path) -> list[str]:
    """A line of warning if everybody may read this file of secrets, or its group write to it. A
    group that may read it was given it on purpose: so secrets are mounted.

    Raises LoginError if everybody may write to it.
    """
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise _unreadable(file, error) from None
    if mode & stat.S_IWOTH:
        raise LoginError(f"everybody may write to {file}: chmod 600 {file}")
    if mode & stat.S_IROTH:
        return [f"everybody may read {file}: chmod 600 {file}"]
    if mode & stat.S_IWGRP:
        return [f"others than its owner may write to {file}: chmod 600 {file}"]
    return []


def _read(file: Path) -> str:
    try:
        text = pipes.read(file, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(text) > MAX_FILE_BYTES:
        raise LoginError(f"{file} is too large for a file of credentials")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise LoginError(f"{file} is not text in UTF-8") from None


def _must_not_be_pipe(file: Path) -> None:
    """OpenSSL reads by itself, again for each connection."""
    with suppress(OSError):  # one that is not there is found by who reads it
        if pipes.is_pipe(file):
            raise LoginError(
                f"{file} is a pipe, and certificates and keys are read again for each connection: "
                "put it into a file"
            )


def _unreadable(file: Path, error: OSError) -> LoginError:
    if SEED.search(str(file)):
        return LoginError(
            "that is a seed, not a file: put it into a file that only you may read, and name that"
        )
    return LoginError(f"cannot read {file}: {error.strerror}")


def _digest(file: Path) -> bytes:
    try:
        return hashlib.blake2b(pipes.read(file, MAX_FILE_BYTES)).digest()
    except OSError:
        return b""


def _read_line(file: Path) -> str:
    """The one line that the file holds, without its end."""
    text = _read(file).removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        raise LoginError(f"{file} must hold one line and nothing else")
    return text


def _block(file: Path, text: str, what: str) -> str:
    for match in BLOCK.finditer(text):
        if match["what"].rstrip().endswith(what):
            return match["text"]
    raise LoginError(f"{file} holds no block with a {what}")


def _signed(file: Path, seed: str, nonce: str) -> dict[str, str]:
    if not nonce:
        raise LoginError(f"the server asks for no signature, so {file} is of no use there")
    pair = _key_pair(file, seed)
    try:
        return {"sig": base64.urlsafe_b64encode(pair.sign(nonce.encode())).decode().rstrip("=")}
    finally:
        pair.wipe()


def _public_key(file: Path, seed: str) -> str:
    pair = _key_pair(file, seed)
    try:
        return str(pair.public_key.decode())
    finally:
        pair.wipe()


def _key_pair(file: Path, seed: str) -> Any:
    try:
        import nkeys
    except ImportError:
        raise LoginError(f"{file}: a login with an nkey or credentials {NO_NKEYS}") from None
    try:
        if not seed.startswith("SU"):
            raise ValueError
        pair = nkeys.from_seed(bytearray(seed, "ascii"))
    # Of a wrong seed it says so in half a dozen ways, some of them with the seed in the text.
    except Exception:
        raise LoginError(f"{file} holds no seed of a user (SU...)") from None
    return pair
