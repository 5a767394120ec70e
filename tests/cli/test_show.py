"""`show` reads one user's alarms from the store while the service runs, and after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

ODD = "Ünï\x1b[31m\n'\"/ø😀"
MANY = 500


def event(user: str, alarm: str, status: str, second: int) -> tuple[str, bytes]:
    at = f"2026-01-02T03:{second // 60:02}:{second % 60:02}Z"
    body = {"UserID": user, "AlarmID": alarm, "Status": status, "ChangedAt": at}
    return "AlarmStatusChanged", orjson.dumps(body)


def request(user: str) -> tuple[str, bytes]:
    return "SendAlarmDigest", orjson.dumps({"UserID": user})


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """Of ada's alarms one is told, one has changed since, one is new, and one is over."""
    options = ["--checkpoint-interval", "100ms"]
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", options=options) as service,
    ):
        with Bus(server.url) as bus:
            bus.publish_all(
                [
                    event("ada", "told", "WARNING", 1),
                    event("ada", "changed", "WARNING", 2),
                    event("ada", "over", "CRITICAL", 3),
                    request("ada"),
                    event("ada", "changed", "CRITICAL", 4),
                    event("ada", "over", "CLEARED", 5),
                    event("ada", "new", "CRITICAL", 6),
                    event(ODD, ODD, "WARNING", 7),
                    event("-x", "--due", "WARNING", 8),
                    *(event("many", f"alarm-{i:040}", "WARNING", i) for i in range(MANY)),
                    request("many"),
                ]
            )
            bus.wait_for_digests(2)
        eventually(lambda: service.metric("alarmdigest_stream_lag") == 0, what="all of it read")
        eventually(
            lambda: len(shown(service.data_dir, "many")) == MANY, what="a checkpoint of all of it"
        )
        yield service


def shown(data_dir: Path, user: str, *options: str) -> list[dict[str, Any]]:
    result = run_command("show", "--data-dir", str(data_dir), "--json", *options, "--", user)
    if result.returncode == 1:
        return []
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["UserID"] == user
    return list(found["alarms"])


def test_it_says_what_is_latest_what_was_sent_and_what_is_due(service: ServiceProcess) -> None:
    found = {alarm["AlarmID"]: alarm for alarm in shown(service.data_dir, "ada")}
    assert list(found) == ["told", "changed", "over", "new"], "the oldest first"
    assert {name: (alarm["Status"], alarm["due"]) for name, alarm in found.items()} == {
        "told": ("WARNING", False),
        "changed": ("CRITICAL", True),
        "over": ("CLEARED", False),
        "new": ("CRITICAL", True),
    }
    assert found["changed"]["LatestChangedAt"] == "2026-01-02T03:00:04.000000000Z"
    assert found["changed"]["sent"] == {
        "Status": "WARNING",
        "LatestChangedAt": "2026-01-02T03:00:02.000000000Z",
    }
    assert found["over"]["sent"]["Status"] == "CRITICAL"
    assert found["new"]["sent"] is None
    assert all(alarm["arrived_at"] > "2026-01-02" for alarm in found.values())


def test_due_leaves_only_what_the_next_digest_would_hold(service: ServiceProcess) -> None:
    due = shown(service.data_dir, "ada", "--due")
    assert [alarm["AlarmID"] for alarm in due] == ["changed", "new"]
    assert shown(service.data_dir, "many", "--due") == []


def test_a_user_of_many_blocks_is_shown_whole_and_alone(service: ServiceProcess) -> None:
    found = shown(service.data_dir, "many")
    assert [alarm["AlarmID"] for alarm in found] == [f"alarm-{i:040}" for i in range(MANY)]
    assert {alarm["sent"]["Status"] for alarm in found} == {"WARNING"}


def test_any_id_can_be_asked_for_and_none_speaks_to_the_terminal(service: ServiceProcess) -> None:
    assert [alarm["AlarmID"] for alarm in shown(service.data_dir, ODD)] == [ODD]
    assert [alarm["AlarmID"] for alarm in shown(service.data_dir, "-x")] == ["--due"]
    result = run_command("show", "--data-dir", str(service.data_dir), ODD)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 4
    ascii_only = run_command(
        "show", "--data-dir", str(service.data_dir), ODD, PYTHONIOENCODING="ascii"
    )
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")


def test_for_a_person_it_is_a_table_that_says_which_checkpoint(service: ServiceProcess) -> None:
    result = run_command("show", "--data-dir", str(service.data_dir), "ada")
    assert (result.returncode, result.stderr) == (0, "")
    user, count, heads, *rows = result.stdout.splitlines()
    assert user.startswith("user ada, as of checkpoint ")
    assert user.endswith(" ago")
    assert count == "4 alarms, 4 shown, 2 due"
    assert heads.split() == ["ALARM", "STATUS", "CHANGED", "AT", "SENT", "DUE"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        *(("told", "no"), ("changed", "yes"), ("over", "no"), ("new", "yes"))
    ]


@pytest.mark.parametrize("user", ["nobody", "", "adA", "a" * 5000, "\udcff"])
def test_an_unknown_user_ends_with_1(service: ServiceProcess, user: str) -> None:
    result = run_command("show", "--data-dir", str(service.data_dir), user)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"no alarms of user {user!a}" in result.stderr


def test_without_a_store_it_says_where_it_looked_and_ends_with_4(tmp_path: Path) -> None:
    result = run_command("show", "--data-dir", str(tmp_path), "ada")
    assert (result.returncode, result.stdout) == (4, "")
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_in_memory_cannot_be_read_from_outside(tmp_path: Path) -> None:
    result = run_command("show", "--store", "memory", "--data-dir", str(tmp_path), "ada")
    assert result.returncode == 2
    assert "--store" in result.stderr
