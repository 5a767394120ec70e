"""Replicas and servers with one safeguard left out each, to see that the simulation finds it."""

from __future__ import annotations

from replication.schedule import Parts
from replication.simulated_input import PARTS, WORKERS, Events
from replication.simulated_jetstream import UNKNOWN, Digests, JetStream
from replication.simulated_pipeline import Barrier
from replication.simulated_replica import Process

from alarmdigest.replication.leadership import (
    Asking,
    LastElection,
    Leadership,
    PublishElection,
    ReadLastElection,
    ReadOutput,
    Refused,
    Stored,
    Unknown,
)
from alarmdigest.replication.membership import Membership
from alarmdigest.replication.word import Word

# -- servers ---------------------------------------------------------------------------------------


class NoFence(JetStream):
    def passes(self, token: int) -> bool:
        return True


class BatchesInPart(JetStream):
    """A server that knows no atomic batches looks at each message by itself."""

    def store_digests(self, batch: Digests, token: int) -> Stored | Refused | Unknown:
        stored = [one for one in batch if self.rng.random() < 0.9]
        answer = super().store_digests(stored, token)
        return answer if len(stored) == len(batch) else UNKNOWN


# -- becoming the leader, and staying it -----------------------------------------------------------


class NoReadThrough(Process):
    def read_through(self, question: ReadOutput) -> int:
        return 0


class ReadsALaggingEnd(Process):
    """What its server shows is taken for the end."""

    def read_through(self, question: ReadOutput) -> int:
        return min(question.token, self.jetstream.output_seen(self.index))


class _LooksUpOnly(Leadership):
    def confirm(self) -> Asking:
        last = yield ReadLastElection()
        if not isinstance(last, LastElection) or last.sequence != self.token:
            return (yield from super().confirm())
        yield ReadOutput(self.word.after, -1)
        return True


class NoSelfFence(Process):
    """After an unanswered publish it looks up, all that is there, and sends again."""

    leadership_type = _LooksUpOnly

    def read_through(self, question: ReadOutput) -> int:
        return self.jetstream.end if question.token < 0 else question.token


class _Adopts(Leadership):
    def is_mine(self, nonce: str) -> bool:
        return True


class AdoptsAnothersToken(Process):
    leadership_type = _Adopts


class _RenewsPlainly(Leadership):
    def renew(self) -> Asking:
        answer = yield PublishElection(self._next_nonce(), None)
        if isinstance(answer, Stored):
            self.token = answer.sequence
            return True
        return (yield from self.confirm())


class RenewsPlainly(Process):
    leadership_type = _RenewsPlainly


class TwoBatchesAtOnce(Process):
    batches_at_once = 2


class TakesUnansweredForStored(Process):
    def batch_answered(self, ids: list[int], answer: object) -> None:
        if answer is UNKNOWN:
            for id in ids:
                self.inflight.pop(id, None)
        else:
            super().batch_answered(ids, answer)


class _TrustsAnyAnswer(Leadership):
    def confirm(self) -> Asking:
        while True:
            answer = yield PublishElection(self._next_nonce(), self.token)
            if isinstance(answer, Stored):
                return (yield from self._take_over(answer.sequence))
            last = yield ReadLastElection()
            if not isinstance(last, LastElection):
                continue
            if last.sequence != self.token and self.is_mine(last.nonce):
                return (yield from self._take_over(last.sequence))
            if last.sequence != self.token:
                self.step_down()
                return False


class _LearnsItsTokenByReading(Leadership):
    def stand(self) -> Asking:
        yield PublishElection(self._next_nonce(), None)
        while True:
            last = yield ReadLastElection()
            if isinstance(last, LastElection) and last.sequence:
                return (yield from self._take_over(last.sequence))


class LearnsItsTokenByReading(Process):
    """... the last leader message, whoever has published it."""

    leadership_type = _LearnsItsTokenByReading


class SpeaksWhileItAsks(Process):
    """It sends on while it fences itself and reads what is stored."""

    def may_speak(self) -> bool:
        return True


class BelievesAStaleServer(Process):
    """An older leader message of one's own is not the last one, whoever says so."""

    leadership_type = _TrustsAnyAnswer


class AnEmptyOneStands(Process):
    def may_stand(self) -> bool:
        self.empty = False
        return True


# -- what is in flight -----------------------------------------------------------------------------


class DropsTheListOnSteppingDown(Process):
    def stepped_down(self) -> None:
        super().stepped_down()
        self.inflight.clear()


class FollowerTrustsItsOwn(Process):
    def digest_made(self, id: int, body: Events) -> None:
        if self.leadership.leads:
            super().digest_made(id, body)


class ListsWhatTheWordConfirms(Process):
    """One that is behind the word's place in the input lists what it makes up to there."""

    def digest_made(self, id: int, body: Events) -> None:
        if self.early.pop(id, None) is None:
            self.inflight[id] = body


class LeadsByWhatItHasCompared(Process):
    """One that is elected behind the word's place in the input lists what it makes up to there."""

    @property
    def stored_through(self) -> int:
        return self.compared.through


class ForgetsEarlyIds(Process):
    def stored_id_read(self, id: int, place: int) -> None:
        self.inflight.pop(id, None)


class ForgetsEarlyIdsOnceTheirRequestWasRead(Process):
    """... though the worker has not made the digest yet."""

    def step(self) -> None:
        super().step()
        self.forget_early(self.read)


class AFullListKeepsFromStanding(Process):
    list_may_be_full = False


class PausesReadingWithAFullList(Process):
    def reading_pauses(self, id: int) -> bool:
        return id // PARTS > self.read + self.window


# -- words and checkpoints -------------------------------------------------------------------------


class EarlyCheckpoint(Process):
    def may_finish(self, barrier: Barrier) -> bool:
        return True


class WordAtTheFirstWorkersBarrier(Process):
    def all_arrived(self, barrier: Barrier) -> bool:
        return barrier.arrived >= (1 if barrier.for_word else WORKERS)


class EarlyWord(Process):
    def all_confirmed(self, through: int) -> bool:
        return True


class PlaceTakenWhenComplete(Process):
    def after_of(self, barrier: Barrier) -> int:
        return self.place()


class PlaceTakenAtTheLastBarrier(Process):
    def barrier_arrived(self, barrier: Barrier) -> None:
        barrier.after = self.place()


class PlaceBehindEarlyIds(Process):
    def place(self) -> int:
        return self.known


class PlaceOfAFollowerThatHasLed(Process):
    """It takes what it has known last for the place of a barrier, and is elected again."""

    def place(self) -> int:
        return super().place() if self.leadership.leads else self.known


class CheckpointWithoutItsPlace(Process):
    """It keeps the end of the output as it is, instead of the word's place."""

    def word_kept(self) -> Word:
        word = super().word_kept()
        return Word(word.through, 0, self.jetstream.end, "", word.digests, word.ids)


# -- who is alive ----------------------------------------------------------------------------------


class _SuspectsAtOnce(Membership):
    @property
    def leader_is_suspected(self) -> bool:
        return True


class SuspectsAtOnce(Process):
    membership_type = _SuspectsAtOnce


class _SuspectsNobody(Membership):
    @property
    def leader_is_suspected(self) -> bool:
        return self.token == 0


class SuspectsNobody(Process):
    membership_type = _SuspectsNobody


class _WatchesNobody(Membership):
    def watch_leader(self, *, waits: bool) -> None:
        pass


class WatchesNobody(Process):
    """A leader that is heard and gets nothing stored is left alone."""

    membership_type = _WatchesNobody


class TakesAnIdleLeaderForStuck(Process):
    """It waits for what the word covers already."""

    def waits_for_leader(self) -> bool:
        return True


class WaitsWhileItHangs(Process):
    """A follower whose publishing thread hangs finds one leader after the other stuck."""

    def waits_while_hanging(self) -> bool:
        return True


SERVERS = (NoFence, BatchesInPart)
PROCESSES: tuple[type[Process], ...] = (
    NoReadThrough,
    ReadsALaggingEnd,
    NoSelfFence,
    AdoptsAnothersToken,
    RenewsPlainly,
    TwoBatchesAtOnce,
    TakesUnansweredForStored,
    LearnsItsTokenByReading,
    SpeaksWhileItAsks,
    BelievesAStaleServer,
    AnEmptyOneStands,
    DropsTheListOnSteppingDown,
    FollowerTrustsItsOwn,
    ListsWhatTheWordConfirms,
    LeadsByWhatItHasCompared,
    ForgetsEarlyIds,
    ForgetsEarlyIdsOnceTheirRequestWasRead,
    AFullListKeepsFromStanding,
    PausesReadingWithAFullList,
    EarlyCheckpoint,
    WordAtTheFirstWorkersBarrier,
    EarlyWord,
    PlaceTakenWhenComplete,
    PlaceTakenAtTheLastBarrier,
    PlaceBehindEarlyIds,
    PlaceOfAFollowerThatHasLed,
    CheckpointWithoutItsPlace,
    SuspectsAtOnce,
    SuspectsNobody,
    WatchesNobody,
    TakesAnIdleLeaderForStuck,
    WaitsWhileItHangs,
)
WRONG: dict[str, Parts] = {
    **{one.__name__: Parts(jetstream=one) for one in SERVERS},
    **{one.__name__: Parts(process=one) for one in PROCESSES},
}
