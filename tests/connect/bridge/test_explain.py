"""``bridge --explain``: what a payload would become, without sending anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import run_command

from alarmdigest.runtime import exit_codes

PAYLOADS = Path(__file__).parent / "payloads"
FIRING = str(PAYLOADS / "alertmanager-0.25.0-firing.json")


def test_a_table_for_a_person() -> None:
    done = run_command("bridge", "--explain", FIRING)
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split() == ["USER", "ALARM", "STATUS", "CHANGED", "AT", "TIME"]
    assert row.startswith('ada   ServiceDown{instance="127.0.0.1:')
    assert row.endswith("of the sender")


def test_json_for_a_program() -> None:
    done = run_command("bridge", "--explain", str(PAYLOADS / "grafana-documented.json"), "--json")
    assert done.returncode == 0
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["sender"] == "grafana"
    assert (first["becomes"], first["Status"]) == ("alarm", "WARNING")
    assert (second["becomes"], second["Status"]) == ("alarm", "CLEARED")


def test_rules_count_and_what_would_be_rejected_is_exit_code_1(tmp_path: Path) -> None:
    rules, payload = tmp_path / "bridge.toml", tmp_path / "payload.json"
    rules.write_text('[user]\nlabels = ["who"]\ndefault = ""')
    payload.write_text(json.dumps([{"name": "x", "status": "firing", "labels": {"who": "eve"}},
                                   {"name": "y", "status": "firing"}, {"name": "z"}]))  # fmt: skip
    for given in ({"ALARMDIGEST_BRIDGE_RULES": str(rules)}, {}):
        options = [] if given else ["--rules", str(rules)]
        done = run_command("bridge", *options, "--explain", str(payload), **given)
        assert done.returncode == exit_codes.INTERNAL_ERROR
        assert "eve   x" in done.stdout
        assert "alert 2 rejected (schema): nothing names its user" in done.stdout
        assert "alert 3 rejected (status): " in done.stdout
        assert done.stderr == "taken for a body of /alerts\n"


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("nonsense", [], "not JSON in UTF-8"),
        ("{}", ["--sender", "alertmanager"], "it has no list `alerts` (400 Bad Request"),
        ("{}", ["--sender", "nagios"], "--sender nagios: there are alertmanager, grafana"),
        (None, [], "cannot read"),
    ],
)
def test_what_cannot_be_explained(
    text: str | None, options: list[str], said: str, tmp_path: Path
) -> None:
    payload = tmp_path / "payload.json"
    if text is not None:
        payload.write_text(text)
    done = run_command("bridge", "--explain", str(payload), *options)
    assert done.returncode == exit_codes.USAGE
    assert said in done.stderr
