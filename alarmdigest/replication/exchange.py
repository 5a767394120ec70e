"""What the publisher's thread and the group's thread tell each other. They share fields instead of
queues, since only the newest value of each counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alarmdigest.replication.membership import Beat
from alarmdigest.replication.word import NOTHING_SAID, Word
from alarmdigest.runtime.queues import Waker


@dataclass(slots=True)
class Exchange:
    """Each attribute is replaced as a whole.

    Written by the publisher: ``token`` while we lead, else 0; ``stream_made_ns``, when the digest
    stream was made, 0 while that is not known; ``word``, the newest that we know;
    ``agreed``, up to where we have made the same digests as the leader (an arrival in ns);
    ``differs_at`` and ``own``, where we have come to something else, and to what; ``distrusts``,
    the token of a leader whose word we do not go by: the majority disagrees with it, or another was
    elected before that was decided; ``diverged``, why this replica disagrees with the majority, if
    it does; ``progress``, which changes with all that is stored, or read; ``in_doubt``, whether the
    others are asked who is right; ``waits_at``, the last time (``time.monotonic()``) when we had
    made something that the word does not cover and that is not known to be stored; ``full``,
    whether something waits that others could not store either; ``stuck``, whether an election's
    reading does not move; ``elections`` and ``lost_elections`` count.

    Written by the group's thread: ``heard``, the newest word of another replica; ``stand_asked``
    counts the requests to stand, the last of which holds until ``stand_until``; ``last_of_others``,
    the sequence of the last leader message, where the stream says that it is not ours;
    ``snapshot_asked_at``, when a replica asked us for one (``time.monotonic()``); ``others``,
    what the living ones beside us and the leader have told; ``outvoted``, whether we lead and the
    majority has made other digests.

    ``keeps_snapshots`` says whether this replica makes any.

    ``stands`` is set by the group's thread with each request to stand, and cleared when that
    election is over, or the wish has lapsed; ``stood`` is set by the publisher in the former case.
    """

    word: Word = NOTHING_SAID
    token: int = 0
    stream_made_ns: int = 0
    agreed: int = 0
    differs_at: int = 0
    own: str = ""
    in_doubt: bool = False
    distrusts: int = 0
    diverged: str = ""
    progress: int = 0
    waits_at: float = 0.0
    full: bool = False
    stuck: bool = False
    stands: bool = False
    stood: bool = False
    elections: int = 0
    lost_elections: int = 0

    keeps_snapshots: bool = False

    heard: Word = NOTHING_SAID
    stand_asked: int = 0
    stand_until: float = 0.0
    snapshot_asked_at: float = 0.0
    last_of_others: int = 0
    others: tuple[Beat, ...] = ()
    outvoted: bool = False

    @property
    def term(self) -> int | None:
        """While we lead: greater than that of every leader before, also where the digest stream
        was made anew since, and its sequences begin again."""
        if not self.token or not self.stream_made_ns or self.diverged:
            return None
        return (self.stream_made_ns << 64) + self.token

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
