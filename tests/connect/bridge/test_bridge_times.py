"""The latest state of an alarm is its sender's, whatever is repeated or killed, through two bridges
by turns, too."""

from __future__ import annotations

import http.client
import random
import threading
import time
from contextlib import suppress

import pytest
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.nats_server import HOST, NatsServer, free_port

pytestmark = pytest.mark.bridge


def fired(server: NatsServer, *bridges: BridgeProcess, kill: bool) -> None:
    """Fire, resolve, fire with the same startsAt, each to another bridge."""
    streams = Streams(server, create=False)
    steps = [
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
        alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z"),
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
    ]
    for number, step in enumerate(steps):
        bridge = bridges[number % len(bridges)]
        assert bridge.post("/alertmanager", webhook(step))[0] == 200
        newest = max(streams.events(), key=lambda one: one[3])
        assert newest[2] == ("CLEARED" if step["status"] == "resolved" else "WARNING")
        if kill:
            bridge.kill()
            bridge.start()
    events = streams.events()
    streams.close()
    assert [one[2] for one in events] == ["WARNING", "CLEARED", "WARNING"]
    assert max(events, key=lambda one: one[3])[2] == "WARNING"
    assert events[2][3] > "2026-11-28T10:05:00"


@pytest.mark.usefixtures("streams")
def test_flapping_is_right(server: NatsServer) -> None:
    with BridgeProcess(server.url) as bridge:
        fired(server, bridge, kill=False)
        samples = 'alarmdigest_bridge_times_replaced_total{why="fired_again"}'
        assert bridge.metric(samples) == 1


@pytest.mark.usefixtures("streams")
def test_flapping_is_right_through_a_bridge_that_is_killed(server: NatsServer) -> None:
    with BridgeProcess(server.url) as bridge:
        fired(server, bridge, kill=True)


@pytest.mark.usefixtures("streams")
def test_flapping_is_right_through_bridges_that_take_turns(server: NatsServer) -> None:
    with BridgeProcess(server.url) as one, BridgeProcess(server.url) as other:
        fired(server, one, other, kill=False)


def test_a_bridge_reads_what_many_others_have_remembered(
    server: NatsServer, streams: Streams
) -> None:
    """More than it asks for one by one."""
    with BridgeProcess(server.url) as one:
        cleared = [
            alert(f"A{n}", user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z")
            for n in range(3000)
        ]
        assert one.post("/alertmanager", webhook(*cleared))[0] == 200
        with BridgeProcess(server.url) as other:
            assert other.metric("alarmdigest_bridge_remembered") == 3000
            assert one.post("/alertmanager", webhook(*[cleared[0]]))[0] == 200
            again = alert("A2999", user="ada", starts_at="2026-11-28T10:00:00Z")
            assert other.post("/alertmanager", webhook(again))[0] == 200
    assert streams.events()[-1][3] > "2026-11-28T10:05:00"


def test_what_could_not_be_remembered_is_not_taken_for_remembered(
    server: NatsServer, streams: Streams
) -> None:
    """The bucket refuses the entry once; its sender repeats the request."""
    cleared = alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z")
    again = alert(user="ada", starts_at="2026-11-28T10:00:00Z")
    with BridgeProcess(server.url) as one, BridgeProcess(server.url) as other:
        config = streams.info("KV_ALARM_BRIDGE").config
        streams.js.request("STREAM.UPDATE.KV_ALARM_BRIDGE", {**config, "max_msg_size": 1})
        assert one.post("/alertmanager", webhook(cleared))[0] == 503
        assert streams.info("ALARMS").messages == 0
        streams.js.request("STREAM.UPDATE.KV_ALARM_BRIDGE", config)
        assert one.post("/alertmanager", webhook(cleared))[0] == 200
        assert streams.info("KV_ALARM_BRIDGE").messages == 1
        assert other.post("/alertmanager", webhook(again))[0] == 200
    assert max(streams.events(), key=lambda event: event[3])[2] == "WARNING"


def test_changes_without_times_keep_the_order_of_their_request(
    server: NatsServer, streams: Streams
) -> None:
    body = [{"name": "x", "user": "ada", "status": status} for status in ("critical", "resolved")]
    with BridgeProcess(server.url) as bridge:
        assert bridge.post("/alerts", body)[0] == 200
    assert max(streams.events(), key=lambda event: event[3])[2] == "CLEARED"


def test_changes_with_times_of_their_own_that_are_sent_twice_change_nothing(
    server: NatsServer, streams: Streams
) -> None:
    """As after an answer that was lost: the firing is not one that fires again."""
    body = [
        {"name": "x", "user": "ada", "status": status, "at": f"2026-11-28T10:00:0{second}Z"}
        for second, status in enumerate(("critical", "resolved", "warning", "resolved"))
    ]
    with BridgeProcess(server.url) as bridge:
        for _ in range(2):
            assert bridge.post("/alerts", body)[0] == 200
    assert streams.info("ALARMS").messages == 4
    assert max(streams.events(), key=lambda event: event[3])[2] == "CLEARED"


class Sender:
    """One that repeats until it hears 200, as Alertmanager does. ``firing`` is the truth."""

    def __init__(self, name: str, bridges: list[BridgeProcess], seed: int) -> None:
        self.name = name
        self.firing = False
        self.resolved_at = self.began_at = 0.0
        self.sent = 0
        self._bridges = bridges
        self._dice = random.Random(seed)

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            self.step()

    def step(self) -> None:
        if not self.firing:
            self.firing = True
            if self._dice.random() < 0.5 or not self.began_at:
                self.began_at = time.time()
        elif self._dice.random() < 0.7:
            self.firing, self.resolved_at = False, time.time()
        status = "firing" if self.firing else "resolved"
        body = webhook(
            alert(
                self.name,
                status=status,
                starts_at=rfc3339(self.began_at),
                ends_at="0001-01-01T00:00:00Z" if self.firing else rfc3339(self.resolved_at),
                user="u",
            )
        )
        while True:
            with suppress(OSError, ValueError, AssertionError, http.client.HTTPException):
                if (
                    self._dice.choice(self._bridges).post("/alertmanager", body, timeout=3)[0]
                    == 200
                ):
                    self.sent += 1
                    return
            time.sleep(0.02)


def rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"


@pytest.mark.timeout(300)
def test_bridges_and_servers_are_killed_again_and_again_and_nothing_is_lost(
    server: NatsServer, streams: Streams
) -> None:
    """Several senders, two bridges by turns. At the end the latest state of each alarm, by the
    rule of the service, is that of its sender."""
    ports = [free_port(), free_port()]
    with (
        BridgeProcess(server.url, listen=f"{HOST}:{ports[0]}") as one,
        BridgeProcess(server.url, listen=f"{HOST}:{ports[1]}") as other,
    ):
        bridges = [one, other]
        senders = [Sender(f"A{n}", bridges, seed=n) for n in range(6)]
        until = time.monotonic() + 20
        threads = [threading.Thread(target=sender.run, args=(until,)) for sender in senders]
        for thread in threads:
            thread.start()
        dice, kills = random.Random(5), 0
        while time.monotonic() < until - 2:
            time.sleep(dice.uniform(0.2, 1.2))
            if dice.random() < 0.2:
                server.kill()
                server.start()
            else:
                bridge = dice.choice(bridges)
                bridge.kill()
                bridge.start(ready=False)
            kills += 1
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), f"{one.log}\n{other.log}"
    assert kills > 10
    assert sum(sender.sent for sender in senders) > 100
    streams.close()
    after = Streams(server, create=False)
    rank = {"CLEARED": 0, "WARNING": 1, "CRITICAL": 2}
    for sender in senders:
        events = [
            (changed_at, rank[status])
            for _user, name, status, changed_at in after.events()
            if name == f'{sender.name}{{user="u"}}'
        ]
        assert max(events)[1] == int(sender.firing), (sender.name, sorted(events)[-4:])
    after.close()
