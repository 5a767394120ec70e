"""What templates get: a message's alarms in their order, bounded, with clean texts.

Nothing else of a message reaches a template, so none of them can forget to clean a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from alarmdigest.connect.deliver.clean_text import block, one_line, web_link
from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, AlarmLine, Message

TITLE_CHARS = 120
SUMMARY_CHARS = 300
DESCRIPTION_CHARS = 1000
USER_CHARS = 80
LABEL_CHARS = 60
MAX_LABELS = 64
MAX_LINKS = 4
# So many labels tell where it is; more of them are a wall of text.
FEW_LABELS = 6
# Labels that the name and the status of an alarm have said already.
SAID = frozenset(("alertname", "severity", "status"))
_RANK = {CRITICAL: 0, WARNING: 1, CLEARED: 2}
SECTIONS = {"new": "New", "still_active": "Still active", "cleared": "Cleared since told"}

Clean = Callable[[str], str]
"""What is done to each text besides: as it is for a mail, without markup for a chat."""


@dataclass(frozen=True, slots=True)
class Link:
    """``name`` is a word such as ``runbook``; ``url`` begins with http:// or https://."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """One row. Each text is one line, but for ``description``."""

    title: str
    alarm_id: str
    status: str
    was: str
    since_ns: int
    for_ns: int
    summary: str
    description: str
    labels: Mapping[str, str]
    few_labels: Mapping[str, str]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """``alarms`` are those that are shown, the numbers count all of them."""

    name: str
    title: str
    alarms: tuple[Alarm, ...]
    total: int
    critical: int
    warning: int
    cleared: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A template's variables, by their names."""

    headline: str
    worst: str
    user_id: str
    made_ns: int
    zone: str
    digest_ids: tuple[str, ...]
    sections: tuple[Section, ...]
    new: Section
    still_active: Section
    cleared: Section
    more: int
    state_known: bool
    unsubscribe: str


def shown(message: Message, *, zone: str, unsubscribe: str, rows: int, clean: Clean) -> Shown:
    """At most ``rows`` alarms of it: of the new ones as many as there are, then of those that are
    still active, then of those that have ended."""
    sections, left = [], rows
    for name, title in SECTIONS.items():
        lines: tuple[AlarmLine, ...] = getattr(message, name)
        # Oldest first also among the new ones of several digests: what has waited longest is not
        # below what has just come. Those that a person need not act upon any more come last.
        ordered = sorted(lines, key=lambda line: (_RANK.get(_status(line), 1), line.since_ns))
        alarms = tuple(_alarm(line, message.made_ns, clean) for line in ordered[: max(left, 0)])
        left -= len(alarms)
        sections.append(Section(name, title, alarms, len(lines), *_numbers(lines)))
    new, still_active, cleared = sections
    return Shown(
        headline=_headline(new, still_active, cleared),
        worst=_worst(new, still_active),
        user_id=clean(one_line(message.user_id, USER_CHARS)),
        made_ns=message.made_ns,
        zone=zone,
        digest_ids=tuple(clean(one_line(one, LABEL_CHARS)) for one in message.digest_ids),
        sections=tuple(one for one in sections if one.alarms),
        new=new,
        still_active=still_active,
        cleared=cleared,
        more=sum(one.total - len(one.alarms) for one in sections),
        state_known=message.state_known,
        unsubscribe=web_link(unsubscribe),
    )


def _alarm(line: AlarmLine, made_ns: int, clean: Clean) -> Alarm:
    labels = {
        clean(one_line(name, LABEL_CHARS)): clean(one_line(value, LABEL_CHARS))
        for name, value in list(line.labels.items())[:MAX_LABELS]
    }
    telling = {name: value for name, value in labels.items() if name not in SAID and value}
    links = [
        Link(clean(one_line(name, LABEL_CHARS)) or "link", url)
        for name, one in line.links.items()
        if (url := web_link(one))
    ]
    alarm_id = clean(one_line(line.alarm_id, TITLE_CHARS)) or "(a name of invisible characters)"
    status = _status(line)
    return Alarm(
        title=clean(one_line(line.name, TITLE_CHARS)) or alarm_id,
        alarm_id=alarm_id,
        status=status,
        was=line.status if line.status != status else "",
        since_ns=line.since_ns,
        for_ns=max(made_ns - line.since_ns, 0),
        summary=clean(one_line(line.summary, SUMMARY_CHARS)),
        description=clean(block(line.description, DESCRIPTION_CHARS)),
        labels=labels,
        few_labels=telling if len(telling) <= FEW_LABELS else {},
        links=tuple(links[:MAX_LINKS]),
    )


def _status(line: AlarmLine) -> str:
    return line.now or line.status


def _numbers(lines: Iterable[AlarmLine]) -> tuple[int, int, int]:
    """How many are CRITICAL, WARNING and CLEARED."""
    statuses = [_status(line) for line in lines]
    return statuses.count(CRITICAL), statuses.count(WARNING), statuses.count(CLEARED)


def _headline(new: Section, still_active: Section, cleared: Section) -> str:
    """What is new, or else what there is."""
    if told := _counted(new):
        return told
    if new.total:
        return f"{new.total} new, ended already"
    if told := _counted(still_active):
        return f"still active: {told}"
    return f"{cleared.total} cleared"


def _counted(section: Section) -> str:
    numbers = ((section.critical, "critical"), (section.warning, "warning"))
    return ", ".join(f"{number} {word}" for number, word in numbers if number)


def _worst(*sections: Section) -> str:
    """Of the first section in which something is active."""
    for one in sections:
        if one.critical or one.warning:
            return CRITICAL if one.critical else WARNING
    return CLEARED
