"""Settings: flags over environment over defaults; what cannot be used is said by name."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations
from pathlib import Path

import pytest

from alarmdigest import settings as module
from alarmdigest.cli.main import main
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Duration, HttpAddress, Settings, SettingsError, read_settings

MS = 10**6
S = 10**9
MIB = 2**20


def read(**texts: str) -> Settings:
    return read_settings(texts, {}).settings


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# -- servers ---------------------------------------------------------------------------------------


def test_a_comma_in_a_password_separates_nothing() -> None:
    one = "nats://svc:pa,ss@a:4222"
    assert read(server=one).server == (one,)
    assert read(server=f"{one}, tls://b:4222").server == (one, "tls://b:4222")
    assert read(server=f"{one},b:1,{one}").server == (one, "nats://b:1", one)
    assert read(server="a, b:1").server == ("nats://a", "nats://b:1")


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        *[("15ms", 15 * MS), ("30s", 30 * S), ("10m", 600 * S), ("1h", 3600 * S)],
        ("7d", 604_800 * S),
        *[("1.5s", 1500 * MS), ("0.25ms", MS // 4), ("0s", 0), (" 1s ", S), ("007s", 7 * S)],
        *[("1.000000001s", S + 1), ("36500d", 36_500 * 86_400 * S)],
    ],
)
def test_a_duration_is_read(text: str, ns: int) -> None:
    assert module.duration(text) == ns
    assert read(clock_skew=text).clock_skew == ns


@pytest.mark.parametrize(
    "text", ["", "5", "5 s", "5S", "5us", "-5s", "1e3s", ".5s", "5.s", "1h30m", "1,5s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--retention: .* is no duration; write it like 15ms"):
        read(retention=text)


@pytest.mark.parametrize("text", ["9" * 400 + "d", "9" * 305 + "d", "9" * 5_000 + "ms"])
def test_a_duration_beyond_all_measure_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--retention: .*too long"):
        read(retention=text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("65536", 65_536), ("64KiB", 65_536), ("64kib", 65_536), ("64 KiB", 65_536)],
        *[("1k", 1000), ("1KB", 1000), ("2M", 2 * 10**6), ("2mb", 2 * 10**6)],
        ("256MiB", 256 * MIB),
        *[("1G", 10**9), ("1GB", 10**9), ("1GiB", 2**30), (" 1GiB ", 2**30)],
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert module.size(text) == size
    assert read(backlog_limit=text).backlog_limit == size


@pytest.mark.parametrize("text", ["", "k", "1.5MiB", "-1", "1TB", "1 000", "1KiBs", "0x10", "1e6"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^--backlog-limit: .* is no size; write it like 65536"
    ):
        read(backlog_limit=text)


def test_a_split_size_is_auto_or_from_16_kib_to_64_mib() -> None:
    assert read(split_size="auto").split_size == module.SPLIT_AUTO == Settings().split_size
    assert read(split_size="16KiB").split_size == 16 * 1024
    assert read(split_size="64MiB").split_size == 64 * MIB
    for text in ("0", "0KiB", "1", "16383", "67108865"):
        with pytest.raises(SettingsError, match=r"^--split-size.*auto.* 16KiB"):
            read(split_size=text)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "twelve", "+3", " 3", "1_0", "٣", "9" * 5_000]
)
def test_a_number_of_workers_is_a_whole_number_from_1(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--workers: "):
        read(workers=text)


def test_there_are_1_to_1024_workers() -> None:
    assert [read(workers=text).workers for text in ("1", "12", "1024")] == [1, 12, 1024]
    with pytest.raises(SettingsError, match="--workers must be at most 1024"):
        read(workers="1025")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("off", None),
        ("127.0.0.1:9595", ("127.0.0.1", 9595)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65_535)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_an_http_address_is_read(text: str, address: tuple[str, int] | None) -> None:
    found = read(http=text).http
    assert (found and (found.host, found.port)) == address
    assert not (found and found.may_move)


@pytest.mark.parametrize(
    "text", ["", "9595", ":9595", "host", "host:", "host:65536", "host:-1", "host:²", "host:80a"]
)
def test_what_is_no_http_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--http: .* is no HOST:PORT and not off"):
        read(http=text)


@pytest.mark.parametrize("text", ["true", "1", "YES", "false", "0", "No"])
def test_a_flag_is_true_or_false(text: str) -> None:
    assert read(publish_empty=text).publish_empty == (text.lower() in ("true", "1", "yes"))


def test_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^ALARMDIGEST_PUBLISH_EMPTY: 'maybe' is neither"):
        read_settings({}, {"ALARMDIGEST_PUBLISH_EMPTY": "maybe"})


@pytest.mark.parametrize("name", ["mode", "store", "log_level", "log_format"])
def test_an_unknown_choice_is_refused_with_those_there_are(name: str) -> None:
    for text in ("", "nonsense", "AUTO"):
        with pytest.raises(SettingsError, match=f"^{flag(name)}: '{text}' is none of [a-z, ]+$"):
            read(**{name: text})


# -- subjects -------------------------------------------------------------------------------------

INPUTS = ["event_subject", "request_subject", "forget_subject"]
SUBJECTS = [*INPUTS, "digest_subject", "rejected_subject", "query_subject", "due_subject"]


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a b", "a\tb", "a\r\nPUB b", "a\0"],
)
def test_what_is_no_subject_is_refused(text: str) -> None:
    for name in SUBJECTS:
        with pytest.raises(
            SettingsError, match=f"^{flag(name)}: .* is no NATS subject without wildcards"
        ):
            read(**{name: text})


def test_a_subject_is_read() -> None:
    for text in ("a", "a.b.c", "überwachung.alarm", "a*", "a>b", "$x", "a-b_c"):
        assert read(event_subject=text).event_subject == text


@pytest.mark.parametrize(
    "output", ["digest_subject", "rejected_subject", "query_subject", "due_subject", "inbox_prefix"]
)
@pytest.mark.parametrize("given", INPUTS)
def test_an_output_within_an_input_is_refused(output: str, given: str) -> None:
    for below in ("", ".x.y"):
        with pytest.raises(SettingsError) as refused:
            read(**{given: "in.put", output: f"in.put{below}"})
        assert str(refused.value) == (
            f"{flag(output)} in.put{below} lies inside {flag(given)} in.put: "
            "the service would read what it writes"
        )


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("a", "a.b"), ("a.b.c", "a")])
@pytest.mark.parametrize("names", list(combinations(INPUTS, 2)), ids="-".join)
def test_inputs_that_overlap_are_refused(names: tuple[str, str], one: str, other: str) -> None:
    with pytest.raises(SettingsError, match=f"{flag(names[0])} .* and {flag(names[1])} .* overlap"):
        read(**dict(zip(names, (one, other), strict=True)))


def test_outputs_that_are_equal_are_refused() -> None:
    with pytest.raises(SettingsError, match="--digest-subject and --rejected-subject must differ"):
        read(digest_subject="x", rejected_subject="x")


def test_subjects_that_only_look_alike_are_accepted() -> None:
    """Above an input, beside it, or beginning like it, is not within it."""
    for digest, event in (("a", "a.b"), ("a.bc", "a.b"), ("a.c", "a.b"), ("A.b", "a.b")):
        assert read(digest_subject=digest, event_subject=event).digest_subject == digest


# -- limits of durations --------------------------------------------------------------------------

DURATIONS = [
    item.name for item in fields(Settings) if isinstance(getattr(Settings(), item.name), Duration)
]
MAY_BE_ZERO = {"clock_skew", "retention", "snapshot_interval"}


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_at_most_100_years(name: str) -> None:
    """Far beyond it neither 64 bits of nanoseconds nor the system's timeouts hold it."""
    assert getattr(read(**{name: "36500d"}), name) == 36_500 * 86_400 * S
    for text in ("36501d", "9" * 200 + "d"):
        with pytest.raises(SettingsError, match=f"^{flag(name)} must be at most 100 years"):
            read(**{name: text})


def test_what_is_waited_for_needs_time() -> None:
    """What a zero means for an age is told with the streams."""
    for name in DURATIONS:
        if name in MAY_BE_ZERO:
            assert getattr(read(**{name: "0s"}), name) == 0
        elif not name.endswith("_max_age"):
            with pytest.raises(SettingsError, match=f"^{flag(name)} must be more than 0"):
                read(**{name: "0s"})


# -- where a value comes from ---------------------------------------------------------------------


def test_every_default_is_the_contracts() -> None:
    made = read_settings({}, {"HOME": "/root", "ALARMDIGEST": "x"}).settings
    assert made == Settings()
    assert (made.workers, made.server, made.data_dir) == (12, (), Path("alarmdigest-data"))
    assert [getattr(made, name) for name in SUBJECTS] == [
        *("AlarmStatusChanged", "SendAlarmDigest", "ForgetUser", "AlarmDigest", "AlarmRejected"),
        *("AlarmDigestQuery", "AlarmDue"),
    ]
    assert (made.clock_skew, made.retention) == (3600 * S, 7 * 86_400 * S)
    assert made.http == HttpAddress("127.0.0.1", 9595, may_move=True)
    assert not made.publish_empty


OTHER_VALUES = {
    **{"server": "nats://a:1", "data_dir": "x", "workers": "3", "mode": "core", "store": "memory"},
    **{"http": "off", "log_level": "debug", "log_format": "json", "publish_empty": "true"},
    **{
        "event_subject": "e",
        "request_subject": "r",
        "forget_subject": "f",
        "digest_subject": "d",
        "rejected_subject": "j",
        "query_subject": "q",
        "due_subject": "u",
    },
    **{"clock_skew": "2h", "retention": "1d", "split_size": "32KiB", "backlog_limit": "1GiB"},
    **{"cassandra": "a:1,b", "cassandra_keyspace": "k", "cassandra_datacenter": "dc"},
    **{"cassandra_consistency": "QUORUM", "cassandra_timeout": "9s", "cassandra_user": "u"},
    **{"cassandra_password": "p", "cassandra_password_file": "x", "cassandra_tls": "true"},
    **{"cassandra_tls_ca": "x", "cassandra_tls_cert": "x", "cassandra_tls_key": "x"},
    **{"checkpoint_interval": "5s", "start": "new", "no_create_streams": "true"},
    **{"no_service_api": "true", "accept_clock_step": "true", "show_users": "true", "trace": "u"},
    **{"events_stream": "E", "digests_stream": "D", "rejected_stream": "R"},
    **{"stream_replicas": "3", "js_domain": "hub"},
    "connect_attempt_timeout": "4s",
    **{"events_max_age": "1d", "digests_max_age": "unlimited", "rejected_max_age": "2h"},
    **{"events_max_bytes": "1GiB", "digests_max_bytes": "2GB", "rejected_max_bytes": "unlimited"},
    **{"connect_timeout": "1s", "ping_interval": "2s", "drain_timeout": "3s", "nats_server": "x"},
    **{"user": "u", "password": "p", "password_file": "x", "token": "t", "token_file": "x"},
    **{"creds": "x", "nkey": "x", "tls_ca": "x", "tls_cert": "x", "tls_key": "x"},
    **{"tls_first": "true", "inbox_prefix": "_MINE"},
    **{"group": "mail", "replica_name": "a", "leader_priority": "7"},
    **{"snapshots": "true", "snapshot_interval": "5m", "snapshots_max_bytes": "10GiB"},
}
# What some of them need beside them.
COMPANIONS = {
    "user": {"password": "p"},
    "password": {"user": "u"},
    "password_file": {"user": "u"},
    "tls_ca": {"server": "a"},
    "tls_cert": {"server": "a", "tls_key": "x"},
    "tls_key": {"server": "a", "tls_cert": "x"},
    "tls_first": {"server": "a"},
    "cassandra_user": {"cassandra_password": "p"},
    "cassandra_password": {"cassandra_user": "u"},
    "cassandra_password_file": {"cassandra_user": "u"},
    "cassandra_tls_cert": {"cassandra_tls_key": "x"},
    "cassandra_tls_key": {"cassandra_tls_cert": "x"},
    "replica_name": {"group": "mail"},
}


@pytest.mark.parametrize("name", [item.name for item in fields(Settings)])
def test_a_flag_wins_over_the_environment_and_that_over_the_default(name: str) -> None:
    value = OTHER_VALUES[name]
    default = getattr(Settings(), name)
    others = COMPANIONS.get(name, {})
    given = getattr(read(**{name: value}, **others), name)
    assert given != default, "the test needs another value"
    variable = {f"ALARMDIGEST_{name.upper()}": value}
    assert getattr(read_settings(others, variable).settings, name) == given
    wrong = {f"ALARMDIGEST_{name.upper()}": "\0"}
    assert getattr(read_settings({name: value, **others}, wrong).settings, name) == given


@pytest.mark.parametrize("name", ["workers", "clock_skew", "split_size", "mode", "http"])
def test_a_wrong_variable_is_named_as_such(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^ALARMDIGEST_{name.upper()}: '?x"):
        read_settings({}, {f"ALARMDIGEST_{name.upper()}": "x"})


def test_servers_are_listed_with_commas_and_get_a_scheme() -> None:
    environment = {"NATS_URL": "a:1, tls://b:2,,"}
    assert read_settings({}, environment).settings.server == ("nats://a:1", "tls://b:2")
    environment["ALARMDIGEST_SERVER"] = "nats://c:3"
    assert read_settings({}, environment).settings.server == ("nats://c:3",)
    assert read_settings({"server": "d:4,e"}, environment).settings.server == (
        "nats://d:4",
        "nats://e",
    )


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "none"], "alarmdigest: --workers: 'none' is not a whole number from 1"),
        (["run", "--mode", "turbo"], "alarmdigest: --mode: 'turbo' is none of auto, stream, core"),
        (["verify", "--digest-subject", "AlarmStatusChanged.x"], "would read what it writes"),
        (["emulate", "--request-subject", "AlarmStatusChanged"], "neither may lie below the other"),
    ],
)
def test_a_setting_that_cannot_be_used_is_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == exit_codes.USAGE == 2
    printed, complaint = capsys.readouterr()
    assert said in complaint
    assert complaint.count("\n") == 1
    assert printed == ""


@pytest.mark.parametrize(
    "arguments",
    [["--no-such-option", "1"], ["verify", "--workers", "3"], ["emulate", "--wait", "1"]],
)
def test_an_option_that_does_not_exist_or_a_tools_wrong_value_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


@pytest.mark.parametrize("role", ["events", "digests", "rejected"])
def test_streams_have_an_age_and_a_size_or_none(role: str) -> None:
    def both(age: str, size: str) -> tuple[int, int]:
        made = read(**{f"{role}_max_age": age, f"{role}_max_bytes": size})
        return getattr(made, f"{role}_max_age"), getattr(made, f"{role}_max_bytes")

    assert both("unlimited", "unlimited") == (0, -1)
    assert both("1s", "1KiB") == (10**9, 1024)
    assert both("36h", "2GB") == (36 * 3600 * 10**9, 2 * 10**9)
    for age, size in (
        *(("0s", "1GB"), ("500ms", "1GB"), ("-1", "1GB"), ("", "1GB"), ("36501d", "1GB")),
        *(("1d", "0"), ("1d", "1023"), ("1d", "-1"), ("1d", ""), ("1d", "9" * 30)),
    ):
        with pytest.raises(SettingsError, match=f"{role}-max"):
            both(age, size)
