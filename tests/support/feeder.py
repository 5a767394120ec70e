"""Publishers that keep a random history going, whatever happens to the server meanwhile.

Each speaks the protocol over a plain socket: what is sent, and sent again, and when, is decided
here and by no client library. A message is published again until the stream has confirmed it.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from urllib.parse import urlsplit

from histories import event_body, request_body
from model import MAX_ID_BYTES, Event, Forget, Request, Status

from support.wait import eventually

Message = tuple[str, bytes]

EVENTS, REQUESTS, FORGETS = "AlarmStatusChanged", "SendAlarmDigest", "ForgetUser"
MS_NS = 10**6

USERS = ["u", "u\0", "é", "a.*.>", "\U0001f514", '"\\', "u" * MAX_ID_BYTES, "\uffff"]
ALARMS = ["a", "a\0", "ab", "\u2028", "\uffff", "\U00010000", "' \r\n"]

SILENCE_S = 2.0  # so long without a confirmation, and the connection is taken for dead
RECONNECT_S = 0.02


def history(
    dice: random.Random,
    *,
    users: list[str] = USERS,
    alarms: list[str] = ALARMS,
    requests: float = 0.25,
    forgets: float = 0.01,
    clock: Callable[[], int] = time.time_ns,
) -> Iterator[Message]:
    """Subjects and bodies without end, in which the rule has something to decide.

    Few users and alarms, the first ones more often: those meet in ties and late events, the last
    ones are seen so rarely that they can be forgotten. Times are near our clock, in steps of 10 ms
    so that many are equal; or long ago; or far ahead, so that they count by their arrival.
    """
    recent: list[Message] = []
    for number in range(10**12):
        chance = dice.random()
        if chance < 0.07 and recent:
            yield dice.choice(recent)
            continue
        if chance < 0.12:
            yield _refused(dice, number)
            continue
        user = users[int(dice.random() ** 2 * len(users))]
        name = dice.choice(["UserID", "UserID", "UserId"])
        ascii_only = dice.random() < 0.2
        if dice.random() < requests:
            subject = REQUESTS
            body = request_body(Request(user), user_name=name, ascii_only=ascii_only)
        elif dice.random() < forgets:
            subject = FORGETS
            body = request_body(Forget(user), user_name=name, ascii_only=ascii_only)
        else:
            subject = EVENTS
            alarm = alarms[int(dice.random() ** 2 * len(alarms))]
            event = Event(user, alarm, dice.choice(list(Status)), _changed_at(dice, clock()))
            body = event_body(event, user_name=name, ascii_only=ascii_only)
        if dice.random() < 0.3:
            subject += f".{dice.randrange(100)}"
        recent = [*recent[-5:], (subject, body)]
        yield subject, body


def _changed_at(dice: random.Random, now: int) -> int:
    now -= now % (10 * MS_NS)
    kind = dice.random()
    if kind < 0.80:
        return now
    if kind < 0.90:
        return now - dice.choice([1, 10 * MS_NS, 100 * MS_NS, 1000 * MS_NS])
    if kind < 0.98:
        return dice.randrange(4)
    return now + 3600 * 1000 * MS_NS


def _refused(dice: random.Random, number: int) -> Message:
    """A message for each reason to refuse one; most of them are like no other."""
    good = {"UserID": "u", "AlarmID": f"{number}", "Status": "WARNING", "ChangedAt": "2021"}
    subject, body = dice.choice(
        [
            (EVENTS, b'{"UserID":"u%d"' % number),
            (EVENTS, b"\xff%d" % number),
            (REQUESTS, b""),
            (REQUESTS, b"[%d]" % number),
            (FORGETS, b"[%d]" % number),
            (EVENTS, b'{"UserID":"u%d"}' % number),
            (REQUESTS, b'{"UserID":"%d%b"}' % (number, b"x" * MAX_ID_BYTES)),
            (EVENTS, json.dumps({**good, "Status": "purple"}).encode()),
            (EVENTS, json.dumps(good).encode()),
        ]
    )
    return subject + dice.choice(["", ".0.x"]), body


class _Publisher(threading.Thread):
    """One connection after the other, one history."""

    def __init__(
        self, address: tuple[str, int], messages: Iterator[Message], rate: float, window: int
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.acknowledged = 0
        self.connections = 0
        self.error: BaseException | None = None
        self.finishing = threading.Event()
        self.stopping = threading.Event()
        self._address = address
        self._messages = messages
        self._rate, self._window = rate, window
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._number = 0
        self._open: dict[int, bytes] = {}
        """The frames that no confirmation has come for, by number, in order."""
        self._buffer = b""

    def run(self) -> None:
        try:
            while not self.stopping.is_set() and not self._done():
                try:
                    with socket.create_connection(self._address, timeout=SILENCE_S) as sock:
                        self._talk(sock)
                except OSError:
                    self.stopping.wait(RECONNECT_S)
        except BaseException as error:
            self.error = error
            raise

    def _done(self) -> bool:
        return self.finishing.is_set() and not self._open

    def _talk(self, sock: socket.socket) -> None:
        """One connection, until all is done (returns) or it fails (OSError)."""
        self._buffer = b""
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        sock.sendall(
            b"CONNECT %b\r\nSUB %b.* 1\r\nPING\r\n"
            % (json.dumps({**options, "protocol": 1}).encode(), self._inbox.encode())
        )
        self.connections += 1
        # The first alone: if the stream is not there yet, those behind must not come before it.
        for frame in list(self._open.values())[:1]:
            sock.sendall(frame)
        behind = list(self._open.values())[1:]
        sock.settimeout(0.002)
        confirmed_at = filled_at = time.monotonic()
        tokens = 0.0
        while not self.stopping.is_set() and not self._done():
            if self._receive(sock) or not self._open:
                confirmed_at = time.monotonic()
                self._send(sock, behind)
                behind = []
            if time.monotonic() > confirmed_at + SILENCE_S:
                raise ConnectionError("no confirmations")
            now = time.monotonic()
            # What was not sent during an outage is not made up for: no flood afterwards.
            tokens = min(tokens + (now - filled_at) * self._rate, self._window)
            filled_at = now
            count = 0 if behind else min(int(tokens), self._window - len(self._open))
            if count > 0 and not self.finishing.is_set():
                tokens -= count
                self._send(sock, [self._next() for _ in range(count)])

    def _send(self, sock: socket.socket, frames: list[bytes]) -> None:
        if frames:
            sock.settimeout(SILENCE_S)
            sock.sendall(b"".join(frames))
            sock.settimeout(0.002)

    def _next(self) -> bytes:
        """The next message as a frame; every fifth without an id, as most publishers send them."""
        self._number += 1
        subject, body = next(self._messages)
        head = f"{subject} {self._inbox}.{self._number}".encode()
        if self._number % 5 == 0:
            frame = b"PUB %b %d\r\n%b\r\n" % (head, len(body), body)
        else:
            headers = f"NATS/1.0\r\nNats-Msg-Id: {self._inbox}.{self._number}\r\n\r\n".encode()
            sizes = len(headers), len(headers) + len(body)
            frame = b"HPUB %b %d %d\r\n%b%b\r\n" % (head, *sizes, headers, body)
        self._open[self._number] = frame
        return frame

    def _receive(self, sock: socket.socket) -> bool:
        """Read what there is; whether a confirmation was in it. OSError when it is the end."""
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return False
        if not data:
            raise ConnectionError("end of file")
        self._buffer += data
        before = self.acknowledged
        while (end := self._buffer.find(b"\r\n")) >= 0:
            words = self._buffer[:end].split()
            after = end + 2
            if words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                if len(self._buffer) < after + size + 2:
                    break
                self._take(words, self._buffer[after : after + size])
                after += size + 2
            elif words[0] == b"PING":
                sock.sendall(b"PONG\r\n")
            elif words[0] == b"-ERR":
                raise ConnectionError(self._buffer[:end].decode())
            self._buffer = self._buffer[after:]
        return self.acknowledged > before

    def _take(self, words: list[bytes], body: bytes) -> None:
        """A confirmation; or the news that there is no stream, and all is sent again."""
        answer = json.loads(body) if words[0] == b"MSG" else {}
        if "stream" not in answer or not answer.get("seq"):
            raise ConnectionError(f"not stored: {body!r}")
        if self._open.pop(int(words[1].rpartition(b".")[2]), None) is not None:
            self.acknowledged += 1


class Feeder:
    """Several publishers at once. ``with Feeder(url, seed=1) as feeder: …``

    ``rate`` is in messages a second of all of them, ``window`` how many each may have without
    confirmation. ``users``, ``alarms``, ``requests`` and ``forgets`` are those of their histories.
    """

    def __init__(
        self,
        url: str,
        *,
        seed: int,
        publishers: int = 2,
        rate: float = 3000,
        window: int = 200,
        users: list[str] = USERS,
        alarms: list[str] = ALARMS,
        requests: float = 0.25,
        forgets: float = 0.01,
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._publishers = [
            _Publisher(
                (parts.hostname, parts.port),
                history(
                    random.Random(seed * 1000 + number),
                    users=users,
                    alarms=alarms,
                    requests=requests,
                    forgets=forgets,
                ),
                rate / publishers,
                window,
            )
            for number in range(publishers)
        ]

    @property
    def acknowledged(self) -> int:
        """How many messages the stream has confirmed."""
        return sum(one.acknowledged for one in self._publishers)

    @property
    def connections(self) -> int:
        return sum(one.connections for one in self._publishers)

    def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more have been confirmed."""
        count = self.acknowledged + more

        def there() -> bool:
            self._check()
            return self.acknowledged >= count

        eventually(there, timeout=timeout, interval=0.002, what=f"{count} confirmed messages")

    def finish(self, timeout: float = 30.0) -> None:
        """Begin no further message, and return when all are confirmed."""
        for one in self._publishers:
            one.finishing.set()
        for one in self._publishers:
            one.join(timeout)
            assert not one.is_alive(), f"{self.acknowledged} confirmed, and then no more"
        self._check()

    def _check(self) -> None:
        for one in self._publishers:
            if one.error is not None:
                raise AssertionError("the feeder broke") from one.error

    def __enter__(self) -> Feeder:
        for one in self._publishers:
            one.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one in self._publishers:
            one.stopping.set()
        for one in self._publishers:
            one.join(10.0)
