"""A rule about one field of a stream's configuration, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from alarmdigest.nats.stream_configs import Role, age_text
from alarmdigest.nats.stream_questions import HOUR_NS, Question, Seen, original, shown

Verdict: TypeAlias = Literal["refuses", "warns"]

#: How most remedies begin, and the one where nothing can be edited.
EDIT = "nats stream edit {stream} "
ANEW = (
    "this cannot be changed; delete it (nats stream rm {stream}), and we make it anew without what "
    "it holds, or give us another stream ({option} NAME)"
)


class Finding(NamedTuple):
    """What a rule has to say of a stream: a sentence with the remedy."""

    verdict: Verdict
    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """``when`` is ``applies`` in words. ``because`` and ``remedy`` go into the sentence.

    ``change`` is what the remedy does to the configuration; None where a stream must be recreated.
    """

    field: str
    roles: tuple[Role, ...]
    verdict: Verdict
    when: str
    applies: Question
    because: str
    remedy: str
    change: Mapping[str, Any] | None = None

    def check(self, seen: Seen) -> Finding | None:
        if seen.wanted.role not in self.roles or not self.applies(seen):
            return None
        names = _names(seen)
        because, remedy = self.because.format(**names), self.remedy.format(**names)
        value = shown(self.field, seen.config.get(self.field))
        text = f"stream {seen.wanted.name} has {self.field} {value}, {because}: {remedy}"
        return Finding(self.verdict, self.field, seen.wanted.for_its_domain(text))


def _names(seen: Seen) -> dict[str, str]:
    wanted = seen.wanted
    return {
        "stream": wanted.name,
        "option": wanted.option,
        "replicas": str(wanted.replicas),
        "original": original(seen),
        "age": age_text(wanted.max_age_ns or 7 * 24 * HOUR_NS),
    }
