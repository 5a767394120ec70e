"""Which ChangedAt an alarm gets, and what must be remembered for that.

An alert's time is when it began, or when it was resolved. But Alertmanager lets an alert that is
resolved and soon fires again keep the time when it first began; by the service's rule it would
stand behind its own CLEARED, and be lost. So one that fires and is not newer than the last CLEARED
of its alarm gets the time at which it was received, and keeps it over its repeats. And one that is
resolved once more, but not later than that time (by a clock that is behind ours), gets the time of
receipt, too.

Other senders have a time of its own for each change; there what is told is what counts.

Several bridges may take an alarm's news by turns. What they must know of each other stands in a
key-value bucket (``memory.py``).
"""

from __future__ import annotations

from typing import NamedTuple

from alarmdigest.connect.bridge.mapping import CLEARED, Alarm


class Entry(NamedTuple):
    """What is remembered of an alarm: of its last CLEARED (``kind`` c), or of when it fired again
    (f). ``at_ns`` is the ChangedAt that was published, ``told_ns`` the sender's time."""

    kind: str
    key: str
    at_ns: int
    told_ns: int


class Times:
    """Decides, and remembers. Belongs to the publisher.

    Plain numbers in dictionaries, so that the garbage collector need not look at them: about
    220 bytes for an alarm that was CLEARED.
    """

    def __init__(self, *, ahead_ns: int, remember_ns: int) -> None:
        self._ahead_ns = ahead_ns
        self._remember_ns = remember_ns
        self._cleared: dict[str, int] = {}
        self._resolved: dict[str, int] = {}  # as told, where that is not what was published
        self._fired: dict[str, int] = {}
        self._began: dict[str, int] = {}  # as told
        self.counts = {"missing": 0, "future": 0, "fired_again": 0, "resolved_again": 0}

    def __len__(self) -> int:
        return len(self._cleared)

    def forget_all(self) -> None:
        for one in (self._cleared, self._resolved, self._fired, self._began):
            one.clear()

    def remember(self, entry: Entry) -> None:
        """What this or another bridge has decided. The later of two CLEARED counts, in whatever
        order they are read."""
        key, at_ns, told_ns = entry.key, entry.at_ns, entry.told_ns
        if entry.kind == "c":
            if at_ns < self._cleared.get(key, 0):
                return
            self._cleared[key] = at_ns
            if told_ns != at_ns:
                self._resolved[key] = told_ns
            else:
                self._resolved.pop(key, None)
        elif at_ns >= self._fired.get(key, 0):
            self._fired[key], self._began[key] = at_ns, told_ns

    def sweep(self, now_ns: int) -> None:
        """Forget what is older than the bucket keeps it."""
        before = now_ns - self._remember_ns
        for newest, told in ((self._cleared, self._resolved), (self._fired, self._began)):
            for key in [key for key, at_ns in newest.items() if at_ns < before]:
                del newest[key]
                told.pop(key, None)

    def decide(self, alarm: Alarm, received_ns: int) -> tuple[int, Entry | None]:
        """The ChangedAt, and what other bridges must know before it is published."""
        told_ns, latest_ns = alarm.time_ns, received_ns + self._ahead_ns
        if told_ns == 0:
            self.counts["missing"] += 1
        elif told_ns > latest_ns:
            # Not the time of receipt: what is told later, and is near enough then, stays later.
            self.counts["future"] += 1
            told_ns = latest_ns
        if not alarm.keeps_start:
            return told_ns or received_ns, None
        if alarm.status == CLEARED:
            # Never at or before its own beginning: at equal times what is active wins.
            first_ns = min(alarm.began_ns, latest_ns) + 1
            told_ns = max(told_ns, first_ns) if told_ns else 0
            return self._resolve(alarm.key, told_ns, max(received_ns, first_ns))
        return self._fire(alarm.key, told_ns or received_ns, received_ns)

    def _resolve(self, key: str, told_ns: int, received_ns: int) -> tuple[int, Entry | None]:
        last_ns = self._cleared.get(key, 0)
        last_told_ns = self._resolved.get(key, last_ns)
        if 0 < told_ns <= last_told_ns:  # a repeat, or an older one that comes late
            return (last_ns if told_ns == last_told_ns else told_ns), None
        at_ns, newest_ns = told_ns or received_ns, max(last_ns, self._fired.get(key, 0))
        if at_ns <= newest_ns:
            self.counts["resolved_again"] += 1
            at_ns = max(received_ns, newest_ns + 1)
        entry = Entry("c", key, at_ns, told_ns or at_ns)
        self.remember(entry)
        return at_ns, entry

    def _fire(self, key: str, told_ns: int, received_ns: int) -> tuple[int, Entry | None]:
        cleared_ns = self._cleared.get(key, 0)
        if told_ns > cleared_ns:
            return told_ns, None
        fired_ns = self._fired.get(key, 0)
        if fired_ns > cleared_ns and self._began.get(key) == told_ns:
            return fired_ns, None  # a repeat
        self.counts["fired_again"] += 1
        entry = Entry("f", key, max(received_ns, cleared_ns + 1), told_ns)
        self.remember(entry)
        return entry.at_ns, entry
