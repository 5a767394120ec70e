"""Input messages as monitoring agents and users publish them: a subject and a body each."""

from __future__ import annotations

import orjson


def event(user: str, alarm: str, status: str, second: int = 1) -> tuple[str, bytes]:
    when = f"2026-01-02T03:04:{second:02}Z"
    body = {"UserID": user, "AlarmID": alarm, "Status": status, "ChangedAt": when}
    return "AlarmStatusChanged", orjson.dumps(body)


def request(user: str) -> tuple[str, bytes]:
    return "SendAlarmDigest", orjson.dumps({"UserID": user})
