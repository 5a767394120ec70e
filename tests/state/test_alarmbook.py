"""The compiled core keeps the rule: it gives the model's digests, however its batches are cut."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from histories import START, History, event_body, histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import (
    FAR_FUTURE,
    RETENTION_NS,
    SKEW_NS,
    Digest,
    Entry,
    Event,
    Model,
    Request,
    Status,
)
from support.core import SECRET, Core, read_digest
from support.scale import cases

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.router import EVENT

WORDS = {"W": "WARNING", "C": "CRITICAL", "X": "CLEARED"}


def replayed(history: str) -> Core:
    """The core after the contract's shorthand."""
    core = Core()
    replay(history, core)
    core.merge()
    return core


def replay(history: str, core: Core | None = None, *, publish_empty: bool = False) -> list[str]:
    """What the contract's shorthand publishes: digests as `a W@1, b C@2`, and refusals."""
    core = core or Core(publish_empty=publish_empty)
    published = []
    for step, shorthand in enumerate(history.split(", ")):
        if shorthand == "D":
            core.route_message(Request("u"), START + step)
            digests = [read_digest(body).entries for body in core.merge()]
            for entries in digests:
                shown = [f"{one.alarm} {one.status.name[0]}@{one.changed_at}" for one in entries]
                published.append(", ".join(shown) or "empty")
            if not digests:
                published.append("none")
            continue
        word, alarm, time = shorthand.replace("@", " ").split()
        fields = json.loads(event_body(Event("u", alarm, Status.CLEARED, int(time))))
        fields["Status"] = WORDS.get(word, word)
        core.route(EVENT, json.dumps(fields).encode(), START + step)
        published += [f"rejected: {reason}" for reason in core.refused]
        core.refused.clear()
    return published


@pytest.mark.parametrize(
    ("history", "published"),
    [
        ("W a@1, D", ["a W@1"]),
        ("C b@2, W a@1, D", ["a W@1, b C@2"]),
        ("C a@2, W a@1, D", ["a C@2"]),
        ("X a@2, C a@1, D", ["none"]),
        ("C a@2, X a@1, D", ["a C@2"]),
        ("C a@1, C a@1, D, D", ["a C@1", "none"]),
        ("C a@1, D, C a@1, D", ["a C@1", "none"]),
        ("C a@1, D, C a@2, D", ["a C@1", "none"]),
        ("W a@1, D, C a@2, D", ["a W@1", "a C@2"]),
        ("C a@1, D, X a@2, C a@3, D", ["a C@1", "a C@3"]),
        ("C a@1, D, C a@3, X a@2, D", ["a C@1", "a C@3"]),
        ("W a@5, C a@5, D", ["a C@5"]),
        ("C a@5, W a@5, D", ["a C@5"]),
        ("W b@5, W a@5, D", ["a W@5, b W@5"]),
        ("W a@1, purple a@2, D", ["rejected: status", "a W@1"]),
    ],
)
def test_examples_of_the_contract(history: str, published: list[str]) -> None:
    assert replay(history) == published


@pytest.mark.parametrize(
    ("history", "published"),
    [
        # CLEARED is the least of a tie too.
        ("X a@5, W a@5, D", ["a W@5"]),
        ("W a@5, X a@5, D", ["a W@5"]),
        # Seen, then requested, then active again: the change is not forgotten with the request.
        ("C a@1, D, X a@2, D, C a@3, D", ["a C@1", "none", "a C@3"]),
        ("C a@1, D, X a@2, D, D, W a@3, D, D", ["a C@1", "none", "none", "a W@3", "none"]),
        ("W a@5, D, C a@5, D", ["a W@5", "a C@5"]),
        ("C a@5, D, W a@5, D", ["a C@5", "none"]),
        ("C a@5, D, X a@4, D, C a@6, D", ["a C@5", "none", "none"]),
        ("C a@1, D, C a@4, D, X a@2, D", ["a C@1", "none", "a C@4"]),
        # Due once, cleared before the request, due again.
        ("W a@1, X a@2, D, W a@3, D", ["none", "a W@3"]),
        ("W a@1, W b@1, X a@2, D, W a@3, D", ["b W@1", "a W@3"]),
        ("W a@1, X a@2, W a@3, X a@4, W a@5, D, D", ["a W@5", "none"]),
    ],
)
def test_cases_between_the_examples(history: str, published: list[str]) -> None:
    assert replay(history) == published


def test_an_empty_digest_is_published_only_on_demand() -> None:
    assert replay("D, W a@1, X a@2, D") == ["none", "none"]
    assert replay("D, W a@1, D, D", publish_empty=True) == ["empty", "a W@1", "empty"]


VARIANTS = cases(10, 50)


def variants(history: History, random: Random) -> Iterator[History]:
    """The history, and the same messages in other orders at the same arrivals.

    Making a history takes far longer than running it, so each is used more than once.
    """
    yield history
    messages = [message for message, _ in history]
    arrivals = [arrival for _, arrival in history]
    for _ in range(VARIANTS - 1):
        random.shuffle(messages)
        yield list(zip(messages, arrivals, strict=True))


def cuts_of(history: History, random: Random) -> Sequence[int]:
    """Where batches end: nowhere but at the end, behind every message, or anywhere."""
    every = range(len(history))
    return random.choice([(), every, [number for number in every if random.random() < 0.3]])


def by_user(digests: list[Digest]) -> dict[str, list[Digest]]:
    """Digests of one user stand in order; those of several are made by several workers."""
    users = defaultdict(list)
    for digest in digests:
        users[digest.user].append(digest)
    return users


@settings(
    max_examples=cases(2_000, 100_000) // VARIANTS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(histories(), st.integers(0, 2**32 - 1))
def test_random_histories_give_the_digests_of_the_model(whole: History, seed: int) -> None:
    random = Random(seed)
    for history in variants(whole, random):
        workers, publish_empty = random.choice([1, 1, 2, 3, 12]), random.random() < 0.2
        model = Model(publish_empty=publish_empty)
        answers = [model.apply(message, arrival) for message, arrival in history]
        expected = [digest for digest in answers if digest is not None]
        core = Core(workers=workers, publish_empty=publish_empty)
        digests = core.run(history, cuts_of(history, random))
        if workers == 1:
            assert digests == expected
        assert by_user(digests) == by_user(expected)
        assert core.router.clamped == model.clamped
        assert sum(book.active_count for book in core.books) == model.active_count
        assert sum(book.due_count for book in core.books) == model.due_count
        assert not core.refused


@settings(max_examples=cases(600, 10_000) // VARIANTS, deadline=None)
@given(histories(min_size=5), st.integers(0, 2**32 - 1))
def test_skew_and_retention_are_settings(whole: History, seed: int) -> None:
    random = Random(seed)
    for history in variants(whole, random):
        skew = random.choice([0, 1, SKEW_NS, 2 * SKEW_NS])
        retention = random.choice([0, 1, 10, SKEW_NS])
        model = Model(skew_ns=skew, retention_ns=retention)
        core = Core(skew_ns=skew, retention_ns=retention)
        answers = [model.apply(message, arrival) for message, arrival in history]
        assert core.run(history) == [digest for digest in answers if digest is not None]
        assert core.router.clamped == model.clamped


@pytest.mark.parametrize(("after", "remembered"), [(0, True), (1, False)])
def test_cleared_is_remembered_to_the_last_nanosecond_of_the_retention(
    after: int, remembered: bool
) -> None:
    core = Core()
    history: History = [
        (Event("u", "a", Status.CLEARED, 2), START),
        (Event("u", "a", Status.WARNING, 1), START + 1),  # an older event starts nothing anew
        (Event("u", "a", Status.CLEARED, 2), START + 2),  # nor does a repeat
        (Event("u", "a", Status.CRITICAL, 1), START + RETENTION_NS + after),
        (Request("u"), START + RETENTION_NS + after),
    ]
    revived = Digest("u", (Entry("a", Status.CRITICAL, 1),))
    assert core.run(history) == ([] if remembered else [revived])
    assert core.books[0].counters["forgotten"] == (0 if remembered else 1)


def test_a_time_beyond_the_skew_counts_as_arrival_plus_skew() -> None:
    core = Core()
    history: History = [
        (Event("u", "a", Status.WARNING, START + SKEW_NS), START),
        (Event("u", "b", Status.WARNING, START + 1 + SKEW_NS + 1), START + 1),
        (Event("u", "c", Status.WARNING, FAR_FUTURE), START + 2),
        (Request("u"), START + 3),
    ]
    [digest] = core.run(history)
    assert [entry.changed_at - START - SKEW_NS for entry in digest.entries] == [0, 1, 2]
    assert core.router.clamped == 2


def test_arrivals_never_stand_still_when_the_clock_goes_back() -> None:
    core = Core()
    for clock in (START, START - 10**9, START):
        core.route_message(Event("u", "a", Status.WARNING, 1), clock)
    assert core.router.arrival_ns == START + 2


@pytest.mark.parametrize(("publish_empty", "answered"), [(False, 1), (True, 2)])
def test_a_request_counts_as_answered_once_however_many_messages_its_digest_has(
    publish_empty: bool, answered: int
) -> None:
    core = Core(publish_empty=publish_empty, split_bytes=16 * 1024)
    for number in range(500):
        event = Event("u", f"a{number}", Status.WARNING, number)
        core.route_message(event, START)
    core.route_message(Request("u"), START)
    core.route_message(Request("nobody"), START)
    assert len(core.merge()) > 2
    assert core.books[0].answered == answered


def test_a_book_tells_the_memory_that_it_holds() -> None:
    core = Core()
    [book] = core.books
    empty = book.held_bytes
    assert 0 < empty < 16 * 1024
    for number in range(50_000):
        core.route_message(Event("u", f"a{number}", Status.CRITICAL, number), START)
    core.merge()
    # An arena of whole MiB and tables of at least 8 bytes for a slot.
    assert 50_000 * 48 < book.held_bytes - empty < 50_000 * 160


def test_the_counters_tell_what_happened_to_events_and_requests() -> None:
    core = Core()
    for step, shown in enumerate(["W2", "W1", "W2", "D", "W2", "C1", "D", "C3", "D"]):
        message = (
            Request("u")
            if shown == "D"
            else Event("u", "a", Status[WORDS[shown[0]]], int(shown[1]))
        )
        core.route_message(message, START + step)
    core.merge()
    assert core.books[0].counters == {
        "events": 6,
        "late": 2,
        "repeated": 2,
        "forgotten": 0,
        "swept": 0,
        "requests": 3,
        "empty_requests": 1,
        "digests": 2,
        "alarms_sent": 2,
        "forget_users": 0,
        "forgotten_with_user": 0,
    }
    assert (core.books[0].user_count, core.books[0].alarm_count) == (1, 1)


@pytest.mark.parametrize(
    ("history", "active", "due"),
    [
        ("W a@1, C b@2, X c@3", 2, 2),
        ("W a@1, D", 1, 0),
        ("W a@1, D, W a@2", 1, 0),
        ("W a@1, D, C a@2", 1, 1),
        ("W a@1, D, C a@2, X a@3", 0, 0),
        ("W a@1, D, X a@2, W a@3", 1, 1),
        ("W a@1, D, W a@3, X a@2", 1, 1),  # a late event makes it changed
        ("X a@2, W a@1", 0, 0),
        ("W a@1, D, C a@2, D", 1, 0),
    ],
)
def test_active_and_due_alarms_are_counted(history: str, active: int, due: int) -> None:
    [book] = replayed(history).books
    assert (book.active_count, book.due_count) == (active, due)


def test_an_alarm_that_begins_anew_after_its_retention_is_counted_once() -> None:
    core = Core()
    core.route_message(Event("u", "a", Status.WARNING, 1), START)
    core.route_message(Request("u"), START + 1)
    core.route_message(Event("u", "a", Status.CLEARED, 2), START + 2)
    core.route_message(Event("u", "a", Status.WARNING, 1), START + 3 + RETENTION_NS)
    core.merge()
    [book] = core.books
    assert (book.counters["forgotten"], book.active_count, book.due_count) == (1, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret": SECRET[:-1]}, "secret"),
        ({"split_bytes": 16 * 1024 - 1}, "split_bytes"),
        ({"retention_ns": -1}, "retention_ns"),
    ],
)
def test_a_book_that_could_not_keep_its_promises_is_not_made(
    wrong: dict[str, Any], said: str
) -> None:
    right: dict[str, Any] = {"secret": SECRET, "split_bytes": 16 * 1024, "retention_ns": 0}
    AlarmBook(**right)
    with pytest.raises(ValueError, match=said):
        AlarmBook(**right | wrong)
