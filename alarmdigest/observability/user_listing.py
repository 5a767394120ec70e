"""Who waits for what: the topmost users of all workers, as JSON has them."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Any, Final

from alarmdigest._ext import timestamps
from alarmdigest.pipeline.questions import TopUsers
from alarmdigest.pipeline.service import Service
from alarmdigest.wire.queries import ORDERS

# Of a packed line: alarms, active and critical ones, due ones, since when, the length of the id.
_LINE: Final = struct.Struct("=IIIIqH")
PATIENCE_S = 2.0
ON_THE_PAGE = 20


class UserListing:
    """One question to every worker, ``parts``; what they have found once all of them are
    answered."""

    def __init__(
        self,
        service: Service,
        *,
        sort: str,
        top: int,
        only_due: bool,
        only_active: bool,
        on_answered: Callable[[], None],
    ) -> None:
        """Asks at once. ``on_answered`` is called by each worker, and must not wait."""
        self._sort = sort
        self._top = top
        self.parts = [
            TopUsers(
                order=ORDERS.index(sort),
                top=top,
                only_due=only_due,
                only_active=only_active,
                on_answered=on_answered,
            )
            for _ in service.workers
        ]
        for worker, part in zip(service.workers, self.parts, strict=True):
            worker.queue.put(part)

    def totals(self) -> dict[str, int]:
        """Of all users; ``found`` are those that were to be listed."""
        names = ("users", "alarms", "active", "due", "found")
        return {name: sum(getattr(part, name) for part in self.parts) for name in names}

    def topmost(self) -> list[dict[str, Any]]:
        users = {
            user["UserID"]: user
            for part in self.parts
            for lines in part.lines
            for user in _users_in(lines)
        }
        return nsmallest(self._top, users.values(), key=_SORTED_BY[self._sort])


def longest_waiting(service: Service) -> dict[str, Any]:
    """For the page. Raises TimeoutError where the workers have no time to answer."""
    answered = threading.Semaphore(0)
    listing = UserListing(
        service,
        sort="wait",
        top=ON_THE_PAGE,
        only_due=True,
        only_active=False,
        on_answered=answered.release,
    )
    deadline = time.monotonic() + PATIENCE_S
    for _ in listing.parts:
        if not answered.acquire(timeout=max(0.0, deadline - time.monotonic())):
            for part in listing.parts:
                part.cancelled = True
            raise TimeoutError("the workers have no time to answer")
    return {**listing.totals(), "top": listing.topmost()}


def _longest_wait(user: dict[str, Any]) -> tuple[Any, ...]:
    return (user["waits_since"] is None, user["waits_since"] or "", user["UserID"])


def _most_of(name: str) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    return lambda user: (-user[name], *_longest_wait(user))


_SORTED_BY: Final[dict[str, Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "wait": _longest_wait,
    **{name: _most_of(name) for name in ORDERS[1:]},
}


def _users_in(lines: bytes) -> Iterator[dict[str, Any]]:
    position = 0
    while position < len(lines):
        alarms, active, critical, due, since_ns, length = _LINE.unpack_from(lines, position)
        position += _LINE.size
        yield {
            "UserID": lines[position : position + length].decode(),
            "due": due,
            "active": active,
            "critical": critical,
            "alarms": alarms,
            "waits_since": timestamps.to_text(since_ns) if due else None,
        }
        position += length
