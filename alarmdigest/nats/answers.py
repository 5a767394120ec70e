"""What JetStream says, as values: streams, deliveries, and where a consumer begins."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from alarmdigest._ext import timestamps
from alarmdigest.nats.errors import BadAnswer


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as the server describes it. ``created`` as written there: it is compared only.

    ``last_ts`` in ns, None if it never held a message. ``max_msg_size`` in bytes, -1 for no limit.
    ``server_ns`` is the server's clock when it answered; servers before 2.10 do not tell.
    ``domain`` is the JetStream domain that it lives in, ``leader`` the server that leads it; both
    empty where there is none. ``consumers`` is how many it has, ``size`` what its messages take.
    """

    name: str
    created: str
    first_seq: int
    last_seq: int
    last_ts: int | None
    messages: int
    subjects: tuple[str, ...]
    max_msg_size: int
    duplicate_window_ns: int
    config: dict[str, Any]
    server_ns: int | None
    domain: str = ""
    leader: str = ""
    consumers: int = 0
    size: int = 0

    @property
    def replicas(self) -> int:
        return int(self.config.get("num_replicas") or 1)


@dataclass(frozen=True, slots=True)
class StartAt:
    """Where a consumer begins. ``value``: a sequence, or a time in ns since 1970."""

    policy: Literal["first", "new", "sequence", "time"]
    value: int = 0

    def config(self) -> dict[str, Any]:
        if self.policy == "sequence":
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": self.value}
        if self.policy == "time":
            start = timestamps.to_text(self.value)
            return {"deliver_policy": "by_start_time", "opt_start_time": start}
        return {"deliver_policy": "new" if self.policy == "new" else "all"}


class Ack(NamedTuple):
    """What the reply subject of a delivered message says. ``timestamp_ns`` is the stream's."""

    stream_seq: int
    consumer_seq: int
    timestamp_ns: int
    pending: int


class Delivered(NamedTuple):
    """A message out of a stream."""

    ack: Ack
    headers: bytes
    payload: bytes


class StoredMessage(NamedTuple):
    """A message as the stream's leader has it. ``timestamp_ns`` is when it was stored."""

    seq: int
    timestamp_ns: int
    headers: bytes
    payload: bytes


def parse_ack_reply(reply: bytes) -> Ack:
    """Read ``$JS.ACK.…``, of 9 tokens or, with domain and account, of 11 or more.

    Raises ValueError if it is none.
    """
    tokens = reply.split(b".")
    first = 2 if len(tokens) == 9 else 4
    if tokens[:2] != [b"$JS", b"ACK"] or (len(tokens) != 9 and len(tokens) < 11):
        raise ValueError(f"not the reply subject of a stream's message: {reply[:200]!r}")
    # after stream, consumer and number of deliveries
    return Ack(*map(int, tokens[first + 3 : first + 7]))


def status_of(headers: bytes) -> int:
    """The code in ``NATS/1.0 404 No Messages``; 0 if there is none."""
    line = headers.partition(b"\r\n")[0].split(None, 2)
    return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0


def valid_name(name: str) -> bool:
    """Whether a stream or consumer may have this name. It becomes part of subjects."""
    return bool(name) and name.isprintable() and not any(c in " .*>/\\" for c in name)


def read_stream_info(answer: dict[str, Any]) -> StreamInfo:
    try:
        config, state = answer["config"], answer["state"]
        last_ts = str(state["last_ts"])
        return StreamInfo(
            name=str(config["name"]),
            created=str(answer["created"]),
            first_seq=int(state["first_seq"]),
            last_seq=int(state["last_seq"]),
            # Go's zero time: it never held a message.
            last_ts=None if last_ts.startswith("0001-") else timestamps.to_ns(last_ts),
            messages=int(state["messages"]),
            subjects=tuple(config.get("subjects") or ()),
            max_msg_size=int(config.get("max_msg_size", -1)),
            duplicate_window_ns=int(config.get("duplicate_window", 0)),
            config=config,
            server_ns=timestamps.to_ns(str(answer["ts"])) if "ts" in answer else None,
            domain=str(answer.get("domain") or ""),
            consumers=int(state.get("consumer_count") or 0),
            size=int(state.get("bytes") or 0),
            leader=str((answer.get("cluster") or {}).get("leader") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_answer(answer) from error


def read_stored_message(answer: dict[str, Any]) -> StoredMessage:
    """Of an answer to ``STREAM.MSG.GET``. Raises BadAnswer."""
    try:
        message = answer["message"]
        return StoredMessage(
            int(message["seq"]),
            timestamps.to_ns(message["time"]),
            b64decode(message.get("hdrs", "")),
            b64decode(message.get("data", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_answer(answer) from error


def bad_answer(answer: object) -> BadAnswer:
    return BadAnswer(f"not an answer of JetStream's: {in_short(answer)}")


def in_short(value: object) -> str:
    """Of JSON that anybody may have sent: lists within lists within lists have no text."""
    try:
        return repr(value)[:200]
    except RecursionError:
        return f"a {type(value).__name__}, nested too deeply to be shown"


class PubAck(NamedTuple):
    """``domain`` is empty where the stream is in none."""

    stream: str
    sequence: int
    domain: str
