"""The command ``verify``: is a service there, and does it do what it should?"""

from __future__ import annotations

import sys
import time
import uuid
from contextlib import suppress
from typing import Any

from alarmdigest.cli.client import Client, event_body, expected_digest, request_body
from alarmdigest.cli.stored_digests import StoredDigests
from alarmdigest.cli.target import print_target
from alarmdigest.nats.errors import JetStreamError, NatsError
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings

# How long a digest that must not come is waited for.
SILENCE_S = 0.3


def verify(settings: Settings, *, timeout_s: float) -> int:
    """Run the smoke test, report on stdout; the exit code. Raises NatsError."""
    client = Client(settings, "alarmdigest-verify")
    mode = print_target(settings, client.connection)
    stored: StoredDigests | None = None
    try:
        if "stream" in (mode, settings.mode):
            stored = _open_stream(settings)
        print(f'waiting to consume "{settings.digest_subject}" messages', flush=True)
        missed = _first_miss(client, stored, settings, timeout_s)
    except JetStreamError as error:
        missed = f"{settings.digests_stream}, which receivers read: {error}"
    finally:
        if stored is not None:
            stored.close()
    if missed is not None:
        print(f"Smoke test failed: {missed}", flush=True)
        return exit_codes.INTERNAL_ERROR
    print("Smoke test passed", flush=True)
    return exit_codes.CLEAN


def _open_stream(settings: Settings) -> StoredDigests | None:
    """What receivers read in stream mode. A user who may not look into it may test the rest.

    Raises JetStreamError, e.g. when there is no such stream.
    """
    try:
        return StoredDigests(settings)
    except JetStreamError:
        raise
    except NatsError as error:
        line = (
            f"cannot look into {settings.digests_stream}, so whether digests get there is not "
            f"tested: {error}"
        )
        with suppress(OSError):  # the result does not depend on it
            print(printable(line), file=sys.stderr, flush=True)
        return None


def _first_miss(
    client: Client, stored: StoredDigests | None, settings: Settings, timeout_s: float
) -> str | None:
    user, alarm = f"verify-{uuid.uuid4()}", str(uuid.uuid4())
    now = time.time_ns()
    where = f"on {settings.digest_subject}" if stored is None else f"in {settings.digests_stream}"
    events, requests = settings.event_subject, settings.request_subject
    raised = ("WARNING", now), ("CRITICAL", now + 1)

    def next_digest(timeout_s: float) -> dict[str, Any] | None:
        until = time.monotonic() + timeout_s
        digests = client.digests(until) if stored is None else stored.until(until)
        return next((digest for digest in digests if digest["UserID"] == user), None)

    try:
        # On the plain subjects and on ones below them; the second with a change of status.
        for (status, changed_at), suffix in zip(raised, ("", ".verify"), strict=True):
            client.publish(
                [
                    (events + suffix, event_body(user, alarm, status, changed_at)),
                    (requests + suffix, request_body(user)),
                ]
            )
            expected = expected_digest(user, alarm, status, changed_at)
            found = next_digest(timeout_s)
            if found is None and stored is not None and _heard(client, user):
                return (
                    f"a digest was published on {settings.digest_subject}, but within "
                    f"{timeout_s:g} s it did not get into {settings.digests_stream}, which "
                    "receivers read: does that stream capture the subject, is it full, or does a "
                    "subject_transform of it keep digests under another subject?"
                )
            if found is None:
                return (
                    f"no digest {where} within {timeout_s:g} s after an alarm "
                    f"on {events + suffix} and a request on {requests + suffix}; is the service "
                    "running, on this server and with these subjects?"
                )
            if found != expected:
                return f"expected the digest {expected}, got {found}"
        client.publish([(requests, request_body(user))])
        again = next_digest(SILENCE_S)
        # A service with --publish-empty says that there is nothing.
        if again is not None and again.get("ActiveAlarms") != []:
            return f"nothing was due, but a digest came: {again}"
        return None
    finally:
        client.publish([(events, event_body(user, alarm, "CLEARED", now + 2))])
        client.flush()
        client.connection.close()


def _heard(client: Client, user: str) -> bool:
    """Whether a digest of the user has come on the plain subscription."""
    return any(digest["UserID"] == user for digest in client.digests(time.monotonic()))
