"""Loads made beforehand as PUB frames, and publishers of them in processes of their own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from support.raw import frames_of
from support.workers import worker_of

TESTS = Path(__file__).parent.parent / "tests"

# Writes a file of PUB frames as fast as the server takes them, once a line comes on stdin.
PUBLISHER = """
import sys
from pathlib import Path
from support.raw import publish_raw
frames = Path(sys.argv[2]).read_bytes()
print("loaded", flush=True)
sys.stdin.readline()
publish_raw(sys.argv[1], frames, timeout=600)
"""

# Writes the file again and again, so many bytes a second, in steps of 5 ms, until it is killed.
PACED = """
import socket, sys, time
from pathlib import Path
from urllib.parse import urlsplit
frames, rate = Path(sys.argv[2]).read_bytes(), float(sys.argv[3])
place = urlsplit(sys.argv[1])
sock = socket.create_connection((place.hostname, place.port))
sock.sendall(b'CONNECT {"verbose":false,"headers":true}\\r\\n')
print("loaded", flush=True)
sys.stdin.readline()
sent, begun = 0, time.monotonic()
while True:
    due = int((time.monotonic() - begun) * rate)
    while sent < due:
        start = sent % len(frames)
        sent += sock.send(frames[start : start + due - sent])
    time.sleep(0.005)
"""


def user_id(number: int) -> str:
    """36 characters, as a UUID has."""
    return f"{number:08x}-dddd-4eee-9fff-{number:012x}"


def event(
    user: int, alarm: int, second: int = 0, key: str = "UserID", status: str = "WARNING"
) -> tuple[str, bytes]:
    """Some 180 bytes."""
    return (
        "AlarmStatusChanged",
        b'{"AlarmID":"%08x-aaaa-4bbb-8ccc-%012x","%b":"%b",'
        b'"Status":"%b","ChangedAt":"2021-06-07T20:40:%02d.598765212Z"}'
        % (alarm, user, key.encode(), user_id(user).encode(), status.encode(), second),
    )


def request(user: str) -> tuple[str, bytes]:
    return "SendAlarmDigest", b'{"UserID":"%b"}' % user.encode()


def events(
    users: int, alarms: int, second: int = 0, *, key: str = "UserID", status: str = "WARNING"
) -> bytes:
    """PUB frames: one event for each alarm of each user, users in turn."""
    return frames_of(
        event(user, alarm, second, key, status) for alarm in range(alarms) for user in range(users)
    )


def redelivered(users: int, alarms: int, of_hundred: int) -> bytes:
    """As ``events``, but so many of each hundred come once more, a while later."""
    made: list[tuple[str, bytes]] = []
    for number, (alarm, user) in enumerate(itertools.product(range(alarms), range(users))):
        made.append(event(user, alarm))
        if number % 100 < of_hundred and number >= 1000:
            made.append(made[-1000])
    return frames_of(made)


def last_words(workers: int, second: int = 0) -> tuple[bytes, int]:
    """Frames of a new alarm and a request for one user of each worker, and how many users.

    Queues are in order, so their digests tell that all before them has been merged.
    """
    users: dict[int, str] = {}
    for number in itertools.count():
        if len(users) == workers:
            break
        users.setdefault(worker_of(f"last-{number}", workers), f"last-{number}")
    messages = []
    for user in users.values():
        body = (
            b'{"AlarmID":"end-%d","UserID":"%b",'
            b'"Status":"CRITICAL","ChangedAt":"2022-01-01T00:00:%02dZ"}'
        )
        messages += [("AlarmStatusChanged", body % (second, user.encode(), second)), request(user)]
    return frames_of(messages), workers


@contextmanager
def process(code: str, url: str, frames: bytes, *arguments: str) -> Iterator[Callable[[], None]]:
    """A process that holds the frames ready; the call that lets it go."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(frames)
        file.flush()
        running = subprocess.Popen(
            [
                *(sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n{code}"),
                *(url, file.name, *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stdin, stdout = running.stdin, running.stdout
        assert stdin is not None
        assert stdout is not None

        def go() -> None:
            stdin.write("\n")
            stdin.flush()

        try:
            assert stdout.readline() == "loaded\n"
            yield go
        finally:
            running.kill()
            running.wait()
            stdin.close()
            stdout.close()


def publisher(url: str, chunks: Iterable[bytes]) -> AbstractContextManager[Callable[[], None]]:
    return process(PUBLISHER, url, b"".join(chunks))


def paced_publisher(
    url: str, frames: bytes, bytes_per_second: float
) -> AbstractContextManager[Callable[[], None]]:
    return process(PACED, url, frames, str(bytes_per_second))
