"""What the publisher's thread and the group's thread tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alarmdigest.replication.word import NOTHING_SAID, Word
from alarmdigest.runtime.service_thread import Waker


@dataclass(slots=True)
class Exchange:
    """Each attribute is written by one of the two threads and replaced as a whole.

    Written by the publisher: ``token`` while we lead, else 0; ``word``, the newest that we know;
    ``made_through``, the input up to which all digests have been made; ``diverged``, why this
    replica disagrees with the others, if it does; ``stands`` from an election's beginning to its
    end; ``elections`` and ``lost_elections`` count.

    Written by the group's thread: ``heard``, the newest word of another replica; ``stand_asked``
    counts the requests to stand; ``deposed_by``, the greatest token that others were heard to lead
    with.
    """

    word: Word = NOTHING_SAID
    token: int = 0
    made_through: int = 0
    diverged: str = ""
    stands: bool = False
    elections: int = 0
    lost_elections: int = 0

    heard: Word = NOTHING_SAID
    stand_asked: int = 0
    deposed_by: int = 0

    #: Ends the waiting of the group's thread when there is something new to say, and that of the
    #: publisher when there is something to heed.
    news: Waker = field(default_factory=Waker)
    heed: Waker = field(default_factory=Waker)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are in the group. ``incarnation`` is unique to this process. ``about`` is what others
    are shown: version, host, process id."""

    group: str
    name: str
    incarnation: str
    priority: int
    about: dict[str, Any]
