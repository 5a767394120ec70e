"""How much may be under way after a refusal, and when the next attempt is made."""

from __future__ import annotations

from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.pace import PASSING_ATTEMPTS, PASSING_PAUSE_S, UNLIMITED, Pace

LASTING_OF_ONE = PublishBlocked("too large", only_this_one=True)
PASSING = PublishBlocked("no leader", passing=True)


def test_one_that_is_refused_for_good_does_not_make_the_others_wait() -> None:
    pace = Pace()
    for _ in range(10):
        pace.on_blocked(LASTING_OF_ONE)
        assert pace.may_send
        pace.on_retry()
    pace.on_blocked(LASTING_OF_ONE)
    wait_s = pace.seconds_to_retry
    assert wait_s is not None
    assert wait_s > 20
    pace.on_blocked(PASSING)
    assert not pace.may_send
    wait_s = pace.seconds_to_retry
    assert wait_s is not None
    assert wait_s <= PASSING_PAUSE_S
    pace.on_streams_found()
    assert pace.may_send


def test_what_passes_is_tried_again_soon_and_after_a_while_less_often() -> None:
    pace, waits = Pace(), []
    for _ in range(PASSING_ATTEMPTS + 2):
        pace.on_blocked(PASSING)
        waits.append(pace.seconds_to_retry or 0.0)
        pace.on_retry()
    assert max(waits[:PASSING_ATTEMPTS]) <= PASSING_PAUSE_S
    assert min(waits[PASSING_ATTEMPTS:]) > PASSING_PAUSE_S
    pace.on_confirmed(all_is_well=True)
    assert pace.most == UNLIMITED
    pace.on_blocked(PASSING)
    assert (pace.seconds_to_retry or 1.0) <= PASSING_PAUSE_S
