"""The command ``verify``: is a service there, and does it do what it should?"""

from __future__ import annotations

import time
import uuid
from typing import Any

from alarmdigest import exit_codes
from alarmdigest.settings import Settings
from alarmdigest.tools.client import Client, event_body, expected_digest, request_body
from alarmdigest.tools.tested import say_what_is_tested

# How long a digest that must not come is waited for.
SILENCE_S = 0.3


def verify(settings: Settings, *, timeout_s: float) -> int:
    """Run the smoke test, report on stdout; the exit code. Raises NatsError."""
    client = Client(settings, "alarmdigest-verify")
    say_what_is_tested(settings, client.connection)
    print(f'waiting to consume "{settings.digest_subject}" messages', flush=True)
    missed = _first_miss(client, settings, timeout_s)
    if missed is not None:
        print(f"Smoke test failed: {missed}", flush=True)
        return exit_codes.INTERNAL_ERROR
    print("Smoke test passed", flush=True)
    return exit_codes.CLEAN


def _first_miss(client: Client, settings: Settings, timeout_s: float) -> str | None:
    user, alarm = f"verify-{uuid.uuid4()}", str(uuid.uuid4())
    now = time.time_ns()
    events, requests = settings.event_subject, settings.request_subject
    raised = ("WARNING", now), ("CRITICAL", now + 1)
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
            found = _next_digest(client, user, timeout_s)
            if found is None:
                return (
                    f"no digest on {settings.digest_subject} within {timeout_s:g} s after an alarm "
                    f"on {events + suffix} and a request on {requests + suffix}; is the service "
                    "running, on this server and with these subjects?"
                )
            if found != expected:
                return f"expected the digest {expected}, got {found}"
        client.publish([(requests, request_body(user))])
        again = _next_digest(client, user, SILENCE_S)
        # A service with --publish-empty says that there is nothing.
        if again is not None and again.get("ActiveAlarms") != []:
            return f"nothing was due, but a digest came: {again}"
        return None
    finally:
        client.publish([(events, event_body(user, alarm, "CLEARED", now + 2))])
        client.flush()
        client.connection.close()


def _next_digest(client: Client, user: str, timeout_s: float) -> dict[str, Any] | None:
    for digest in client.digests(time.monotonic() + timeout_s):
        if digest["UserID"] == user:
            return digest
    return None
