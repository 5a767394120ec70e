"""The command ``rejected``: what was rejected and why, and sending it in once more."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from alarmdigest.cli.client import connect
from alarmdigest.cli.rejected_message import UNREADABLE, read_rejection, write_rejection
from alarmdigest.cli.subscription import Subscription
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.connect.bridge.messages import CAME_THROUGH
from alarmdigest.nats.answers import StartAt, StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamDenied, JetStreamError, JetStreamOff
from alarmdigest.nats.jetstream import NO_STREAM, OFF, OFF_FOR_ACCOUNT, JetStream
from alarmdigest.nats.subjects import valid_subject
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings

# What a bridge writes in place of a subject.
FROM_A_BRIDGE = f"{CAME_THROUGH}/"
# How often a stream is asked for more while it is followed.
LOOK_EVERY_S = 0.5
BATCH = 500
FETCH_BYTES = 8 * 1024 * 1024
# What a message may have besides max_payload: subjects and the server's own headers.
OVERHEAD_BYTES = 8 * 1024


def rejected(settings: Settings, *, last: int, follow: bool, with_body: bool, as_json: bool) -> int:
    """Show rejections on stdout; the exit code. Raises NatsError."""
    connection = connect(settings, "alarmdigest-rejected")
    try:
        # In core mode JetStream is not even asked: our user may not be allowed to.
        if settings.mode != "core":
            jetstream = JetStream(connection, domain=settings.js_domain)
            if there := _stream(jetstream, settings, connection.url):
                tail = _Tail(jetstream, there, connection, with_body=with_body, as_json=as_json)
                tail.show(last, follow=follow)
                if there.messages == 0 and not as_json:
                    print(f"stream {there.name} holds no rejected messages", file=sys.stderr)
                return exit_codes.CLEAN
            jetstream.close()
        _listen(connection, settings.rejected_subject, with_body=with_body, as_json=as_json)
    except JetStreamDenied as error:
        raise JetStreamDenied(f"{error}; --mode core needs no JetStream") from error
    except NoStream as error:
        print(f"alarmdigest: {error}", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    except KeyboardInterrupt:  # how following ends
        pass
    finally:
        connection.close()
    return exit_codes.CLEAN


class NoStream(Exception):
    """The stream of rejections is not there, and should be."""


def _stream(jetstream: JetStream, settings: Settings, server: str) -> StreamInfo | None:
    """None where there is no JetStream, and so no stream. Raises NoStream."""
    name = settings.rejected_stream
    try:
        info = jetstream.stream_info(name)
    except JetStreamOff:
        if settings.js_domain:
            raise NoStream(
                f"no stream {name} on {server}: nobody answers for the JetStream domain "
                f"{settings.js_domain}, check --js-domain"
            ) from None
    except JetStreamError as error:
        if error.err_code not in (OFF, OFF_FOR_ACCOUNT):
            raise
    else:
        if info is None:
            raise NoStream(_missing(name, server))
        return info
    if settings.mode == "stream":
        raise NoStream(f"no stream {name} on {server}: it has no JetStream (for this account)")
    return None


def _missing(stream: str, server: str) -> str:
    return (
        f"no stream {stream} on {server}: check --rejected-stream; "
        "the service makes it at its first start in stream mode"
    )


def _listen(connection: Connection, subject: str, *, with_body: bool, as_json: bool) -> None:
    """Until the user ends it."""
    subscription = Subscription(connection, subject)
    print(f"no stream keeps {subject}: showing what comes from now on", file=sys.stderr, flush=True)
    while True:
        for headers, body in subscription.messages(time.monotonic() + LOOK_EVERY_S):
            rejection = read_rejection(
                headers, body, sequence=None, at_ns=time.time_ns(), with_body=with_body
            )
            write_rejection(rejection, as_json=as_json)
        connection.keep_alive()


class _Tail:
    """The end of the stream of rejections."""

    def __init__(
        self,
        jetstream: JetStream,
        info: StreamInfo,
        connection: Connection,
        *,
        with_body: bool,
        as_json: bool,
    ) -> None:
        self._jetstream = jetstream
        self._info = info
        self._fetch_bytes = max(FETCH_BYTES, connection.max_payload + OVERHEAD_BYTES)
        self._with_body = with_body
        self._as_json = as_json

    def show(self, last: int, *, follow: bool) -> None:
        """The last so many (fewer where some were deleted in between), and then what comes."""
        stream, name = self._info.name, f"alarmdigest-rejected-{secrets.token_hex(8)}"
        first = max(1, self._info.first_seq, self._info.last_seq - last + 1)
        self._jetstream.create_consumer(
            stream,
            name=name,
            start=StartAt("sequence", first),
            headers_only=not self._with_body,
        )
        try:
            # By the number that was the last one at the beginning: more may come all the time.
            while self._show_some(name) < self._info.last_seq and not follow:
                pass
            while follow:
                self._show_some(name)
                time.sleep(LOOK_EVERY_S)
        finally:
            self._jetstream.delete_consumer(stream, name)

    def _show_some(self, consumer: str) -> int:
        """Show what is there; the last number, or that of the stream's end if there is no more."""
        got = self._jetstream.fetch(
            self._info.name, consumer, batch=BATCH, max_bytes=self._fetch_bytes
        )
        for message in got:
            rejection = read_rejection(
                message.headers,
                message.payload,
                sequence=message.ack.stream_seq,
                at_ns=message.ack.timestamp_ns,
                with_body=self._with_body,
            )
            write_rejection(rejection, as_json=self._as_json)
        return got[-1].ack.stream_seq if got else self._info.last_seq


def refeed(settings: Settings, sequences: Sequence[int], *, as_json: bool) -> int:
    """Publish these rejections' bodies once more where they first came in, each confirmed by the
    stream; the exit code. Raises NatsError."""
    connection = connect(settings, "alarmdigest-refeed")
    try:
        jetstream = JetStream(connection, domain=settings.js_domain)
        failed = 0
        for sequence in sequences:
            done = _refeed_one(jetstream, settings, sequence, connection.url)
            failed += isinstance(done, str)
            _tell(sequence, done, as_json)
        return exit_codes.INTERNAL_ERROR if failed else exit_codes.CLEAN
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Refed:
    subject: str
    stream: str
    stored_as: int


def _tell(sequence: int, done: _Refed | str, as_json: bool) -> None:
    if as_json:
        told = {"not_sent": done} if isinstance(done, str) else asdict(done)
        write_json({"sequence": sequence, **told})
    elif isinstance(done, str):
        print(f"{sequence}: not sent: {done}", file=sys.stderr, flush=True)
    else:
        stored = f"stored in {done.stream} as {done.stored_as}"
        write_line(f"{sequence}: sent to {done.subject}, {stored}")


def _refeed_one(
    jetstream: JetStream, settings: Settings, sequence: int, server: str
) -> _Refed | str:
    """Where the stream has stored it, or why it was not sent."""
    try:
        found = jetstream.stored_message(settings.rejected_stream, sequence)
        if found is None:
            return f"{settings.rejected_stream} holds no such message"
        headers, body = found
        rejection = read_rejection(headers, body, sequence=sequence, at_ns=0, with_body=True)
        if rejection.cut:
            return "its body was cut when it was rejected"
        if (why := _not_to_be_fed(rejection.subject, settings)) is not None:
            return why
        stream, stored, _domain = jetstream.publish(rejection.subject, body)
    except JetStreamError as error:
        if error.err_code == NO_STREAM:
            return _missing(settings.rejected_stream, server)
        return str(error)
    except JetStreamOff as error:
        return str(error)
    return _Refed(rejection.subject, stream, stored)


def _not_to_be_fed(subject: str, settings: Settings) -> str | None:
    """Whoever may publish rejections must not have us publish anywhere."""
    if subject.startswith(FROM_A_BRIDGE):
        return (
            "it came through a bridge: mend its labels or the bridge's rules, and have its sender "
            "send it again"
        )
    if not valid_subject(subject) or UNREADABLE in subject:
        return f"{subject!a}, where it says it came in, is no subject to publish to"
    if not _is_input(subject, settings):
        return f"{subject!a} is none of the service's input subjects"
    return None


def _is_input(subject: str, settings: Settings) -> bool:
    inputs = settings.event_subject, settings.request_subject, settings.forget_subject
    return any(subject == one or subject.startswith(one + ".") for one in inputs)
