"""What a message says, in which order, and how much of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, AlarmLine, Message
from alarmdigest.connect.deliver.rendering import SHORT_CHARS, Rendered, Renderer
from alarmdigest.connect.deliver.sample_messages import BARE, ENDED, FULL, MADE_NS, MINUTE_NS
from alarmdigest.connect.deliver.template_filters import duration, local_time

BERLIN = ZoneInfo("Europe/Berlin")
BUILT_IN = Renderer(None, most_rows=50)


def line(name: str, status: str = WARNING, minutes: int = 5, now: str = "") -> AlarmLine:
    return AlarmLine(name, status, MADE_NS - minutes * MINUTE_NS, now=now)


def message(
    *new: AlarmLine, still: tuple[AlarmLine, ...] = (), cleared: tuple[AlarmLine, ...] = ()
) -> Message:
    return Message("ada", MADE_NS, (), new, still, cleared, True)


def rendered(one: Message, most_rows: int = 50) -> Rendered:
    return Renderer(None, most_rows=most_rows).render(one, zone=BERLIN)


def test_the_text_of_a_usual_message() -> None:
    one = replace(FULL, new=FULL.new[:2], still_active=())
    assert BUILT_IN.render(one, zone=BERLIN, unsubscribe="https://x.example.com/u").text == (
        """\
2 critical
for ada, Tue 24 Nov 2026, 11:00 CET

NEW (2)

CRITICAL  DiskFull
  disk of db1 is full
  since Tue 24 Nov, 10:12 CET, for 48 min
  instance=db1:9100, team=storage
  runbook: https://wiki.example.com/disk-full
  dashboard: https://grafana.example.com/d/disks?var-node=db1

CRITICAL  ReplicationLag
  db2 is 94 s behind db1
  CRITICAL now; was WARNING since Tue 24 Nov, 10:40 CET
  instance=db2:9100, team=storage
  silence: https://alertmanager.example.com/#/silences/new

CLEARED SINCE TOLD (1)

CLEARED  NodeDown
  web3 did not answer
  cleared Tue 24 Nov, 10:48 CET, 12 min ago
  instance=web3:9100


--\x20
Digest 5f0c6d8e9b1a4c27a3e2d1f0b9c8a765
Unsubscribe: https://x.example.com/u
"""
    )


def test_the_short_text_of_a_usual_message() -> None:
    assert rendered(replace(FULL, new=FULL.new[2:])).short == (
        """\
1 warning
WARNING Backup failed: no backup of db1 since Sunday (for 1 d 7 h)
CLEARED HighLatency: 99 % of requests to checkout take up to 2.3 s (was CRITICAL)
still WARNING CertificateExpires: the certificate of www.example.com ends in 6 days (for 3 d 3 h)
CLEARED NodeDown: web3 did not answer (at 10:48 CET)"""
    )


@pytest.mark.parametrize(
    ("one", "subject", "worst"),
    [
        (FULL, "2 critical, 1 warning: disk of db1 is full", CRITICAL),
        (BARE, "1 warning: DiskFull", WARNING),
        (ENDED, "1 cleared: web3 did not answer", CLEARED),
        (message(line("a"), line("b", CRITICAL)), "1 critical, 1 warning: b", CRITICAL),
        (message(line("a", now=CLEARED)), "1 new, ended already: a", CLEARED),
        (message(line("a", now=CRITICAL)), "1 critical: a", CRITICAL),
        (message(line("a"), still=(line("b", CRITICAL),)), "1 warning: a", WARNING),
        (message(still=(line("b", CRITICAL),)), "still active: 1 critical: b", CRITICAL),
        (message(), "0 cleared", CLEARED),
    ],
)
def test_the_subject_counts_what_is_new_and_names_the_worst(
    one: Message, subject: str, worst: str
) -> None:
    told = rendered(one)
    assert (told.subject, told.worst) == (subject, worst)


def order(text: str, *names: str) -> list[str]:
    assert all(text.count(name) == 1 for name in names), text
    return sorted(names, key=text.index)


def test_critical_comes_first_then_the_oldest_and_what_has_ended_last() -> None:
    new = (
        line("ended", CRITICAL, 90, now=CLEARED),
        line("young", WARNING, 1),
        line("old", WARNING, 60),
        line("bad", CRITICAL, 2),
        line("worse now", WARNING, 30, now=CRITICAL),
    )
    text = rendered(message(*new)).text
    expected = ["worse now", "bad", "old", "young", "ended"]
    assert order(text, *expected) == expected


def test_a_new_alarm_that_has_ended_meanwhile_says_so() -> None:
    told = rendered(message(line("a", CRITICAL, now=CLEARED)))
    said = "CLEARED meanwhile; was CRITICAL since Tue 24 Nov, 10:55 CET"
    assert said in told.text
    assert said in told.html
    assert "CLEARED a (was CRITICAL)" in told.short


def test_that_the_service_could_not_be_asked_is_said() -> None:
    for one, said in ((BARE, True), (FULL, False)):
        told = rendered(one)
        for text in (told.text, told.html, told.short):
            assert ("could not ask the service what else is active" in text) is said


def test_rows_are_bounded_over_all_sections_and_new_ones_come_first() -> None:
    one = message(
        *(line(f"new{number}.") for number in range(3)),
        still=tuple(line(f"still{number}.") for number in range(4)),
        cleared=tuple(line(f"cleared{number}.", CLEARED) for number in range(5)),
    )
    for rows, named, more in ((2, 2, 10), (5, 5, 7), (8, 8, 4), (12, 12, 0)):
        told = rendered(one, rows)
        for text in (told.text, told.html.partition("<h1")[2], told.short):
            assert sum(text.count(f"{name}.") for name in _names(one)) == named
            assert (f"and {more} more" in text) is (more > 0)
    assert "still0." not in rendered(one, 3).text
    assert "NEW (3)" in rendered(one, 2).text  # the number of all


def _names(one: Message) -> list[str]:
    lines = (*one.new, *one.still_active, *one.cleared)
    return [line.alarm_id.rstrip(".") for line in lines]


def test_the_short_text_leaves_out_what_does_not_fit_and_says_how_much() -> None:
    new = tuple(
        AlarmLine(f"{number}", CRITICAL, MADE_NS, name="n" * 80, summary="s" * 200)
        for number in range(40)
    )
    short = rendered(message(*new)).short
    assert len(short) <= SHORT_CHARS
    shown = short.count("\nCRITICAL n")
    assert shown >= 3
    assert f"\nand {40 - shown} more" in short


def test_labels_are_shown_where_they_are_few() -> None:
    few = {"alertname": "Down", "severity": "critical", **{f"l{n}": str(n) for n in range(6)}}
    for labels, shown in ((few, True), ({**few, "l6": "6"}, False)):
        told = rendered(message(replace(line("a"), labels=labels)))
        assert ("l0=0" in told.text) is shown
        assert ("l0=0" in told.html) is shown
        assert "severity=" not in told.text


def test_many_digests_are_not_all_named() -> None:
    told = rendered(replace(BARE, digest_ids=tuple(f"digest{n}" for n in range(9))))
    for text in (told.text, told.html):
        assert "digest4" in text
        assert "digest5" not in text
        assert "and 4 more" in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "less than a minute"),
        (59, "less than a minute"),
        (60, "1 min"),
        (3_600, "1 h"),
        (3_660, "1 h 1 min"),
        (86_400 + 59, "1 d"),
        (90_000, "1 d 1 h"),
        (86_400 + 120, "1 d"),  # minutes do not matter after a day
        (412 * 86_400, "412 d"),
    ],
)
def test_durations(seconds: int, said: str) -> None:
    assert duration(seconds * 10**9) == said


@pytest.mark.parametrize(
    ("zone", "seconds", "said"),
    [
        ("Europe/Berlin", 1_793_489_400, "Sun 01 Nov 2026, 00:30 CET"),
        # An hour before and after the clocks go back: 02:30 comes twice.
        ("Europe/Berlin", 1_792_888_200, "Sun 25 Oct 2026, 02:30 CEST"),
        ("Europe/Berlin", 1_792_891_800, "Sun 25 Oct 2026, 02:30 CET"),
        # And when they go forward: there is no 02:30.
        ("Europe/Berlin", 1_774_744_200, "Sun 29 Mar 2026, 01:30 CET"),
        ("Europe/Berlin", 1_774_747_800, "Sun 29 Mar 2026, 03:30 CEST"),
        ("America/New_York", 1_793_489_400, "Sat 31 Oct 2026, 19:30 EDT"),
        ("Asia/Kathmandu", 1_793_489_400, "Sun 01 Nov 2026, 05:15 UTC+0545"),
        ("UTC", -1, "Wed 31 Dec 1969, 23:59 UTC"),
        ("UTC", 2**63 // 10**9, "Fri 11 Apr 2262, 23:47 UTC"),
        ("UTC", 10**15, "at an unknown time"),
    ],
)
def test_times_in_a_zone(zone: str, seconds: int, said: str) -> None:
    assert local_time(seconds * 10**9, ZoneInfo(zone)) == said


def test_the_zone_of_the_reader_is_that_of_all_texts() -> None:
    told = BUILT_IN.render(FULL, zone=ZoneInfo("America/New_York"))
    for text in (told.text, told.html):
        assert "Tue 24 Nov 2026, 05:00 EST" in text
        assert "CET" not in text
    assert "(at 04:48 EST)" in told.short


def test_without_a_folder_nothing_is_read_from_one(tmp_path: Path) -> None:
    empty = Renderer(tmp_path, most_rows=50)
    assert empty.render(FULL, zone=BERLIN) == BUILT_IN.render(FULL, zone=BERLIN)
