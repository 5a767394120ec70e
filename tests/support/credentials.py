"""Throw-away credentials: certificates, nkeys and JWTs, made for one test."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nkeys
import trustme

from support.nats_server import HOST


def private(file: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    file.write_text(text, "utf-8")
    file.chmod(0o600)
    return file


@dataclass(frozen=True)
class Certificates:
    """An authority with one certificate for a server and one for a client, as files."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path

    def server_config(self, *more: str) -> str:
        files = f'cert_file: "{self.cert}", key_file: "{self.key}", ca_file: "{self.ca}"'
        return f"tls {{ {', '.join([files, *more])} }}"


def certificates(
    folder: Path, *, host: str = HOST, not_after: datetime | None = None
) -> Certificates:
    """A new authority that no other knows of, and certificates that are good until then."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, issued in (
        ("server", authority.issue_cert(host, not_after=not_after)),
        ("client", authority.issue_cert("alarmdigest@example.com", not_after=not_after)),
    ):
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        private(folder / f"{name}.key", issued.private_key_pem.bytes().decode())
    return Certificates(
        *(folder / name for name in ("ca.pem", "server.pem", "server.key")),
        *(folder / name for name in ("client.pem", "client.key")),
    )


class Identity:
    """A new nkey of an operator, an account or a user."""

    def __init__(self, prefix: int) -> None:
        self.seed: str = nkeys.encode_seed(os.urandom(32), prefix).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed, "ascii"))
        self.public: str = self._pair.public_key.decode()

    def vouch(self, subject: Identity, kind: str, claims: dict[str, Any]) -> str:
        """A JWT of ours about somebody."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {
            "jti": os.urandom(8).hex(),
            "iat": int(time.time()),
            "iss": self.public,
            "name": kind,
            "sub": subject.public,
            "nats": {"type": kind, "version": 2, **claims},
        }
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        return b".".join((signed, _base64(self._pair.sign(signed)))).decode()


def user() -> Identity:
    return Identity(nkeys.PREFIX_BYTE_USER)


@dataclass(frozen=True)
class Realm:
    """An operator with one account: what a server must know, and credentials of a user."""

    server_config: str
    creds: str


def realm() -> Realm:
    operator = Identity(nkeys.PREFIX_BYTE_OPERATOR)
    account = Identity(nkeys.PREFIX_BYTE_ACCOUNT)
    somebody = user()
    unlimited = dict.fromkeys(("subs", "data", "payload"), -1)
    limits = unlimited | dict.fromkeys(("conn", "leaf", "imports", "exports"), -1)
    account_jwt = operator.vouch(account, "account", {"limits": {**limits, "wildcards": True}})
    config = (
        f"operator: {operator.vouch(operator, 'operator', {})}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {account.public}: {account_jwt} }}"
    )
    jwt = account.vouch(somebody, "user", {"pub": {}, "sub": {}, **unlimited})
    blocks = (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{somebody.seed}\n------END USER NKEY SEED------\n"
    )
    return Realm(config, blocks)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
