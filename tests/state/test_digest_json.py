"""How a book writes digests: their JSON, their parts, and how much of them at once."""

from __future__ import annotations

import json
from itertools import pairwise

import orjson
import pytest
from histories import START, History, ids
from hypothesis import given, settings
from hypothesis import strategies as st
from model import Digest, Entry, Event, Request, Status, format_time
from support.core import Core, bodies_of, read_digest
from support.scale import cases


def written(digest: Digest) -> bytes:
    """The digest's JSON with no escape that JSON does not demand."""
    entries = [
        {
            "AlarmID": entry.alarm,
            "Status": entry.status.name,
            "LatestChangedAt": format_time(entry.changed_at),
        }
        for entry in digest.entries
    ]
    document = {"UserID": digest.user, "ActiveAlarms": entries}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


@settings(max_examples=cases(500, 50_000), deadline=None)
@given(ids(), st.lists(ids(), min_size=1, max_size=5, unique=True))
def test_ids_are_read_back_as_they_were_written(user: str, alarms: list[str]) -> None:
    core = Core(publish_empty=True)
    for alarm in alarms:
        core.route_message(Event(user, alarm, Status.CRITICAL, START), START)
    core.route_message(Request(user), START)
    core.route_message(Request(user), START)
    body, empty = core.merge()
    document = orjson.loads(body)
    assert document["UserID"] == user
    assert [one["AlarmID"] for one in document["ActiveAlarms"]] == sorted(alarms, key=str.encode)
    assert body == written(read_digest(body))
    assert empty == written(Digest(user, ()))


def test_every_ascii_character_is_escaped_where_json_demands_it_and_nowhere_else() -> None:
    core = Core()
    characters = [chr(code) for code in range(128)]
    for alarm in characters:
        core.route_message(Event("".join(characters), alarm, Status.WARNING, 0), START)
    core.route_message(Request("".join(characters)), START)
    [body] = core.merge()
    entries = tuple(Entry(alarm, Status.WARNING, 0) for alarm in characters)
    assert body == written(Digest("".join(characters), entries))


# Splitting

SPLIT_BYTES = 16 * 1024

long_ids = st.builds(
    lambda character, length: character * length,
    st.sampled_from(["a", '"', "\0", "\x7f", "é"]),
    st.one_of(st.integers(1, 512), st.just(512)),
)


@settings(max_examples=cases(100, 5_000), deadline=None)
@given(long_ids, st.lists(st.tuples(st.integers(0, 3), long_ids), min_size=1, max_size=150))
def test_a_large_digest_is_split_greedily_and_in_order(
    user: str, alarms: list[tuple[int, str]]
) -> None:
    history: History = [(Event(user, alarm, Status.WARNING, time), START) for time, alarm in alarms]
    history.append((Request(user), START))
    [whole] = Core().run(history)
    core = Core(split_bytes=SPLIT_BYTES)
    for message, arrival in history:
        core.route_message(message, arrival)
    bodies = core.merge()
    parts = [read_digest(body) for body in bodies]
    assert {part.user for part in parts} == {user}
    assert tuple(entry for part in parts for entry in part.entries) == whole.entries
    assert all(part.entries for part in parts)
    assert all(len(body) <= SPLIT_BYTES for body in bodies)
    for part, following in pairwise(parts):
        fuller = Digest(user, part.entries + following.entries[:1])
        assert len(written(fuller)) > SPLIT_BYTES


@pytest.mark.parametrize(("spare", "messages"), [(0, 1), (-1, 2)])
def test_a_digest_of_just_the_split_size_stays_whole(spare: int, messages: int) -> None:
    entries = [Entry(f"{number:0>100}", Status.WARNING, number) for number in range(100)]
    core = Core(split_bytes=len(written(Digest("u", tuple(entries)))) + spare)
    history: History = [(Event("u", one.alarm, one.status, one.changed_at), START)
                        for one in entries]  # fmt: skip
    digests = core.run([*history, (Request("u"), START)])
    assert len(digests) == messages
    assert [entry for digest in digests for entry in digest.entries] == entries


def test_one_alarm_always_fits_the_least_split_size() -> None:
    user, alarm = "\0" * 1024, "\1" * 1024  # each byte takes six
    core = Core(split_bytes=SPLIT_BYTES)
    core.route_message(Event(user, alarm, Status.CRITICAL, 0), START)
    core.route_message(Event(user, "\2" * 1024, Status.CRITICAL, 0), START)
    core.route_message(Request(user), START)
    bodies = core.merge()
    assert [len(read_digest(body).entries) for body in bodies] == [1, 1]
    assert all(len(body) <= SPLIT_BYTES for body in bodies)


def test_a_split_digest_is_sent_once() -> None:
    core = Core(split_bytes=SPLIT_BYTES)
    history: History = [
        (Event("u", f"{number:0>100}", Status.WARNING, 1), START) for number in range(1000)
    ]
    digests = core.run([*history, (Request("u"), START), (Request("u"), START)])
    assert sum(len(digest.entries) for digest in digests) == 1000


def test_merge_returns_before_the_end_of_a_batch_that_makes_much() -> None:
    """Nobody waits for a whole batch's digests; what is left is merged when called again."""
    bound, users, alarms = 256 * 1024, 100, 100
    core = Core()
    for user in range(users):
        for alarm in range(alarms):
            core.route_message(Event(f"u{user}", f"{alarm:0>200}", Status.WARNING, 1), START)
    for user in range(users):
        core.route_message(Request(f"u{user}"), START)
    batch = core.router.take(0)
    position, digests, calls = 0, [], 0
    while position < len(batch):
        made, position = core.books[0].merge(batch, position)
        bodies = bodies_of(made)
        assert len(made) < bound + len(bodies[-1]) + 64
        assert len(made) >= bound or position == len(batch)
        digests += [read_digest(body) for body in bodies]
        calls += 1
    assert calls > 5
    assert [digest.user for digest in digests] == [f"u{user}" for user in range(users)]
    assert {len(digest.entries) for digest in digests} == {alarms}


def test_what_must_be_escaped_is_found_in_every_place_of_a_word() -> None:
    """Eight bytes are looked at together; neighbours of those that matter are no more than that."""
    special = [0x00, 0x08, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x5B, 0x5C, 0x5D, 0x7F, 0x80, 0xA2, 0xFF]
    core = Core()
    texts = {
        before + chr(one) + chr(other) + "z" * after
        for one in special
        for other in special
        for before in ("", "a", "é", "a" * 7, "a" * 8)
        for after in range(9)
    }
    for text in texts:
        core.route_message(Event("u", text, Status.WARNING, START), START)
    core.route_message(Request("u"), START)
    [body] = core.merge()
    assert body == written(read_digest(body))
    assert {entry.alarm for entry in read_digest(body).entries} == texts


def test_times_of_different_days_stand_in_one_digest() -> None:
    """The date is kept from alarm to alarm, and must be the right one for each."""
    day = 86_400 * 10**9
    leap_day = 951_782_400 * 10**9  # 2000-02-29
    starts = [0, leap_day, leap_day + day, START // day * day, -day, 1_640_995_200 * 10**9]
    times = [start + step for start in starts for step in (-day, -1, 0, 1, day - 1, day)]
    core = Core(skew_ns=2**62)
    for number, time in enumerate(times):
        # In the order of their ids, times jump back and forth; equal ones stand side by side.
        core.route_message(Event(f"u{number % 3}", f"{number}", Status.WARNING, time), START)
    for user in range(3):
        core.route_message(Request(f"u{user}"), START)
    digests = [read_digest(body) for body in core.merge()]
    found = sorted(entry.changed_at for digest in digests for entry in digest.entries)
    assert found == sorted(times)
