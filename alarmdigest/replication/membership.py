"""Who is in the group, who is taken for alive, and whose turn it is to stand.

Safety never depends on this: two who stand at once are harmless, the later leader message wins. It
only has to settle. Replicas tell of themselves in beats, which go through one small stream, so that
everybody sees the same. **The next beat is sent half a second after the last one came back by
reading**, and the leader is suspected when four of our own beats have made that round since it was
last heard of. So a server that stalls, a paused process, a slow disk or a clock that jumps makes
nobody suspect anybody: our own beats do not come back then either.

No input and no output happens here, and no clock is read: a simulation runs the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alarmdigest.replication.word import NOTHING_SAID, Word

BEAT_PAUSE_S = 0.5
# While digests flow the leader's word is spoken so often.
WORD_PAUSE_S = 0.05
# A beat that is not back after so long is sent again, under another number.
BEAT_LOST_AFTER_S = 1.0
SUSPECT_AFTER_ROUNDS = 4
# Another process under our name is alive that is heard on for so many rounds.
NAME_TAKEN_AFTER_ROUNDS = 2
# So long an older process waits for the younger one to end.
NAME_KEPT_FOR_ROUNDS = 20
# A leader that gets nothing done, though it is heard and the stream answers, is asked to resign
# after so many paces of half a second, and after as many again another one stands.
STUCK_AFTER_PACES = 10
# Each candidate waits so long for those before it in the order.
RANK_PAUSE_S = 0.15
FIRST_BACK_OFF_S = 2.0
LONGEST_BACK_OFF_S = 30.0
# Where no leader message exists there is nobody to wait for, but for others that start, too.
FIRST_ELECTION_ROUNDS = 1
# Of names, and of replicas that are heard: others may write to the stream, too.
MOST_TEXT = 200
MOST_MEMBERS = 100
# Who has just come does not know yet who else is there.
SNAPSHOTS_AFTER_PACES = 3


@dataclass(frozen=True, slots=True)
class Beat:
    """What a replica tells of itself. ``number`` counts up within an incarnation.

    ``priority`` 0 never stands, greater ones stand first. ``token`` of who leads, else 0.
    ``position`` is the sequence up to which it has read the input. ``successor`` is who should
    stand now, named by a leader that resigns. ``word`` is the newest that it knows.

    ``progress`` changes with every digest that a leader gets stored, or reads; ``full``: it gets
    nothing stored, and another one would not either. ``missed``: input was deleted before it read
    it. ``may_not_lead``: it has diverged, or the others are being asked whether it has. ``resign``
    is the token of a leader that should resign, since it gets nothing done.

    ``paces`` is how long it has been in the group, in half seconds or so.

    ``agreed`` is up to where it has made the same digests as the leader (an arrival in ns); where
    ``differs_at`` it has come to something else, namely to ``own``; ``distrusts`` is the token of a
    leader that the majority disagrees with.
    """

    name: str
    incarnation: str
    number: int
    priority: int = 100
    token: int = 0
    position: int = 0
    ready: bool = False
    may_not_lead: bool = False
    successor: str = ""
    word: Word = NOTHING_SAID
    progress: int = 0
    full: bool = False
    missed: bool = False
    resign: int = 0
    agreed: int = 0
    differs_at: int = 0
    own: str = ""
    distrusts: int = 0
    paces: int = 0
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        return self.token > 0

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in self.__slots__ if name != "word"}
        return {**told, "word": self.word.to_json()}

    @classmethod
    def from_json(cls, fields: object) -> Beat:
        """Raises ValueError for what is no beat; fields that it does not know are ignored."""
        if not isinstance(fields, dict):
            raise ValueError("a beat is an object")
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        try:
            beat = cls(**{**known, "word": Word.from_json(known.get("word"))})
        except TypeError as error:
            raise ValueError(f"a beat with other fields: {error}") from error
        numbers = (
            *(beat.number, beat.priority, beat.token, beat.position, beat.progress),
            *(beat.resign, beat.agreed, beat.differs_at, beat.distrusts, beat.paces),
        )
        texts = (beat.name, beat.incarnation, beat.successor, beat.own)
        yes_or_no = (beat.ready, beat.may_not_lead, beat.full, beat.missed)
        if not (
            all(type(one) is int and 0 <= one < 2**63 for one in numbers)
            and all(isinstance(one, bool) for one in yes_or_no)
            and all(isinstance(one, str) and len(one) <= MOST_TEXT for one in texts)
            and isinstance(beat.about, dict)
        ):
            raise ValueError("a beat whose fields have other types")
        return beat


@dataclass(slots=True)
class Member:
    """A replica as it was last heard of; ``at_pace`` as ``Membership`` counts it."""

    beat: Beat
    at_pace: int


class NameTaken(Exception):
    """Another process of the group has our name, and is alive."""


class Membership:
    """What one replica has heard of the others. Times are those of the caller's clock, in seconds.

    ``token`` is the sequence of the last leader message, as its stream has told it, or we know by
    ourselves. ``claimed_token`` is the greatest that beats have named since: where it is greater,
    the stream is to be asked, since a beat proves nothing. ``rounds`` counts our beats that came
    back.
    """

    def __init__(self, name: str, incarnation: str, priority: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.priority = priority
        self.members: dict[str, Member] = {}
        self.token = 0
        self.claimed_token = 0
        self.rounds = 0
        # As rounds, but at most one in BEAT_PAUSE_S: a leader's beats come faster than others'.
        self._pace = 0
        self._paced_at: float | None = None
        self._number = 0
        self._sent_at: float | None = None
        self._returned_at: float | None = None
        self._leader_round = 0
        #: The token of a leader that the majority disagrees with.
        self.distrusts = 0
        # What a leader that should get something done has told last, and since which pace.
        self._told: tuple[str, int, int, int] | None = None
        self._told_at_pace = 0
        self._asked_to_resign = 0
        self._suspected_since: float | None = None
        self._back_off_s = FIRST_BACK_OFF_S
        self._stand_not_before = 0.0
        self._named_successor = False
        self.why_to_stand = ""
        # By incarnation: the newest number, the pace it came in, and in how many paces one came.
        self._others: dict[str, tuple[int, int, int]] = {}

    # -- beats -------------------------------------------------------------------------------------

    def beat_due(self, now: float, *, hurry: bool = False) -> bool:
        """Whether to send a beat now. ``hurry``: there is a new word to speak."""
        if self._sent_at is not None:
            return now - self._sent_at >= BEAT_LOST_AFTER_S
        pause = WORD_PAUSE_S if hurry else BEAT_PAUSE_S
        return self._returned_at is None or now - self._returned_at >= pause

    def next_number(self, now: float) -> int:
        """The number of the beat that is sent now."""
        self._number += 1
        self._sent_at = now
        return self._number

    def hear(self, beat: Beat, now: float) -> None:
        """A beat that was read, one of ours among them. Raises NameTaken."""
        if beat.name == self.name and beat.incarnation == self.incarnation:
            self._hear_own(beat, now)
            return
        if beat.name == self.name:
            self._hear_namesake(beat)
            return
        if beat.about.get("stopped") is True:
            self.members.pop(beat.name, None)
            return
        if beat.name not in self.members and len(self.members) >= MOST_MEMBERS:
            del self.members[min(self.members, key=lambda name: self.members[name].at_pace)]
        self.members[beat.name] = Member(beat, self._pace)
        self.claimed_token = max(self.claimed_token, beat.token)
        if beat.leads and beat.token == self.token:
            self._leader_is_there()
        if beat.successor == self.name and beat.token == self.token:
            self._named_successor = True
        if beat.resign:
            self._asked_to_resign = beat.resign

    def _hear_namesake(self, beat: Beat) -> None:
        """Some beats of an earlier process may still arrive, one after the other where a connection
        had stalled. Who is heard on in two further rounds of ours, half a second each, is alive.
        Who came later is told so; the other one stays, unless that one does not give way."""
        number, at_pace, times = self._others.get(beat.incarnation, (0, self._pace, 0))
        if beat.number <= number:
            return
        if self._pace > at_pace:
            times += 1
        if len(self._others) >= MOST_MEMBERS:
            self._others.clear()
        self._others[beat.incarnation] = (beat.number, self._pace, times)
        patience = NAME_TAKEN_AFTER_ROUNDS if beat.paces >= self._pace else NAME_KEPT_FOR_ROUNDS
        if times >= patience:
            told = (beat.about.get(name) for name in ("host", "pid"))
            host, pid = (one if isinstance(one, str | int) else "?" for one in told)
            raise NameTaken(
                f"another process of the group is called {self.name} (on {str(host)[:MOST_TEXT]}, "
                f"pid {pid}): give each its own --replica-name"
            )

    def _hear_own(self, beat: Beat, now: float) -> None:
        if beat.number != self._number or self._sent_at is None:
            return
        self.rounds += 1
        self._sent_at = None
        self._returned_at = now
        if self._paced_at is None or now - self._paced_at >= BEAT_PAUSE_S:
            self._pace += 1
            self._paced_at = now
        if beat.leads and beat.token == self.token:
            self._leader_is_there()

    def note_token(self, token: int) -> None:
        """A leader message with this sequence exists: its publisher gets time to be heard of."""
        if token > self.token:
            self.token = token
            self._leader_is_there()

    def note_last_election(self, token: int) -> None:
        """The stream says that this is its last leader message (0: there is none).

        It may be a smaller one than was known: of a stream that was made anew, or told by a server
        that does not know the newest. That is asked again before anybody stands.
        """
        self.claimed_token = 0
        if token < self.token:
            self.token = token
            self._leader_is_there()
        self.note_token(token)

    def _leader_is_there(self) -> None:
        self._leader_round = self.rounds
        self._suspected_since = None
        self._named_successor = False

    # -- who stands --------------------------------------------------------------------------------

    @property
    def leader(self) -> Member | None:
        """Who was heard to lead with the greatest token, alive or not; None also while we do."""
        for member in list(self.members.values()):  # other threads ask, too
            if member.beat.leads and member.beat.token == self.token:
                return member
        return None

    @property
    def leader_is_suspected(self) -> bool:
        rounds = SUSPECT_AFTER_ROUNDS if self.token else FIRST_ELECTION_ROUNDS
        return self.rounds - self._leader_round >= rounds

    def watch_leader(self, *, waits: bool) -> None:
        """``waits``: we have something that is not known to be stored, and the stream answers. Call
        it again and again."""
        leader = self.leader
        if leader is None or not waits or leader.beat.full:
            self._told = None
            return
        beat = leader.beat
        told = beat.incarnation, beat.token, beat.word.through, beat.progress
        if told != self._told:
            self._told, self._told_at_pace = told, self._pace

    def _is_stuck(self, paces: int) -> bool:
        return self._told is not None and self._pace - self._told_at_pace >= paces

    @property
    def should_resign(self) -> int:
        """The token of a leader that should resign; 0: none."""
        if self.distrusts == self.token or self._is_stuck(STUCK_AFTER_PACES):
            return self.token
        return 0

    def asked_to_resign(self, token: int) -> bool:
        """Whether another replica has said that the leader with this token should resign."""
        return token > 0 and self._asked_to_resign == token

    @property
    def others(self) -> tuple[Beat, ...]:
        """What the living ones beside us and the leader have told last."""
        leader = self.leader
        return tuple(
            member.beat
            for member in self.members.values()
            if member is not leader and self.alive(member)
        )

    def alive(self, member: Member) -> bool:
        return self._pace - member.at_pace < SUSPECT_AFTER_ROUNDS

    def rank(self, own: Beat) -> int:
        """How many of those that live stand before us: who has missed no input, then greater
        priority, then least behind, then by name."""
        suspected = self.leader
        others = [
            member.beat
            for member in self.members.values()
            if member is not suspected
            and self.alive(member)
            and member.beat.priority > 0
            and not member.beat.may_not_lead
        ]
        return sum(_order(other) < _order(own) for other in others)

    def should_stand(self, own: Beat, now: float) -> bool:
        """Whether to stand now. ``own`` is our beat as it would be sent."""
        if own.leads or own.priority == 0 or own.may_not_lead:
            return False
        if self._named_successor:
            self._named_successor = False
            self.why_to_stand = "the leader has named this one"
            return True
        if self.distrusts > 0 and self.distrusts == self.token:
            self.why_to_stand = "the leader has made other digests than most"
        elif self._is_stuck(2 * STUCK_AFTER_PACES):
            self.why_to_stand = "the leader gets nothing done"
        elif self.leader_is_suspected:
            self.why_to_stand = "the leader is not heard" if self.token else "there is no leader"
        else:
            return False
        if self._suspected_since is None:
            self._suspected_since = now
        wait = self.rank(own) * RANK_PAUSE_S
        return now - self._suspected_since >= wait and now >= self._stand_not_before

    def stood(self, now: float, *, elected: bool) -> None:
        """We stood. Who was refused waits longer each time."""
        self._suspected_since = self._told = None
        self._leader_round = self.rounds
        if elected:
            self._back_off_s = FIRST_BACK_OFF_S
            return
        self._stand_not_before = now + self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, LONGEST_BACK_OFF_S)

    @property
    def paces(self) -> int:
        """How long we have been in the group, in half seconds or so."""
        return self._pace

    def makes_snapshots(self, own: Beat) -> bool:
        """Whether it is our business: that of the first follower that is ready, and the leader's
        where there is none. The order is that of candidates, but for how far each has read, which
        changes all the time. Who has missed input makes some only where all have."""
        if self._pace < SNAPSHOTS_AFTER_PACES or own.may_not_lead:
            return False
        beats = [one.beat for one in list(self.members.values()) if self.alive(one)]
        able = [beat for beat in beats if beat.ready and not beat.may_not_lead]
        if own.missed and not all(beat.missed for beat in able):
            return False
        followers = [
            (-beat.priority, beat.name)
            for beat in able
            if beat.missed == own.missed and not (beat.leads and beat.token == self.token)
        ]
        if own.leads:
            return not followers
        return own.ready and all((-own.priority, own.name) < other for other in followers)

    def readiest(self) -> str:
        """Who should lead next; empty where nobody can."""
        able = [
            member.beat
            for member in list(self.members.values())  # the page asks, too
            if self.alive(member) and member.beat.priority > 0 and not member.beat.may_not_lead
        ]
        ready = [beat for beat in able if beat.ready] or able
        return min(ready, key=_order).name if ready else ""


def _order(beat: Beat) -> tuple[bool, int, int, str]:
    return (beat.missed, -beat.priority, -beat.position, beat.name)
