"""Whatever dies, hangs or forgets: no digest is lost, none is out of order for its user."""

from __future__ import annotations

import json
import re

import pytest
from support.bridge import Streams
from support.deliver import QUICK, DeliverProcess, Digests, digest, routes
from support.faults import patched
from support.nats_server import NatsServer
from support.receivers import MailServer, WebServer
from support.wait import eventually

pytestmark = pytest.mark.deliver


def all_acknowledged(digests: Digests, timeout: float = 60.0) -> None:
    eventually(lambda: digests.unacknowledged() == 0, what="all acknowledged", timeout=timeout)


def told(web: WebServer, user: str = "ada") -> list[str]:
    """The alarms of each message, in order."""
    found = [re.findall(r"alarm-\d\d", text) for text in web.of(user)]
    return [one[0] for one in found]


def alarms(count: int) -> list[str]:
    return [f"alarm-{number:02}" for number in range(count)]


# Where the process ends: (module, what is replaced, how), each kills it in the middle of something.
DIES = {
    "before the send": "from alarmdigest.connect.deliver import pool as where; name = 'send'",
    "between the send and its record": (
        "from alarmdigest.connect.deliver.settling import Settling as where; name = '_record_sent'"
    ),
    "between the record and the acknowledgement": (
        "from alarmdigest.connect.deliver.settling import Settling as where; name = '_acknowledge'"
    ),
}


@pytest.mark.parametrize("place", DIES)
def test_killed_at_any_point_it_goes_on_in_order(
    server: NatsServer, digests: Digests, web: WebServer, place: str
) -> None:
    """It dies at the third time that it gets there."""
    code = f"""
{DIES[place]}
import os, signal, itertools
count, before = itertools.count(1), getattr(where, name)
def dies(*given):
    if next(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*given)
setattr(where, name, dies)
"""
    text = routes({"web": web.url()}, quick=QUICK + "threads = 1\n")
    wanted = alarms(12)
    with DeliverProcess(server.url, routes=text, program=patched(code)) as deliver:
        for alarm in wanted[:8]:
            digests.publish("ada", alarm)
        deliver.wait()
    for alarm in wanted[8:]:  # JetStream has these at once, and the others only after a while
        digests.publish("ada", alarm)
    with DeliverProcess(server.url, routes=text):
        all_acknowledged(digests)
    found = told(web)
    if place == "between the send and its record":
        # The moment that nobody can close: what was sent then comes twice, right behind itself.
        assert list(dict.fromkeys(found)) == wanted
        assert len(found) <= len(wanted) + 1
    else:
        assert found == wanted


def test_what_was_taken_before_its_answer_was_lost_comes_with_the_same_message_id(
    server: NatsServer, digests: Digests, mails: MailServer
) -> None:
    mails.forgetful = 1
    with DeliverProcess(server.url, routes=routes({"mail": mails.url("{UserID}@example.com")})):
        digests.publish("ada", "alarm-00")
        all_acknowledged(digests)
    first, second = mails.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_half_an_answer_and_a_cut_are_tried_again(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    answers: list[int | str] = ["half", "gone", 503]
    web.answer = lambda _path: answers.pop(0) if answers else 200
    with DeliverProcess(server.url, routes=routes({"web": web.url()})) as deliver:
        digests.publish("ada", "alarm-00")
        all_acknowledged(digests)
        assert deliver.metric("alarmdigest_deliver_failed_total") >= 2
        # With the reason, and without the URL, which is a secret.
        deliver.wait_for_log(r"not taken, it is tried again target=web user='ada' reason='.+'")
        assert f":{web.port}/" not in deliver.log
    assert set(told(web)) == {"alarm-00"}


def test_endpoints_that_hang_take_the_threads_of_nobody_else(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    with WebServer() as hanging:
        hanging.answer = lambda _path: "hang"
        text = (
            QUICK
            + 'threads = 2\nper_endpoint = 2\nhangs_after = "1s"\n'
            + f'[targets.bad]\nurl = "{hanging.url()}"\n[targets.good]\nurl = "{web.url()}"\n'
            + '[[routes]]\nusers = ["bad-*"]\ntargets = ["bad"]\n'
            + '[[routes]]\nusers = ["*"]\ntargets = ["good"]\n'
        )
        with DeliverProcess(server.url, routes=text) as deliver:
            for number in range(2):
                digests.publish(f"bad-{number}", "alarm-00")
            eventually(lambda: len(hanging.tried) == 2, what="both threads hang", timeout=20)
            for alarm in alarms(5):
                digests.publish("ada", alarm)
            eventually(lambda: told(web) == alarms(5), what="the others", timeout=20)
            assert deliver.metric("alarmdigest_deliver_hanging") == 2
            assert digests.unacknowledged() == 2
            hanging.answer = lambda _path: 200
            all_acknowledged(digests)


def test_the_servers_restart_costs_nothing(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    wanted = alarms(30)
    with DeliverProcess(server.url, routes=routes({"web": web.url()})) as deliver:
        for alarm in wanted[:15]:
            digests.publish("ada", alarm)
        eventually(lambda: web.taken, what="the first", timeout=20)
        server.kill()
        server.start()
        deliver.wait_for_log(r"(?s)connected.*connected", timeout=30)
        digests.reconnect(server)
        for alarm in wanted[15:]:
            digests.publish("ada", alarm)
        all_acknowledged(digests)
    assert told(web) == wanted


def test_only_one_of_two_processes_acts_and_the_other_takes_over(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    text = routes({"web": web.url()})
    wanted = alarms(40)
    one, two = (DeliverProcess(server.url, routes=text) for _ in range(2))
    with one, two:
        two.wait_for_log("another process delivers")
        assert two.metric("alarmdigest_deliver_acting") == 0
        assert two.http("/readyz")[0] == 200
        for alarm in wanted[:20]:
            digests.publish("ada", alarm)
        eventually(lambda: len(web.taken) > 5, what="some", timeout=20)
        one.kill()
        for alarm in wanted[20:]:
            digests.publish("ada", alarm)
        two.wait_for_log("this process delivers", timeout=20)
        all_acknowledged(digests)
    found = told(web)
    assert list(dict.fromkeys(found)) == wanted
    assert len(found) <= len(wanted) + 1


def test_an_orderly_end_gives_back_what_is_not_sent(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    web.answer = lambda _path: 503
    text = routes({"web": web.url()})
    with DeliverProcess(server.url, routes=text) as deliver:
        for alarm in alarms(10):
            digests.publish("ada", alarm)
        eventually(lambda: web.tried, what="an attempt", timeout=20)
        assert deliver.stop() == 0
    web.answer = lambda _path: 200
    with DeliverProcess(server.url, routes=text):
        # At once: JetStream need not wait until it is overdue.
        all_acknowledged(digests, timeout=15)
    assert told(web) == alarms(10)


def test_when_all_places_are_held_the_oldest_that_keep_failing_make_room(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    web.answer = lambda path: 503 if "bad" in path else 200
    few = QUICK.replace("[consumer]", "[consumer]\nmost_held = 5")
    text = routes({"web": web.url()}, quick=few)
    text = text.replace("[sending]", "[sending]\nattempts = 1000")
    with DeliverProcess(server.url, routes=text) as deliver:
        for number in range(8):
            digests.publish("bad", f"alarm-{number:02}")
        digests.publish("ada", "alarm-00")
        eventually(lambda: told(web) == ["alarm-00"], what="the others' turn", timeout=40)
        assert deliver.metric('alarmdigest_deliver_dead_total{reason="evicted"}') >= 4
    assert {one["UserID"] for one in digests.dead_letters()} == {"bad"}


def test_a_digest_is_not_acknowledged_before_its_dead_letter_is_stored(
    server: NatsServer, streams: Streams, digests: Digests, web: WebServer
) -> None:
    """The stream of dead letters is full, and takes no more."""
    streams.js.create_stream(
        {
            "name": "ALARM_UNDELIVERED",
            "subjects": ["AlarmDigestUndelivered"],
            "storage": "file",
            "discard": "new",
            "max_msgs": 1,
        }
    )
    streams.publish("AlarmDigestUndelivered", b"{}")
    web.answer = lambda path: 503 if "bad" in path else 200
    text = routes({"web": web.url()}).replace("[sending]", "[sending]\nattempts = 1")
    with DeliverProcess(server.url, routes=text) as deliver:
        digests.publish("bad", "alarm-00")
        digests.publish("ada", "alarm-01")
        deliver.wait_for_log("a dead letter is not stored")
        eventually(lambda: digests.unacknowledged() == 1, what="the other one acknowledged")
        assert deliver.metric('alarmdigest_deliver_dead_total{reason="attempts"}') == 0
        streams.purge("ALARM_UNDELIVERED")
        all_acknowledged(digests)
    [dead] = digests.dead_letters()
    assert dead["UserID"] == "bad"


def test_digests_that_no_service_writes_harm_nobody(
    server: NatsServer, digests: Digests, streams: Streams, web: WebServer
) -> None:
    """Nested more deeply than can be written again, or with an id longer than a question may be."""
    deep = b'{"x":' + b"[" * 300 + b"]" * 300 + b',"UserID":"nobody","ActiveAlarms":[]}'
    long = json.dumps(digest("u" * 900_000, "a")).encode()
    text = routes({"web": web.url()}).replace('users = ["*"]', 'users = ["ada"]')
    with DeliverProcess(server.url, routes=text) as deliver:
        for body in (b"[" * 300, b"[" * 300 + b"]" * 300, deep, long, b"{" * 1000):
            streams.publish("AlarmDigest", body)
        digests.publish("ada", "disk")
        eventually(lambda: web.of("ada"), what="what comes behind them", timeout=20)
        eventually(lambda: digests.unacknowledged() == 0, what="all acknowledged", timeout=20)
        assert streams.info("ALARM_UNDELIVERED").messages == 5
        assert "cannot deliver" not in deliver.log
        assert deliver.stop() == 0


def test_a_consumer_that_is_there_keeps_its_bound(
    server: NatsServer, digests: Digests, streams: Streams, web: WebServer
) -> None:
    """Those that fail make room at that bound, not at ours."""
    web.answer = lambda path: 503 if "bad" in path else 200
    streams.js.request(
        "CONSUMER.CREATE.ALARM_DIGESTS.alarmdigest-deliver.AlarmDigest",
        {
            "stream_name": "ALARM_DIGESTS",
            "config": {
                "durable_name": "alarmdigest-deliver",
                "ack_policy": "explicit",
                "max_ack_pending": 5,
                "filter_subject": "AlarmDigest",
            },
        },
    )
    text = routes({"web": web.url()}).replace("[sending]", "[sending]\nattempts = 1000")
    with DeliverProcess(server.url, routes=text):
        for number in range(8):
            digests.publish("bad", f"alarm-{number}")
        digests.publish("ada", "disk")
        eventually(lambda: web.of("ada"), what="what comes behind them", timeout=30)


def test_a_slow_target_holds_up_nobody_else(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    few = QUICK.replace("[consumer]", "[consumer]\nmost_held = 20")
    text = routes({"web": web.url()}, quick=few)
    slow = f'[targets.slow]\nurl = "{web.url("slow")}"\nrate = "1/m"\n'
    route = '[[routes]]\nusers = ["noisy"]\ntargets = ["slow"]\n'
    text = text.replace("[[routes]]", f"{slow}{route}[[routes]]", 1)
    with DeliverProcess(server.url, routes=text) as deliver:
        for number in range(60):
            digests.publish("noisy", f"alarm-{number}")
        digests.publish("ada", "disk")
        eventually(lambda: web.of("ada"), what="what comes behind them", timeout=30)
        evicted = 'alarmdigest_deliver_dead_total{reason="evicted"}'
        assert 0 < deliver.metric(evicted) < 60


def test_a_stream_that_is_deleted_is_made_again(
    server: NatsServer, digests: Digests, streams: Streams, web: WebServer
) -> None:
    with DeliverProcess(server.url, routes=routes({"web": web.url()})):
        digests.publish("ada", "one")
        eventually(lambda: len(web.of("ada")) == 1, what="the first", timeout=20)
        eventually(lambda: digests.unacknowledged() == 0, what="its acknowledgement", timeout=20)
        streams.js.request("STREAM.DELETE.KV_ALARM_DELIVERED")
        digests.publish("ada", "two")
        eventually(lambda: len(web.of("ada")) == 2, what="the second", timeout=20)
        eventually(
            lambda: (found := streams.js.stream_info("KV_ALARM_DELIVERED")) and found.messages == 1,
            what="its record",
            timeout=20,
        )
        eventually(lambda: digests.unacknowledged() == 0, what="its acknowledgement", timeout=20)
