"""``alarmdigest schedule`` on a real server: what it writes, and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nats_server import NatsServer
from support.scheduler import schedule

from alarmdigest.connect.publishing import BatchJetStream
from alarmdigest.connect.schedule import editing
from alarmdigest.connect.schedule.bucket import bucket_config
from alarmdigest.connect.schedule.entries import Entry, packed, unpacked
from alarmdigest.connect.schedule.schedule import FOREVER_NS, read_schedule
from alarmdigest.connect.schedule.toml_file import lines_of, read_file
from alarmdigest.nats.connection import Connection
from alarmdigest.settings import SettingsError

pytestmark = pytest.mark.deliver

HOSTILE = ("-x", "a b", 'q"\\', "\n\r\0", "ünï", "x" * 1024, "[users]", "*", ">", "\x7f\x80\u2028")


@pytest.fixture(scope="module")
def shared() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def listed(server: NatsServer, *who: str) -> list[dict[str, object]]:
    lines = schedule(server.url, "list", "--json", *who).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_a_schedule_is_set_shown_paused_resumed_and_removed(shared: NatsServer) -> None:
    url = shared.url
    set_line = schedule(
        url,
        *("set", "ada", "--cron", "0 8 * * 1-5", "--cron", "0 10 * * 6", "--within", "90m"),
        *("--critical-within", "0s", "--send-between", "07:00-22:00", "--critical-anytime"),
        *("--timezone", "Europe/Athens"),
    ).stdout
    text = (
        "cron 0 8 * * 1-5, cron 0 10 * * 6, within 90m, critical within 0s, only 07:00-22:00, "
        "critical at any time (Europe/Athens)"
    )
    assert set_line == f"ada: {text}\n"
    [shown] = listed(shared, "ada")
    assert shown["schedule"] == {
        "cron": ["0 8 * * 1-5", "0 10 * * 6"],
        "timezone": "Europe/Athens",
        "within": "90m",
        "critical_within": "0s",
        "send_between": "07:00-22:00",
        "critical_anytime": True,
    }
    # A pause keeps the schedule, and a local time is that of its zone.
    paused = schedule(url, "pause", "ada", "--until", "2126-12-24T08:00").stdout
    assert paused == f"ada: {text}, paused until 2126-12-24T06:00:00.000000000Z\n"
    assert listed(shared, "ada")[0]["told_at"] == "2126-12-24T08:00:00+02:00"
    assert schedule(url, "pause", "ada").stdout == f"ada: {text}, paused until resumed\n"
    assert listed(shared, "ada")[0]["told_at"] is None
    assert schedule(url, "resume", "ada").stdout == f"ada: {text}\n"
    assert schedule(url, "remove", "ada").stdout == "ada: removed\n"
    assert "ada has no schedule" in schedule(url, "list", "ada", code=1).stderr


def test_whoever_has_none_of_his_own_has_that_of_everybody_else() -> None:
    with NatsServer() as server:
        url = server.url
        assert "there are no schedules" in schedule(url, "list", code=1).stderr
        schedule(url, "set", "--default", "--within", "5m")
        assert listed(server, "bob")[0]["text"] == "as everybody else"
        assert listed(server, "bob")[0]["told_at"]
        schedule(url, "pause", "bob")
        assert listed(server, "bob")[0]["told_at"] is None
        # Who was only paused is in no list once he is resumed.
        schedule(url, "resume", "bob")
        assert [one["UserID"] for one in listed(server)] == [None]
        shown = schedule(url, "list").stdout.splitlines()
        assert shown[0].split()[:2] == ["USER", "SCHEDULE"]
        assert shown[1].startswith("everybody else  within 5m (UTC)")
        schedule(url, "pause", "--default")
        assert listed(server, "bob")[0]["told_at"] is None
        schedule(url, "remove", "--default")
        assert schedule(url, "list", code=1).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("set",), "say whose: schedule set USER, or --default for all others"),
        (("set", "ada"), "say when: with cron, or within, or both"),
        (("set", "ada", "--default", "--within", "1m"), "not both"),
        (("set", "", "--within", "1m"), "USER must have 1 to 1024 bytes, and has 0"),
        (("set", "x" * 1025, "--within", "1m"), "USER must have 1 to 1024 bytes"),
        (("set", "ada", "--cron", "0 8 * *"), "has 4 fields; a cron line has five"),
        (("set", "ada", "--within", "1m", "--timezone", "Mars"), "there is no time zone 'Mars'"),
        (("set", "ada", "--within", "1m", "--until", "2126-01-01"), "--until belongs to schedule"),
        (("pause", "ada", "--until", "2020-01-01"), "--until 2020-01-01 is over"),
        (("pause", "ada", "--until", "soon"), "'soon' is no time like 2026-12-24"),
        (("pause", "ada", "--within", "1m"), "--within belongs to schedule set"),
        (("pause", "--default"), "there is no default schedule that could pause"),
        (("resume", "nobody"), "nobody has no pause"),
        (("remove", "nobody"), "nobody has no schedule"),
        (("import",), "say which file"),
        (("import", "no-such-file"), "cannot read no-such-file"),
        (("wish", "ada"), "invalid choice: 'wish'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(
    shared: NatsServer, arguments: tuple[str, ...], problem: str
) -> None:
    done = schedule(shared.url, *arguments, code=2)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_exported_is_imported_again(tmp_path: Path) -> None:
    file = tmp_path / "schedules.toml"
    with NatsServer() as server:
        url = server.url
        schedule(url, "set", "--default", "--cron", "0 8 * * 1-5", "--timezone", "Asia/Kolkata")
        for user in HOSTILE:
            if "\0" not in user:
                schedule(url, "set", "--within", "5m", "--send-between", "22:00-24:00", "--", user)
        schedule(url, "pause", "eve")
        before = schedule(url, "export").stdout
        file.write_text(before, "utf-8")
        schedule(url, "set", "new", "--within", "1m")
        schedule(url, "remove", "eve", code=0)
        # The others stay.
        assert "written, 0 removed" in schedule(url, "import", str(file)).stdout
        assert "new" in {one["UserID"] for one in listed(server)}
        done = schedule(url, "import", str(file), "--only-these", "--json")
        assert json.loads(done.stdout) == {"written": 11, "removed": 1}
        assert schedule(url, "export").stdout == before
    with NatsServer() as other:
        schedule(other.url, "import", str(file))
        assert schedule(other.url, "export").stdout == before


def test_a_file_with_mistakes_changes_nothing(shared: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(
        '[default]\nwithin = "5 minutes"\n[users.ada]\ncrom = "x"\n[users.""]\nwithin = "1m"\n'
        '[users.bob]\nwithin = "1m"\npaused_until = "soon"\n[other]\n[users.eve]\nwithin = 5\n',
        "utf-8",
    )
    before = schedule(shared.url, "export").stdout
    problems = schedule(shared.url, "import", str(file), code=2).stderr.splitlines()
    assert len(problems) == 6
    for part in ("[default] within", '[users."ada"] there is no crom', '[users.""]', "[other]"):
        assert any(part in line for line in problems), part
    assert schedule(shared.url, "export").stdout == before


@pytest.mark.parametrize("text", ["x", "[users]\nada = 1", "a = [" + "[" * 100_000, "\xff"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError):
        read_file(file)


CRONS = ["0 8 * * 1-5", "*/5 * 1,15 * *"]
users = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
schedules = st.builds(
    lambda within, zone, cron: read_schedule(
        {"within": f"{within}s", "timezone": zone, "cron": cron}
    ),
    st.integers(0, 10**7),
    st.sampled_from(["UTC", "Europe/Athens", "America/Argentina/Buenos_Aires"]),
    st.none()
    | st.lists(st.sampled_from(["0 8 * * 1-5", "*/5 * 1,15 * *"]), min_size=1, max_size=16),
)
entries = st.builds(
    Entry, users, st.none() | schedules, st.sampled_from([0, 1, 10**18, FOREVER_NS])
)


@given(st.lists(entries, max_size=5, unique_by=lambda entry: entry.user))
def test_files_and_entries_hold_what_was_put_in(
    tmp_path_factory: pytest.TempPathFactory, some: list[Entry]
) -> None:
    assert [unpacked(packed(entry)) for entry in some] == some
    file = tmp_path_factory.mktemp("toml") / "x.toml"
    file.write_text("\n".join(lines_of(some)), "utf-8", newline="")
    assert read_file(file) == some


def test_two_who_change_the_same_lose_nothing(shared: NatsServer) -> None:
    schedule(shared.url, "set", "both", "--within", "1m")
    config = bucket_config(1, "")
    seen: list[int] = []

    def count_up() -> None:
        connection = Connection(shared.url, name="test")
        connection.connect()
        js = BatchJetStream(connection)
        for _ in range(20):

            def edit(before: Entry) -> Entry:
                return Entry("both", before.schedule, before.paused_until_ns + 1)

            seen.append(editing.change(js, config, "both", edit).paused_until_ns)
        connection.close()

    threads = [threading.Thread(target=count_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 41))
