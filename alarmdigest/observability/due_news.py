"""Who became due, as messages: one a user on a plain subject, numbered so that gaps show."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.pipeline.due_watch import DueWatch
from alarmdigest.wire.messages import STATUS_NAMES

# Of a packed line (ext/state/due.pxd): since when, the worst status, the length of the id.
_LINE: Final = struct.Struct("=qBH")
# More at once is left out, which the numbers show: a list is the better way to learn of so many.
MESSAGES_A_SECOND = 20_000


class DueNews:
    """Makes messages of what the workers noted. Used by one thread.

    ``published`` counts messages, and ``left_out`` how often some were not told one by one.
    """

    def __init__(self, watch: DueWatch) -> None:
        self._watch = watch
        self._watched = ""
        self.number = 0
        self.published = self.left_out = 0
        self._room = float(MESSAGES_A_SECOND)
        self._filled_at = time.monotonic()

    def begin(self, seconds: float) -> dict[str, Any]:
        """Tell for so long; what who asked for it has to know."""
        watched = self._watch.begin(seconds)
        if watched != self._watched:
            self._watched, self.number = watched, 0
        return {"watch": watched, "number": self.number}

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Headers and body of each."""
        self._watch.end_when_over()
        taken, left_out = self._watch.take()
        if not (taken or left_out):
            return
        users: dict[bytes, tuple[int, int]] = {}
        for lines in taken:
            for user, status, since_ns in due_lines(lines):
                worst, first_ns = users.get(user, (0, since_ns))
                users[user] = max(worst, status), min(first_ns, since_ns)
        now = time.monotonic()
        self._room += (now - self._filled_at) * MESSAGES_A_SECOND
        self._room, self._filled_at = min(self._room, MESSAGES_A_SECOND), now
        if left_out or len(users) > self._room:
            self.number += 1
            self.left_out += 1
            return
        self._room -= len(users)
        for user, (status, since_ns) in users.items():
            self.number += 1
            self.published += 1
            headers = f"NATS/1.0\r\nAlarmdigest-Watch: {self._watched} {self.number}\r\n\r\n"
            yield headers.encode(), orjson.dumps(user_json(user, status, since_ns))


def due_lines(lines: bytes) -> Iterator[tuple[bytes, int, int]]:
    """UserID, worst status and since when (ns) of packed lines."""
    position = 0
    while position < len(lines):
        since_ns, status, length = _LINE.unpack_from(lines, position)
        position += _LINE.size
        yield lines[position : position + length], status, since_ns
        position += length


def user_json(user: bytes, status: int, since_ns: int) -> dict[str, str]:
    return {
        "UserID": user.decode(),
        "Status": STATUS_NAMES[status],
        "Since": timestamps.to_text(since_ns),
    }
