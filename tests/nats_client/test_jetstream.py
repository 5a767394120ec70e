"""Asking JetStream: every request, every refusal, and answers that are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from nats.aio.msg import Msg
from support.bus import Bus
from support.faults import users
from support.jetstream import asking, connected, info_of, store
from support.nats_server import HOST, NatsServer
from support.proxy import Proxy
from support.wait import eventually

from alarmdigest._ext import frames, timestamps
from alarmdigest.nats.answers import Ack, StartAt, parse_ack_reply, status_of, valid_name
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    BadAnswer,
    ConnectionLost,
    ConsumerGone,
    JetStreamDenied,
    JetStreamError,
    JetStreamOff,
    NatsError,
    NoAnswer,
)
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.requests import REQUESTS_SID

ROOM = 2 * 1024 * 1024
ACCOUNTS = """accounts {
WITH: {jetstream: enabled, users: [{user: with, password: "s3cret"}]}
WITHOUT: {users: [{user: without, password: "s3cret"}]}
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture(scope="module")
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as opened:
        yield opened


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    with asking(server.url) as opened:
        yield opened


def config(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "subjects": [f"{name}.>"], "storage": "file", **more}


# -- is there one? ---------------------------------------------------------------------------------


def test_a_server_with_jetstream_has_it(js: JetStream) -> None:
    assert js.available()


def test_a_server_without_jetstream_has_none_and_says_so_to_every_request() -> None:
    with NatsServer(jetstream=False) as server, asking(server.url) as js:
        assert not js.available()
        with pytest.raises(JetStreamOff, match=r"nobody answers \$JS\.API\.STREAM\.INFO\.S"):
            js.stream_info("S")


def test_an_account_without_jetstream_has_none_though_the_server_s_info_says_otherwise() -> None:
    with NatsServer(extra=ACCOUNTS) as server:
        with asking(f"nats://with:s3cret@{HOST}:{server.port}") as js:
            assert js.available()
        with asking(f"nats://without:s3cret@{HOST}:{server.port}") as js:
            assert js._connection.info["jetstream"] is True
            assert not js.available()


def test_a_domain_is_asked_by_its_name_and_another_one_is_out_of_reach() -> None:
    with NatsServer(jetstream_extra="domain: hub") as server:
        with asking(server.url, domain="hub") as js:
            assert js.available()
            js.create_stream(config("S"))
            assert info_of(js, "S").subjects == ("S.>",)
        with asking(server.url, domain="elsewhere") as js:
            assert not js.available()


@pytest.mark.parametrize(
    "permission", ['publish: {deny: ["$JS.API.>"]}', 'subscribe: {deny: ["_INBOX.>"]}']
)
def test_what_our_user_may_not_do_is_said_at_once_in_the_server_s_words(permission: str) -> None:
    with NatsServer(extra=users(permission)) as server:
        start = time.monotonic()
        with (
            asking(f"nats://service:s3cret@{HOST}:{server.port}") as js,
            pytest.raises(JetStreamDenied, match="Permissions Violation"),
        ):
            js.available()
        assert time.monotonic() - start < 3


# -- streams ---------------------------------------------------------------------------------------


def test_a_stream_is_described_as_it_is(js: JetStream, bus: Bus) -> None:
    made = js.create_stream(config("info", max_msg_size=5000, duplicate_window=3 * 10**9))
    assert (made.first_seq, made.last_seq, made.messages, made.last_ts) == (0, 0, 0, None)
    before = time.time_ns()
    store(bus, "info.x", [b"1", b"2", b"3"])
    bus.run(bus.client.jetstream().delete_msg("info", 1))
    info = info_of(js, "info")
    assert (info.name, info.subjects) == ("info", ("info.>",))
    assert (info.first_seq, info.last_seq, info.messages) == (2, 3, 2)
    assert (info.max_msg_size, info.duplicate_window_ns) == (5000, 3 * 10**9)
    assert info.created == made.created
    assert info.last_ts == js.message_time_ns("info", 3)
    assert info.last_ts is not None
    assert before - 10**9 < timestamps.to_ns(info.created) < info.last_ts < time.time_ns() + 10**9


def test_a_stream_that_is_not_there_is_none(js: JetStream) -> None:
    assert js.stream_info("nowhere") is None


def test_a_stream_that_begins_at_a_later_number_and_is_empty_has_no_time(js: JetStream) -> None:
    info = js.create_stream(config("late", first_seq=1000))
    assert (info.first_seq, info.last_seq, info.last_ts) == (1000, 999, None)


def test_creating_a_stream_again_is_fine_and_with_another_configuration_is_refused(
    js: JetStream,
) -> None:
    assert js.create_stream(config("again")).created == js.create_stream(config("again")).created
    with pytest.raises(JetStreamError, match=r"STREAM\.CREATE\.again: .* 10058") as refusal:
        js.create_stream(config("again", max_age=10**12))
    assert (refusal.value.code, refusal.value.err_code) == (400, 10058)


def test_the_streams_of_a_subject_are_found_also_by_wildcards(js: JetStream) -> None:
    js.create_stream(config("names1", subjects=["names.a.>"]))
    js.create_stream(config("names2", subjects=["names.*"]))
    assert js.stream_names_for("names.a.b") == ["names1"]
    assert sorted(js.stream_names_for("names.>")) == ["names1", "names2"]
    assert js.stream_names_for("names.a.b.c.>") == ["names1"]
    assert js.stream_names_for("other") == []


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", ">", "a/b", "a\\b", "a\r\nPUB x 0\r\n"])
def test_a_name_that_would_change_the_subject_is_not_sent(js: JetStream, name: str) -> None:
    assert not valid_name(name)
    with pytest.raises(ValueError, match="no name"):
        js.stream_info(name)


# -- messages --------------------------------------------------------------------------------------


def test_a_message_has_its_time_and_one_that_is_gone_has_none(js: JetStream, bus: Bus) -> None:
    js.create_stream(config("msgs"))
    store(bus, "msgs.x", [b"1", b"2", b"3", b"4"])
    times = [js.message_time_ns("msgs", seq) for seq in (1, 2, 3, 4)]
    assert sorted(set(times), key=str) == times
    for gone in (2, 3):
        bus.run(bus.client.jetstream().delete_msg("msgs", gone))
    assert js.message_time_ns("msgs", 2) is None
    assert js.message_time_ns("msgs", 5) is None
    assert js.next_message("msgs", 1) == (1, times[0])
    assert js.next_message("msgs", 2) == (4, times[3])
    assert js.next_message("msgs", 5) is None


def test_an_answer_larger_than_the_buffer_is_read_whole(server: NatsServer, bus: Bus) -> None:
    with Proxy(server.port) as proxy, asking(proxy.url) as js:
        js.create_stream(config("large"))
        store(bus, "large.x", [b"x" * 1_000_000])
        proxy.split(100_000)
        assert js.message_time_ns("large", 1) is not None
        assert js.available()


def test_answers_that_come_in_pieces_are_put_together(server: NatsServer) -> None:
    with Proxy(server.port) as proxy, asking(proxy.url) as js:
        proxy.split(7, 0.0001)
        assert js.available()
        assert js.stream_info("nowhere") is None


# -- consumers -------------------------------------------------------------------------------------


def test_a_consumer_begins_where_it_is_told_to(js: JetStream, bus: Bus) -> None:
    js.create_stream(config("start"))
    store(bus, "start.x", [b"1", b"2", b"3", b"4"])
    third = js.message_time_ns("start", 3)
    assert third is not None
    for number, (start, expected) in enumerate(
        [
            (StartAt("first"), [1, 2, 3, 4]),
            (StartAt("new"), []),
            (StartAt("sequence", 2), [2, 3, 4]),
            (StartAt("sequence", 9), []),
            (StartAt("time", third), [3, 4]),
            (StartAt("time", third + 1), [4]),
            (StartAt("time", 0), [1, 2, 3, 4]),
        ]
    ):
        made = js.create_consumer("start", name=f"c{number}", start=start)
        assert made["num_pending"] == len(expected), start
        got = js.fetch("start", f"c{number}", batch=10, max_bytes=ROOM)
        assert [one.ack.stream_seq for one in got] == expected, start
        assert [one.payload for one in got] == [b"%d" % seq for seq in expected]
    assert js.create_consumer("start", name="c9", start=StartAt("new"))["num_pending"] == 0
    store(bus, "start.x", [b"5"])
    # A consumer that is there learns of it a moment after the publisher.
    [new] = eventually(
        lambda: js.fetch("start", "c9", batch=10, max_bytes=ROOM), what="the message for c9"
    )
    assert new.payload == b"5"


def test_a_consumer_is_one_that_nobody_acknowledges_and_that_goes_by_itself(js: JetStream) -> None:
    js.create_stream(config("kind"))
    made = js.create_consumer("kind", name="c", start=StartAt("first"), inactive_s=7.5)["config"]
    assert made["ack_policy"] == "none"
    assert made["mem_storage"] is True
    assert made["num_replicas"] == 1
    assert made["inactive_threshold"] == 7_500_000_000
    assert "durable_name" not in made
    assert "headers_only" not in made


def test_a_consumer_gives_the_subjects_it_was_asked_for_and_headers_only_if_so(
    js: JetStream, bus: Bus
) -> None:
    js.create_stream(config("filter"))
    for subject in ("filter.a", "filter.b", "filter.c.d"):
        store(bus, subject, [subject.encode()], ids=True)
    for name, wanted in (("one", ["filter.b"]), ("two", ["filter.a", "filter.c.>"])):
        js.create_consumer(
            "filter", name=name, start=StartAt("first"), filter_subjects=wanted, headers_only=True
        )
    [one] = js.fetch("filter", "one", batch=10, max_bytes=ROOM)
    assert one.payload == b""
    assert b"Nats-Msg-Id: filter.b\r\n" in one.headers
    two = js.fetch("filter", "two", batch=10, max_bytes=ROOM)
    assert [message.ack.stream_seq for message in two] == [1, 3]


def test_a_pull_takes_no_more_than_it_asks_for_in_messages_and_in_bytes(
    js: JetStream, bus: Bus
) -> None:
    js.create_stream(config("pull"))
    store(bus, "pull.x", [b"x" * 1000] * 10)
    js.create_consumer("pull", name="c", start=StartAt("first"))
    first = js.fetch("pull", "c", batch=4, max_bytes=ROOM)
    assert [m.ack.consumer_seq for m in first] == [1, 2, 3, 4]
    assert [m.ack.pending for m in first] == [9, 8, 7, 6]
    some = js.fetch("pull", "c", batch=100, max_bytes=3500)
    assert [m.ack.stream_seq for m in some] == [5, 6, 7]
    rest = js.fetch("pull", "c", batch=100, max_bytes=ROOM)
    assert [m.ack.stream_seq for m in rest] == [8, 9, 10]
    assert rest[-1].ack.timestamp_ns == js.message_time_ns("pull", 10)
    assert js.fetch("pull", "c", batch=100, max_bytes=ROOM) == []


def test_a_message_larger_than_a_whole_pull_is_an_error_and_not_a_pull_without_end(
    js: JetStream, bus: Bus
) -> None:
    js.create_stream(config("tight"))
    store(bus, "tight.x", [b"x" * 1000])
    js.create_consumer("tight", name="c", start=StartAt("first"))
    with pytest.raises(JetStreamError, match="Message Size Exceeds MaxBytes"):
        js.fetch("tight", "c", batch=10, max_bytes=500)


def test_a_consumer_that_is_deleted_is_gone(js: JetStream) -> None:
    js.create_stream(config("gone"))
    js.create_consumer("gone", name="c", start=StartAt("first"))
    assert js.delete_consumer("gone", "c")
    assert not js.delete_consumer("gone", "c")
    assert not js.delete_consumer("nowhere", "c")
    with pytest.raises(ConsumerGone, match="c ended"):
        js.fetch("gone", "c", batch=1, max_bytes=ROOM)


def test_a_consumer_that_cannot_be_is_refused_with_the_reason(js: JetStream) -> None:
    with pytest.raises(JetStreamError, match="stream not found"):
        js.create_consumer("nowhere", name="c", start=StartAt("first"))


# -- replies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.S.C.1.22.3.4444.5",
        b"$JS.ACK._.hash.S.C.1.22.3.4444.5",
        b"$JS.ACK.hub.hash.S.C.1.22.3.4444.5.token",
    ],
)
def test_a_reply_subject_of_either_form_is_read(reply: bytes) -> None:
    assert parse_ack_reply(reply) == Ack(22, 3, 4444, 5)


@pytest.mark.parametrize(
    "reply", [b"", b"_INBOX.1", b"$JS.ACK.S.C.1.22.3.4444", b"$JS.ACK.S.C.1.x.3.4444.5"]
)
def test_what_is_no_reply_subject_of_a_stream_s_message_is_refused(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"not the reply|invalid literal"):
        parse_ack_reply(reply)


def test_a_status_is_read_from_its_line_only() -> None:
    assert status_of(b"NATS/1.0 404 No Messages\r\n\r\n") == 404
    assert status_of(b"NATS/1.0\r\nA: 404\r\n\r\n") == 0
    assert status_of(b"") == 0


# -- answers that are none -------------------------------------------------------------------------


@contextmanager
def answering(bus: Bus, subject: str, answer: Callable[[Msg], list[tuple[str, bytes]]]) -> Any:
    """A subscriber that publishes what ``answer`` gives as ``(subject, body)``."""

    async def work(message: Msg) -> None:
        for reply, body in answer(message):
            await bus.client.publish(reply, body)

    subscription = bus.run(bus.client.subscribe(subject, cb=work))
    bus.flush()
    try:
        yield
    finally:
        bus.run(subscription.unsubscribe())


def test_the_leader_gives_messages_without_a_consumer_also_around_those_that_are_gone(
    js: JetStream, bus: Bus
) -> None:
    js.create_stream(config("led"))
    assert js.leader_messages("led", 1) == []
    store(bus, "led.x", [b"%d" % number for number in range(1, 151)], ids=True)
    for gone in (1, 2, 50, *range(60, 140)):
        bus.run(bus.client.jetstream().delete_msg("led", gone))
    found: list[tuple[int, bytes, bytes]] = []
    while got := js.leader_messages("led", found[-1][0] + 1 if found else 1):
        found += got
    left = [*range(3, 50), *range(51, 60), *range(140, 151)]
    assert [seq for seq, _headers, _body in found] == left
    assert all(body == b"%d" % seq for seq, _headers, body in found)
    assert b"Nats-Msg-Id" in found[0][1]


NONSENSE = [
    b"",
    b"hello",
    b"[]",
    b"17",
    b'"type"',
    b"{}",
    b'{"type": 1}',
    b'{"type": "io.nats.jetstream.api.v1.x", "error": "yes"}',
    b'{"type": "io.nats.jetstream.api.v1.x", "error": {"code": null}}',
    b'{"stream": "S", "seq": 1}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", NONSENSE, ids=repr)
def test_nonsense_is_no_answer_and_the_true_one_is_still_taken(
    js: JetStream, bus: Bus, body: bytes
) -> None:
    with answering(bus, "$JS.API.>", lambda message: [(message.reply, body)] * 3):
        for _ in range(10):
            assert js.available()
            assert js.stream_info("nowhere") is None


def test_nonsense_alone_ends_with_what_it_was() -> None:
    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.>", lambda message: [(message.reply, b"hello")]),
        asking(server.url, timeout_s=0.3) as js,
        pytest.raises(NoAnswer, match=r"no answer in time to .*INFO, but b'hello'"),
    ):
        js.available()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"config": None, "state": []},
        {"config": {"name": "S"}, "created": "x", "state": {"first_seq": "a", "last_seq": 1}},
        {"message": {"seq": 1, "time": "yesterday"}},
        {"message": {"time": 17, "seq": 1}},
    ],
)
def test_an_answer_that_lacks_what_was_asked_for_is_reported(more: dict[str, Any]) -> None:
    body = orjson.dumps({"type": "io.nats.jetstream.api.v1.x", **more})
    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.>", lambda message: [(message.reply, body)]),
        asking(server.url) as js,
    ):
        for ask in (js.stream_info, lambda name: js.message_time_ns(name, 1)):
            with pytest.raises(BadAnswer, match="not an answer of JetStream's"):
                ask("S")


def test_a_late_answer_does_not_answer_the_next_request() -> None:
    late: list[str] = []

    def answer(message: Msg) -> list[tuple[str, bytes]]:
        late.append(message.reply)
        if len(late) == 1:
            return []
        bodies = (orjson.dumps({"type": "io.nats.jetstream.api.v1.x", "n": n}) for n in (1, 2))
        return list(zip(late, bodies, strict=True))

    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.INFO", answer),
        asking(server.url, timeout_s=0.3) as js,
    ):
        with pytest.raises(NoAnswer, match="no answer in time"):
            js.request("INFO")
        js._timeout_s = 5.0
        assert js.request("INFO")["n"] == 2


# -- the connection --------------------------------------------------------------------------------


def test_a_server_that_hangs_is_a_lost_connection_long_before_the_time_is_up() -> None:
    with NatsServer() as server, asking(server.url, timeout_s=60.0) as js:
        assert js.available()
        server.pause()
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="no sign of life"):
            js.available()
        assert 0.7 < time.monotonic() - start < 2


def test_a_lost_answer_costs_one_more_question_and_not_the_connection() -> None:
    answer = orjson.dumps({"type": "io.nats.jetstream.api.v1.x", "n": 1})
    asked: list[str] = []

    def third_time(message: Msg) -> list[tuple[str, bytes]]:
        asked.append(message.reply)
        return [(message.reply, answer)] if len(asked) == 3 else []

    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.STREAM.INFO.S", third_time),
        asking(server.url, timeout_s=5.0) as js,
    ):
        start = time.monotonic()
        assert js.request("STREAM.INFO.S")["n"] == 1
        assert time.monotonic() - start < 2
        assert len(set(asked)) == 3


def test_an_answer_that_is_late_for_its_own_question_is_taken_all_the_same() -> None:
    answer = orjson.dumps({"type": "io.nats.jetstream.api.v1.x", "n": 1})
    asked: list[str] = []

    def first_one(message: Msg) -> list[tuple[str, bytes]]:
        asked.append(message.reply)
        return [(asked[0], answer)] if len(asked) == 2 else []

    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.STREAM.INFO.S", first_one),
        asking(server.url, timeout_s=5.0) as js,
    ):
        assert js.request("STREAM.INFO.S")["n"] == 1


@pytest.mark.parametrize(
    "message", [None, "text", {"seq": 1}, {"seq": 4, "data": "!"}, {"seq": "x"}]
)
def test_a_leader_that_answers_nonsense_is_not_read_for_ever(message: object) -> None:
    def answer(asked: Msg) -> list[tuple[str, bytes]]:
        body = {"type": "io.nats.jetstream.api.v1.x", "message": message}
        return [(asked.reply, orjson.dumps(body))]

    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.STREAM.MSG.GET.S", answer),
        asking(server.url, timeout_s=0.7) as js,
        pytest.raises(NatsError),
    ):
        js.leader_messages("S", 5)


@pytest.mark.parametrize("err_code", [10008, 10118])
def test_a_cluster_that_has_no_leader_yet_is_asked_until_it_has(err_code: int) -> None:
    error = {"code": 503, "err_code": err_code, "description": "no leader"}
    bodies: list[dict[str, Any]] = [{"error": error}, {"error": error}, {"n": 1}]

    def answer(message: Msg) -> list[tuple[str, bytes]]:
        body = {"type": "io.nats.jetstream.api.v1.x", **bodies.pop(0)}
        return [(message.reply, orjson.dumps(body))]

    with (
        NatsServer(jetstream=False) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.STREAM.INFO.S", answer),
    ):
        with asking(server.url, timeout_s=5.0) as js:
            assert js.request("STREAM.INFO.S")["n"] == 1
        bodies[:] = [{"error": error}] * 3
        with (
            asking(server.url, timeout_s=0.7) as js,
            pytest.raises(JetStreamError, match="no leader"),
        ):
            js.request("STREAM.INFO.S")


def test_a_pull_that_nobody_answers_is_given_up_in_time() -> None:
    """Servers have said nothing to who pulled from a consumer that was gone (nats-server #4061)."""
    with NatsServer(jetstream=False) as server, Bus(server.url) as bus:

        async def silent(_message: Msg) -> None:
            pass

        bus.run(bus.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.S.c", cb=silent))
        bus.flush()
        with asking(server.url, timeout_s=0.3) as js, pytest.raises(ConsumerGone, match="silent"):
            js.fetch("S", "c", batch=1, max_bytes=1000)


def test_a_server_that_dies_while_it_is_asked_is_a_lost_connection() -> None:
    with NatsServer() as server, asking(server.url) as js:
        assert js.available()
        server.kill()
        with pytest.raises(ConnectionLost):
            js.available()


def test_pings_are_answered_while_we_wait() -> None:
    settings = 'ping_interval: "50ms"\nping_max: 2'
    with (
        NatsServer(jetstream=False, extra=settings) as server,
        Bus(server.url) as bus,
        answering(bus, "$JS.API.INFO", lambda _message: []),
        asking(server.url, timeout_s=1.0) as js,
    ):
        with pytest.raises(NoAnswer, match="no answer in time"):
            js.available()
        with pytest.raises(JetStreamOff):
            js.request("OTHER")


def test_a_message_of_a_subscription_that_we_do_not_know_of_is_a_mistake_in_the_program(
    js: JetStream,
) -> None:
    js._connection.send(b"SUB early 7\r\nPUB early 0\r\n\r\n")
    with pytest.raises(RuntimeError, match="subscribed"):
        js.available()


def test_a_connection_in_use_may_be_asked_and_its_reader_goes_on_where_it_was(
    server: NatsServer, bus: Bus
) -> None:
    connection = Connection(server.url, name="test")
    connection.connect()
    try:
        connection.send(b"SUB in.use 7\r\n")
        read_until_pong(connection, bytearray())
        # The reader has the beginning of a message; its end, and more, come while we ask.
        bus.publish("in.use", b"x" * 5000)
        bus.flush()
        half = bytearray(2000)
        filled = 0
        while filled < len(half):
            filled += connection.receive_into(half, filled, 5.0)
        js = JetStream(connection, received=bytes(half))
        assert js.available()
        for number in range(300):
            bus.publish("in.use", b"%d" % number)
            if number % 100 == 0:
                bus.flush()
                assert js.stream_info("nowhere") is None
        bus.flush()
        connection.send(b"PUB $SYS.x 0\r\n\r\nPUB a..b 0\r\n\r\n")
        assert js.available()
        rest = bytearray(js.close())
        messages = read_until_pong(connection, rest)
        assert [m[-1] for m in messages] == [b"x" * 5000, *(b"%d" % n for n in range(300))]
    finally:
        connection.close()


def test_what_the_server_refuses_a_connection_in_use_is_its_reader_s_to_know() -> None:
    denied = 'publish: {deny: ["forbidden", "$JS.API.STREAM.NAMES"]}'
    with NatsServer(extra=users(denied)) as server:
        connection = Connection(f"nats://service:s3cret@{HOST}:{server.port}", name="test")
        connection.connect()
        try:
            connection.send(b"PUB forbidden 0\r\n\r\n")
            js = JetStream(connection, received=b"")
            assert js.available()
            with pytest.raises(JetStreamDenied, match=r"STREAM\.NAMES"):
                js.stream_names_for("x")
            rest = js.close()
            [(kind, *_, text)], end = frames.scan(rest, 0, len(rest))
            assert (kind, end) == (frames.ERR, len(rest))
            assert b"forbidden" in text
        finally:
            connection.close()


def test_after_the_end_of_asking_no_answer_comes_any_more(server: NatsServer, bus: Bus) -> None:
    connection = Connection(server.url, name="test")
    connection.connect()
    try:
        js = JetStream(connection)
        for _ in range(50):
            js._publish_to("$JS.API.INFO", b"")
        js.close()
        bus.publish(f"{js._inbox}.1", b"late")
        bus.flush()
        assert read_until_pong(connection, bytearray()) == []
    finally:
        connection.close()


def read_until_pong(connection: Connection, received: bytearray) -> list[frames.Frame]:
    """The messages that the next reader of a connection gets, beginning with ``received``."""
    messages: list[frames.Frame] = []
    ping = connection.send_ping()
    buffer = bytearray(1 << 16)
    deadline = time.monotonic() + 10
    while connection.pongs < ping:
        assert time.monotonic() < deadline
        received += buffer[: connection.receive_into(buffer, 0, 0.1)]
        found, end = frames.scan(received, 0, len(received))
        del received[:end]
        for frame in found:
            if frame[0] in (frames.MSG, frames.HMSG):
                messages.append(frame)
            else:
                connection.handle(frame[0], frame[-1])
    assert all(frame[1] != REQUESTS_SID for frame in messages)
    return messages


def test_two_may_not_ask_on_one_connection_at_once(server: NatsServer) -> None:
    """The server keeps the first subscription of a number: the second would hear nothing."""
    with connected(server.url) as connection:
        first = JetStream(connection)
        assert first.available()
        with pytest.raises(RuntimeError, match="another Requests still reads this connection"):
            JetStream(connection)
        first.close()
        assert JetStream(connection).available()
