"""What became of one message in an alarm book, as a word."""

from __future__ import annotations

from typing import Literal, TypeAlias

from alarmdigest._ext.alarmbook import AlarmBook

Outcome: TypeAlias = Literal[
    "new", "merged", "late", "repeated", "anew", "digest", "nothing_due", "forgotten"
]


def merge_one(book: AlarmBook, batch: bytes, start: int, end: int) -> tuple[bytes, Outcome]:
    """Merge the one routed record between these offsets; the outgoing records that it makes, and
    its outcome: ``new`` is the first event of an alarm, ``anew`` the first after it was
    forgotten."""
    before, alarms = book.counters, book.alarm_count
    made, position = book.merge(batch, start, end)
    assert position == end
    after = book.counters
    if after["requests"] > before["requests"]:
        return made, "digest" if made else "nothing_due"
    if after["forget_users"] > before["forget_users"]:
        return made, "forgotten"
    if after["late"] > before["late"]:
        return made, "late"
    if after["repeated"] > before["repeated"]:
        return made, "repeated"
    if after["forgotten"] > before["forgotten"]:
        return made, "anew"
    return made, "new" if book.alarm_count > alarms else "merged"
