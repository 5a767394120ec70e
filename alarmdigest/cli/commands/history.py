"""The command ``history``: what became of each message about a user, see docs/questions.md."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from alarmdigest._ext import timestamps
from alarmdigest.cli.client import connect
from alarmdigest.cli.history.deliveries import Beside
from alarmdigest.cli.history.found_digests import digests_of_user
from alarmdigest.cli.history.input_scan import InputScan
from alarmdigest.cli.history.story import Step, Story
from alarmdigest.cli.history.telling import end_of, json_of, line_of
from alarmdigest.cli.questions import ask, who
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamOff, NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.settings.options import flag_of


def history(
    settings: Settings, user_id: str, alarm_id: str | None, *, since_ns: int, as_json: bool
) -> int:
    """Tell it on stdout, with what was read on stderr; the exit code: 1 where nothing was found.

    ``since_ns`` is when it begins, in ns since 1970. Raises NatsError, SettingsError.
    """
    user = checked_id(user_id, "USER")
    alarm = None if alarm_id is None else checked_id(alarm_id, "ALARM")
    # What the reader says of gaps in the stream is for a service; here they are told in answers.
    logging.getLogger("alarmdigest.pipeline").setLevel(logging.CRITICAL)
    info = _stream(settings)
    service = _ask_service(settings, user)
    if service is not None:
        _compare_settings(settings, service)
    with tqdm(unit=" messages", disable=not sys.stderr.isatty(), leave=False) as bar:
        digests = digests_of_user(settings, user, since_ns, bar.update)
        scan, beside = InputScan(settings, user, since_ns, info), Beside(settings)
        try:
            complete = scan.first == 1 and info.first_seq <= 1
            _tell_what_is_read(settings, scan, complete=complete)
            bar.reset(total=scan.left)
            story = Story(
                digests,
                retention_ns=settings.retention,
                stream=settings.events_stream,
                complete=complete,
            )
            found = False
            left, deleted = scan.left, scan.deleted
            for batch in scan.batches():
                bar.update(left - scan.left)
                left = scan.left
                gap, deleted = scan.deleted > deleted, scan.deleted
                for message in batch:
                    if gap:  # somewhere among these
                        story.know_less()
                    if (shown := _about(story.step(message), alarm, story)) is not None:
                        found = found or _is_about(shown, alarm)
                        _write(_with_what_is_beside(shown, beside), bar, as_json=as_json)
                if gap:
                    story.know_less()
        except KeyboardInterrupt:
            print(f"alarmdigest: interrupted, {scan.left} messages unread", file=sys.stderr)
            raise
        finally:
            beside.close()
            scan.close()
    if not as_json and (story.events or story.requests):
        write_line(end_of(story))
    _tell_how_far(settings, user, info)
    if not found:
        what = f"user {user!a}" if alarm is None else f"alarm {alarm!a} of user {user!a}"
        print(
            f"alarmdigest: no message about {what} was read since {timestamps.to_text(since_ns)}: "
            "say an earlier --since, such as 7d; ids are compared exactly",
            file=sys.stderr,
        )
        return exit_codes.INTERNAL_ERROR
    return exit_codes.CLEAN


def _ask_service(settings: Settings, user: str) -> dict[str, Any] | None:
    """Who answers, and how far it has read; None where nobody does, or we may not ask."""
    try:
        return ask(settings, "show", "alarms", UserID=user)
    except (NatsError, SettingsError):
        return None


def _compare_settings(settings: Settings, service: dict[str, Any]) -> None:
    for name, mine in (("retention", settings.retention), ("clock_skew", settings.clock_skew)):
        theirs = service.get(name)
        if theirs is not None and theirs != mine:
            print(
                f"alarmdigest: the service runs with {flag_of(name)} {theirs / 1e9:g}s: give "
                "history the same, else it tells another story",
                file=sys.stderr,
            )


def _tell_how_far(settings: Settings, user: str, info: StreamInfo) -> None:
    service = _ask_service(settings, user)
    if service is None:
        text = "no service answers: whether one has read all of this is not known here"
    elif (read := service.get("read_through")) is None:
        return
    elif read >= info.last_seq:
        text = f"{who(service)} has read all of it"
    else:
        text = f"{who(service)} has read up to message {read}, and nothing after it yet"
    print(f"alarmdigest: {printable(text)}", file=sys.stderr)


def _stream(settings: Settings) -> StreamInfo:
    connection = connect(settings, "alarmdigest-history-info")
    try:
        info = JetStream(connection, domain=settings.js_domain).stream_info(settings.events_stream)
    except JetStreamOff as error:
        raise SettingsError(
            f"there is no JetStream at {connection.url}, and in core mode nothing keeps what came "
            "in: use show and trace there"
        ) from error
    finally:
        connection.close()
    if info is None:
        raise SettingsError(
            f"there is no stream {settings.events_stream}: check --events-stream; in core mode "
            "nothing keeps what came in"
        )
    return info


def _tell_what_is_read(settings: Settings, scan: InputScan, *, complete: bool) -> None:
    known = "all that the stream ever held" if complete else "what came before is not known here"
    print(
        f"alarmdigest: reading {scan.left} messages of {settings.events_stream}, from {scan.first} "
        f"on ({known})",
        file=sys.stderr,
        flush=True,
    )


def _about(step: Step, alarm: str | None, story: Story) -> Step | None:
    """The step as far as it is about the alarm; None where it is not."""
    if alarm is None or step.message.kind == "forget":
        return step
    if step.outcome == "rejected":
        return step if step.message.alarm_id in ("", alarm) else None
    if step.message.kind == "event":
        return step if step.message.alarm_id == alarm else None
    return replace(step, only_alarm=alarm, only_latest=story.latest_of(alarm))


def _with_what_is_beside(step: Step, beside: Beside) -> Step:
    if step.message.kind != "request" or step.message.reason:
        return step
    scheduled = beside.scheduled(step.message.sequence)
    return replace(step, scheduled=scheduled, deliveries=beside.deliveries(step.ids))


def _is_about(step: Step, alarm: str | None) -> bool:
    """Not so is a request that says nothing of the alarm, since none came."""
    if alarm is None or step.message.alarm_id == alarm:
        return True
    return step.message.kind == "request" and step.only_latest is not None


def _write(step: Step, bar: tqdm, *, as_json: bool) -> None:  # type: ignore[type-arg]
    bar.clear()
    if as_json:
        write_json(json_of(step))
    else:
        write_line(printable(line_of(step)))
