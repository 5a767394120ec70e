"""Who is due, and who became so: what a scheduler is told."""

from __future__ import annotations

from histories import START, History, histories
from hypothesis import given
from hypothesis import strategies as st
from model import Event, Model, Request, Status
from support.core import Core

from alarmdigest.observability.due_news import due_lines

W, C, X = Status.WARNING, Status.CRITICAL, Status.CLEARED


def due_users(core: Core) -> dict[str, tuple[Status, int]]:
    found = {}
    for book in core.books:
        slot = 0
        while True:
            lines, slot = book.due_users(slot, 1, 1)
            for user, worst, since_ns in due_lines(lines):
                assert user.decode() not in found
                found[user.decode()] = Status(worst), since_ns
            if slot == 0:
                break
    return found


def news_of(core: Core) -> dict[str, Status]:
    found: dict[str, Status] = {}
    for book in core.books:
        for user, status, _since_ns in due_lines(book.take_news()):
            name = user.decode()
            found[name] = max(found.get(name, X), Status(status))
    return found


@given(histories(), st.integers(1, 3))
def test_those_who_are_due_are_listed_with_their_worst_status(
    history: History, workers: int
) -> None:
    core, model = Core(workers=workers), Model()
    for message, arrival_ns in history:
        core.route_message(message, arrival_ns)
        core.merge()
        model.apply(message, arrival_ns)
        assert {user: worst for user, (worst, _) in due_users(core).items()} == model.worst_due()


@given(histories())
def test_whoever_becomes_due_or_critical_is_news(history: History) -> None:
    core, model = Core(), Model()
    core.books[0].watch(True)
    before: dict[str, Status] = {}
    for message, arrival_ns in history:
        core.route_message(message, arrival_ns)
        core.merge()
        model.apply(message, arrival_ns)
        after, told = model.worst_due(), news_of(core)
        for user, worst in after.items():
            if before.get(user, X) < worst:
                assert told[user] == worst
        # And nothing else is: a message is of one user, who is due after it.
        assert set(told) <= {message.user} & set(after)
        before = after


def test_since_when_is_the_arrival_of_what_made_it_due() -> None:
    core = Core()
    steps = [("a", W, 1), ("b", W, 2), ("b", C, 3), ("a", X, 4)]
    for step, (alarm, status, time) in enumerate(steps):
        core.route_message(Event("u", alarm, status, time), START + step)
    core.merge()
    # `b` became due with its WARNING; `a`, which was first, is due no more.
    assert due_users(core) == {"u": (C, START + 1)}
    core.route_message(Request("u"), START + 9)
    core.merge()
    assert due_users(core) == {}


def test_an_alarm_that_stays_due_is_no_news_again() -> None:
    core = Core()
    core.books[0].watch(True)
    told = []
    for step, status in enumerate([W, W, C, C, W, X, W]):
        core.route_message(Event("u", "a", status, step), START + step)
        core.merge()
        told.append(news_of(core).get("u"))
    assert told == [W, None, C, None, None, None, W]


def test_while_nobody_watches_nothing_is_noted() -> None:
    core = Core()
    book = core.books[0]
    core.route_message(Event("u", "a", W, 1), START)
    core.merge()
    assert book.take_news() == b""
    book.watch(True)
    core.route_message(Event("u", "b", W, 1), START + 1)
    core.merge()
    book.watch(False)
    assert not book.watched
    assert book.take_news() == b""


def test_a_list_comes_in_parts_of_bounded_size() -> None:
    core = Core()
    for number in range(1000):
        core.route_message(Event(f"user-{number:04}", "a", W, 1), START + number)
    core.merge()
    book, slot, parts = core.books[0], 0, []
    while True:
        lines, slot = book.due_users(slot, 1 << 20, 2000)
        parts.append(len(lines))
        if slot == 0:
            break
    assert sum(parts) == 1000 * (11 + 9)
    assert max(parts) < 4000
