"""What streams must be where replicas of a group use them, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.jetstream import asking, delete_streams, info_of
from support.nats_server import NatsServer

from alarmdigest.nats.errors import StreamConflict
from alarmdigest.nats.group_rules import GROUP_RULES
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.stream_configs import StreamConfig, make_stream_configs
from alarmdigest.nats.streams import ensure_stream, findings

OF_A_GROUP = make_stream_configs(leader_subject="AlarmDigestLeader.mail")
ALONE = make_stream_configs()
TRANSFORM = {"subject_transform": {"src": "AlarmDigestLeader.>", "dest": "elsewhere.>"}}
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("digests", "allow_atomic", {"allow_atomic": False}),
    ("digests", "subject_transform", TRANSFORM),
    ("alarms", "max_msgs_per_subject", {"max_msgs_per_subject": 1_000_000}),
    ("alarms", "allow_msg_ttl", {"allow_msg_ttl": True}),
    ("alarms", "allow_rollup_hdrs", {"allow_rollup_hdrs": True}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    with asking(server.url) as opened:
        delete_streams(server, opened)
        yield opened


def refused(js: JetStream, plan: StreamConfig) -> set[str]:
    found = findings(js, plan, info_of(js, plan.name))
    return {one.field for one in found if one.verdict == "refuses"}


@pytest.mark.parametrize(("role", "field", "config"), ROWS, ids=lambda part: str(part)[:40])
def test_what_a_group_cannot_use_is_refused_and_its_remedy_mends_it(
    js: JetStream, role: str, field: str, config: dict[str, Any]
) -> None:
    [plan] = [one for one in OF_A_GROUP if one.role == role]
    js.create_stream({**plan.api_config(), **config})
    assert refused(js, plan) == {field}
    with pytest.raises(StreamConflict, match=f"has {field} "):
        ensure_stream(js, plan, create=True)
    [alone] = [one for one in ALONE if one.role == role]
    assert refused(js, alone) == set()
    [rule] = [one for one in GROUP_RULES if one.field == field and role in one.roles]
    if rule.change is not None:
        js.request(f"STREAM.UPDATE.{plan.name}", {**info_of(js, plan.name).config, **rule.change})
        assert refused(js, plan) == set()


def test_every_rule_has_a_row() -> None:
    tried = {(role, field) for role, field, _config in ROWS}
    assert {(role, rule.field) for rule in GROUP_RULES for role in rule.roles} == tried
