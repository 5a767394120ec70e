"""Publishing one input message; in stream mode, until the stream has stored it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from alarmdigest.cli.client import connect
from alarmdigest.cli.subscription import Subscription
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamDenied, JetStreamError, JetStreamOff
from alarmdigest.nats.jetstream import OFF, OFF_FOR_ACCOUNT, JetStream
from alarmdigest.nats.streams import edit_command, subjects_with
from alarmdigest.nats.subjects import covers
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError


@dataclass(frozen=True, slots=True)
class Sent:
    """Where it is: message ``sequence`` of ``stream``; or, both empty, at whoever subscribes."""

    stream: str = ""
    sequence: int = 0

    def __str__(self) -> str:
        if self.stream:
            return f"message {self.sequence} of {self.stream}"
        return "a plain message: a service that is not connected misses it"


def send_input(settings: Settings, subject: str, body: bytes, *, may_add: bool = False) -> Sent:
    """Publish it where the service reads: into its stream, or, in core mode, as a plain message.

    With ``may_add`` a stream that does not capture the subject is made to, if we may do that.
    Raises NatsError, and SettingsError where nobody would read it.
    """
    connection = connect(settings, "alarmdigest-send")
    try:
        if settings.mode != "core":
            jetstream = JetStream(connection, domain=settings.js_domain)
            if (info := _stream(jetstream, settings)) is not None:
                if not any(covers(one, subject) for one in info.subjects):
                    _capture(jetstream, settings, info, subject, may_add=may_add)
                expected = f"NATS/1.0\r\nNats-Expected-Stream: {info.name}\r\n\r\n".encode()
                ack = jetstream.publish(subject, body, headers=expected)
                return Sent(ack.stream, ack.sequence)
            jetstream.close()
        _send_plainly(connection, subject, body)
        return Sent()
    finally:
        connection.close()


def report(sent: Sent, what: str, *, as_json: bool, **fields: str | int) -> None:
    """On stdout. ``what`` will be so when the service has read the message."""
    if as_json:
        write_json({**fields, "stream": sent.stream or None, "sequence": sent.sequence or None})
    else:
        write_line(printable(f"{what}: {sent}"))


def _stream(jetstream: JetStream, settings: Settings) -> StreamInfo | None:
    """None where there is no JetStream. Raises SettingsError where the stream is missing."""
    try:
        info = jetstream.stream_info(settings.events_stream)
    except JetStreamOff:
        if settings.mode == "stream" or settings.js_domain:
            raise
        return None
    except JetStreamError as error:
        if settings.mode == "stream" or error.err_code not in (OFF, OFF_FOR_ACCOUNT):
            raise
        return None
    if info is None:
        raise SettingsError(
            f"there is no stream {settings.events_stream}: check --events-stream; with a service "
            "in core mode say --mode core"
        )
    return info


def _capture(
    jetstream: JetStream, settings: Settings, info: StreamInfo, subject: str, *, may_add: bool
) -> None:
    """Have the stream capture it, and what is below it. Raises SettingsError where it does not."""
    config = stream_configs_of(settings)[0]
    added = (subject, f"{subject}.>")
    remedy = config.for_its_domain(edit_command(added, info))
    problem = f"stream {info.name} does not capture {subject}"
    others: list[str] = []
    with suppress(JetStreamDenied):  # then the update says as much
        others = [one for one in jetstream.stream_names_for(subject) if one != info.name]
    if others:
        raise SettingsError(
            f"{problem}, stream {others[0]} does: give the subject of this service "
            f"(--forget-subject), or its stream (--events-stream {others[0]})"
        )
    if not may_add or settings.no_create_streams:
        raise SettingsError(f"{problem}: {remedy}")
    try:
        changed = {**info.config, "subjects": subjects_with(added, info)}
        jetstream.request(f"STREAM.UPDATE.{info.name}", changed)
    except JetStreamDenied as error:
        raise SettingsError(f"{problem}, and we may not change that: {remedy}") from error
    except JetStreamError as error:
        raise SettingsError(f"{problem}, and the server refuses to add it: {error}") from error


def _send_plainly(connection: Connection, subject: str, body: bytes) -> None:
    """Until the server has it. Raises NatsError, also for a subject that we may not publish to."""
    answers = Subscription(connection, connection.new_inbox())
    connection.send(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body))
    answers.flush()
