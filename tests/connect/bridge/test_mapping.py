"""The rules: whose an alert is, what its alarm is called, which status it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Rejection
from alarmdigest.connect.bridge.mapping import Alarm, Mapped, Mapper
from alarmdigest.connect.bridge.rules import Rules, read_rules
from alarmdigest.connect.bridge.templates import Template
from alarmdigest.connect.detail_keys import key_of, user_key
from alarmdigest.settings import SettingsError
from alarmdigest.wire.messages import MAX_ID_BYTES

ALERT = Alert("Down", {"team": "blue", "severity": "critical", "host": "db1"}, resolved=False)


def mapped(toml: str, alert: Alert, tmp_path: Path) -> list[Mapped]:
    return list(Mapper(rules(toml, tmp_path)).map(alert))


def rules(toml: str, tmp_path: Path) -> Rules:
    file = tmp_path / "bridge.toml"
    file.write_text(toml, "utf-8")
    return read_rules(file)


def users(toml: str, alert: Alert, tmp_path: Path) -> list[str]:
    return [one.user_id for one in mapped(toml, alert, tmp_path) if isinstance(one, Alarm)]


@pytest.mark.parametrize(
    ("toml", "labels", "expected"),
    [
        ("", {"user": "ada", "team": "blue"}, ["ada"]),
        ("", {"team": "blue"}, ["blue"]),
        ("", {}, ["default"]),
        ("", {"team": " "}, ["default"]),
        ("", {"team": "a, b,a,,"}, ["a", "b"]),
        ('[user]\nlabels = ["who"]', {"team": "blue", "who": "eve"}, ["eve"]),
        ('[user]\nlabels = "who"', {"who": "eve"}, ["eve"]),
        ("[user]\nall = true", {"user": "ada", "team": "blue"}, ["ada", "blue"]),
        ('[user]\nseparator = ""', {"team": "a,b"}, ["a,b"]),
        ('[user]\nseparator = ";"', {"team": "a,b;c"}, ["a,b", "c"]),
        ('[user]\ntemplate = "{team}@{site}"', {"team": "a", "site": "b"}, ["a@b"]),
        ('[user]\ntemplate = "{team}@{site}"', {"team": "a"}, ["a"]),
        ('[user]\ntemplate = "{receiver}"', {}, ["on-call"]),
        ('[user]\ndefault = "rest"', {}, ["rest"]),
        ('[user]\ndefault = ""', {}, []),
    ],
)
def test_whose_it_is(
    toml: str, labels: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    alert = Alert("Down", labels, resolved=False, hints={"receiver": "on-call"})
    assert users(toml, alert, tmp_path) == expected


def test_who_the_sender_names_goes_before_all_labels(tmp_path: Path) -> None:
    """A field of its own, or the address of the request."""
    for toml in (
        "",
        '[user]\nlabels = ["owner"]',
        '[user]\ntemplate = "{team}"',
        "[user]\nall = true",
    ):
        alert = Alert("Down", {"owner": "eve", "team": "blue"}, resolved=False, user="ada,bob")
        assert users(toml, alert, tmp_path) == ["ada", "bob"]


def test_without_a_user_and_a_default_it_is_rejected(tmp_path: Path) -> None:
    [found] = mapped('[user]\ndefault = ""', Alert("Down", {}, resolved=False), tmp_path)
    assert isinstance(found, Rejection)
    assert found.reason == "schema"
    assert "user" in found.detail


def alarm_id(toml: str, alert: Alert, tmp_path: Path) -> str:
    [found] = mapped(toml, alert, tmp_path)
    assert isinstance(found, Alarm)
    return found.alarm_id


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", 'Down{host="db1",severity="critical",team="blue"}'),
        ('[alarm]\nwithout = ["team"]', 'Down{host="db1",severity="critical"}'),
        ('[alarm]\nwithout = ["team", "host", "severity"]', "Down"),
        ('[alarm]\ntemplate = "{name} on {host}"', "Down on db1"),
    ],
)
def test_what_it_is_called(toml: str, expected: str, tmp_path: Path) -> None:
    assert alarm_id(toml, ALERT, tmp_path) == expected


def test_severities_are_different_alarms() -> None:
    """Else the WARNING that is resolved would clear the CRITICAL beside it."""
    mapper = Mapper(Rules())
    warning = ALERT._replace(labels={**ALERT.labels, "severity": "warning"})
    [one], [other] = mapper.map(ALERT), mapper.map(warning)
    assert isinstance(one, Alarm)
    assert isinstance(other, Alarm)
    assert one.alarm_id != other.alarm_id


def test_a_name_that_is_too_long_is_cut_and_stays_itself(tmp_path: Path) -> None:
    long = ["é" * 2000 + end for end in ("a", "b")]
    ids = [alarm_id("", ALERT._replace(labels={"x": value}), tmp_path) for value in long]
    assert ids[0] != ids[1]
    assert all(MAX_ID_BYTES - 3 < len(one.encode()) <= MAX_ID_BYTES for one in ids)
    again = alarm_id("", ALERT._replace(labels={"x": long[0]}, resolved=True), tmp_path)
    assert again == ids[0]


@pytest.mark.parametrize(
    ("toml", "severity", "expected"),
    [
        ("", "critical", "CRITICAL"),
        ("", "Page", "CRITICAL"),
        ("", "warning", "WARNING"),
        ("", "info", "WARNING"),
        ("", "", "WARNING"),
        ('[severity]\ndefault = "CRITICAL"', "whatever", "CRITICAL"),
        ('[severity]\ndefault = "CRITICAL"', "warn", "WARNING"),
        ('[severity]\ncritical = ["rot"]\nwarning = ["gelb"]', "Rot", "CRITICAL"),
        ('[severity]\nignored = ["info"]', "info", None),
        ('[severity]\ndefault = "reject"', "purple", "status"),
        ('[severity]\ndefault = "reject"\nwarning = ["purple"]', "purple", "WARNING"),
    ],
)
def test_which_status_it_has(
    toml: str, severity: str, expected: str | None, tmp_path: Path
) -> None:
    [found] = mapped(toml, ALERT._replace(labels={"severity": severity, "a": "b"}), tmp_path)
    if expected is None:
        assert found == NoAlarm("severity")
    elif isinstance(found, Rejection):
        assert found.reason == expected
    else:
        assert isinstance(found, Alarm)
        assert found.status == expected


def test_the_end_of_an_ignored_alert_is_news_all_the_same(tmp_path: Path) -> None:
    """It may have been an alarm before the rules were changed."""
    ended = ALERT._replace(labels={"severity": "info", "a": "b"}, resolved=True)
    [found] = mapped('[severity]\nignored = ["info"]', ended, tmp_path)
    assert isinstance(found, Alarm)
    assert found.status == "CLEARED"


def test_resolved_is_cleared_whatever_its_severity(tmp_path: Path) -> None:
    toml = '[severity]\ndefault = "reject"'
    [found] = mapped(toml, ALERT._replace(labels={"severity": "purple"}, resolved=True), tmp_path)
    assert isinstance(found, Alarm)
    assert found.status == "CLEARED"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[users]", "there is no table [users]; do you mean user?"),
        ("user = 3", "there is no table [user]"),
        ("[user]\nlabel = 3", "[user] has no label; do you mean labels?"),
        ("[user]\nlabels = 3", "is no list of texts"),
        ("[user]\nall = 3", "is neither true nor false"),
        ('[user]\ntemplate = "{team"', "write names in braces"),
        ('[user]\ntemplate = "ada"', "it would be the same for all"),
        ('[user]\nlabels = []\ndefault = ""', "nothing can name a user"),
        ('[severity]\ndefault = "CLEARED"', "is none of WARNING, CRITICAL"),
        ('[severity]\ncritical = ["x"]\nignored = ["X"]', "x stands in two lists"),
        ("[time]\nremember = 5", "is no text"),
        ('[time]\nremember = "soon"', "is no duration"),
        ('[details]\nbucket = "a b"', "is no stream name"),
        ('[http]\ntls_cert = "x"', "tls_cert and tls_key belong together"),
        ('[http]\ntls_client_ca = "x"', "needs tls_cert"),
        ("[user", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(toml: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"bridge\.toml") as caught:
        rules(toml, tmp_path)
    assert said in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        rules("[user]\nall = 3\nseperator = ''\n[tim]", tmp_path)
    assert len(caught.value.args) == 3


def test_the_annotated_file_has_every_key_with_its_default() -> None:
    file = ROOT / "deploy/bridge.toml"
    commented = file.read_text("utf-8")
    assert replace(read_rules(file), file=None) == Rules()
    # With all lines that are commented out it is still understood, and names all there is.
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in commented.splitlines()
    )
    for table, keys in _every_key().items():
        assert f"[{table}]" in uncommented
        for key in keys:
            assert f"\n{key} = " in uncommented, f"{key} of [{table}] is missing"


def _every_key() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for title in ("user", "alarm", "severity", "time", "details", "http"):
        part: Any = getattr(Rules(), title)
        found[title] = list(part.__dataclass_fields__)
    return found


def test_a_template_fills_in_once() -> None:
    """What a label holds is text, also if it looks like a name in braces."""
    assert Template("{a}-{b}").fill({"a": "{b}", "b": "x"}) == "{b}-x"


def test_the_keys_of_details_tell_where_the_users_id_ends() -> None:
    assert key_of("a", "bc") != key_of("ab", "c")
    assert key_of("ada", "x").split(".")[0] == user_key("ada")
    # printf ada | sha256sum; printf 3:adax | sha256sum
    assert key_of("ada", "x") == (
        "fdee430d40bd57deeac186cd9790033d.bcc5de7433146f1a135763a9dd5da9b7"
    )
