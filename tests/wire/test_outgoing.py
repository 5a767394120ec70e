"""What leaves: digests and refusals as frames of the protocol, and the rejections where refusals
wait."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.protocol.parser import Parser
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing, unpack_outgoing
from support.scale import cases

from alarmdigest._ext import outgoing
from alarmdigest._ext.router import EVENT, REQUEST
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.slow_path import SlowPath
from alarmdigest.wire.rejection_headers import rejection_headers

MAX_PAYLOAD = 1024 * 1024
MAX_WAITING = 16 * 1024 * 1024

# Subject, the lines of the header, body.
Published = tuple[bytes, list[bytes], bytes]


class Heard:
    """The client that nats-py's parser reports to."""

    def __init__(self) -> None:
        self.messages: list[Published] = []

    async def _process_msg(
        self, _sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None
    ) -> None:
        assert reply == b""
        assert headers is not None
        version, *lines, end, nothing = headers.split(b"\r\n")
        assert (version, end, nothing) == (b"NATS/1.0", b"", b"")
        self.messages.append((bytes(subject), lines, bytes(payload)))


def read_back(wire: bytes, max_payload: int) -> list[Published]:
    """What nats-py reads: each HPUB handed to it as the HMSG that the server would make of it."""
    heard = Heard()
    parser = Parser(heard)
    while wire:
        line, _, _ = wire.partition(b"\r\n")
        name, subject, headers_len, total = line.split(b" ")
        assert name == b"HPUB"
        assert int(total) <= max_payload
        end = len(line) + 2 + int(total) + 2
        frame = b"HMSG %b 1 %b %b" % (subject, headers_len, total) + wire[len(line) : end]
        assert frame.endswith(b"\r\n")
        with pytest.raises(StopIteration):
            parser.parse(frame).send(None)
        wire = wire[end:]
    assert not parser.buf
    return heard.messages


def to_wire(batch: bytes, max_payload: int = MAX_PAYLOAD) -> tuple[bytes, int, int, int, int]:
    return outgoing.Framer().to_wire(batch, b"AlarmDigest", b"AlarmRejected", b"id-7-", max_payload)


lines = st.lists(
    st.builds(
        lambda name, value: name.encode() + b": " + value + b"\r\n",
        st.text("abcXYZ-", min_size=1, max_size=9),
        st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n")),
    ),
    max_size=4,
).map(b"".join)
records = st.builds(
    Outgoing,
    st.sampled_from([DIGEST, REJECTION]),
    lines,
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\r\n", b"PING\r\n", b"x" * 5_000])),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63 - 1),
)


@settings(max_examples=cases(500, 20_000), deadline=None)
@given(st.lists(records, max_size=6))
def test_every_record_arrives_whole_and_in_order(sent: list[Outgoing]) -> None:
    wire, digests, refused, left_out, largest = to_wire(pack_outgoing(sent))
    published = read_back(wire, MAX_PAYLOAD)
    assert published == [
        (
            b"AlarmDigest" if record.kind == DIGEST else b"AlarmRejected",
            [*record.headers.split(b"\r\n")[:-1], b"Nats-Msg-Id: id-7-%d" % place],
            record.body,
        )
        for place, record in enumerate(sent)
    ]
    kinds = [record.kind for record in sent]
    assert (digests, refused, left_out) == (kinds.count(DIGEST), kinds.count(REJECTION), 0)
    sizes = [
        len(b"NATS/1.0\r\n\r\n") + sum(len(line) + 2 for line in header) + len(body)
        for subject, header, body in published
        if subject == b"AlarmDigest"
    ]
    assert largest == max(sizes, default=0)
    assert to_wire(pack_outgoing(sent))[0] == wire, "the same batch again has the same ids"


def test_ids_are_unique_within_a_batch_and_count_what_is_left_out() -> None:
    """So that a message keeps its id when a server with another max_payload gets it again."""
    large = Outgoing(REJECTION, b"A: " + b"x" * 300 + b"\r\n", b"")
    sent = [Outgoing(DIGEST, b"", b"{}"), large, *[Outgoing(REJECTION, b"", b"")] * 1_500]
    whole, cut = to_wire(pack_outgoing(sent)), to_wire(pack_outgoing(sent), 200)
    assert (whole[3], cut[3]) == (0, 1)
    ids = [header[-1] for _, header, _ in read_back(whole[0], MAX_PAYLOAD)]
    assert len(set(ids)) == len(sent)
    assert [header[-1] for _, header, _ in read_back(cut[0], 200)] == [ids[0], *ids[2:]]


def test_a_refusal_is_cut_to_exactly_max_payload_and_says_so() -> None:
    headers, body = b"Alarmdigest-Reason: json\r\n", bytes(range(256)) * 40
    batch = outgoing.pack_rejection(headers, body)
    overhead = len(b"NATS/1.0\r\n" + headers + b"Nats-Msg-Id: id-7-0\r\n\r\n")
    whole = [b"Alarmdigest-Reason: json", b"Nats-Msg-Id: id-7-0"]
    cut = [b"Alarmdigest-Reason: json", b"Alarmdigest-Cut: true", b"Nats-Msg-Id: id-7-0"]

    fits = overhead + len(body)
    assert read_back(to_wire(batch, fits)[0], fits) == [(b"AlarmRejected", whole, body)]
    room = overhead + len(b"Alarmdigest-Cut: true\r\n")
    for max_payload in (fits - 1, 4096, room + 1, room):
        wire, digests, refused, left_out, _ = to_wire(batch, max_payload)
        kept = body[: max_payload - room]
        assert read_back(wire, max_payload) == [(b"AlarmRejected", cut, kept)]
        assert b" %d\r\n" % max_payload in wire
        assert (digests, refused, left_out) == (0, 1, 0)
    for max_payload in (room - 1, 1, 0):
        assert to_wire(batch, max_payload) == (b"", 0, 0, 1, 0)


def test_a_digest_is_never_cut() -> None:
    """One that is too large is for the publisher to hold; it is told the size."""
    digest = Outgoing(DIGEST, b"", b"x" * 5_000)
    wire, digests, _, left_out, largest = to_wire(pack_outgoing([digest]), 1_000)
    assert (wire, digests, left_out) == (b"", 0, 1)
    assert largest == 5_000 + len(b"NATS/1.0\r\nNats-Msg-Id: id-7-0\r\n\r\n")
    assert read_back(to_wire(pack_outgoing([digest]), largest)[0], largest)[0][2] == digest.body


def test_nothing_gives_nothing() -> None:
    assert to_wire(b"") == (b"", 0, 0, 0, 0)


@settings(max_examples=cases(200, 20_000), deadline=None)
@given(lines, st.binary(max_size=40))
def test_a_packed_refusal_is_a_record(headers: bytes, body: bytes) -> None:
    batch = outgoing.pack_rejection(headers, body)
    assert unpack_outgoing(batch) == [Outgoing(REJECTION, headers, body)]
    assert batch == pack_outgoing([Outgoing(REJECTION, headers, body)])


def test_only_bytes_are_taken() -> None:
    wrong: Any
    for wrong in (None, "", bytearray()):
        with pytest.raises(TypeError):
            outgoing.pack_rejection(wrong, b"")
        with pytest.raises(TypeError):
            outgoing.pack_rejection(b"", wrong)
        with pytest.raises(TypeError):
            outgoing.Framer().to_wire(wrong, b"a", b"b", b"c", 1)


# -- the headers of a refusal ---------------------------------------------------------------------


@settings(max_examples=cases(500, 20_000), deadline=None)
@given(
    st.text(st.characters(codec=None), max_size=300),
    st.one_of(st.binary(max_size=50), st.sampled_from([b"a\r\nb: c", b"\r", b"\n", b"a\r\n\r\n"])),
)
def test_no_header_value_holds_a_line_end(detail: str, subject: bytes) -> None:
    headers = rejection_headers("schema", detail, subject)
    reason, said, where, nothing = headers.split(b"\r\n")
    assert not nothing
    assert not set(b"\r\n") & set(reason + said + where)
    assert reason == b"Alarmdigest-Reason: schema"
    name, _, value = said.partition(b": ")
    assert name == b"Alarmdigest-Detail"
    assert len(value) <= 200
    assert value.isascii()
    name, _, value = where.partition(b": ")
    assert name == b"Alarmdigest-Subject"
    assert len(value) == len(subject)
    assert set(b"\r\n") & set(subject) or value == subject


# -- rejections ------------------------------------------------------------------------------------


def refuse(rejections: Rejections, body: bytes, subject: bytes = b"AlarmStatusChanged.1") -> None:
    assert SlowPath(rejections).read_or_reject(EVENT, body, subject) is None


def test_unusual_messages_are_read_and_invalid_ones_kept() -> None:
    rejections = Rejections()
    assert SlowPath(rejections).read_or_reject(REQUEST, b'{"userid":"\xc3\xa9"}', b"s") == (
        b"\xc3\xa9",
        b"",
        0,
        0,
    )
    assert rejections.take() == b""
    refuse(rejections, b"\xff\x00")
    refuse(rejections, b"[]", b"AlarmStatusChanged.\xff")
    assert rejections.by_reason == {
        "json": 1,
        "schema": 1,
        "too_long": 0,
        "status": 0,
        "changed_at": 0,
    }
    first, second = unpack_outgoing(rejections.take())
    assert (first.kind, first.body, second.body) == (REJECTION, b"\xff\x00", b"[]")
    assert first.headers.startswith(b"Alarmdigest-Reason: json\r\nAlarmdigest-Detail: not JSON")
    assert first.headers.endswith(b"\r\nAlarmdigest-Subject: AlarmStatusChanged.1\r\n")
    assert second.headers.endswith(b"\r\nAlarmdigest-Subject: AlarmStatusChanged.\xff\r\n")
    assert rejections.take() == b""


def test_each_reason_is_counted_by_its_name() -> None:
    rejections = Rejections()
    usual = {
        "AlarmID": "a",
        "UserID": "u",
        "Status": "CLEARED",
        "ChangedAt": "2021-06-07T20:40:15Z",
    }
    faults: dict[str, dict[str, object]] = {
        "schema": {"UserID": 1},
        "too_long": {"UserID": "x" * 1025},
        "status": {"Status": "x"},
        "changed_at": {"ChangedAt": "x"},
    }
    for count, fault in enumerate(faults.values(), start=1):
        for _ in range(count):
            refuse(rejections, json.dumps({**usual, **fault}).encode())
    assert rejections.by_reason == {
        "json": 0,
        "schema": 1,
        "too_long": 2,
        "status": 3,
        "changed_at": 4,
    }


def test_the_desk_keeps_16_mib_and_counts_what_it_throws_away() -> None:
    rejections = Rejections()
    body = b"x" * 65_536
    for _ in range(300):
        refuse(rejections, body)
    assert rejections.by_reason["json"] == 300
    waiting = rejections.take()
    kept = len(unpack_outgoing(waiting))
    assert kept + rejections.unpublished == 300
    assert MAX_WAITING - 2 * len(body) < len(waiting) <= MAX_WAITING

    refuse(rejections, b"again")
    assert [record.body for record in unpack_outgoing(rejections.take())] == [b"again"]


def test_one_refusal_may_be_larger_than_all_that_may_wait() -> None:
    """A server may take up to 64 MiB at once, and what is refused is published."""
    rejections = Rejections()
    refuse(rejections, b"x" * (MAX_WAITING + 1))
    refuse(rejections, b"x")
    assert rejections.unpublished == 1
    assert len(unpack_outgoing(rejections.take())[0].body) == MAX_WAITING + 1


def test_refusals_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    rejections = Rejections()
    with caplog.at_level(logging.WARNING, logger="alarmdigest.pipeline.rejections"):
        for _ in range(1_000):
            refuse(rejections, b"secret\n", b"a\x1b[31m\r\n\xe2\x80\xa8")
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert said.startswith("rejected a message (json)")
    assert "secret" not in said
    assert said.isascii()
    assert said.isprintable()


def test_a_framer_is_used_again_and_again_and_ends_with_what_it_is_told() -> None:
    framer = outgoing.Framer()
    for size in (10, 3_000_000, 0, 10):
        batch = pack_outgoing([Outgoing(DIGEST, b"", b"x" * size)])
        wire, *_ = framer.to_wire(batch, b"d", b"r", b"id-", 1 << 23, b"PING\r\n")
        assert wire == to_wire_of_one(b"x" * size) + b"PING\r\n"
    assert framer.to_wire(b"", b"d", b"r", b"id-", 1 << 23, b"PING\r\n")[0] == b"PING\r\n"


def to_wire_of_one(body: bytes) -> bytes:
    headers = b"NATS/1.0\r\nNats-Msg-Id: id-0\r\n\r\n"
    return b"HPUB d %d %d\r\n%b%b\r\n" % (len(headers), len(headers) + len(body), headers, body)
