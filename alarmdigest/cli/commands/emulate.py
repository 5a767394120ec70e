"""The command ``emulate``: traffic as many agents make it, and an account of every digest."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from alarmdigest.cli.client import Client, connect, event_body, expected_digest, request_body
from alarmdigest.cli.target import print_target
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings

# After the last request, for as long as digests keep coming at least this often.
PATIENCE_S = 5.0
# A digest that comes twice comes soon: wait this long for none.
SILENCE_S = 0.3
# With a stream nothing is lost, and digests may come later: so often we wait once more, and publish
# once more what the stream has not stored, since it has no leader at times, and we do not wait for
# its answers. An agent would.
MOST_REPEATS = 4
AT_ONCE = 1000
STATUSES = ("WARNING", "CRITICAL")


@dataclass
class Account:
    """What was asked for and what came. A user is expected to get exactly one digest."""

    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    doubled: int = 0
    repeated: set[str] = field(default_factory=set)
    messages: int = 0  # published

    def expect(self, user: str, alarm: str, status: str, now: int) -> None:
        self.expected[user] = expected_digest(user, alarm, status, now)
        self.published[user] = alarm, status, now

    def enter(self, digest: dict[str, Any]) -> bool:
        """Note a digest; False when it is none of those that were asked for."""
        user = digest["UserID"]
        if user not in self.expected:
            return False
        if user in self.received and digest.get("ActiveAlarms") == []:
            return False  # a service with --publish-empty answers the second request like this
        if digest != self.expected[user]:
            self.wrong.append(digest)
        elif user in self.received:
            self.doubled += 1
        self.received.add(user)
        return True

    @property
    def missing(self) -> int:
        return len(self.expected) - len(self.received)

    @property
    def well(self) -> bool:
        return not (self.missing or self.doubled or self.wrong)


def emulate(settings: Settings, *, shots: int, bursts: int, wait_s: float) -> int:
    """Publish, collect, report on stdout; the exit code. Raises NatsError."""
    client = Client(settings, "alarmdigest-emulate")
    mode = print_target(settings, client.connection)
    account = Account()
    events: list[tuple[str, str, int]] = []
    try:
        took = _play(
            client,
            settings,
            account,
            events,
            shots=shots,
            bursts=bursts,
            wait_s=wait_s,
            repeats=MOST_REPEATS if mode == "stream" else 0,
        )
    finally:
        _clear(client, settings, events)
    return _report(account, took, client.repeated)


def _play(
    client: Client,
    settings: Settings,
    account: Account,
    events: list[tuple[str, str, int]],
    *,
    shots: int,
    bursts: int,
    wait_s: float,
    repeats: int,
) -> float:
    """Publish and collect; how long it took until the last digest, in seconds."""
    started = time.monotonic()
    stored = _last_sequence(settings) if repeats else None
    with tqdm(total=shots * bursts, unit=" digests", disable=not sys.stderr.isatty()) as bar:
        for shot in range(shots):
            messages: list[tuple[str, bytes]] = []
            for number in range(bursts):
                user, alarm = str(uuid.uuid4()), str(uuid.uuid4())
                status, now = STATUSES[(shot + number) % 2], time.time_ns()
                account.expect(user, alarm, status, now)
                events.append((user, alarm, now))
                # Each message on the numbered subject, then once more on the plain one: the
                # repetition must not show in any digest.
                event, request = event_body(user, alarm, status, now), request_body(user)
                messages += [
                    (f"{settings.event_subject}.{number}", event),
                    (settings.event_subject, event),
                    (f"{settings.request_subject}.{number}", request),
                    (settings.request_subject, request),
                ]
            client.publish(messages)
            account.messages += len(messages)
            _collect(client, account, bar, time.monotonic() + wait_s)
        while account.missing:
            before = account.missing
            _collect(client, account, bar, time.monotonic() + PATIENCE_S, stop_when_complete=True)
            if account.missing == before:
                if repeats == 0:
                    break
                repeats -= 1
                if not _all_is_stored(settings, stored, account):
                    _publish_again(client, settings, account)
        took = time.monotonic() - started
        _collect(client, account, bar, time.monotonic() + SILENCE_S)
    return took


def _all_is_stored(settings: Settings, before: int | None, account: Account) -> bool:
    """Whether the input stream has taken as many messages as we have published: then what is
    missing is the service's fault. Also where nobody can tell."""
    now = _last_sequence(settings)
    return before is None or now is None or now - before >= account.messages


def _last_sequence(settings: Settings) -> int | None:
    """Of the input stream; None where we may not look."""
    try:
        connection = connect(settings, "alarmdigest-emulate-look")
        try:
            js = JetStream(connection, domain=settings.js_domain)
            info = js.stream_info(settings.events_stream)
        finally:
            connection.close()
    except NatsError:
        return None
    return info.last_seq if info is not None else 0


def _publish_again(client: Client, settings: Settings, account: Account) -> None:
    """What no digest has come for. A service that has had it answers with nothing new."""
    users = [user for user in account.expected if user not in account.received]
    account.repeated.update(users)
    for start in range(0, len(users), AT_ONCE):
        some = users[start : start + AT_ONCE]
        client.publish(
            (settings.event_subject, event_body(user, *account.published[user])) for user in some
        )
        client.publish((settings.request_subject, request_body(user)) for user in some)
        account.messages += 2 * len(some)
        client.flush()


def _collect(
    client: Client, account: Account, bar: Any, until: float, *, stop_when_complete: bool = False
) -> None:
    for digest in client.digests(until):
        if account.enter(digest):
            bar.update()
        if stop_when_complete and not account.missing:
            return


def _clear(client: Client, settings: Settings, events: list[tuple[str, str, int]]) -> None:
    """Leave no active alarms behind in the service."""
    for start in range(0, len(events), 1000):
        client.publish(
            (settings.event_subject, event_body(user, alarm, "CLEARED", raised_at + 1))
            for user, alarm, raised_at in events[start : start + 1000]
        )
    client.flush()
    client.connection.close()


def _report(account: Account, took: float, repeated: int) -> int:
    print(
        f"{len(account.expected)} digests expected, {len(account.received)} received, "
        f"{account.missing} missing, {account.doubled} doubled, {len(account.wrong)} wrong, "
        f"in {took:.2f} s"
    )
    if account.repeated:
        print(
            f"what {len(account.repeated)} of them are about was published once more: a stream "
            "that has no leader for a moment stores nothing"
        )
    if repeated:
        print(f"{repeated} came once more with the same id, as they may where a service was ended")
    if account.wrong:
        print(f"the first wrong one: {account.wrong[0]}")
    if account.well:
        return exit_codes.CLEAN
    print(
        "if digests are missing, is the service running, on this server and with these subjects? "
        "its /metrics count what it rejected and dropped"
    )
    return exit_codes.INTERNAL_ERROR
