"""Who is told when, against a list that is searched from end to end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alarmdigest.connect.schedule.agenda import LATE_NS, Agenda
from alarmdigest.connect.schedule.schedule import FOREVER_NS

Entered = dict[str, tuple[int, bool]]
USERS = ("ada", "bob", "eve")

adding = st.tuples(st.just("add"), st.sampled_from(USERS), st.integers(0, 20), st.booleans())
taking = st.tuples(st.just("take"), st.integers(0, 60), st.integers(1, 3))
changing = st.tuples(st.just("change"), st.sampled_from((*USERS, "all")), st.integers(0, 3))


@given(st.lists(st.one_of(adding, taking, changing), max_size=40))
def test_those_whose_time_has_come_are_taken_and_no_others(steps: list[tuple[object, ...]]) -> None:
    delays = dict.fromkeys(USERS, 10)

    def due_at(user: str, since_ns: int, critical: bool, _not_before_ns: int = 0) -> int | None:
        delay = delays[user]
        return (
            None
            if delay == 0
            else FOREVER_NS
            if delay == 1
            else since_ns + delay * (1 if critical else 2)
        )

    agenda, entered = Agenda(due_at), Entered()
    for what, *details in steps:
        if what == "add":
            user, since, critical = details
            assert isinstance(user, str)
            assert isinstance(since, int)
            before = entered.get(user, (since, False))
            if agenda.add(user, since, bool(critical)):
                entered[user] = min(before[0], since), before[1] or bool(critical)
            else:
                assert delays[user] == 0
        elif what == "change":
            user, number = details
            assert isinstance(number, int)
            for one in USERS if user == "all" else (str(user),):
                delays[one] = (0, 1, 5, 10)[number]
                if delays[one] == 0:
                    entered.pop(one, None)
            if user == "all":
                agenda.schedules_changed(lambda: None)
            else:
                agenda.schedule_changed(str(user))
        else:
            now, most = details
            assert isinstance(now, int)
            assert isinstance(most, int)
            times = {user: due_at(user, *entered[user]) or 0 for user in entered}
            ready = sorted((at, user) for user, at in times.items() if at <= now)
            taken = agenda.take(now, most)
            assert len(taken) == min(most, len(ready))
            # Those with the earliest times; of equal ones, any.
            assert sorted(due.waiting.at_ns for due in taken) == [at for at, _ in ready[:most]]
            for due in taken:
                assert due.waiting.at_ns == times[due.user]
                assert due.waiting[:2] == entered.pop(due.user)
        assert len(agenda) == len(entered)


def test_what_is_put_back_is_taken_again() -> None:
    agenda = Agenda(lambda _user, since, _critical, _not_before: since + 5)
    agenda.add("ada", 1, False)
    taken = agenda.take(6, 10)
    assert [one.user for one in taken] == ["ada"]
    assert agenda.take(6, 10) == []
    agenda.add("ada", 3, True)  # news that came meanwhile
    agenda.put_back(taken)
    [again] = agenda.take(6, 10)
    assert again.waiting == (1, True, 6)


def test_a_change_of_all_leaves_nothing_behind() -> None:
    agenda = Agenda(lambda _user, since, _critical, _not_before: since + 5)
    for number in range(100):
        agenda.add(f"user-{number}", number, False)
    for _ in range(50):
        agenda.schedules_changed(lambda: None)
    assert sum(map(len, agenda._at.values())) == 100


def test_who_is_told_late_is_told_when_the_schedule_lets_him() -> None:
    def due_at(_user: str, since_ns: int, _critical: bool, not_before_ns: int) -> int:
        return max(since_ns, 50 * LATE_NS if not_before_ns > 10 * LATE_NS else 0)

    agenda = Agenda(due_at)
    agenda.add("ada", 5 * LATE_NS, False)
    assert agenda.take(20 * LATE_NS, 1) == []
    assert agenda.next_ns == 50 * LATE_NS
    assert [due.user for due in agenda.take(50 * LATE_NS, 1)] == ["ada"]
