"""What nobody but a person can mend ends the start with exit code 2, all of it at once, each line
with its remedy; check-config says the same beforehand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.command import run_command
from support.faults import pairs
from support.jetstream import asking, connected, delete_streams, info_of
from support.nats_server import NatsServer
from support.paths import ROOT
from support.proxy import Proxy
from support.rows import checkpoint
from support.service import ServiceProcess
from support.streams import ALARMS, DIGESTS, INPUTS, REJECTED

from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.permanent_errors import REMEDIES, cannot_make, is_permanent
from alarmdigest.nats.server_versions import FEATURES, table, too_old
from alarmdigest.nats.stream_configs import make_stream_configs
from alarmdigest.store.lmdb.store import LmdbStore


@pytest.fixture(scope="module")
def shared() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def server(shared: NatsServer) -> NatsServer:
    with asking(shared.url) as js:
        delete_streams(shared, js)
    return shared


def make(url: str, name: str, subjects: Sequence[str], **more: Any) -> None:
    with asking(url) as js:
        js.create_stream({"name": name, "subjects": list(subjects), "storage": "file", **more})


def refused_start(url: str, *options: str, mode: str = "stream") -> list[str]:
    """The errors that it logs before it ends with exit code 2, at once."""
    service = ServiceProcess(url, mode=mode, options=options)
    started = time.monotonic()
    service.start(ready=False)
    assert service.wait() == 2, service.log
    assert time.monotonic() - started < 15, "it tried again and again"
    assert "Traceback" not in service.log
    return [
        line.partition("MainThread ")[2] for line in service.log.splitlines() if " ERROR " in line
    ]


def complaints(url: str, *options: str, mode: str = "stream") -> list[str]:
    """What check-config says to it, with exit code 2."""
    result = run_command("check-config", "--server", url, "--mode", mode, *options)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line.removeprefix("alarmdigest: ") for line in result.stderr.splitlines()]
    return [line for line in lines if not line.startswith("warning: ")]


TRANSFORM = {"src": "AlarmStatusChanged.>", "dest": "x.>"}


def test_all_that_is_wrong_with_the_streams_is_said_and_nothing_is_made(server: NatsServer) -> None:
    make(server.url, ALARMS, INPUTS, subject_transform=TRANSFORM)
    make(server.url, DIGESTS, ["AlarmDigest"], max_msgs_per_subject=1)
    wanted = [
        "stream ALARMS has subject_transform AlarmStatusChanged.> to x.>, so events and requests "
        "are stored where nobody looks for them: nats stream edit ALARMS --no-transform",
        "stream ALARM_DIGESTS has max_msgs_per_subject 1, so of all digests, whose subject is one, "
        "it keeps so many, and deletes the rest unread: "
        "nats stream edit ALARM_DIGESTS --max-msgs-per-subject=-1",
    ]
    assert complaints(server.url) == wanted
    assert refused_start(server.url) == wanted
    with asking(server.url) as js:
        assert js.stream_info(REJECTED) is None


def test_a_mirror_is_refused_with_a_remedy_that_is_possible(server: NatsServer) -> None:
    make(server.url, "ORIGIN", INPUTS)
    make(server.url, ALARMS, [], mirror={"name": "ORIGIN"})
    [said] = refused_start(server.url)
    assert said.startswith("stream ALARMS has mirror of ORIGIN, and a mirror captures no subject: ")
    assert "--events-stream ORIGIN" in said
    with ServiceProcess(server.url, mode="stream", options=["--events-stream", "ORIGIN"]):
        pass  # it got ready


def test_fields_that_we_live_with_let_it_start_and_work(server: NatsServer) -> None:
    """Also those that change what a consumer may be, and where numbers begin."""
    make(
        server.url,
        ALARMS,
        ["*", "AlarmStatusChanged.>", "SendAlarmDigest.>"],
        subject_transform={
            "src": "AlarmStatusChanged.*",
            "dest": "AlarmStatusChanged.x.{{wildcard(1)}}",
        },
        first_seq=1000,
        compression="s2",
        allow_msg_ttl=True,
        max_consumers=1,
        consumer_limits={"inactive_threshold": 2 * 10**9, "max_ack_pending": 1},
    )
    # Not from "*" above.
    options = ["--digest-subject", "out.digest", "--rejected-subject", "out.rejected"]
    with ServiceProcess(server.url, mode="stream", options=options) as service:
        with asking(server.url) as js:
            for subject, body in pairs(range(20)):
                js.publish(f"{subject}.7", body)
        wait_for = 'alarmdigest_published_total{kind="digest"}'
        deadline = time.monotonic() + 10
        while service.metric(wait_for) < 20:
            assert time.monotonic() < deadline, service.log
        for name in ("gone", "deleted"):
            assert service.metric(f"alarmdigest_stream_{name}_total") == 0
        assert service.stop() == 0


def test_what_is_unwise_is_warned_of_once_and_it_starts(server: NatsServer) -> None:
    make(server.url, ALARMS, INPUTS, storage="memory", allow_rollup_hdrs=True)
    options = ("--stream-replicas", "3", "--rejected-max-bytes", "1MiB")
    make(server.url, DIGESTS, ["AlarmDigest"])
    make(server.url, REJECTED, ["AlarmRejected"], max_bytes=2**30)
    result = run_command("check-config", "--server", server.url, "--mode", "stream", *options)
    assert result.returncode == 0, result.stderr
    with ServiceProcess(server.url, mode="stream", options=options) as service:
        for words in (
            "stream ALARMS has storage memory",
            "stream ALARMS has allow_rollup_hdrs true",
            "nats stream edit ALARMS --replicas=3",
            "nats stream edit ALARM_DIGESTS --replicas=3",
            "nats stream edit ALARM_REJECTED --max-bytes=1048576",
        ):
            assert service.log.count(words) == 1, words
            assert words in result.stderr


# -- what the server will never make ---------------------------------------------------------------


def account(limits: str) -> str:
    """Configuration of a server whose users belong to one account with these limits."""
    return (
        f"accounts {{ A {{ jetstream {{ {limits} }}, users [{{ user: a, password: b }}] }} }}\n"
        "no_auth_user: a\n"
    )


@pytest.mark.parametrize(
    ("limits", "options", "number", "said"),
    [
        ("max_streams: 2", [], 1, "maximum number of streams reached (error 10027): raise"),
        ("max_bytes_required: true", [], 2, "--digests-max-bytes SIZE"),
        ("max_store: 900MB", ["--events-max-bytes", "1GB"], 1, "(error 10047): reserve less"),
        ("max_store: 50MB", [], 1, "(--rejected-max-bytes SIZE)"),
        (
            "store_max_stream_bytes: 1MB, max_store: 1GB",
            ["--events-max-bytes", "2MB", "--rejected-max-bytes", "1MB"],
            1,
            "(error 10122): let it hold less (--events-max-bytes SIZE)",
        ),
        ("", ["--stream-replicas", "3"], 3, "(error 10074): say --stream-replicas 1"),
    ],
    ids=["streams", "size required", "quota", "our refusals", "size of a stream", "replicas"],
)
def test_what_the_account_never_allows_ends_the_start(
    limits: str, options: list[str], number: int, said: str
) -> None:
    extra = account(limits) if limits else ""
    with NatsServer(extra=extra) as server:
        foreseen = complaints(server.url, *options)
        found = refused_start(server.url, *options)
        assert foreseen == found
        assert len(found) == number
        assert any(said in line for line in found), found


def test_an_account_with_little_room_can_be_lived_in() -> None:
    extra = account("max_store: 900MB, max_bytes_required: true")
    options = ["--events-max-bytes", "500MB", "--digests-max-bytes", "200MB"]
    with (
        NatsServer(extra=extra) as server,
        ServiceProcess(server.url, mode="stream", options=options),
        asking(server.url) as js,
    ):
        sizes = [info_of(js, name).config["max_bytes"] for name in (ALARMS, DIGESTS, REJECTED)]
        assert sizes == [500 * 10**6, 200 * 10**6, 64 * 2**20]


def test_a_stream_that_is_deleted_on_a_server_with_little_room_is_made_again() -> None:
    """With 1 GiB for refusals we would have locked ourselves out."""
    with NatsServer(jetstream_extra="max_file_store: 1GB") as server:
        for _ in range(2):
            with ServiceProcess(server.url, mode="stream"):
                pass
            with asking(server.url) as js:
                js.request(f"STREAM.DELETE.{DIGESTS}")


def test_what_an_earlier_version_reserved_for_refusals_is_named_where_room_is_short() -> None:
    """Its 1 GiB is all that such a server gives."""
    with NatsServer(jetstream_extra="max_file_store: 1GB") as server:
        make(server.url, REJECTED, ["AlarmRejected"], max_bytes=2**30)
        *refused, remedy = refused_start(server.url)
        assert [line.partition(" (")[0] for line in refused] == [
            f"the server does not make stream {name}" for name in (ALARMS, DIGESTS)
        ]
        assert remedy.endswith(": nats stream edit ALARM_REJECTED --max-bytes=67108864")
        with asking(server.url) as js:
            config = info_of(js, REJECTED).config
            js.request(f"STREAM.UPDATE.{REJECTED}", {**config, "max_bytes": 67108864})
        with ServiceProcess(server.url, mode="stream"):
            pass


def test_what_passes_is_not_called_lasting() -> None:
    lasting = [(500, 10074), (500, 10047), (500, 10028), (400, 10027), (400, 10113), (400, 10122)]
    lasting += [(400, 10002), (400, 10120), (500, 10052), (400, 10025), (400, 10003)]
    passing = [(503, 10008), (503, 10004), (500, 10009), (503, 10023), (429, 10167), (408, 0)]
    passing += [(500, 10049), (404, 10059), (400, 10124), (400, 10202), (503, 10118), (500, 10041)]
    for codes, wanted in ((lasting, True), (passing, False)):
        for code, err_code in codes:
            error = JetStreamError(code, err_code, "")
            assert is_permanent(error) is wanted, err_code
            assert bool(cannot_make(make_stream_configs().alarms, error)) is wanted
    for description, wanted in (
        ("no suitable peers for placement", True),
        ("no suitable peers for placement, insufficient storage", True),
        ("no suitable peers for placement, peer offline", False),
    ):
        assert is_permanent(JetStreamError(400, 10005, description)) is wanted
    for err_code in REMEDIES:
        assert is_permanent(JetStreamError(500, err_code, ""))


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "core", "stream"),
    [
        ("2.15.1", "", ""),
        ("2.9.4", "", ""),
        ("2.9.3", "", "stream mode needs nats-server >= 2.9.4, this is 2.9.3"),
        ("2.8.4", "", "stream mode needs nats-server >= 2.9.4, this is 2.8.4"),
        ("2.2.6", "", "stream mode needs nats-server >= 2.9.4, this is 2.2.6"),
        ("2.1.9", "core mode needs nats-server >= 2.2, this is 2.1.9", None),
        ("2.10.0-beta.3", "", ""),
        ("2.12.0-RC.1", "", ""),
        ("v2.8.0", "", "stream mode needs nats-server >= 2.9.4, this is v2.8.0"),
        ("3.0.0", "", ""),
        # Of somebody who built it, and of something else that speaks NATS.
        ("0.0.0-dev", "", ""),
        ("", "", ""),
        ("nightly", "", ""),
    ],
)
def test_versions_that_are_too_old_are_told(version: str, core: str, stream: str | None) -> None:
    assert too_old(version, "core") == core
    if stream is not None:
        assert too_old(version, "stream") == stream


def test_an_old_server_ends_the_start_and_core_mode_lives_with_it() -> None:
    """A real one of today, which is made to say that it is old."""
    with NatsServer() as server, Proxy(server.port) as proxy, connected(server.url) as asked:
        today = str(asked.info["version"])
        proxy.rewrite = (f'"version":"{today}"'.encode(), b'"version":"2.8.4"')
        wanted = ["stream mode needs nats-server >= 2.9.4, this is 2.8.4"]
        assert complaints(proxy.url) == wanted
        assert refused_start(proxy.url) == wanted
        in_auto = [f"{wanted[0]}; --mode core works there, without streams"]
        assert refused_start(proxy.url, mode="auto") == in_auto
        with ServiceProcess(proxy.url, mode="core"):
            pass


def test_the_readme_has_the_table_of_versions() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = [line for line in readme.splitlines() if line in table()]
    assert rows == table()
    assert len(rows) == len(FEATURES)


# -- check-config ----------------------------------------------------------------------------------


def test_check_config_says_which_server_it_has_looked_at(server: NatsServer) -> None:
    looked_at = json.loads(run_command("check-config", "--json", "--server", server.url).stdout)
    assert looked_at["server"] == {"url": server.url, "reason": None}
    with asking(server.url) as js:
        assert js.stream_names_for(">") == []
    away = run_command("check-config", "--json", "--server", "nats://127.0.0.1:1")
    assert away.returncode == 0
    told = json.loads(away.stdout)["server"]
    assert told["url"] is None
    assert "refused" in told["reason"]


def test_check_config_looks_at_the_first_server_that_answers(server: NatsServer) -> None:
    make(server.url, ALARMS, INPUTS, no_ack=True, max_age=86_400 * 10**9)
    result = run_command("check-config", NATS_URL=f"nats://127.0.0.1:1,{server.url}")
    assert result.returncode == 2
    assert result.stderr == (
        "alarmdigest: stream ALARMS has no_ack true, so nobody learns what it has stored: "
        "nats stream edit ALARMS --ack\n"
    )
    assert run_command("check-config", "--mode", "core", "--server", server.url).returncode == 0


def test_check_config_says_that_all_is_well(server: NatsServer) -> None:
    result = run_command("check-config", "--server", server.url)
    assert (result.returncode, result.stderr) == (
        0,
        f"alarmdigest: all is well, also with {server.url}\n",
    )
    unwise = run_command("check-config", "--server", server.url, "--digests-max-age", "1d")
    assert unwise.returncode == 0
    assert "less than the events stream" in unwise.stderr
    assert "all is well" not in unwise.stderr


def test_check_config_looks_at_the_store(server: NatsServer, tmp_path: Path) -> None:
    options = ["--server", server.url, "--data-dir", str(tmp_path / "data")]
    assert run_command("check-config", *options).returncode == 0
    assert not (tmp_path / "data").exists()
    with LmdbStore(tmp_path / "data") as store:
        store.commit([], checkpoint(0))
        # Also while a service uses it.
        told = json.loads(run_command("check-config", "--json", *options).stdout)
        assert told["store"] == {"place": f"the folder {tmp_path / 'data'}", "reason": None}
    core = run_command("check-config", "--mode", "core", *options)
    assert core.returncode == 2
    assert "goes on at a place in the stream ALARMS; use --mode stream" in core.stderr
    other = run_command("check-config", "--events-stream", "OTHERS", *options)
    assert other.returncode == 2
    assert "was fed by the stream ALARMS, not by OTHERS" in other.stderr
    marker = tmp_path / "data" / "state" / "FORMAT"
    marker.write_text(marker.read_text().replace("version 1", "version 2"))
    newer = run_command("check-config", *options)
    assert newer.returncode == 2
    assert "was written by a newer alarmdigest" in newer.stderr


def test_check_config_says_that_a_server_does_not_let_us_in() -> None:
    users = "authorization { user: u, password: p }"
    with NatsServer(extra=users) as server:
        result = run_command("check-config", "--server", server.url)
        assert result.returncode == 2
        assert "the server refused us: Authorization Violation" in result.stderr


def test_what_a_start_tells_to_add_suits_it(server: NatsServer) -> None:
    """The commands, in which case the settings that a start would have used are in them."""
    options = ["--no-create-streams", "--rejected-max-bytes", "1MiB", "--digests-max-age", "8d"]
    told = complaints(server.url, *options)
    assert len(told) == 3
    assert told[0].endswith(
        ": nats stream add ALARMS --subjects 'AlarmStatusChanged,AlarmStatusChanged.>,"
        "SendAlarmDigest,SendAlarmDigest.>,ForgetUser,ForgetUser.>' --storage file "
        "--retention limits --discard old --max-age 7d --dupe-window 2m --replicas 1 --defaults"
    )
    assert "--max-age 8d" in told[1]
    assert f"--max-bytes {2**20}" in told[2]


def test_the_age_of_a_stream_that_somebody_else_will_make_is_not_guessed(
    server: NatsServer,
) -> None:
    make(server.url, ALARMS, INPUTS)
    result = run_command("check-config", "--server", server.url, "--no-create-streams")
    assert result.returncode == 2
    assert "less than the events stream" not in result.stderr


def test_check_config_finds_no_fault_in_what_passes() -> None:
    """A server that says what a cluster without a leader says."""
    with NatsServer() as server, Proxy(server.port) as proxy:
        make(server.url, ALARMS, INPUTS)
        known = b'{"type":"io.nats.jetstream.api.v1.stream_info_response"'
        # As long as that: the frame tells how long it is.
        unavailable = b'{"error":{"code":503,"err_code":10008}'.ljust(len(known))
        proxy.rewrite = (known, unavailable)
        result = run_command("check-config", "--server", proxy.url, "--mode", "stream")
        assert result.returncode == 0, result.stderr
        assert "no server was looked at" in result.stderr
        assert "10008" in result.stderr


def test_check_config_knows_that_there_is_no_jetstream() -> None:
    with NatsServer(jetstream=False) as server:
        [said] = complaints(server.url)
        assert "has no JetStream, which --mode stream needs" in said
        auto = run_command("check-config", "--server", server.url)
        assert auto.returncode == 0
        assert "it would be core mode" in auto.stderr
