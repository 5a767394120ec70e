"""The command ``history``: what became of each message about a user, see docs/questions.md."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from tqdm import tqdm

from alarmdigest.cli.client import connect
from alarmdigest.cli.history.found_digests import digests_of_user
from alarmdigest.cli.history.input_scan import InputScan
from alarmdigest.cli.history.story import Step, Story
from alarmdigest.cli.history.telling import end_of, json_of, line_of
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError


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
    with tqdm(unit=" messages", disable=not sys.stderr.isatty(), leave=False) as bar:
        digests = digests_of_user(settings, user, since_ns, bar.update)
        scan = InputScan(settings, user, since_ns, info)
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
            steps, left = 0, scan.left
            deleted = scan.deleted
            for batch in scan.batches():
                bar.update(left - scan.left)
                left = scan.left
                if scan.deleted > deleted:
                    story.complete, deleted = False, scan.deleted
                for message in batch:
                    if (shown := _about(story.step(message), alarm, story)) is not None:
                        steps += 1
                        _write(shown, bar, as_json=as_json)
        finally:
            scan.close()
    if not steps:
        what = f"user {user!a}" if alarm is None else f"alarm {alarm!a} of user {user!a}"
        print(f"alarmdigest: no message about {what} was read", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    if not as_json:
        write_line(end_of(story))
    return exit_codes.CLEAN


def _stream(settings: Settings) -> StreamInfo:
    connection = connect(settings, "alarmdigest-history-info")
    try:
        info = JetStream(connection, domain=settings.js_domain).stream_info(settings.events_stream)
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
    if alarm is None or step.message.kind == "forget" or step.outcome == "rejected":
        return step
    if step.message.kind == "event":
        return step if step.message.alarm_id == alarm else None
    return replace(step, only_alarm=alarm, only_latest=story.latest_of(alarm))


def _write(step: Step, bar: tqdm, *, as_json: bool) -> None:  # type: ignore[type-arg]
    bar.clear()
    if as_json:
        write_json(json_of(step))
    else:
        write_line(printable(line_of(step)))
