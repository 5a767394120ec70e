"""What must stand in the output streams, told from the input stream and the model alone.

``read_stream`` reads a stream as it is, ``judge`` says what its messages must have produced, and
``assert_exact`` compares: message for message, nothing lost, nothing doubled, nothing out of order.
All times are integer nanoseconds since 1970 UTC.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import nats
from model import (
    RETENTION_NS,
    SKEW_NS,
    Digest,
    Entry,
    Event,
    Message,
    Model,
    Status,
    format_time,
    read_event,
    read_forget,
    read_request,
)
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from support.core import read_digest

ALARMS, DIGESTS, REJECTED = "ALARMS", "ALARM_DIGESTS", "ALARM_REJECTED"
EVENTS_ON, REQUESTS_ON, FORGETS_ON = "AlarmStatusChanged", "SendAlarmDigest", "ForgetUser"
READERS = {EVENTS_ON: read_event, REQUESTS_ON: read_request, FORGETS_ON: read_forget}

MOST_COMPLAINTS = 5  # one broken user is told as well as a hundred


@dataclass(frozen=True)
class Stored:
    """One message of a stream, with the place and the time that the stream gave it."""

    sequence: int
    time_ns: int
    subject: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def read_stream(url: str, name: str) -> list[Stored]:
    """All that the stream holds now, in order; nothing where there is no such stream."""
    return asyncio.run(_read_stream(url, name))


def stream_size(url: str, name: str) -> int:
    """How many messages the stream holds now; 0 where there is no such stream."""

    async def work() -> int:
        client = await nats.connect(url)
        try:
            return (await client.jetstream().stream_info(name)).state.messages
        except NotFoundError:
            return 0
        finally:
            await client.close()

    return asyncio.run(work())


async def _read_stream(url: str, name: str) -> list[Stored]:
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        state = (await stream.stream_info(name)).state
        if state.messages == 0:
            return []
        return await _pull_through(stream, name, state.last_seq)
    except NotFoundError:
        return []
    finally:
        await client.close()


async def _pull_through(stream: JetStreamContext, name: str, last: int) -> list[Stored]:
    """All messages up to ``last``: a stream that is written to may grow faster than we read."""
    consumer = f"judge-{secrets.token_hex(8)}"
    config = ConsumerConfig(
        name=consumer,
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.ALL,
        mem_storage=True,
        inactive_threshold=30.0,
    )
    await stream.add_consumer(name, config)
    pull = await stream.pull_subscribe_bind(consumer=consumer, stream=name)
    found: list[Stored] = []
    pending = 1
    while pending and not (found and found[-1].sequence >= last):
        try:
            batch = await pull.fetch(500, timeout=5.0)
        except NatsTimeoutError:
            raise AssertionError(f"{name}: {pending} messages more do not come") from None
        for message in batch:
            sequence, time_ns, pending = _place(message.reply)
            headers = dict(message.headers or {})
            found.append(Stored(sequence, time_ns, message.subject, message.data, headers))
    await pull.unsubscribe()
    await stream.delete_consumer(name, consumer)
    return [one for one in found if one.sequence <= last]


def _place(reply: str) -> tuple[int, int, int]:
    """Stream sequence, timestamp and messages still to come. nats-py's own metadata has the time
    in microseconds only, and clamped times are told to the nanosecond."""
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7  # newer servers put domain and account in front
    return int(tokens[first]), int(tokens[first + 2]), int(tokens[first + 3])


@dataclass(frozen=True)
class Answer:
    """The digest that the request at this sequence of the input stream must have produced."""

    sequence: int
    digest: Digest


@dataclass
class Expected:
    """All that an input stream must have produced."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """For each user, in the order of the requests."""
    refused: Counter[tuple[bytes, str, str]] = field(default_factory=Counter)
    """Body, reason and subject, with how often."""
    clamped: int = 0

    @property
    def digests(self) -> int:
        return sum(map(len, self.answers.values()))

    @property
    def most_entries(self) -> int:
        """In a single digest."""
        return max(len(one.digest.entries) for user in self.answers.values() for one in user)

    @property
    def refusals(self) -> int:
        return self.refused.total()


class _UserModel(Model):
    """The model for one user. It keeps of each alarm's events only the greatest of each status:
    no other can be the latest, or tell that the alarm has changed. (A test holds it to the model;
    there would be thousands of each, and the model looks at all of them for each message.)"""

    def _record(self, event: Event, arrival_ns: int) -> None:
        super()._record(event, arrival_ns)
        alarm = self._users[event.user][event.alarm]
        if len(alarm.seen) > len(Status):
            greatest = {key.status: key for key in sorted(alarm.seen)}
            alarm.seen = {key: alarm.seen[key] for key in greatest.values()}


class UserModels:
    """A model for each user: users are independent, and the model looks at all that it has."""

    def __init__(self, *, skew_ns: int, retention_ns: int) -> None:
        self._skew_ns, self._retention_ns = skew_ns, retention_ns
        self._models: dict[str, _UserModel] = {}

    def apply(self, message: Message, arrival_ns: int) -> Digest | None:
        model = self._models.get(message.user)
        if model is None:
            model = _UserModel(skew_ns=self._skew_ns, retention_ns=self._retention_ns)
            self._models[message.user] = model
        return model.apply(message, arrival_ns)

    @property
    def clamped(self) -> int:
        return sum(model.clamped for model in self._models.values())


def judge(
    messages: Iterable[Stored], *, skew_ns: int = SKEW_NS, retention_ns: int = RETENTION_NS
) -> Expected:
    """What these messages of the input stream must have produced."""
    models = UserModels(skew_ns=skew_ns, retention_ns=retention_ns)
    expected = Expected()
    arrival_ns = -1
    for stored in messages:
        # Rejected messages count too: whoever reads the stream again must get the same arrivals.
        arrival_ns = max(arrival_ns + 1, stored.time_ns)
        message = READERS[stored.subject.split(".")[0]](stored.body)
        if isinstance(message, str):
            expected.refused[stored.body, message, stored.subject] += 1
        elif digest := models.apply(message, arrival_ns):
            expected.answers.setdefault(digest.user, []).append(Answer(stored.sequence, digest))
    expected.clamped = models.clamped
    return expected


def assert_exact(
    expected: Expected,
    digests: Sequence[Stored],
    rejected: Sequence[Stored],
    *,
    split_bytes: int | None = None,
) -> None:
    """The output streams hold what they must and nothing else.

    Without ``split_bytes`` each digest must be one message; with it, one or several of at most so
    many bytes. Raises AssertionError that names users, requests, and what was expected and found.
    """
    complaints = _double_ids(digests)
    found: dict[str, list[tuple[Stored, Digest]]] = {}
    for stored in digests:
        try:
            digest = read_digest(stored.body)
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            body = _short(stored.body)
            complaints.append(f"{DIGESTS} {stored.sequence}: no digest ({error!r}): {body}")
            continue
        if not digest.entries:
            complaints.append(f"{DIGESTS} {stored.sequence}: empty, for {_short(digest.user)}")
        if split_bytes is not None and len(stored.body) > split_bytes:
            complaints.append(f"{DIGESTS} {stored.sequence}: {len(stored.body)} bytes")
        found.setdefault(digest.user, []).append((stored, digest))
    for user in sorted(expected.answers.keys() | found.keys()):
        wrong = _first_difference(
            expected.answers.get(user, []), found.get(user, []), split_bytes is not None
        )
        if wrong:
            complaints.append(f"user {_short(user)}: {wrong}")
    complaints += _wrong_refusals(expected, rejected)
    if complaints:
        shown = "\n".join(f"- {one}" for one in complaints[:MOST_COMPLAINTS])
        raise AssertionError(f"{len(complaints)} complaints:\n{shown}")


def _double_ids(digests: Iterable[Stored]) -> list[str]:
    complaints = []
    first: dict[str, int] = {}
    for stored in digests:
        name = stored.headers.get("Nats-Msg-Id", "")
        if not name:
            complaints.append(f"{DIGESTS} {stored.sequence}: no Nats-Msg-Id")
        elif (before := first.setdefault(name, stored.sequence)) != stored.sequence:
            complaints.append(f"{DIGESTS} {stored.sequence}: same Nats-Msg-Id as {before}: {name}")
    return complaints


def _first_difference(
    answers: Sequence[Answer], found: Sequence[tuple[Stored, Digest]], split: bool
) -> str | None:
    """The first place where a user's digests are not what they must be, in words."""
    at = 0
    for number, answer in enumerate(answers):
        where = f"digest {number + 1} of {len(answers)}, for {ALARMS} {answer.sequence}"
        if at == len(found):
            return f"{where}, is lost; {at} messages found; {_shown(answer.digest.entries)}"
        first, last = found[at][0].sequence, found[at][0].sequence
        entries = found[at][1].entries
        at += 1
        while split and len(entries) < len(answer.digest.entries) and at < len(found):
            last = found[at][0].sequence
            entries += found[at][1].entries
            at += 1
        if entries != answer.digest.entries:
            place = f"{DIGESTS} {first}" + (f" to {last}" if last != first else "")
            return (
                f"{where}: expected {_shown(answer.digest.entries)}; "
                f"found at {place} {_shown(entries)}{_known(entries, answers, number)}"
            )
    if at < len(found):
        stored, digest = found[at]
        known = _known(digest.entries, answers, len(answers))
        return f"one too many at {DIGESTS} {stored.sequence}: {_shown(digest.entries)}{known}"
    return None


def _known(entries: tuple[Entry, ...], answers: Sequence[Answer], number: int) -> str:
    """Whether it is another request's digest: then it was doubled, or one was skipped."""
    for other, answer in enumerate(answers):
        if answer.digest.entries == entries:
            kind = "doubled" if other < number else "too early"
            return f" ({kind}: it is digest {other + 1}, for {ALARMS} {answer.sequence})"
    return ""


def _wrong_refusals(expected: Expected, rejected: Iterable[Stored]) -> list[str]:
    found = Counter(
        (
            one.body,
            one.headers.get("Alarmdigest-Reason", "(no reason)"),
            one.headers.get("Alarmdigest-Subject", "(no subject)"),
        )
        for one in rejected
    )
    complaints = []
    for key in sorted(expected.refused.keys() | found.keys()):
        if found[key] != expected.refused[key]:
            body, reason, subject = key
            complaints.append(
                f"{REJECTED}: {reason} {_short(body)} on {subject}: "
                f"expected {expected.refused[key]}, found {found[key]}"
            )
    return complaints


def _shown(entries: Iterable[Entry]) -> str:
    return _short(
        ", ".join(
            f"{_short(one.alarm, 30)} {one.status.name}@{format_time(one.changed_at)}"
            for one in entries
        ),
        600,
    )


def _short(text: str | bytes, most: int = 60) -> str:
    shown = ascii(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
