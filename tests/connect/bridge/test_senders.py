"""What each sender really posts, and what it becomes; nothing it may post is a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Rejection, UnreadableBody
from alarmdigest.connect.bridge.mapping import Alarm, Mapped, Mapper
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.senders import SENDERS, sender_of
from alarmdigest.wire.messages import MAX_ID_BYTES, REASONS, read_event

PAYLOADS = Path(__file__).parent / "payloads"


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text("utf-8"))


def read(sender: str, body: Any, **extra: str) -> list[Alert | Rejection | NoAlarm]:
    return list(SENDERS[sender](body, extra))


def mapped(sender: str, body: Any, **extra: str) -> list[Mapped]:
    mapper = Mapper(Rules())
    return [
        one
        for found in read(sender, body, **extra)
        for one in (mapper.map(found) if isinstance(found, Alert) else (found,))
    ]


def alarm(sender: str, body: Any, **extra: str) -> Alarm:
    [found] = mapped(sender, body, **extra)
    assert isinstance(found, Alarm), found
    return found


def text(alarm: Alarm) -> tuple[str, str, str]:
    return alarm.user_id, alarm.alarm_id, alarm.status


def test_alertmanager_0_25() -> None:
    """Recorded from Debian's package: an alert that fires, and then is resolved."""
    firing = alarm("alertmanager", payload("alertmanager-0.25.0-firing"))
    resolved = alarm("alertmanager", payload("alertmanager-0.25.0-resolved"))
    assert firing.user_id == resolved.user_id == "ada"
    assert firing.alarm_id == resolved.alarm_id
    assert firing.alarm_id.startswith('ServiceDown{instance="127.0.0.1:')
    assert firing.alarm_id.endswith('",job="ours",severity="critical",team="ada"}')
    assert (firing.status, resolved.status) == ("CRITICAL", "CLEARED")
    assert 0 < firing.time_ns < resolved.time_ns
    assert firing.details is not None
    details = json.loads(firing.details)
    assert details["summary"].endswith(" is down")
    assert details["links"]["runbook"] == "https://wiki.example.com/down"
    assert details["links"]["source"].startswith("http://monitor:")
    assert (
        "#/silences/new?filter=%7Balertname%3D%22ServiceDown%22%2C" in details["links"]["silence"]
    )


def test_grafana_as_documented() -> None:
    memory, no_data = mapped("grafana", payload("grafana-documented"))
    assert isinstance(memory, Alarm)
    assert isinstance(no_data, Alarm)
    assert text(memory) == (
        "blue",
        'High memory usage{grafana_folder="servers",severity="warning",team="blue",zone="us-1"}',
        "WARNING",
    )
    assert text(no_data) == ("blue", 'DatasourceNoData{rulename="High CPU",team="blue"}', "CLEARED")
    assert memory.time_ns == 1_791_791_463_157_076_000  # 07:51:03 UTC
    assert memory.details is not None
    links = json.loads(memory.details)["links"]
    assert set(links) == {"silence", "dashboard", "panel", "source", "runbook"}


def test_grafanas_test_message_is_no_alarm() -> None:
    body = payload("grafana-documented")
    body["alerts"] = [
        {**body["alerts"][0], "labels": {"alertname": "TestAlert", "instance": "Grafana"}}
    ]
    assert mapped("grafana", body) == [NoAlarm("test")]


def test_netdata_cloud_as_documented() -> None:
    critical, clear, unreachable, token = (
        mapped("netdata-cloud", body, user="ada")[0] for body in payload("netdata-cloud-documented")
    )
    assert isinstance(critical, Alarm)
    assert isinstance(clear, Alarm)
    assert isinstance(unreachable, Alarm)
    name = (
        '10min_cpu_usage{chart="system.cpu",context="system.cpu",family="cpu",space="production"}'
    )
    assert text(critical) == ("ada", name, "CRITICAL")
    assert text(clear) == ("ada", name, "CLEARED")
    assert clear.time_ns - critical.time_ns == 600 * 10**9
    assert text(unreachable) == ("ada", 'node unreachable{host="web1"}', "CRITICAL")
    assert unreachable.time_ns == 0  # it has no date: the time of receipt
    assert token == NoAlarm("test")


NETDATA = {
    "netdata": 1,
    "user": "ops,ada",
    "name": "disk_full",
    "chart": "disk_space._",
    "host": "web1",
    "family": "/",
    "status": "WARNING",
    "when": "1795860600",
    "event_id": "17",
    "value_string": "91%",
    "info": "the disk is full",
    "goto_url": "https://registry/goto",
}


def test_the_netdata_agent() -> None:
    first, second = mapped("netdata", NETDATA)
    assert isinstance(first, Alarm)
    assert isinstance(second, Alarm)
    name = 'disk_full{chart="disk_space._",family="/",host="web1"}'
    assert text(first) == ("ops", name, "WARNING")
    assert text(second) == ("ada", name, "WARNING")
    assert first.details is not None
    assert json.loads(first.details)["summary"] == "disk full = 91%"


def test_what_the_script_of_netdata_1_37_hands_to_our_sender() -> None:
    """Recorded: alarm-notify.sh of Debian's package, with deploy/netdata/alarmdigest.sh."""
    warning, cleared = (
        [one for one in mapped("netdata", body) if isinstance(one, Alarm)]
        for body in payload("netdata-1.37.1")
    )
    name = 'disk_space_usage{chart="disk_space._",family="/",host="web1"}'
    assert [one.user_id for one in cleared] == ["ops"]
    assert {one.alarm_id for one in (*warning, *cleared)} == {name}
    assert {one.status for one in warning} == {"WARNING"}
    assert {one.status for one in cleared} == {"CLEARED"}
    assert warning[0].time_ns < cleared[0].time_ns
    assert warning[0].details is not None
    details = json.loads(warning[0].details)
    assert details["summary"] == "disk space usage = 91.2%"
    assert details["description"] == "disk / space utilization"
    assert details["links"]["source"].startswith("https://registry.my-netdata.io/goto-host")


def test_within_one_second_netdatas_events_keep_their_order() -> None:
    """WARNING and CLEAR of one second: by the rule for equal times the WARNING would win."""
    warning = mapped("netdata", {**NETDATA, "event_id": "17"})[0]
    clear = mapped("netdata", {**NETDATA, "status": "CLEAR", "event_id": "18"})[0]
    assert isinstance(warning, Alarm)
    assert isinstance(clear, Alarm)
    assert clear.time_ns > warning.time_ns


@pytest.mark.parametrize(
    ("status", "becomes"), [("CLEAR", "CLEARED"), ("REMOVED", "CLEARED"), ("CRITICAL", "CRITICAL")]
)
def test_netdatas_states(status: str, becomes: str) -> None:
    found = mapped("netdata", {**NETDATA, "user": "ops", "status": status})
    assert [one.status for one in found if isinstance(one, Alarm)] == [becomes]


@pytest.mark.parametrize("status", ["UNINITIALIZED", "UNDEFINED"])
def test_what_netdata_does_not_know_is_no_alarm(status: str) -> None:
    assert mapped("netdata", {**NETDATA, "status": status}) == [NoAlarm(status.lower())]


def test_the_format_of_ones_own() -> None:
    body = {
        "name": "Backup failed",
        "status": "critical",
        "user": "ada",
        "labels": {"host": "db1", "tries": 3, "weekly": True},
        "at": 1_795_860_600.5,
        "summary": "no backup since Monday",
        "links": {"log": "https://logs.example.com/1", "evil": "javascript:alert(1)"},
    }
    found = alarm("alerts", body)
    assert text(found) == (
        "ada",
        'Backup failed{host="db1",tries="3",weekly="true"}',
        "CRITICAL",
    )
    assert found.time_ns == 1_795_860_600_500_000_000
    assert found.details is not None
    assert json.loads(found.details)["links"] == {"log": "https://logs.example.com/1"}
    assert alarm("alerts", [{**body, "status": "ok"}]).status == "CLEARED"
    assert alarm("alerts", {"alerts": [{**body, "status": "firing"}]}).status == "WARNING"


def test_the_address_of_a_request_may_name_the_user() -> None:
    """It names whose alerts they are, and is no part of their names."""
    body = payload("alertmanager-0.25.0-firing")
    del body["alerts"][0]["labels"]["team"]
    found = alarm("alertmanager", body, user="bob")
    assert found.user_id == "bob"
    assert "bob" not in found.alarm_id


@pytest.mark.parametrize(
    ("sender", "body"),
    [
        ("alertmanager", []),
        ("alertmanager", {}),
        ("alertmanager", {"alerts": {}}),
        ("alertmanager", {"alerts": [], "version": "5"}),
        ("grafana", "text"),
        ("netdata", {"name": "x"}),
        ("netdata", []),
        ("netdata", [1]),
        ("netdata-cloud", {}),
        ("netdata-cloud", []),
        ("alerts", 7),
        ("alerts", None),
        ("alerts", {"alerts": "many"}),
    ],
)
def test_a_body_that_is_not_the_senders_is_unreadable_as_a_whole(sender: str, body: Any) -> None:
    with pytest.raises(UnreadableBody):
        read(sender, body)


NESTED: list[Any] = []
for _ in range(300):  # orjson reads this, and does not write it
    NESTED = [NESTED]


def alertmanagers(**changed: Any) -> dict[str, Any]:
    body = payload("alertmanager-0.25.0-firing")
    body["alerts"] = [{**body["alerts"][0], **changed}, *body["alerts"]]
    return dict(body)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"status": "pending"}, "status"),
        ({"status": None}, "status"),
        ({"labels": {}}, "schema"),
        ({"labels": None}, "schema"),
        ({"labels": []}, "schema"),
        ({"labels": {"alertname": None}}, "schema"),
        ({"annotations": "text"}, "schema"),
        ({"labels": {"alertname": "x", "team": "u" * 2000}}, "too_long"),
        ({"labels": {"alertname": "x", "team": ",".join(map(str, range(101)))}}, "too_long"),
        ({"status": "x", "values": NESTED}, "status"),
    ],
)
def test_one_unreadable_alert_does_not_spoil_the_others(
    changed: dict[str, Any], reason: str
) -> None:
    bad, good = mapped("alertmanager", alertmanagers(**changed))
    assert isinstance(bad, Rejection)
    assert bad.reason == reason
    assert bad.detail
    assert json.loads(bad.body)
    assert isinstance(good, Alarm)


@pytest.mark.parametrize(
    "time",
    [
        "0001-01-01T00:00:00Z",
        "",
        None,
        5,
        [],
        "yesterday",
        "2026-13-01T00:00:00Z",
        "1500-01-01T00:00:00Z",
    ],
)
def test_a_time_that_says_nothing_is_none(time: Any) -> None:
    first, _second = mapped("alertmanager", alertmanagers(startsAt=time))
    assert isinstance(first, Alarm)
    assert first.time_ns == 0


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_severity_is_none(empty: str) -> None:
    first, _ = mapped("alertmanager", alertmanagers(labels={"alertname": "x", "severity": empty}))
    assert isinstance(first, Alarm)
    assert first.status == "WARNING"


@pytest.mark.parametrize(
    ("name", "sender"),
    [
        ("alertmanager-0.25.0-firing", "alertmanager"),
        ("grafana-documented", "grafana"),
    ],
)
def test_a_payload_is_known_by_its_look(name: str, sender: str) -> None:
    assert sender_of(payload(name)) == sender


def test_the_others_are_known_by_their_look() -> None:
    assert {sender_of(one) for one in payload("netdata-cloud-documented")} == {"netdata-cloud"}
    assert sender_of(NETDATA) == "netdata"
    assert sender_of({"name": "x", "status": "firing"}) == "alerts"
    assert sender_of([]) == "alerts"


def test_what_the_sender_has_left_out_is_counted() -> None:
    body = {**payload("alertmanager-0.25.0-firing"), "truncatedAlerts": 3}
    assert mapped("alertmanager", body)[1:] == [NoAlarm("truncated", 3)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.sampled_from(["firing", "resolved", "critical", "clear", "CLEAR"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            [
                *("alerts", "status", "labels", "annotations", "startsAt", "endsAt", "version"),
                *("netdata", "name", "when", "event_id", "alert", "severity", "date", "Rooms"),
                *("host", "user", "at", "links", "message", "receiver", "externalURL", "alertname"),
            ]
        ),
        inner,
        max_size=8,
    ),
    max_leaves=20,
)  # fmt: skip


@given(body=JSON, sender=st.sampled_from(sorted(SENDERS)))
def test_whatever_is_posted_becomes_messages_that_the_service_takes(body: Any, sender: str) -> None:
    try:
        found = mapped(sender, orjson.loads(orjson.dumps(body)))
    except UnreadableBody:
        return
    for one in found:
        if isinstance(one, Alarm):
            event = {
                "AlarmID": one.alarm_id,
                "UserID": one.user_id,
                "Status": one.status,
                "ChangedAt": "2026-01-01T00:00:00Z",
            }
            read_event(orjson.dumps(event))  # else it would be rejected
            assert len(one.alarm_id.encode()) <= MAX_ID_BYTES
            assert one.time_ns >= 0
        elif isinstance(one, Rejection):
            assert one.reason in REASONS
            assert "\n" not in one.detail


@pytest.mark.parametrize(
    "value", ["", "plain", "a b", "\u0000", "\ud7ff", "ü", "\U0001f514" * 300, 'q"\\\n']
)
def test_any_text_may_be_a_label(value: str) -> None:
    first, _ = mapped(
        "alertmanager", alertmanagers(labels={"alertname": "x", "l": value, "m": "n"})
    )
    assert isinstance(first, Alarm)
    assert first.alarm_id.startswith("x{l=")
    assert first.details is not None
    assert json.loads(first.details)["AlarmID"] == first.alarm_id
