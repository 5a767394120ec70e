"""Every field that a stream can be configured with, on a real server: what we say of it, and that
the remedy mends it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support.jetstream import asking, delete_streams, info_of
from support.nats_server import NatsServer
from support.paths import ROOT
from support.wait import eventually

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamError, StreamConflict
from alarmdigest.nats.group_rules import GROUP_RULES
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.stream_configs import (
    Limits,
    StreamConfig,
    StreamConfigs,
    make_stream_configs,
)
from alarmdigest.nats.stream_fields import FINE, KNOWN, table, unknown_fields
from alarmdigest.nats.stream_questions import Seen
from alarmdigest.nats.stream_rules import RULES, SMALLEST_DIGEST_BYTES, check
from alarmdigest.nats.streams import ensure_stream, examine, findings
from alarmdigest.settings import HEADER_ROOM_BYTES, MIN_SPLIT_BYTES

DOCUMENT = ROOT / "docs/streams.md"
SECOND_NS = 10**9
PLANS = make_stream_configs(replicas=1)
NATS_TOOL = os.environ.get("NATS_TOOL") or shutil.which("nats")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    with asking(server.url) as opened:
        delete_streams(server, opened)
        yield opened


def plan_of(role: str, found: StreamConfigs = PLANS) -> StreamConfig:
    return next(plan for plan in found if plan.role == role)


#: A server that is still busy with deleting the one before it cannot make its folder.
STILL_DELETING = 10049


def create(js: JetStream, config: dict[str, Any]) -> StreamInfo:
    deadline = time.monotonic() + 10
    while True:
        try:
            return js.create_stream(config)
        except JetStreamError as error:
            if error.err_code != STILL_DELETING or time.monotonic() > deadline:
                raise


def make(js: JetStream, role: str, config: dict[str, Any]) -> StreamInfo:
    """The stream of this role as we would make it, but for these fields."""
    plan = plan_of(role)
    wanted = {**plan.api_config(), **config}
    # A sealed stream cannot be made, only edited to be one.
    sealed = wanted.pop("sealed", False)
    info = create(js, wanted)
    if sealed:
        js.request(f"STREAM.UPDATE.{plan.name}", {**info.config, "sealed": True})
    return info_of(js, plan.name)


class Row(NamedTuple):
    role: str
    field: str
    config: dict[str, Any]
    verdict: str | None = None

    @property
    def text(self) -> str:
        return f"{self.role} {self.config}"[:90]


def src(source: str, destination: str) -> dict[str, Any]:
    return {"subject_transform": {"src": source, "dest": destination}}


def republish(source: str, destination: str) -> dict[str, Any]:
    return {"republish": {"src": source, "dest": destination}}


def sourced(source: str, destination: str) -> dict[str, Any]:
    transforms = [{"src": source, "dest": destination}]
    return {"sources": [{"name": "OTHER", "subject_transforms": transforms}]}


EVERYWHERE = ("alarms", "digests", "rejected")
BOTH = ("alarms", "digests")
MIRROR = {"subjects": [], "mirror": {"name": "ORIGIN"}, "duplicate_window": 0}
DAY_NS = 86_400 * SECOND_NS

REFUSED = [
    *(Row(role, "mirror", MIRROR, "refuses") for role in EVERYWHERE),
    *(Row(role, "retention", {"retention": "interest"}, "refuses") for role in EVERYWHERE),
    *(Row(role, "retention", {"retention": "workqueue"}, "refuses") for role in EVERYWHERE),
    *(Row(role, "no_ack", {"no_ack": True}, "refuses") for role in EVERYWHERE),
    *(Row(role, "sealed", {"sealed": True}, "refuses") for role in EVERYWHERE),
    *(
        Row(role, "allow_msg_counter", {"allow_msg_counter": True}, "refuses")
        for role in EVERYWHERE
    ),
    # Events elsewhere, requests elsewhere, all elsewhere, and one as the other.
    Row("alarms", "subject_transform", src("AlarmStatusChanged", "x"), "refuses"),
    Row("alarms", "subject_transform", src("AlarmStatusChanged.>", "x.>"), "refuses"),
    Row("alarms", "subject_transform", src("SendAlarmDigest.*", "x.{{wildcard(1)}}"), "refuses"),
    Row("alarms", "subject_transform", src(">", "x.>"), "refuses"),
    Row("alarms", "subject_transform", src("", "x.>"), "refuses"),
    Row("alarms", "subject_transform", src("AlarmStatusChanged.>", "SendAlarmDigest.>"), "refuses"),
    Row(
        "alarms",
        "subject_transform",
        src("*.*", "{{wildcard(2)}}.{{wildcard(1)}}"),
        "refuses",
    ),
    Row("alarms", "sources", sourced("AlarmStatusChanged.>", "x.>"), "refuses"),
    Row("digests", "republish", republish("AlarmDigest", "AlarmStatusChanged"), "refuses"),
    Row("digests", "republish", republish("*", "SendAlarmDigest.{{wildcard(1)}}"), "refuses"),
    Row("rejected", "republish", republish(">", "AlarmStatusChanged.>"), "refuses"),
    Row("alarms", "max_msgs_per_subject", {"max_msgs_per_subject": 1}, "refuses"),
    Row("alarms", "max_msgs_per_subject", {"max_msgs_per_subject": 999}, "refuses"),
    Row(
        "alarms",
        "discard_new_per_subject",
        {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True},
        "refuses",
    ),
    Row("alarms", "max_msgs_per_subject", {"max_msgs_per_subject": 1, "discard": "new"}, "refuses"),
    Row("digests", "max_msgs_per_subject", {"max_msgs_per_subject": 1}, "refuses"),
    Row("alarms", "max_msg_size", {"max_msg_size": 100}, "refuses"),
    Row("digests", "max_msg_size", {"max_msg_size": SMALLEST_DIGEST_BYTES - 1}, "refuses"),
]
WARNED = [
    Row("digests", "subject_transform", src("AlarmDigest", "digests.sent"), "warns"),
    Row("rejected", "subject_transform", src(">", "x.>"), "warns"),
    Row("alarms", "republish", republish("SendAlarmDigest", "AlarmDigest"), "warns"),
    Row("digests", "republish", republish("AlarmDigest", "AlarmRejected"), "warns"),
    Row("rejected", "republish", republish("AlarmRejected", "AlarmDigest"), "warns"),
    Row("alarms", "max_msgs", {"max_msgs": 10}, "warns"),
    Row("digests", "max_msgs", {"max_msgs": 10}, "warns"),
    Row("alarms", "max_msgs_per_subject", {"max_msgs_per_subject": 1000}, "warns"),
    Row("digests", "max_msgs_per_subject", {"max_msgs_per_subject": 1000}, "warns"),
    *(Row(role, "max_bytes", {"max_bytes": 10**6}, "warns") for role in BOTH),
    *(
        Row("alarms", "discard", {"discard": "new", **limit}, "warns")
        for limit in (
            {"max_msgs": 10**9},
            {"max_bytes": 10**9},
            {"max_msgs_per_subject": 10**9},
            {"max_msgs_per_subject": 10**9, "discard_new_per_subject": True},
        )
    ),
    *(
        Row(
            role,
            "max_age",
            {"max_age": 60 * SECOND_NS, "duplicate_window": 60 * SECOND_NS},
            "warns",
        )
        for role in BOTH
    ),
    Row("alarms", "max_msg_size", {"max_msg_size": 1000}, "warns"),
    Row("rejected", "max_msg_size", {"max_msg_size": 1000}, "warns"),
    *(Row(role, "storage", {"storage": "memory"}, "warns") for role in BOTH),
    *(Row(role, "persist_mode", {"persist_mode": "async"}, "warns") for role in BOTH),
    Row("digests", "duplicate_window", {"duplicate_window": SECOND_NS}, "warns"),
    *(Row(role, "allow_rollup_hdrs", {"allow_rollup_hdrs": True}, "warns") for role in BOTH),
    *(
        Row(role, "subject_delete_marker_ttl", {"subject_delete_marker_ttl": SECOND_NS}, "warns")
        for role in BOTH
    ),
]
# What nobody need know of.
LIVED_WITH = [
    *(
        Row(role, field, {field: value})
        for role in EVERYWHERE
        for field, value in (
            ("description", "alarms of the north"),
            ("metadata", {"team": "north"}),
            ("compression", "s2"),
            ("first_seq", 1000),
            ("placement", {"cluster": ""}),
            ("allow_direct", True),
            ("mirror_direct", False),
            ("deny_delete", True),
            ("deny_purge", True),
            ("allow_msg_ttl", True),
            ("allow_atomic", True),
            ("allow_batched", True),
            ("consumer_limits", {"inactive_threshold": SECOND_NS, "max_ack_pending": 1}),
            ("max_consumers", 1),
        )
    ),
    *(Row("rejected", field, {field: 10}) for field in ("max_msgs", "max_msgs_per_subject")),
    Row("alarms", "duplicate_window", {"duplicate_window": SECOND_NS}),
    Row("alarms", "max_msgs", {"max_msgs": 10**6}),
    Row("alarms", "max_age", {"max_age": 0}),
    Row(
        "alarms",
        "subjects",
        {"subjects": ["*", "AlarmStatusChanged.>", "SendAlarmDigest.>", "ForgetUser.>"]},
    ),
    Row("digests", "subjects", {"subjects": ["AlarmDigest", "x"]}),
    Row("digests", "discard", {"discard": "new", "max_msgs": 10}),
    Row(
        "digests",
        "discard_new_per_subject",
        {"discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 10},
    ),
    Row("alarms", "subject_transform", src("AlarmStatusChanged.>", "AlarmStatusChanged.x.>")),
    Row(
        "alarms",
        "subject_transform",
        src("SendAlarmDigest.*", "SendAlarmDigest.{{partition(10,1)}}.{{wildcard(1)}}"),
    ),
    Row("alarms", "subject_transform", src("other.>", "x.>")),
    Row("alarms", "subject_transform", src("legacy.*", "AlarmStatusChanged.{{wildcard(1)}}")),
    Row("digests", "subject_transform", src("other.>", "x.>")),
    Row("alarms", "sources", {"sources": [{"name": "OTHER"}]}),
    Row("alarms", "sources", sourced("other.>", "AlarmStatusChanged.>")),
    Row("digests", "sources", sourced("AlarmStatusChanged.>", "x.>")),
    Row("alarms", "republish", republish(">", "copies.>")),
    Row("digests", "republish", republish(">", "copies.>")),
    Row("alarms", "allow_msg_schedules", {"allow_msg_schedules": True}),
    Row("digests", "max_msg_size", {"max_msg_size": SMALLEST_DIGEST_BYTES}),
]


def recreated(js: JetStream, plan: StreamConfig) -> bool:
    try:
        return ensure_stream(js, plan, create=True) is not None
    except JetStreamError as error:
        # The server is still busy with the deletion.
        return error.err_code != 10049


def found_in(js: JetStream, row: Row) -> dict[str, tuple[str, str]]:
    plan = plan_of(row.role)
    return {
        one.field: (one.verdict, one.text) for one in findings(js, plan, info_of(js, plan.name))
    }


@pytest.mark.parametrize("row", REFUSED + WARNED, ids=lambda row: row.text)
def test_what_is_wrong_or_unwise_is_named_and_its_remedy_mends_it(
    server: NatsServer, js: JetStream, row: Row
) -> None:
    plan = plan_of(row.role)
    info = make(js, row.role, row.config)
    verdict, text = found_in(js, row)[row.field]
    assert verdict == row.verdict
    assert text.startswith(f"stream {plan.name} has {row.field} ")
    assert ": " in text
    assert plan.name in text.rpartition(": ")[2]
    [rule, *_] = [
        one
        for one in RULES
        if one.field == row.field
        and row.role in one.roles
        and one.verdict == verdict
        and one.applies(Seen(info.config, plan))
    ]
    if verdict == "refuses":
        with pytest.raises(StreamConflict) as conflict:
            ensure_stream(js, plan, create=True)
        assert text in str(conflict.value)
    if rule.change is None:
        # Deleting it is the remedy that always works.
        delete_streams(server, js)
        eventually(lambda: recreated(js, plan), what="the stream to be recreated")
        return
    js.request(f"STREAM.UPDATE.{plan.name}", {**info.config, **rule.change})
    assert row.field not in found_in(js, row)


@pytest.mark.parametrize("row", LIVED_WITH, ids=lambda row: row.text)
def test_what_we_live_with_is_not_mentioned(js: JetStream, row: Row) -> None:
    info = make(js, row.role, row.config)
    assert row.field in info.config or row.field in ("placement", "mirror_direct", "max_age")
    found = found_in(js, row)
    assert row.field not in found
    # Schedules and markers need roll-ups, and the server turns them on.
    assert set(found) <= {"allow_rollup_hdrs"}


def test_every_rule_and_every_field_has_a_row() -> None:
    tried = {(row.role, row.field, row.verdict) for row in REFUSED + WARNED}
    # Of these the server must be asked for, or must be, something special: see below.
    own = {"num_replicas", "max_consumers", "allow_atomic"}
    for rule in RULES:
        if rule.field not in own and rule not in GROUP_RULES:
            for role in rule.roles:
                assert (role, rule.field, rule.verdict) in tried
    fields = {row.field for row in REFUSED + WARNED + LIVED_WITH}
    assert set(FINE) - fields - own == {"name", "template_owner"}


def test_the_server_tells_no_field_that_no_rule_knows(js: JetStream) -> None:
    for role in EVERYWHERE:
        assert unknown_fields(make(js, role, {}).config) == []
    assert {rule.field for rule in RULES} <= KNOWN


def test_a_field_of_a_later_server_is_lived_with_and_told_once(
    js: JetStream, caplog: pytest.LogCaptureFixture
) -> None:
    info = make(js, "alarms", {})
    info.config["warp_factor"] = 9
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert findings(js, plan_of("alarms"), info) == []
    assert caplog.text.count("warp_factor") == 1


def test_streams_as_we_make_them_give_no_reason_to_complain(js: JetStream) -> None:
    for plan in PLANS:
        ensure_stream(js, plan, create=True)
    found = examine(js, PLANS, create=True)
    assert (found.problems, found.warnings, found.missing) == ([], [], [])


def test_limits_that_our_options_ask_for_are_no_reason_to_complain(js: JetStream) -> None:
    small = Limits(600 * SECOND_NS, 10**6)
    wanted = make_stream_configs(alarms=small, digests=small, rejected=small)
    for plan in wanted:
        ensure_stream(js, plan, create=True)
    found = examine(js, wanted, create=True)
    assert (found.problems, found.warnings) == ([], [])


def test_fewer_replicas_than_asked_for_are_told(js: JetStream) -> None:
    for plan in PLANS:
        ensure_stream(js, plan, create=True)
    texts = examine(js, make_stream_configs(replicas=3), create=True).warnings
    assert texts == [
        f"stream {plan.name} has num_replicas 1, and --stream-replicas asks for 3: "
        f"nats stream edit {plan.name} --replicas=3"
        for plan in PLANS
    ]


@pytest.mark.parametrize("role", BOTH)
def test_a_stream_that_has_as_many_consumers_as_it_may_is_told(js: JetStream, role: str) -> None:
    row = Row(role, "max_consumers", {"max_consumers": 1})
    make(js, role, row.config)
    js.request(
        f"CONSUMER.CREATE.{plan_of(role).name}.other",
        {"stream_name": plan_of(role).name, "config": {"name": "other", "ack_policy": "none"}},
    )
    verdict, text = found_in(js, row)["max_consumers"]
    assert verdict == "warns"
    assert "nats consumer rm" in text


def test_digests_that_are_kept_for_less_time_than_their_requests_are_told(js: JetStream) -> None:
    for alarms, digests, told in (
        (7 * DAY_NS, DAY_NS, True),
        (0, DAY_NS, True),
        (DAY_NS, 7 * DAY_NS, False),
        (DAY_NS, 0, False),
        (0, 0, False),
    ):
        # As planned, before any of them is there.
        wanted = make_stream_configs(alarms=Limits(alarms), digests=Limits(digests))
        assert bool(examine(js, wanted, create=True).warnings) is told
    make(js, "alarms", {})
    make(js, "digests", {"max_age": DAY_NS})
    [text] = examine(js, PLANS, create=True).warnings
    assert "stream ALARM_DIGESTS has max_age 1d, less than" in text
    assert text.endswith("nats stream edit ALARM_DIGESTS --max-age=7d")


@pytest.mark.parametrize(
    ("mirror", "remedy"),
    [
        ({"name": "ORIGIN"}, "(--events-stream ORIGIN)"),
        (
            {"name": "ALARMS", "external": {"api": "$JS.hub.API", "deliver": ""}},
            "(--js-domain hub --events-stream ALARMS)",
        ),
        (
            {"name": "THEIRS", "external": {"api": "theirs.API", "deliver": "theirs.deliver"}},
            "(--events-stream THEIRS)",
        ),
    ],
    ids=["here", "another domain", "another account"],
)
def test_of_a_mirror_the_original_is_named(
    js: JetStream, mirror: dict[str, Any], remedy: str
) -> None:
    make(js, "alarms", {**MIRROR, "mirror": mirror})
    [finding] = findings(js, plan_of("alarms"), info_of(js, "ALARMS"))
    assert remedy in finding.text


def test_commands_are_those_of_the_domain(js: JetStream) -> None:
    wanted = make_stream_configs(domain="hub")
    make(js, "alarms", {"no_ack": True})
    make(js, "digests", {"subjects": ["x"]})
    make(js, "rejected", {"subjects": ["y"], "max_consumers": 1})
    texts = examine(js, wanted, create=True).problems
    assert len(texts) == 3
    for text in texts:
        assert "nats --js-domain hub stream edit" in text
        assert "nats stream" not in text


def test_all_that_is_wrong_is_said_at_once(js: JetStream) -> None:
    make(js, "alarms", {"no_ack": True, **src("AlarmStatusChanged", "x")})
    make(
        js, "digests", {"max_msgs_per_subject": 1, "max_age": 60 * SECOND_NS, "duplicate_window": 0}
    )
    found = examine(js, PLANS, create=False)
    assert [text.partition(", ")[0] for text in found.problems] == [
        "stream ALARMS has no_ack true",
        "stream ALARMS has subject_transform AlarmStatusChanged to x",
        "stream ALARM_DIGESTS has max_msgs_per_subject 1",
        "there is no stream ALARM_REJECTED",
    ]
    assert [text.partition(", ")[0] for text in found.warnings] == [
        "stream ALARM_DIGESTS has max_age 1m",
        "stream ALARM_DIGESTS has max_age 1m",
    ]


def test_the_smallest_digest_is_that_of_the_settings() -> None:
    assert SMALLEST_DIGEST_BYTES == MIN_SPLIT_BYTES + HEADER_ROOM_BYTES


def test_a_configuration_that_makes_no_sense_is_no_crash() -> None:
    values: tuple[Any, ...] = ("?", None, [], {}, 0, -1, True, [None], [{}], {"src": 7})
    for value in values:
        for plan in PLANS:
            check(Seen(dict.fromkeys(KNOWN, value), plan))


# -- the documentation, and the nats tool ----------------------------------------------------------


def test_the_documentation_has_the_table() -> None:
    """If not: python -m alarmdigest.nats.stream_fields prints its rows."""
    text = DOCUMENT.read_text("utf-8")
    documented = [line for line in text.splitlines() if line.startswith("| `")]
    wanted = table()
    assert [line for line in documented if line in wanted] == wanted


@pytest.mark.skipif(NATS_TOOL is None, reason="needs the nats tool; NATS_TOOL says where it is")
@pytest.mark.parametrize(
    "row",
    [row for row in REFUSED + WARNED if row.field not in ("mirror", "sources")],
    ids=lambda row: row.text,
)
def test_the_command_that_is_named_mends_it(server: NatsServer, js: JetStream, row: Row) -> None:
    make(js, row.role, row.config)
    _verdict, text = found_in(js, row)[row.field]
    command = text.rpartition(": ")[2]
    if not command.startswith("nats stream edit "):
        pytest.skip("it must be recreated")
    done = subprocess.run(
        [str(NATS_TOOL), "--server", server.url, *shlex.split(command)[1:], "--force"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert row.field not in found_in(js, row)


@pytest.mark.skipif(NATS_TOOL is None, reason="needs the nats tool; NATS_TOOL says where it is")
def test_the_streams_that_the_documentation_makes_are_ours(
    server: NatsServer, js: JetStream
) -> None:
    lines = DOCUMENT.read_text("utf-8").splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ nats stream add ")]
    assert len(commands) == len(PLANS)
    for plan, command in zip(PLANS, commands, strict=True):
        subprocess.run(
            [str(NATS_TOOL), "--server", server.url, *shlex.split(command)[1:]],
            check=True,
            timeout=30,
            stdout=subprocess.DEVNULL,
        )
        config = info_of(js, plan.name).config
        wanted = plan.api_config()
        assert {name: config[name] for name in wanted} == wanted
    found = examine(js, PLANS, create=False)
    assert (found.problems, found.warnings) == ([], [])
