"""Who gets a digest, and by which targets; ``routes_file.py`` reads it from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from zoneinfo import ZoneInfo

from alarmdigest.connect.deliver.addresses import Unaddressable, UrlTemplate
from alarmdigest.connect.deliver.message import CRITICAL, WARNING
from alarmdigest.connect.deliver.rates import Rate
from alarmdigest.settings import Duration

SECOND_NS = 10**9
DAY_NS = 86_400 * SECOND_NS
# Every message has one of these; a target or route without `worst` takes all.
RANKS = {"": 0, "CLEARED": 0, WARNING: 1, CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class Target:
    """A way to people. ``form`` is html, text or short; ``worst`` the least that a message must
    hold; ``unsubscribe`` a template of the address for List-Unsubscribe, if there is any."""

    name: str
    url: UrlTemplate
    form: str = "text"
    rate: Rate | None = None
    worst: str = ""
    unsubscribe: UrlTemplate | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """``users`` are patterns of UserIDs, as a shell has them for files."""

    users: tuple[str, ...]
    targets: tuple[str, ...]
    worst: str = ""
    zone: str = ""
    go_on: bool = False


@dataclass(frozen=True, slots=True)
class UserEntry:
    values: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One target for one user. ``address`` is the filled URL, and a secret; empty where there can
    be none, and ``problem`` says why."""

    target: Target
    zone: ZoneInfo
    worst: str
    address: str
    unsubscribe: str = ""
    problem: str = ""

    def wants(self, worst: str) -> bool:
        """Whether a message that holds this as its worst goes this way."""
        return RANKS.get(worst, 0) >= RANKS[self.worst]


@dataclass(frozen=True, slots=True)
class ConsumerRules:
    name: str = "alarmdigest-deliver"
    most_held: int = 20_000
    part_wait: Duration = Duration(SECOND_NS)
    ack_wait: Duration = Duration(30 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class SendingRules:
    """Pauses are those between two attempts, all durations in ns. A send that takes longer than
    ``hangs_after`` does not count for the ``threads`` any more."""

    threads: int = 32
    per_endpoint: int = 4
    attempts: int = 12
    give_up_after: Duration = Duration(3600 * SECOND_NS)
    first_pause: Duration = Duration(5 * SECOND_NS)
    longest_pause: Duration = Duration(900 * SECOND_NS)
    hangs_after: Duration = Duration(60 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class StorageRules:
    """Where dead letters go, and the buckets: what was delivered, and what users were told."""

    dead_subject: str = "AlarmDigestUndelivered"
    dead_stream: str = "ALARM_UNDELIVERED"
    dead_max_age: Duration = Duration(30 * DAY_NS)
    dead_max_bytes: int = 256 * 2**20
    delivered_bucket: str = "ALARM_DELIVERED"
    delivered_max_age: Duration = Duration(7 * DAY_NS)
    state_bucket: str = "ALARM_DELIVER"
    state_max_age: Duration = Duration(90 * DAY_NS)
    details_bucket: str = "ALARM_DETAILS"
    lease: Duration = Duration(15 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class MessageRules:
    templates: Path | None = None
    most_rows: int = 100
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Routes:
    """All that the file says."""

    targets: Mapping[str, Target] = field(default_factory=dict)
    routes: Sequence[Route] = ()
    users: Mapping[str, UserEntry] = field(default_factory=dict)
    consumer: ConsumerRules = field(default_factory=ConsumerRules)
    sending: SendingRules = field(default_factory=SendingRules)
    storage: StorageRules = field(default_factory=StorageRules)
    messages: MessageRules = field(default_factory=MessageRules)
    file: Path | None = None

    def ways(self, user_id: str) -> list[Way]:
        """In the order of the file, each target once; none where no route covers the user."""
        entry = self.users.get(user_id) or UserEntry()
        found: dict[str, Way] = {}
        for route in self.routes:
            if not any(fnmatchcase(user_id, pattern) for pattern in route.users):
                continue
            for name in route.targets:
                if name not in found:
                    found[name] = self._way(route, self.targets[name], user_id, entry)
            if not route.go_on:
                break
        return list(found.values())

    def _way(self, route: Route, target: Target, user_id: str, entry: UserEntry) -> Way:
        zone = ZoneInfo(entry.zone or route.zone or self.messages.zone)
        worst = max(route.worst, target.worst, key=lambda one: RANKS[one])
        try:
            address = target.url.fill(user_id, entry.values)
            unsubscribe = (
                target.unsubscribe.fill(user_id, entry.values) if target.unsubscribe else ""
            )
        except Unaddressable as error:
            return Way(target, zone, worst, "", problem=str(error))
        return Way(target, zone, worst, address, unsubscribe)


def needs_restart(old: Routes, new: Routes) -> list[str]:
    """The names of what has changed and is used from a start on only."""
    return [
        f"[{title}]"
        for title in ("consumer", "sending", "storage")
        if getattr(old, title) != getattr(new, title)
    ]
