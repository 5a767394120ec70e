"""The output streams deleted, full or refusing under the service: digests wait, say why, and are
all there in the end, each once and in the order of their requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from support.bus import Bus
from support.faults import gated, pairs, patched
from support.jetstream import frames_with_ids
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.raw import publish_raw
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing
from support.service import ServiceProcess
from support.streams import (
    DIGESTS,
    REJECTED,
    Saved,
    add,
    bodies,
    delete,
    info,
    js,
    last_of,
    numbers_in,
    store_all,
    stream_service,
    update,
)
from support.wait import eventually

from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import make_stream_configs
from alarmdigest.pipeline.batches import Outgoing as Batch
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.inflight.window import Window
from alarmdigest.state.position import OutputPosition

USERS = 7
ERROR: dict[str, Any] = {"code": 400, "err_code": 10049}


def wait_for_digests(bus: Bus, wanted: list[int], service: ServiceProcess) -> None:
    """Until the digest stream holds exactly these, those of one user in order."""
    eventually(
        lambda: info(bus, DIGESTS) is not None and len(numbers_in(bus)) >= len(wanted),
        timeout=20,
        interval=0.1,
        what="the digests",
    )
    found = numbers_in(bus)
    assert sorted(found) == sorted(wanted), service.log
    for user in range(USERS):
        of_user = [number for number in found if number % USERS == user]
        assert of_user == sorted(of_user), f"out of order for {user}: {of_user}"


def wait_until_held(service: ServiceProcess, why: str) -> None:
    def reason() -> bool:
        status, text = service.http("/readyz")
        return status == 503 and why in text

    eventually(reason, timeout=15, what=f"/readyz to say {why!r}")
    assert service.http("/healthz")[0] == 200


# -- deleted ---------------------------------------------------------------------------------------


def test_a_digest_stream_that_is_deleted_is_made_again_for_the_digests_that_wait() -> None:
    """A plain subscriber of AlarmDigest is there (the bus): publishing into the void is not
    answered with "no responders", but not at all."""
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(20)))
        wait_for_digests(bus, list(range(20)), service)
        delete(bus, DIGESTS)
        store_all(bus, pairs(range(20, 60)))
        wait_until_held(service, "stream ALARM_DIGESTS was deleted")
        wait_for_digests(bus, list(range(20, 60)), service)
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        assert service.stop() == 0
        # The new stream's places count from now on: a restart doubles nothing.
        service.start()
        store_all(bus, pairs(range(60, 70)))
        wait_for_digests(bus, list(range(20, 70)), service)


def test_a_digest_stream_that_we_may_not_make_is_waited_for() -> None:
    with NatsServer() as server, stream_service(server.url) as maker, Bus(server.url) as bus:
        assert maker.stop() == 0
        with stream_service(server.url, "--no-create-streams") as service:
            delete(bus, DIGESTS)
            store_all(bus, pairs(range(40)))
            wait_until_held(service, "there is no stream ALARM_DIGESTS, and we may not create it")
            service.kill()
            add(bus, DIGESTS, ["AlarmDigest"])
            service.start()
            wait_for_digests(bus, list(range(40)), service)


def test_a_digest_stream_that_is_deleted_during_a_replay_gets_what_the_replay_makes(
    tmp_path: Path,
) -> None:
    """What the deleted one held is no reason not to publish it again."""
    with NatsServer() as server, Bus(server.url) as bus:
        gate = tmp_path / "gate"
        gate.touch()
        options = ["--checkpoint-interval", "1h"]  # all of it is read again
        with ServiceProcess(
            server.url, mode="stream", options=options, program=gated(gate)
        ) as service:
            store_all(bus, pairs(range(20)))
            wait_for_digests(bus, list(range(20)), service)
            service.kill()
            gate.unlink()
            service.start()
            service.wait_for_log("hold messages that a replay does not publish.*digests=20")
            delete(bus, DIGESTS)
            server.stop()
            server.start()
            eventually(lambda: info(bus, DIGESTS) is not None, what="the stream to be there again")
            gate.touch()
            wait_for_digests(bus, list(range(20)), service)


NONSENSE = [
    b"",
    b"thanks",
    b"[]",
    b"{}",
    b'{"stream":"OTHER","seq":7}',
    b'{"stream":"OTHER", "seq":7}',
    b'{"stream":"%b", "seq":0}',
    b'{"stream":"%b"}',
    b'{"stream":"%b", "seq":"7"}',
    b'{"stream":"%b", "seq":-7}',
    b'{"error":"no"}',
    # As deep as orjson goes, and deeper than Python can write down.
    b'{"seq":5,"stream":' + b"[" * 1020 + b"]" * 1020 + b"}",
    b'{"error":{"code":1,"description":' + b"[" * 1020 + b"]" * 1020 + b"}}",
    b'{"error":' + b"[" * 1020 + b"]" * 1020 + b"}",
]


@contextmanager
def answering(url: str, subject: str, stream: str) -> Iterator[None]:
    """Somebody who answers every message on the subject, in all the ways above."""
    with Bus(url) as other:

        async def answer(message: Msg) -> None:
            for body in NONSENSE:
                await message.respond(body.replace(b"%b", stream.encode()))

        other.run(other.client.subscribe(subject, cb=answer))
        other.flush()
        yield


def test_what_a_subscriber_answers_to_a_digest_confirms_nothing() -> None:
    with (
        NatsServer() as server,
        stream_service(server.url) as service,
        Bus(server.url) as bus,
        answering(server.url, "AlarmDigest", DIGESTS),
    ):
        store_all(bus, pairs(range(20)))
        wait_for_digests(bus, list(range(20)), service)
        delete(bus, DIGESTS)
        store_all(bus, pairs(range(20, 40)))
        wait_until_held(service, "digests cannot be published")
        assert service.metric('alarmdigest_published_total{kind="digest"}') == 20
        wait_for_digests(bus, list(range(20, 40)), service)


def test_what_a_subscriber_answers_to_a_refusal_confirms_nothing() -> None:
    with (
        NatsServer() as server,
        stream_service(server.url) as service,
        Bus(server.url) as bus,
        answering(server.url, "AlarmRejected", REJECTED),
    ):
        delete(bus, REJECTED)
        store_all(bus, [("AlarmStatusChanged", b"%d" % number) for number in range(10)])
        service.wait_for_log("rejected messages cannot be published and (are kept|wait)")
        assert "digests cannot be published" not in service.log
        assert service.metric("alarmdigest_publisher_blocked") == 0
        store_all(bus, pairs(range(5)))
        wait_for_digests(bus, list(range(5)), service)
        eventually(lambda: last_of(bus, REJECTED) == 10, what="the refusals", timeout=15)
        assert service.metric('alarmdigest_dropped_total{kind="refusal"}') == 0


# -- full, and refusing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "roomy"),
    [
        (
            {"max_msgs_per_subject": 10, "discard_new_per_subject": True},
            {"max_msgs_per_subject": -1, "discard_new_per_subject": False},
        ),
        ({"max_msgs": 10}, {"max_msgs": -1}),
        ({"max_bytes": 3000}, {"max_bytes": -1}),
    ],
    ids=["messages per subject", "messages", "bytes"],
)
def test_digests_wait_for_room_in_a_full_stream(
    full: dict[str, int], roomy: dict[str, int]
) -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"], discard="new", **full)
        with stream_service(server.url) as service:
            store_all(bus, pairs(range(100)))
            wait_until_held(service, "ALARM_DIGESTS refused a message: maximum")
            kept = len(numbers_in(bus))
            assert 0 < kept < 20
            # Not for longer than it waits between two attempts, and over a restart.
            service.kill()
            service.start()
            wait_until_held(service, "ALARM_DIGESTS refused a message: maximum")
            assert len(numbers_in(bus)) == kept
            update(bus, DIGESTS, **roomy)
            wait_for_digests(bus, list(range(100)), service)
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")


def test_a_refusal_that_its_stream_never_takes_is_given_up_and_holds_up_nothing() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, REJECTED, ["AlarmRejected"], max_msg_size=500)
        with stream_service(server.url) as service:
            wrong = [b"x" * 1000, b"small", b"y" * 1000]
            store_all(bus, [("AlarmStatusChanged", body) for body in wrong])
            store_all(bus, pairs(range(20)))
            wait_for_digests(bus, list(range(20)), service)
            assert service.metric('alarmdigest_dropped_total{kind="refusal"}') == 2
            assert service.metric('alarmdigest_published_total{kind="rejection"}') == 1
            assert bodies(bus, REJECTED) == [b"small"]
            assert "a rejected message cannot be published and is given up" in service.log
            assert service.http("/readyz")[0] == 200


def test_a_full_stream_of_refusals_holds_up_no_digest() -> None:
    """Else whoever sends rubbish could silence everybody."""
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, REJECTED, ["AlarmRejected"], max_msgs=3, discard="new")
        with stream_service(server.url) as service:
            store_all(bus, [("AlarmStatusChanged", b"%d" % number) for number in range(10)])
            store_all(bus, pairs(range(20)))
            wait_for_digests(bus, list(range(20)), service)
            assert bodies(bus, REJECTED) == [b"0", b"1", b"2"]
            assert service.metric('alarmdigest_dropped_total{kind="refusal"}') == 7
            assert bus.run(js(bus).stream_info(DIGESTS)).state.messages == 20


# -- confirmations that do not come ----------------------------------------------------------------

# Until it looks at the streams a second time it hears no confirmation.
DEAF_AT_FIRST = """
from alarmdigest.pipeline.inflight import missing_acks
from alarmdigest.pipeline.inflight.confirmer import ReadResult
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.inflight.stream_lookup import StreamLookup
missing_acks.ACK_TIMEOUT_S = 0.6
look_up, read, looks = StreamLookup.look_up, PubAckConfirmer.read, []
def count(self, window, go_on, *, only_left):
    looks.append(1)
    return look_up(self, window, go_on, only_left=only_left)
StreamLookup.look_up = count
def hear(self, data, end):
    return ReadResult(end) if len(looks) == 1 else read(self, data, end)
PubAckConfirmer.read = hear
"""


def test_it_is_ready_again_when_the_stream_turns_out_to_hold_what_was_not_confirmed() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", program=patched(DEAF_AT_FIRST)) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs([1]))
        service.wait_for_log("no confirmation within")
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready, and nothing else came")
        assert numbers_in(bus) == [1]


# What it sends first never reaches the server, and the connection is well.
LOSES_AT_FIRST = """
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
send, sends = PubAckConfirmer.send, []
def lose(self, connection, most):
    sends.append(1)
    if len(sends) > 1:
        return send(self, connection, most)
    connection.send = lambda data: None
    try:
        return send(self, connection, most)
    finally:
        del connection.send
PubAckConfirmer.send = lose
"""


def test_what_was_lost_on_its_way_is_sent_again_on_the_same_connection() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", program=patched(LOSES_AT_FIRST)) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(3)))
        # Before anybody is told that no confirmation comes.
        eventually(lambda: len(numbers_in(bus)) == 3, timeout=4.5, what="the digests")
        store_all(bus, pairs(range(3, 20)))
        wait_for_digests(bus, list(range(20)), service)
        assert service.metric("alarmdigest_resent_total") > 0
        assert "connection lost" not in service.log


def test_who_begins_with_new_messages_does_not_read_what_the_output_streams_hold() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        with stream_service(server.url) as service:
            store_all(bus, pairs(range(5)))
            wait_for_digests(bus, list(range(5)), service)
        new = stream_service(server.url, "--start", "new")
        with new as service:
            store_all(bus, pairs([5]))
            wait_for_digests(bus, list(range(6)), service)
            assert "hold messages that a replay does not publish" not in service.log


def test_an_output_stream_that_lost_its_tail_keeps_what_a_replay_will_find_there() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"])
        add(bus, REJECTED, ["AlarmRejected"])
        ids = [f"{number:032x}" for number in range(1, 11)]
        publish_raw(server.url, frames_with_ids("AlarmDigest", ids[:5], b"{}"))
        eventually(lambda: last_of(bus, DIGESTS) == 5, what="5 stored")
        saved = Saved(server)
        publish_raw(server.url, frames_with_ids("AlarmDigest", ids[5:], b"{}"))
        eventually(lambda: last_of(bus, DIGESTS) == 10, what="10 stored")
        confirmer = confirmer_at(server.url, DIGESTS, 3, ids[2])
        assert confirmer.lookup.look_up(Window(), go_on, only_left=False)
        assert made_again(confirmer, ids[7]) == 1
        assert confirmer.lookup.output_positions()[DIGESTS].sequence == 3
        saved.put_back()
        bus.flush()
        confirmer._in_flight.set_position(0, 10, ids[9].encode())  # as if it had come so far
        assert confirmer.lookup.ensure_streams(go_on)
        assert confirmer.lookup.stream_changes["output_truncated"] == 1
        assert made_again(confirmer, ids[3], ids[8]) == 1
        assert confirmer.lookup.output_positions()[DIGESTS].sequence == 4


@pytest.mark.parametrize("change", ["recreated", "purged", "as it was", "taken out"])
def test_an_output_stream_is_known_by_the_message_at_its_place(change: str) -> None:
    """Not by when it was made: some servers change that without reason."""
    with NatsServer() as server, Bus(server.url) as bus:
        ids = [f"{number:032x}" for number in range(1, 11)]
        for name, subject in ((DIGESTS, "AlarmDigest"), (REJECTED, "AlarmRejected")):
            add(bus, name, [subject])
        publish_raw(server.url, frames_with_ids("AlarmDigest", ids, b"{}"))
        eventually(lambda: last_of(bus, DIGESTS) == 10, what="10 stored")
        confirmer = confirmer_at(server.url, DIGESTS, 8, ids[7], created="another time")
        if change == "recreated":
            delete(bus, DIGESTS)
            add(bus, DIGESTS, ["AlarmDigest"])
            publish_raw(server.url, frames_with_ids("AlarmDigest", ids[::-1], b"{}"))
            eventually(lambda: last_of(bus, DIGESTS) == 10, what="10 others stored")
        elif change == "purged":
            bus.run(js(bus).purge_stream(DIGESTS))
        elif change == "taken out":
            bus.run(js(bus).delete_msg(DIGESTS, 8))
        assert confirmer.lookup.look_up(Window(), go_on, only_left=False)
        # What was taken out singly is not told from a stream that never had it, but by its time.
        anew = change in ("recreated", "taken out")
        assert confirmer.lookup.stream_changes["output_recreated"] == anew
        assert confirmer.lookup.output_positions()[DIGESTS].sequence == (0 if anew else 8)


def made_again(confirmer: PubAckConfirmer, *ids: str) -> int:
    """How many of these messages a replay need not send."""
    assert confirmer.lookup.already_stored is not None
    before = sum(confirmer.lookup.already_stored.suppressed)
    lines = [f"Nats-Msg-Id: {one}\r\n".encode() for one in ids]
    records = pack_outgoing([Outgoing(DIGEST, line, b"{}") for line in lines])
    assert confirmer.add([Batch(records, 0.0)], go_on) is not None
    return sum(confirmer.lookup.already_stored.suppressed) - before


def test_what_anybody_answers_writes_no_lines_into_our_log() -> None:
    confirmer = confirmer_at("nats://127.0.0.1:1", DIGESTS, 0, "")
    confirmer.lookup._replays = False
    records = pack_outgoing([Outgoing(DIGEST, b"", b"{}")])
    assert confirmer.add([Batch(records, 0.0)], go_on) is not None
    confirmer._in_flight.frame(b"out", b"bad", 1000, 1, 1000)
    refusal = confirmer._acks._on_publish_error(
        1, DIGEST, ERROR | {"description": "full\nall is well"}
    )
    assert refusal is not None
    assert refusal.reason == r"ALARM_DIGESTS refused a message: full\nall is well"


def blocked_by(kind: int, error: dict[str, Any]) -> tuple[PublishBlocked | None, PubAckConfirmer]:
    """What is made of JetStream's error for a lone message of this kind."""
    confirmer = confirmer_at("nats://127.0.0.1:1", DIGESTS, 0, "")
    confirmer.lookup._replays = False
    assert (
        confirmer.add([Batch(pack_outgoing([Outgoing(kind, b"", b"{}")]), 0.0)], go_on) is not None
    )
    confirmer._in_flight.frame(b"out", b"bad", 1000, 1, 1000)
    return confirmer._acks._on_publish_error(1, kind, error), confirmer


@pytest.mark.parametrize("kind", [DIGEST, REJECTION])
def test_a_copy_that_comes_while_the_first_is_stored_waits_for_the_answer_to_that(
    kind: int,
) -> None:
    """So a stream with replicas answers whoever sends again at once."""
    in_process = {
        "code": 409,
        "err_code": 10158,
        "description": "duplicate message id is in process",
    }
    refusal, confirmer = blocked_by(kind, in_process)
    assert refusal is None
    assert confirmer._in_flight.numbers_under_way(kind) == [1]
    assert confirmer._acks.given_up == 0


@pytest.mark.parametrize("kind", [DIGEST, REJECTION])
@pytest.mark.parametrize(
    ("code", "err_code"), [(500, 10009), (500, 10041), (503, 10008), (429, 10167)]
)
def test_what_passes_is_tried_again_and_given_up_by_nobody(
    kind: int, code: int, err_code: int
) -> None:
    refusal, confirmer = blocked_by(kind, {"code": code, "err_code": err_code})
    assert refusal is not None
    assert refusal.passing
    assert confirmer._acks.given_up == 0


@pytest.mark.parametrize("error", [{}, {"code": "x"}, {"code": 400, "err_code": None}])
def test_an_error_that_is_none_is_no_refusal(error: dict[str, Any]) -> None:
    refusal, confirmer = blocked_by(DIGEST, error)
    assert refusal is None
    assert confirmer._in_flight.numbers_under_way(DIGEST) == [1]


def test_large_answers_of_a_subscriber_cost_no_connection() -> None:
    async def answer(message: Msg) -> None:
        await message.respond(b"x" * 200_000)

    with (
        NatsServer() as server,
        stream_service(server.url) as service,
        Bus(server.url) as bus,
        Bus(server.url) as other,
    ):
        other.run(other.client.subscribe("AlarmDigest", cb=answer))
        other.flush()
        store_all(bus, pairs(range(20)))
        wait_for_digests(bus, list(range(20)), service)
        assert service.metric('alarmdigest_reconnects_total{connection="publisher"}') == 0


def test_a_lost_answer_about_a_rejected_message_is_missed_while_digests_flow() -> None:
    """Else no checkpoint would be complete as long as they do."""
    sooner = "import alarmdigest.pipeline.inflight.missing_acks as p; assert p.LONGEST_LOST_AFTER_S"
    program = patched(f"{sooner}; p.LONGEST_LOST_AFTER_S = 1.0")
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        Bus(server.url) as bus,
        ServiceProcess(proxy.url, mode="stream", program=program) as service,
    ):
        proxy.rewrite = (
            b'"stream":"ALARM_REJECTED","seq":1',
            b'"stream":"ALARM_REJECTED","was":1',
        )
        store_all(bus, [("AlarmStatusChanged", b"no JSON")])
        numbers = itertools.count()

        def is_missed() -> bool:
            store_all(bus, pairs([next(numbers)]))
            return "some answers do not come" in service.log

        eventually(is_missed, timeout=10, what="the look-up")
        eventually(
            lambda: service.metric('alarmdigest_published_total{kind="rejection"}') == 1,
            what="the rejected message to be confirmed",
        )
        assert last_of(bus, REJECTED) == 1


def confirmer_at(
    url: str, stream: str, place: int, message_id: str, created: str = ""
) -> PubAckConfirmer:
    """One whose checkpoint has got to this place of an output stream."""
    return PubAckConfirmer(
        "AlarmDigest",
        "AlarmRejected",
        (make_stream_configs().digests, make_stream_configs().rejected),
        Reconnector([url], name="test"),
        create=False,
        domain="",
        outputs={stream: OutputPosition(created, place, message_id)},
        replays=True,
    )


def go_on() -> bool:
    return True
