"""Several JetStream domains: what a stream of another one stores, or refuses, is no answer."""

from __future__ import annotations

import pytest
from pipeline.test_domains import hub_and_leaf
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.wait import eventually

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.jetstream import JetStream

pytestmark = pytest.mark.bridge

CLEARED = webhook(alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z"))


@pytest.mark.parametrize("at_the_leaf", [False, True], ids=["at the hub", "at the leaf"])
def test_only_the_streams_of_its_domain_confirm(at_the_leaf: bool) -> None:
    with hub_and_leaf() as (hub, leaf):
        at_hub, at_leaf = Streams(hub), Streams(leaf)
        url = leaf.url if at_the_leaf else hub.url
        eventually(lambda: _reaches(leaf.url, "hub"), timeout=20, what="the other domain")
        with BridgeProcess(url, options=["--js-domain", "hub"]) as bridge:
            assert bridge.post("/alertmanager", CLEARED)[0] == 200
            assert at_hub.info("ALARMS").messages == 1
            for bucket in ("KV_ALARM_BRIDGE", "KV_ALARM_DETAILS"):
                assert at_hub.info(bucket).messages == 1
                assert at_leaf.js.stream_info(bucket) is None
            # The hub's stream refuses, the leaf's takes it.
            config = at_hub.info("ALARMS").config
            at_hub.js.request("STREAM.UPDATE.ALARMS", {**config, "max_msg_size": 1})
            assert bridge.post("/alertmanager", webhook(alert("A", user="ada")))[0] == 503
            # The other way round.
            at_hub.js.request("STREAM.UPDATE.ALARMS", config)
            config = at_leaf.info("ALARMS").config
            at_leaf.js.request("STREAM.UPDATE.ALARMS", {**config, "max_msg_size": 1})
            assert bridge.post("/alertmanager", webhook(alert("B", user="ada")))[0] == 200
        names = {one[1].partition("{")[0] for one in at_hub.events()}
        assert names == {"HighLatency", "B"}
        at_hub.close()
        at_leaf.close()


def _reaches(url: str, domain: str) -> bool:
    connection = Connection(url, name="test-domain")
    connection.connect()
    try:
        return JetStream(connection, domain=domain, timeout_s=1.0).available()
    finally:
        connection.close()
