"""The documents have every metric of deliver, and no other."""

from __future__ import annotations

import re

import pytest
from support.bridge import Streams
from support.deliver import DeliverProcess, routes
from support.nats_server import NatsServer
from support.paths import ROOT
from support.receivers import WebServer

pytestmark = pytest.mark.deliver


def test_every_metric_of_deliver_is_in_the_documentation_and_the_other_way_round(
    server: NatsServer, streams: Streams, web: WebServer
) -> None:
    assert streams.info("ALARM_DIGESTS").messages == 0
    with DeliverProcess(server.url, routes=routes({"web": web.url()})) as deliver:
        _status, text = deliver.http("/metrics")
    shown = {
        name.removesuffix("_bucket") if name.endswith("_bucket") else name
        for name in re.findall(r"^# TYPE (alarmdigest_\w+) (?!unknown)", text, re.MULTILINE)
        if not name.endswith("_created")
    }
    page = (ROOT / "docs/deliver.md").read_text("utf-8")
    assert shown == set(re.findall(r"^\| `(alarmdigest_\w+)`", page, re.MULTILINE))
