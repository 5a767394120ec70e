"""An object of JetStream's object store as its meta message describes it, and the subjects and the
stream of a bucket. The format is ADR-20 of nats-io/nats-architecture-and-design."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

import orjson

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.subjects import covers

CHUNK_BYTES = 128 * 1024
DIGEST = "SHA-256="
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """``size`` in bytes, in ``chunks`` messages of at most ``max_chunk_size`` bytes each.

    ``mtime_ns`` is when the stream stored the meta message. The chunks are on a subject that ends
    with ``nuid``, which is new whenever an object of this name is written. ``digest`` is the
    SHA-256 as the meta message writes it. ``link`` is set for what only points elsewhere.
    """

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime_ns: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, list[str]] = field(default_factory=dict)
    description: str = ""
    deleted: bool = False
    max_chunk_size: int = CHUNK_BYTES
    link: dict[str, Any] | None = None

    def to_json(self) -> bytes:
        """The body of the meta message."""
        told: dict[str, Any] = {
            "name": self.name,
            "bucket": self.bucket,
            "nuid": self.nuid,
            "size": self.size,
            "chunks": self.chunks,
            "digest": self.digest,
            # Readers take the time of the message instead.
            "mtime": "0001-01-01T00:00:00Z",
            "options": {"max_chunk_size": self.max_chunk_size},
        }
        for name in ("description", "metadata", "headers", "deleted"):
            if value := getattr(self, name):
                told[name] = value
        if self.link is not None:
            told["options"]["link"] = self.link
        return orjson.dumps(told)

    @classmethod
    def from_json(cls, body: bytes, mtime_ns: int) -> ObjectInfo:
        """The reverse, whoever wrote it. Raises ValueError for what is no meta message."""
        try:
            told = orjson.loads(body)
            options = told.get("options") or {}
            info = cls(
                name=told["name"],
                bucket=told["bucket"],
                nuid=told["nuid"],
                size=told.get("size") or 0,
                chunks=told.get("chunks") or 0,
                digest=told.get("digest") or "",
                mtime_ns=mtime_ns,
                metadata=told.get("metadata") or {},
                headers=told.get("headers") or {},
                description=told.get("description") or "",
                deleted=bool(told.get("deleted")),
                max_chunk_size=options.get("max_chunk_size") or CHUNK_BYTES,
                link=options.get("link"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no description of an object: {body[:80]!r}") from error
        numbers = info.size, info.chunks, info.max_chunk_size
        texts = info.name, info.bucket, info.nuid, info.digest, *info.metadata.values()
        if not (
            all(type(one) is int and one >= 0 for one in numbers)
            and all(isinstance(one, str) for one in texts)
            and isinstance(info.metadata, dict)
            and valid_token(info.nuid)
        ):
            raise ValueError(f"the fields of an object have other types: {body[:80]!r}")
        return info

    @property
    def sha256(self) -> bytes | None:
        """What the digest says; None if it is not one of SHA-256."""
        if not self.digest.upper().startswith(DIGEST):
            return None
        text = self.digest[len(DIGEST) :].translate(str.maketrans("+/", "-_")).rstrip("=")
        try:
            found = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return None
        return found if len(found) == 32 else None


def digest_text(sha256: bytes) -> str:
    return DIGEST + urlsafe_b64encode(sha256).decode()


def valid_token(text: str) -> bool:
    """Whether this can be one token of a subject that one publishes to."""
    return bool(re.fullmatch(r"[A-Za-z0-9_=-]+", text))


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """A bucket as we would make it: sizes in bytes, -1 = no limit."""

    name: str
    max_bytes: int = UNLIMITED
    replicas: int = 1

    def __post_init__(self) -> None:
        if not valid_token(self.name) or "=" in self.name:
            raise ValueError(f"{self.name!r} is no name for a bucket of objects")

    @property
    def stream(self) -> str:
        return f"OBJ_{self.name}"

    @property
    def subjects(self) -> tuple[str, str]:
        return self.chunks(">"), self.all_meta

    @property
    def all_meta(self) -> str:
        return f"$O.{self.name}.M.>"

    def chunks(self, nuid: str) -> str:
        """The subject of an object's chunks."""
        return f"$O.{self.name}.C.{nuid}"

    def meta(self, name: str) -> str:
        """The subject of the meta message of an object with this name."""
        return f"$O.{self.name}.M.{urlsafe_b64encode(name.encode()).decode()}"

    @property
    def add_command(self) -> str:
        """How to make it with the nats tool."""
        size = f" --max-bucket-size {self.max_bytes}" if self.max_bytes > 0 else ""
        return f"nats object add {self.name} --replicas {self.replicas}{size}"

    def config(self) -> dict[str, Any]:
        return {
            "name": self.stream,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_bytes": self.max_bytes,
            "num_replicas": self.replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }

    def conflicts(self, info: StreamInfo) -> list[str]:
        """Why the stream of this name is no bucket that we can use; its size and its number of
        replicas are whatever they are."""
        has, found = info.config, []
        if has.get("mirror") or has.get("sources"):
            found.append("it copies other streams")
        for subject in self.subjects:
            if not any(covers(one, subject) for one in info.subjects):
                found.append(f"it does not capture {subject}")
        if has.get("retention", "limits") != "limits":
            found.append(f"its retention is {has['retention']}, not limits")
        if has.get("discard") != "new":
            found.append(
                "it discards old messages, which are parts of objects: discard must be new"
            )
        if not has.get("allow_rollup_hdrs"):
            found.append("allow_rollup_hdrs is off")
        found += [f"{name} is on" for name in ("sealed", "deny_purge", "no_ack") if has.get(name)]
        found += [f"{name} is set" for name in ("subject_transform",) if has.get(name)]
        if int(has.get("max_msgs_per_subject") or 0) > 0:
            found.append("max_msgs_per_subject is set, which removes parts of objects")
        if 0 < info.max_msg_size < 2 * CHUNK_BYTES:
            found.append(f"its messages may have {info.max_msg_size} bytes only")
        return found
