"""The three streams: created once, never taken from others, and read from the right place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nats.js.api import StreamConfig as ServerConfig
from support.bus import Bus
from support.jetstream import (
    asking,
    connected,
    delete_streams,
    forget,
    info_of,
    store,
)
from support.nats_server import NatsServer
from support.wait import eventually

from alarmdigest.nats.answers import StartAt, StreamInfo
from alarmdigest.nats.errors import StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.stream_configs import Limits, StreamConfig, make_stream_configs
from alarmdigest.nats.streams import ensure_stream
from alarmdigest.nats.subjects import covers
from alarmdigest.pipeline.sources.start_position import ReadFrom, where_to_start
from alarmdigest.state.position import StreamPosition

DAY_NS = 86_400 * 10**9
ALARMS, DIGESTS, REJECTED = make_stream_configs()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[NatsServer, Bus]]:
    with NatsServer() as running, Bus(running.url) as opened:
        yield running, opened


@pytest.fixture
def server(shared: tuple[NatsServer, Bus]) -> NatsServer:
    return shared[0]


@pytest.fixture
def bus(shared: tuple[NatsServer, Bus]) -> Bus:
    return shared[1]


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    """Of a server that has no streams yet."""
    with asking(server.url) as opened:
        delete_streams(server, opened)
        yield opened


def make(js: JetStream, name: str, subjects: list[str], **more: Any) -> StreamInfo:
    return js.create_stream({"name": name, "subjects": subjects, "storage": "file", **more})


# -- the streams as we make them -----------------------------------------------------------------


def test_the_plans_are_those_of_the_contract(js: JetStream) -> None:
    alarms, digests, rejected = (
        ensure_stream(js, plan, create=True) for plan in make_stream_configs()
    )
    assert (alarms.name, digests.name, rejected.name) == (
        "ALARMS",
        "ALARM_DIGESTS",
        "ALARM_REJECTED",
    )
    assert set(alarms.subjects) == {
        "AlarmStatusChanged",
        "AlarmStatusChanged.>",
        "SendAlarmDigest",
        "SendAlarmDigest.>",
        "ForgetUser",
        "ForgetUser.>",
    }
    assert digests.subjects == ("AlarmDigest",)
    assert rejected.subjects == ("AlarmRejected",)
    for info in (alarms, digests, rejected):
        assert info.config["max_age"] == 7 * DAY_NS
        assert info.config["storage"] == "file"
        assert info.config["retention"] == "limits"
        assert info.config["discard"] == "old"
        assert info.config["num_replicas"] == 1
        assert info.duplicate_window_ns == 120 * 10**9
        assert info.max_msg_size == -1
    sizes = [info.config["max_bytes"] for info in (alarms, digests, rejected)]
    assert sizes == [-1, -1, 64 * 2**20]


def test_what_is_published_on_an_input_subject_or_below_it_is_captured(
    js: JetStream, bus: Bus
) -> None:
    ensure_stream(js, ALARMS, create=True)
    for subject in ("AlarmStatusChanged", "SendAlarmDigest.7", "AlarmStatusChanged.a.b"):
        store(bus, subject, [b"{}"])
    assert info_of(js, "ALARMS").messages == 3


def test_what_another_service_captures_and_is_not_needed_is_left_out(
    js: JetStream, caplog: pytest.LogCaptureFixture
) -> None:
    """Two services with subjects of their own, neither of which says --forget-subject."""
    one = make_stream_configs(alarms_stream="ONE", event_subject="e1", request_subject="r1").alarms
    two = make_stream_configs(alarms_stream="TWO", event_subject="e2", request_subject="r2").alarms
    assert "ForgetUser" in ensure_stream(js, one, create=True).subjects
    assert ensure_stream(js, two, create=True).subjects == ("e2", "e2.>", "r2", "r2.>")
    assert "stream TWO is made without it" in caplog.text
    assert ensure_stream(js, two, create=True).subjects == ("e2", "e2.>", "r2", "r2.>")


def test_limits_and_names_are_as_they_are_asked_for(js: JetStream) -> None:
    alarms = make_stream_configs(
        alarms_stream="IN",
        event_subject="e",
        request_subject="r",
        forget_subject="f",
        alarms=Limits(0, 10**6),
    ).alarms
    info = ensure_stream(js, alarms, create=True)
    assert (info.name, set(info.subjects)) == ("IN", {"e", "e.>", "r", "r.>", "f", "f.>"})
    assert (info.config["max_age"], info.config["max_bytes"]) == (0, 10**6)
    assert make_stream_configs(replicas=3).digests.api_config()["num_replicas"] == 3


def test_a_stream_of_a_short_age_can_be_made_too(js: JetStream) -> None:
    info = ensure_stream(js, make_stream_configs(alarms=Limits(10 * 10**9)).alarms, create=True)
    assert info.duplicate_window_ns == 10 * 10**9


def test_input_subjects_of_which_one_lies_in_the_other_make_one_stream(js: JetStream) -> None:
    alarms = make_stream_configs(
        event_subject="alarm", request_subject="alarm.digest", forget_subject="alarm.forget"
    ).alarms
    assert ensure_stream(js, alarms, create=True).subjects == ("alarm", "alarm.>")


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.>", True),
        ("a.>", "a.b.>", True),
        ("a.>", "a.*", True),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("*.b", "a.b", True),
        ("*.b", "a.c", False),
        ("*", ">", False),
        (">", "a", True),
        (">", ">", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_a_subject_covers_another(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


# -- present, absent, in the way -------------------------------------------------------------------


def test_a_stream_that_is_there_is_used_as_it_is(js: JetStream) -> None:
    made = make(js, "ALARMS", ["*", "AlarmStatusChanged.>", "SendAlarmDigest.>"], max_age=DAY_NS)
    info = ensure_stream(js, ALARMS, create=True)
    assert info.created == made.created
    assert info.config["max_age"] == DAY_NS


def test_a_stream_that_is_absent_is_missed_where_we_may_not_create_it(js: JetStream) -> None:
    with pytest.raises(StreamMissing, match="no stream ALARMS, and we may not") as missing:
        ensure_stream(js, ALARMS, create=False)
    assert "SendAlarmDigest.>" in str(missing.value)
    assert js.stream_info("ALARMS") is None
    ensure_stream(js, ALARMS, create=True)
    assert ensure_stream(js, ALARMS, create=False).name == "ALARMS"


def test_a_stream_that_lacks_subjects_is_a_conflict_whose_remedy_works(
    js: JetStream, bus: Bus
) -> None:
    make(js, "ALARMS", ["AlarmStatusChanged", "SendAlarmDigest", "other", "AlarmStatusChanged.x"])
    with pytest.raises(StreamConflict) as conflict:
        ensure_stream(js, ALARMS, create=True)
    text = str(conflict.value)
    assert "does not capture AlarmStatusChanged.>, SendAlarmDigest.>:" in text
    subjects = text.partition("nats stream edit ALARMS --subjects '")[2].partition("'")[0]
    changed = ServerConfig(name="ALARMS", subjects=subjects.split(","))
    bus.run(bus.client.jetstream().update_stream(changed))
    assert "other" in ensure_stream(js, ALARMS, create=True).subjects


@pytest.mark.parametrize(
    "subjects",
    [
        ["AlarmStatusChanged"],
        ["AlarmStatusChanged.>"],
        ["AlarmStatusChanged.*.x"],
        ["*"],
        ["AlarmStatusChanged.*"],
        ["a", "SendAlarmDigest.7"],
    ],
    ids=str,
)
@pytest.mark.parametrize("create", [True, False])
def test_a_foreign_stream_with_some_of_the_subjects_is_named(
    js: JetStream, subjects: list[str], create: bool
) -> None:
    make(js, "FOREIGN", subjects)
    with pytest.raises(
        StreamConflict, match=r"stream FOREIGN captures .* ALARMS needs"
    ) as conflict:
        ensure_stream(js, ALARMS, create=create)
    assert "nats stream edit FOREIGN" in str(conflict.value)
    assert js.stream_info("ALARMS") is None


def test_a_foreign_stream_that_holds_what_ours_lacks_is_named(js: JetStream) -> None:
    make(js, "ALARMS", ["AlarmStatusChanged", "AlarmStatusChanged.>"])
    make(js, "FOREIGN", ["SendAlarmDigest", "SendAlarmDigest.>"])
    with pytest.raises(StreamConflict, match="stream FOREIGN captures SendAlarmDigest, and"):
        ensure_stream(js, ALARMS, create=True)


@pytest.mark.parametrize("retention", ["interest", "workqueue"])
def test_a_stream_that_deletes_what_was_read_is_a_conflict(js: JetStream, retention: str) -> None:
    make(js, "ALARM_DIGESTS", ["AlarmDigest"], retention=retention)
    with pytest.raises(StreamConflict, match=f"has retention {retention}"):
        ensure_stream(js, DIGESTS, create=True)


def test_a_stream_that_confirms_nothing_is_a_conflict(js: JetStream) -> None:
    make(js, "ALARM_DIGESTS", ["AlarmDigest"], no_ack=True)
    with pytest.raises(StreamConflict, match="no_ack"):
        ensure_stream(js, DIGESTS, create=True)


class Slower(JetStream):
    """Somebody else is faster: what they do happens right before we create a stream."""

    first: Callable[[JetStream], object] | None = None

    def create_stream(self, config: dict[str, Any]) -> StreamInfo:
        if self.first is not None:
            first, self.first = self.first, None
            first(self)
        return super().create_stream(config)


@pytest.fixture
def slower(server: NatsServer, js: JetStream) -> Iterator[Slower]:
    assert js.stream_names_for(">") == []
    with connected(server.url) as connection:
        yield Slower(connection)


def test_of_two_who_create_the_stream_both_get_it(slower: Slower) -> None:
    other = StreamConfig("ALARMS", ALARMS.subjects, max_age_ns=DAY_NS)
    slower.first = lambda js: js.create_stream(other.api_config())
    info = ensure_stream(slower, ALARMS, create=True)
    assert slower.first is None
    assert info.config["max_age"] == DAY_NS


def test_a_foreign_stream_made_at_the_same_moment_is_named(slower: Slower) -> None:
    slower.first = lambda js: make(js, "FOREIGN", ["AlarmStatusChanged.>"])
    with pytest.raises(StreamConflict, match="FOREIGN captures AlarmStatusChanged"):
        ensure_stream(slower, ALARMS, create=True)


def test_what_jetstream_refuses_for_another_reason_is_said(js: JetStream) -> None:
    with pytest.raises(StreamConflict, match=r"make stream ALARMS .*replicas > 1 not supported"):
        ensure_stream(js, make_stream_configs(replicas=3).alarms, create=True)


# -- where to begin --------------------------------------------------------------------------------


def at(created: str, sequence: int, timestamp_ns: int) -> StreamPosition:
    return StreamPosition("ALARMS", created, sequence, timestamp_ns)


def position(js: JetStream, sequence: int) -> StreamPosition:
    """The position of a service that has just read this message."""
    time_ns = js.message_time_ns("ALARMS", sequence)
    assert time_ns is not None
    return at(info_of(js, "ALARMS").created, sequence, time_ns)


def start(js: JetStream, place: StreamPosition | None) -> ReadFrom:
    return where_to_start(js, info_of(js, "ALARMS"), place)


def read(js: JetStream, at: StartAt) -> list[bytes]:
    """What a consumer that begins there delivers."""
    js.create_consumer("ALARMS", name="reader", start=at)
    got = js.fetch("ALARMS", "reader", batch=1000, max_bytes=2**21)
    js.delete_consumer("ALARMS", "reader")
    return [message.payload for message in got]


def bodies(prefix: str, numbers: range) -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in numbers]


def filled(js: JetStream, bus: Bus, count: int = 10) -> list[bytes]:
    ensure_stream(js, ALARMS, create=True)
    sent = bodies("m", range(1, count + 1))
    store(bus, "AlarmStatusChanged", sent)
    return sent


def test_without_a_position_the_setting_decides(js: JetStream, bus: Bus) -> None:
    sent = filled(js, bus)
    info = info_of(js, "ALARMS")
    seventh = js.message_time_ns("ALARMS", 7)
    assert seventh is not None
    first = where_to_start(js, info, None)
    assert (first.kind, first.deleted_unread, read(js, first.at)) == ("first", 0, sent)
    new = where_to_start(js, info, None, "new")
    assert (new.kind, read(js, new.at)) == ("new", [])
    by_time = where_to_start(js, info, None, seventh)
    assert (by_time.kind, read(js, by_time.at)) == ("time", sent[6:])


def test_an_unchanged_stream_continues_behind_the_position(js: JetStream, bus: Bus) -> None:
    sent = filled(js, bus)
    for sequence in (1, 7, 10):
        found = start(js, position(js, sequence))
        assert (found.kind, found.deleted_unread) == ("continues", 0)
        assert found.at == StartAt("sequence", sequence + 1)
        assert read(js, found.at) == sent[sequence:]
        assert found.sentence == f"ALARMS: continuing after message {sequence}"


def test_a_position_before_the_first_message_continues_with_it(js: JetStream, bus: Bus) -> None:
    created = ensure_stream(js, ALARMS, create=True).created
    sent = filled(js, bus)
    found = start(js, at(created, 0, 0))
    assert (found.kind, read(js, found.at)) == ("continues", sent)


def test_messages_that_expired_unread_are_counted(js: JetStream, bus: Bus) -> None:
    sent = filled(js, bus)
    place = position(js, 3)
    bus.run(bus.client.jetstream().purge_stream("ALARMS", seq=8))
    found = start(js, place)
    assert (found.kind, found.deleted_unread) == ("continues", 4)
    assert read(js, found.at) == sent[7:]
    assert "4 messages were deleted before we read them" in found.sentence


@pytest.mark.parametrize("last", [10, 3])
def test_a_purged_stream_continues_with_what_comes_after(
    js: JetStream, bus: Bus, last: int
) -> None:
    filled(js, bus)
    place = position(js, last)
    bus.run(bus.client.jetstream().purge_stream("ALARMS"))
    found = start(js, place)
    assert (found.kind, found.deleted_unread) == ("continues", 10 - last)
    store(bus, "AlarmStatusChanged", [b"later"])
    assert read(js, found.at) == [b"later"]
    assert start(js, place) == found


def test_a_position_whose_message_alone_is_deleted_continues(js: JetStream, bus: Bus) -> None:
    sent = filled(js, bus)
    place = position(js, 4)
    for gone in (4, 5):
        bus.run(bus.client.jetstream().delete_msg("ALARMS", gone))
    found = start(js, place)
    assert (found.kind, found.deleted_unread, read(js, found.at)) == ("continues", 0, sent[5:])


def test_a_stream_made_anew_is_read_from_its_first_message(
    server: NatsServer, js: JetStream, bus: Bus
) -> None:
    filled(js, bus)
    place = position(js, 7)
    delete_streams(server, js)
    ensure_stream(js, ALARMS, create=True)
    assert start(js, place).kind == "new_stream"
    sent = bodies("n", range(20))
    store(bus, "AlarmStatusChanged", sent)
    found = start(js, place)
    assert (found.kind, found.deleted_unread, read(js, found.at)) == ("new_stream", 0, sent)
    assert "recreated" in found.sentence
    bus.run(bus.client.jetstream().purge_stream("ALARMS", seq=6))
    found = start(js, place)
    assert (found.kind, found.deleted_unread, read(js, found.at)) == ("new_stream", 5, sent[5:])


def test_a_stream_made_anew_that_counts_from_a_later_number_has_lost_nothing(js: JetStream) -> None:
    created = ensure_stream(js, ALARMS, create=True).created
    make(js, "LATE", ["late"], first_seq=100)
    found = where_to_start(js, info_of(js, "LATE"), at(created, 7, 1))
    assert (found.kind, found.deleted_unread) == ("new_stream", 0)


def test_the_same_creation_time_in_another_spelling_is_the_same_stream(
    js: JetStream, bus: Bus
) -> None:
    filled(js, bus)
    place = position(js, 7)
    spelt = place.created.replace("Z", "+00:00")
    assert start(js, at(spelt, place.sequence, place.timestamp_ns)).kind == "continues"


def test_another_creation_time_is_the_same_stream_where_our_message_is_the_same(
    js: JetStream, bus: Bus
) -> None:
    sent = filled(js, bus)
    place = position(js, 7)
    for created in ("2026-01-01T00:00:00Z", "garbage"):
        found = start(js, at(created, place.sequence, place.timestamp_ns))
        assert (found.kind, found.deleted_unread, found.last_known) == ("continues", 0, None)
        assert read(js, found.at) == sent[7:]


def test_a_stream_whose_next_message_is_older_than_the_position_is_read_from_its_first(
    js: JetStream, bus: Bus
) -> None:
    """Rolled back, or its server's clock was: nobody can tell, and neither may skip anything."""
    sent = filled(js, bus)
    fifth = position(js, 5)
    # As if 3 had been read at the time of 5: then 4 is another one than the 4 of that time.
    bus.run(bus.client.jetstream().delete_msg("ALARMS", 3))
    found = start(js, at(fifth.created, 3, fifth.timestamp_ns))
    assert (found.kind, read(js, found.at)) == ("truncated", sent[:2] + sent[3:])
    assert "3 is gone, and 4 after it is older" in found.sentence


@pytest.fixture
def own() -> Iterator[tuple[NatsServer, Bus]]:
    with NatsServer() as server, Bus(server.url) as bus:
        yield server, bus


@pytest.mark.parametrize(
    ("again", "why"),
    [(0, "its last is 10, we had"), (5, "its last is 15, we had"), (30, "18 is another message")],
)
def test_after_a_roll_back_the_new_messages_are_read_and_the_last_known_are_known(
    own: tuple[NatsServer, Bus], again: int, why: str
) -> None:
    server, bus = own
    with asking(server.url) as js:
        filled(js, bus)
    places: list[StreamPosition] = []

    def publish() -> None:
        eventually(lambda: bus.client.is_connected)
        store(bus, "AlarmStatusChanged", bodies("lost", range(11, 21)))
        with asking(server.url) as js:
            places.append(position(js, 18))

    forget(server, publish)
    eventually(lambda: bus.client.is_connected)
    sent = bodies("new", range(11, 11 + again))
    store(bus, "AlarmStatusChanged", sent)
    with asking(server.url) as js:
        found = start(js, places[0])
        assert found.kind == "truncated"
        assert why in found.sentence
        # A minute before them is read again: two clocks may differ by as much.
        assert read(js, found.at) == bodies("m", range(1, 11)) + sent
        assert found.last_known == (10 + again, places[0].timestamp_ns)
        assert found.at == StartAt("time", places[0].timestamp_ns + 1 - 60 * 10**9)


def test_a_crash_of_the_server_changes_nothing(own: tuple[NatsServer, Bus]) -> None:
    server, bus = own
    with asking(server.url) as js:
        sent = filled(js, bus)
        place = position(js, 6)
    server.kill()
    server.start()
    with asking(server.url) as js:
        found = start(js, place)
        assert (found.kind, read(js, found.at)) == ("continues", sent[6:])
