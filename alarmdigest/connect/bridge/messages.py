"""The bridge's messages on NATS: events, and alerts that cannot be one."""

from __future__ import annotations

import hashlib

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect.bridge.alerts import Rejection
from alarmdigest.connect.bridge.mapping import Alarm
from alarmdigest.connect.publishing import Outgoing
from alarmdigest.wire.rejection_headers import rejection_headers

# What the headers of a rejection take of max_payload at most.
HEADER_ROOM_BYTES = 1024
# In place of a subject: it came in over HTTP.
CAME_THROUGH = "bridge"


def event_message(stream: str, subject: str, alarm: Alarm, at_ns: int) -> Outgoing:
    """An AlarmStatusChanged, for this stream only.

    The id is the same for the same news of the same alarm, so within its window JetStream drops
    what a sender repeats.
    """
    changed_at = timestamps.to_text(at_ns)
    body = orjson.dumps(
        {
            "AlarmID": alarm.alarm_id,
            "UserID": alarm.user_id,
            "Status": alarm.status,
            "ChangedAt": changed_at,
        }
    )
    headers = (
        f"NATS/1.0\r\nNats-Expected-Stream: {stream}\r\n"
        f"Nats-Msg-Id: bridge-{alarm.key}-{alarm.status}-{at_ns}\r\n\r\n"
    )
    return Outgoing(stream, subject, body, headers.encode())


def rejection_message(
    stream: str, subject: str, sender: str, rejection: Rejection, max_payload: int
) -> Outgoing:
    """An AlarmRejected. Its body is the alert as it came, or as far as it was understood; cut to
    what the server takes at once (``max_payload`` bytes, headers included)."""
    body = rejection.body[: max(0, max_payload - HEADER_ROOM_BYTES)]
    came_through = f"{CAME_THROUGH}/{sender}".encode()
    cut = b"Alarmdigest-Cut: true\r\n" if len(body) < len(rejection.body) else b""
    # What a sender repeats within the stream's window is there once.
    hashed = hashlib.sha256(f"{sender} {rejection.reason} ".encode() + rejection.body).hexdigest()
    headers = b"NATS/1.0\r\n%b%bNats-Msg-Id: bridge-%b\r\n\r\n" % (
        rejection_headers(rejection.reason, rejection.detail, came_through),
        cut,
        hashed[:32].encode(),
    )
    return Outgoing(stream, subject, body, headers)
