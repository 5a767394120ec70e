"""The scanner reads what nats-py reads, wherever the bytes are cut, and never loses its place.

Where the two differ, ours keeps to the protocol as the server speaks it; test_is_stricter and
test_is_laxer say what nats-py does.
"""

from __future__ import annotations

import gc
import json
import random
import re
import resource
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import mmh3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.protocol.parser import Parser
from support.scale import cases

from alarmdigest._ext import frames
from alarmdigest._ext.router import EVENT, REQUEST, Router

MAX_LINE = 65_536
MAX_PAYLOAD = 128 * 1024 * 1024

Scanned = tuple[list["frames.Frame"], int, bool]


class Heard:
    """The client that nats-py's parser reports to: writes down what it is told."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None
    ) -> None:
        self.frames.append((sid, bytes(subject), bytes(reply), headers or b"", payload))

    async def _process_err(self, text: str) -> None:
        self.frames.append(("-ERR", text))

    async def _process_ping(self) -> None:
        self.frames.append("PING")

    async def _process_pong(self) -> None:
        self.frames.append("PONG")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.frames.append(("INFO", info))


def nats_py(chunks: list[bytes]) -> list[Any]:
    """What nats-py makes of these bytes."""
    heard = Heard()
    parser = Parser(heard)
    for chunk in chunks:
        # Nothing in it ever waits, so that one step runs a call to its end.
        with pytest.raises(StopIteration):
            parser.parse(chunk).send(None)
    assert not parser.buf, "nats-py has not read all of it"
    return heard.frames


def in_words_of_nats_py(found: list[frames.Frame]) -> list[Any]:
    """Our frames as ``Heard`` has them: +OK is not reported, the text of -ERR is lower case."""
    names = {frames.PING: "PING", frames.PONG: "PONG"}
    said: list[Any] = []
    for kind, *message, text in found:
        if kind in (frames.MSG, frames.HMSG):
            said.append((*message, text))
        elif kind == frames.ERR:
            said.append(("-ERR", text.decode().lower()))
        elif kind == frames.INFO:
            said.append(("INFO", json.loads(text)))
        elif kind != frames.OK:
            said.append(names[kind])
    return said


def scan_chunks(chunks: list[bytes]) -> Scanned:
    """All frames, the position behind the last one, and whether something else stands there.

    Each call sees just the bytes that are not yet read.
    """
    found: list[frames.Frame] = []
    rest, position = b"", 0
    for chunk in [*chunks, b""]:
        rest += chunk
        try:
            new, end = frames.scan(rest, 0, len(rest))
        except frames.ProtocolError:
            return found, position, True
        assert 0 <= end <= len(rest)
        assert (end == 0) == (not new)
        found += new
        position += end
        rest = rest[end:]
    return found, position, False


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


# -- against nats-py ------------------------------------------------------------------------------

blanks = st.sampled_from([b" ", b" ", b" ", b"\t", b"  ", b" \t ", b"\t\t"])
names = st.one_of(
    st.sampled_from([b"a", b"AlarmStatusChanged.1", b"MSG", b"1", b"_INBOX.x.7", b"+OK"]),
    st.text(st.characters(min_codepoint=0x21, codec="utf-8"), min_size=1, max_size=9).map(
        lambda text: text.encode()
    ),
)
numbers = st.integers(0, 10**9).map(lambda sid: b"%d" % sid)
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"PING\r\n", b"MSG a 1 2\r\nxx\r\n", b"x" * 70_000]),
)
replies = st.one_of(st.just(b""), names)


def line(blank: bytes, *fields: bytes) -> bytes:
    return blank.join(field for field in fields if field) + b"\r\n"


def msg(blank: bytes, subject: bytes, sid: bytes, reply: bytes, body: bytes) -> bytes:
    return line(blank, b"MSG", subject, sid, reply, b"%d" % len(body)) + body + b"\r\n"


def hmsg(
    blank: bytes, subject: bytes, sid: bytes, reply: bytes, headers: bytes, body: bytes
) -> bytes:
    sizes = (b"%d" % len(headers), b"%d" % (len(headers) + len(body)))
    return line(blank, b"HMSG", subject, sid, reply, *sizes) + headers + body + b"\r\n"


control_lines = [
    *(b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"PING \t\r\n", b"PONG \r\n", b"+OK  \r\n"),
    *(b"-ERR 'Stale Connection'\r\n", b"-ERR\t\t'a 'b' c'\r\n", b"INFO {}\r\n"),
    b'INFO   {"max_payload": 1048576, "connect_urls": ["a:1", "b:2"]} \t\r\n',
]
valid_frames = st.one_of(
    st.builds(msg, blanks, names, numbers, replies, bodies),
    st.builds(
        hmsg, blanks, names, numbers, replies, st.sampled_from([b"NATS/1.0\r\n\r\n"]), bodies
    ),
    st.sampled_from(control_lines),
)


@settings(max_examples=cases(400, 100_000), deadline=None)
@given(st.lists(valid_frames, max_size=6), st.lists(st.integers(0, 10**6), max_size=8))
def test_reads_what_nats_py_reads_wherever_it_is_cut(parts: list[bytes], places: list[int]) -> None:
    stream = b"".join(parts)
    chunks = cut(stream, places)
    found, position, bad = scan_chunks(chunks)
    assert len(found) == len(parts)
    assert (position, bad) == (len(stream), False)
    assert in_words_of_nats_py(found) == nats_py(chunks)


@settings(max_examples=cases(100, 10_000), deadline=None)
@given(st.lists(valid_frames, max_size=6), st.integers(0, 10**6))
def test_skimming_counts_what_scanning_finds(parts: list[bytes], cut_at: int) -> None:
    """What the benchmarks compare with must not get away with less."""
    stream = b"".join(parts)
    stream = stream[: cut_at % (len(stream) + 1)]
    found, position = frames.scan(stream, 0, len(stream))
    plain = [frame for frame in found if frame[0] == frames.MSG]
    others = [frame for frame in found if frame[0] != frames.MSG]
    assert frames.skim(stream, 0, len(stream)) == (len(plain), others, position)


def test_reads_what_nats_py_reads_byte_by_byte() -> None:
    message = hmsg(b" ", b"s", b"1", b"r", b"NATS/1.0\r\nA: b\r\n\r\n", b"x\r\n")
    stream = b"".join([msg(b"\t", b"a.b", b"12", b"", b""), message, *control_lines])
    chunks = [stream[place : place + 1] for place in range(len(stream))]
    found, position, bad = scan_chunks(chunks)
    assert (position, bad) == (len(stream), False)
    assert in_words_of_nats_py(found) == nats_py(chunks)


@pytest.mark.parametrize(
    "stream",
    [
        # nats-py takes two bytes behind a payload whatever they are, and may lose its place.
        pytest.param(b"MSG a 1 2\r\nabcd\r\n", id="payload longer than its size"),
        pytest.param(b"MSG a 1 2\r\nab\rx\r\n", id="CR and no LF behind a payload"),
        pytest.param(b"MSG a 1 2\r\nabx\n\r\n", id="LF and no CR behind a payload"),
        # To nats-py the end of a line is a blank like any other, and so are VT and FF.
        pytest.param(b"MSG a 1\r\n2\r\nab\r\n", id="line end between fields"),
        pytest.param(b"MSG a\r1 2\r\nab\r\n", id="CR between fields"),
        pytest.param(b"MSG a\v1 2\r\nab\r\n", id="VT between fields"),
        # int() takes all of these; a server writes digits.
        pytest.param(b"MSG a +1 2\r\nab\r\n", id="sign"),
        pytest.param(b"MSG a 1_0 2\r\nab\r\n", id="underscore"),
        # nats-py takes what follows the message for its headers.
        pytest.param(b"HMSG a 1 5 2\r\nab\r\nPING\r\n", id="more headers than bytes"),
        # nats-py waits for more, and takes all white space up to the next CR LF.
        pytest.param(b"PING\n\r\n", id="LF alone"),
    ],
)
def test_is_stricter_than_nats_py(stream: bytes) -> None:
    """Each of these is a message or a PING to nats-py, and no frame of the protocol."""
    with pytest.raises(frames.ProtocolError):
        frames.scan(stream, 0, len(stream))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # The protocol's names are the same in any case; nats-py knows capitals only.
        (b"msg a 1 2\r\nab\r\n", (frames.MSG, 1, b"a", b"", b"", b"ab")),
        (b"hMsG a 1 r 1 2\r\nab\r\n", (frames.HMSG, 1, b"a", b"r", b"a", b"b")),
        (b"ping\r\n", (frames.PING, 0, b"", b"", b"", b"")),
        (b"Pong\r\n", (frames.PONG, 0, b"", b"", b"", b"")),
        (b"+ok\r\n", (frames.OK, 0, b"", b"", b"", b"")),
        (b"-err x\r\n", (frames.ERR, 0, b"", b"", b"", b"x")),
        (b"info {}\r\n", (frames.INFO, 0, b"", b"", b"", b"{}")),
        # nats-py fails over an error without quotes, and over blanks at the end of a line.
        (b"-ERR no quotes\r\n", (frames.ERR, 0, b"", b"", b"", b"no quotes")),
        (b"-ERR\r\n", (frames.ERR, 0, b"", b"", b"", b"")),
        (b"MSG a 1 2 \t\r\nab\r\n", (frames.MSG, 1, b"a", b"", b"", b"ab")),
        # A text behind a name that has none is ignored.
        (b"PING x\r\n", (frames.PING, 0, b"", b"", b"", b"")),
    ],
)
def test_is_laxer_than_nats_py(stream: bytes, expected: frames.Frame) -> None:
    assert frames.scan(stream, 0, len(stream)) == ([expected], len(stream))


# -- what is no frame, and what is too large ------------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        *(b"\r\n", b"\n", b"PINGS\r\n", b"PIN\r\n", b" PING\r\n", b"SUB a 1\r\n", b"\0\r\n"),
        *(b"MSG\r\n", b"MSG a\r\n", b"MSG a 1\r\n", b"MSG a 1 r 2 3\r\n", b"MSG a b 2\r\n"),
        *(b"MSG a 1 -2\r\n", b"MSG a 1 0x2\r\n", b"MSG a 1 2.0\r\n", b"MSGa 1 2\r\n"),
        *(b"MSG a\rb 1 2\r\nab\r\n", b"MSG a 1 2\r2\r\nab\r\n", b"MSG a\nb 1 2\r\nab\r\n"),
        *(b"HMSG a 1 2\r\n", b"HMSG a 1 r 2 3 4\r\n", b"HMSG a 1 x 3\r\n"),
        *(b"MSG a 1 " + b"9" * 30 + b"\r\n", b"MSG a " + b"9" * 30 + b" 1\r\n"),
    ],
)
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(frames.ProtocolError, match="not a NATS frame"):
        frames.scan(stream, 0, len(stream))


def test_what_stands_before_a_bad_frame_is_not_lost() -> None:
    stream = b"PING\r\nMSG a 1 1\r\nx\r\nrubbish\r\nPING\r\n"
    found, position = frames.scan(stream, 0, len(stream))
    assert ([kind for kind, *_ in found], position) == ([frames.PING, frames.MSG], 20)


def test_a_line_may_have_64_kib_and_no_more() -> None:
    for size in (4_095, 4_096, 4_097, 20_000, MAX_LINE):
        subject = b"s" * (size - len(b"MSG  1 0\r\n"))
        stream = b"MSG %b 1 0\r\n\r\n" % subject
        found, position = frames.scan(stream, 0, len(stream))
        assert found == [(frames.MSG, 1, subject, b"", b"", b"")]
        assert position == len(stream)
    info = b"INFO " + b" " * (MAX_LINE - 7) + b"\r\n"
    assert len(frames.scan(info, 0, len(info))[0]) == 1
    with pytest.raises(frames.ProtocolError):
        frames.scan(b"INFO  " + info[5:], 0, MAX_LINE + 1)
    # Its end has not come: up to the limit it still may.
    assert frames.scan(info, 0, MAX_LINE - 1) == ([], 0)
    with pytest.raises(frames.ProtocolError):
        frames.scan(b"x" * MAX_LINE, 0, MAX_LINE)


def test_a_payload_may_have_128_mib_and_no_more() -> None:
    for name, fields in ((b"MSG", b""), (b"HMSG", b" 0")):
        largest = b"%b a 1%b %d\r\n" % (name, fields, MAX_PAYLOAD)
        scanner = router()
        assert scanner.scan(largest, 0, len(largest), 0) == 0
        assert scanner.wanted == len(largest) + MAX_PAYLOAD + 2
        larger = b"%b a 1%b %d\r\n" % (name, fields, MAX_PAYLOAD + 1)
        with pytest.raises(frames.ProtocolError):
            frames.scan(larger, 0, len(larger))
        with pytest.raises(frames.ProtocolError):
            scanner.scan(larger, 0, len(larger), 0)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (0, 7), (4, 3), (7, 7), (0, -1)])
def test_places_outside_of_the_buffer_are_an_error(start: int, end: int) -> None:
    with pytest.raises(IndexError):
        frames.scan(b"PING\r\n", start, end)
    with pytest.raises(IndexError):
        router().scan(b"PING\r\n", start, end, 0)


# -- the router reads the same frames -------------------------------------------------------------


class Asked:
    """Takes every message of a router, by refusing it after writing it down."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes, bytes]] = []

    def __call__(self, kind: int, payload: bytes, subject: bytes, _origin: object) -> None:
        self.messages.append((kind, payload, subject))


def router(asked: Asked | None = None, *, workers: int = 1) -> Router:
    return Router(
        workers=workers, buckets=4096, hash32=mmh3.hash, skew_ns=0, read_or_reject=asked or Asked()
    )


def as_routed(found: list[frames.Frame]) -> tuple[list[Any], list[Any]]:
    """The messages that the router asks about, and the other frames that it keeps."""
    messages, other = [], []
    for kind, sid, subject, _reply, headers, payload in found:
        if kind in (frames.MSG, frames.HMSG) and 1 <= sid <= 4:
            messages.append((EVENT if sid <= 2 else REQUEST, payload, subject))
        else:
            text = payload if kind in (frames.INFO, frames.ERR) else headers
            other.append((kind, text))
    return messages, other


def route_chunks(chunks: list[bytes], most: int) -> tuple[tuple[list[Any], list[Any]], int, bool]:
    """What a router makes of them, in one growing buffer and ``most`` frames at a time."""
    asked = Asked()
    scanner = router(asked)
    buffer, position, bad = bytearray(), 0, False
    try:
        for chunk in chunks:
            buffer += chunk
            while True:
                start, before = position, len(asked.messages)
                position = scanner.scan(buffer, start, len(buffer), 0, most)
                assert start <= position <= len(buffer)
                assert len(asked.messages) - before <= most
                if position == start:
                    break
            if scanner.wanted:
                assert len(buffer) - position < scanner.wanted <= MAX_LINE + MAX_PAYLOAD + 2
    except frames.ProtocolError:
        bad = True
    assert scanner.events + scanner.requests == scanner.slow_path == len(asked.messages)
    return (asked.messages, scanner.take_other()), position, bad


def test_wanted_is_the_size_of_a_frame_once_its_line_is_there() -> None:
    head = b"MSG a 1 5\r\n"
    stream = head + b"abcde\r\n"
    scanner = router()
    for end in range(len(stream)):
        assert scanner.scan(stream, 0, end, 0) == 0
        assert scanner.wanted == (len(stream) if end >= len(head) else 0)
    assert scanner.scan(stream, 0, len(stream), 0) == len(stream)
    assert scanner.wanted == 0


def test_the_router_takes_no_more_frames_at_once_than_it_is_told() -> None:
    stream = b"PING\r\n" * 600
    scanner = router()
    assert scanner.scan(stream, 0, len(stream), 0, 7) == 7 * 6
    assert scanner.scan(stream, 0, len(stream), 0) == 512 * 6
    assert len(scanner.take_other()) == 519


def test_dropped_messages_are_counted_and_other_frames_are_not_dropped() -> None:
    numbers = (2, 3, 4, 5, 7)
    stream = b"PING\r\n" + b"".join(b"MSG a %d 1\r\nx\r\n" % number for number in numbers)
    asked = Asked()
    scanner = router(asked)
    assert scanner.scan(stream, 0, len(stream), 0, drop=True) == len(stream)
    assert (scanner.dropped_events, scanner.dropped_requests, scanner.dropped_forgets) == (1, 2, 1)
    assert (scanner.events, scanner.requests, asked.messages) == (0, 0, [])
    assert scanner.take_other() == [(frames.PING, b""), (frames.MSG, b"")]
    assert scanner.take_other() == []


# -- mutated streams ------------------------------------------------------------------------------

SEEDS = [
    *control_lines,
    *(b"MSG a.b 1 5\r\nhello\r\n", b"MSG x 2 reply.to 3\r\n\r\n\r\r\n", b"MSG a 3 0\r\n\r\n"),
    *(b"HMSG h 4 12 15\r\nNATS/1.0\r\n\r\nabc\r\n", b"HMSG h 1 r 2 2\r\nab\r\n"),
    b"MSG a 77 1\r\nx\r\n",
]
PIECES = [
    *(b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"0", b"9", b"-"),
    b"99999999999999999999",
    *(b"MSG", b"HMSG", b"MSG a 1 2\r\n", b"PING\r\n", b"134217728", b"134217729", b" " * 40),
    b"x" * 99,
]


def mutated(rng: random.Random) -> bytes:
    stream = bytearray(b"".join(rng.choices(SEEDS, k=rng.randint(1, 5))))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        place = rng.randrange(len(stream) + 1)
        what = rng.randrange(4)
        if what == 0:
            stream[place:place] = rng.choice(PIECES)
        elif what == 1:
            stream[place : place + rng.choice((1, 1, 2, 8))] = b""
        elif what == 2:
            stream[place : place + 1] = bytes((rng.randrange(256),))
        else:
            stream[place:place] = stream[place : place + rng.randint(1, 12)]
    return bytes(stream)


def test_a_mutated_stream_reads_the_same_however_it_is_cut() -> None:
    rng = random.Random(20210607)
    refused = 0
    for _ in range(cases(20_000, 1_000_000)):
        stream = mutated(rng)
        chunks = cut(stream, [rng.randrange(10**6) for _ in range(rng.randint(0, 4))])
        whole = scan_chunks([stream])
        assert scan_chunks(chunks) == whole, stream
        found, position, bad = whole
        assert position == len(stream) or bad or unfinished(stream[position:]), stream
        routed, routed_to, routed_bad = route_chunks(chunks, rng.choice((1, 2, 512)))
        assert (routed, routed_bad) == (as_routed(found), bad), stream
        # At bytes that are no frame the router has no place to return.
        assert routed_to == position or bad, stream
        refused += bad
    assert refused > cases(20_000, 1_000_000) // 10, "the mutations have lost their bite"


def unfinished(rest: bytes) -> bool:
    """Whether a frame may begin like this: no line yet, or a message that has not all come."""
    head = re.match(rb"H?MSG[ \t][^\r\n]*?(\d+)[ \t]*\r\n", rest, re.IGNORECASE)
    if head is None:
        return b"\n" not in rest
    return len(rest) < head.end() + int(head[1]) + 2


# -- memory ---------------------------------------------------------------------------------------


def memory_bytes() -> tuple[int, int]:
    """What is resident (RSS), and all of the heap, whether it has been touched or not."""
    pages = [int(field) for field in Path("/proc/self/statm").read_text().split()]
    return pages[1] * resource.getpagesize(), pages[5] * resource.getpagesize()


def test_scanning_leaves_no_python_object_behind() -> None:
    """Counted in blocks of Python's allocator, which holds every object of up to 512 bytes."""
    rng = random.Random(7)
    streams = [mutated(rng) for _ in range(500)]

    def scan_all() -> int:
        for stream in streams:
            scan_chunks([stream])
            route_chunks([stream], 512)
        gc.collect()
        return sys.getallocatedblocks()

    scan_all()
    before = scan_all()
    assert max(scan_all() for _ in range(3)) - before < 250


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow() -> None:
    """Asked of the system, since large objects and batches are no blocks of Python's allocator."""
    workers = 4_000
    user = b'{"UserID":"' + b"u" * 1000 + b'"}'
    event = user[:-1] + b',"AlarmID":"a","Status":"CRITICAL","ChangedAt":"2021-06-07T20:40:15Z"}'
    bad = b'{"AlarmID": "' + b"x" * 60_000
    stream = b"".join(
        msg(b" ", b"s", sid, b"", body) for sid in (b"1", b"3") for body in (event, user, bad)
    )
    worker = mmh3.hash(b"u" * 1000, 0, False) % 4096 % workers

    def scan_often(rounds: int) -> tuple[int, int]:
        for _ in range(rounds):
            scanner = router(workers=workers)
            for _ in range(30):
                scanner.scan(stream, 0, len(stream), 0)
            assert len(scanner.take(worker)) > 90_000
            scanner.scan(stream, 0, len(stream), 0)
            frames.scan(stream, 0, len(stream))
        return memory_bytes()

    before = scan_often(100)
    after = scan_often(cases(300, 3_000))
    growth = [late - early for late, early in zip(after, before, strict=True)]
    assert max(growth) < 8 * 1024 * 1024, growth


@pytest.mark.parametrize("blank", [b" ", b"  ", b"\t", b" \t ", b"\t\t"])
@pytest.mark.parametrize("end", [b"", b" ", b"\t"])
@pytest.mark.parametrize("reply", [b"", b"_INBOX.1"])
def test_fields_are_cut_alike_however_they_are_separated(
    blank: bytes, end: bytes, reply: bytes
) -> None:
    parts = [part for part in (b"MSG", b"a.b", b"7", reply, b"5") if part]
    line = blank.join(parts) + end
    frame = line + b"\r\nhello\r\n"
    [found], position = frames.scan(frame, 0, len(frame))
    assert position == len(frame)
    assert found == (frames.MSG, 7, b"a.b", reply, b"", b"hello")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 7])
def test_a_line_with_too_few_or_too_many_fields_is_no_frame(count: int) -> None:
    frame = b" ".join([b"MSG", *[b"5"] * count]) + b"\r\nhello\r\n"
    with pytest.raises(frames.ProtocolError):
        frames.scan(frame, 0, len(frame))
