"""The router of a service: made of its settings, with the arrival clock that the store has."""

from __future__ import annotations

import logging
import time

import mmh3

from alarmdigest._ext import timestamps
from alarmdigest._ext.router import Router
from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.slow_path import SlowPath
from alarmdigest.pipeline.trace import Trace
from alarmdigest.runtime.logs import Fields
from alarmdigest.settings import Settings
from alarmdigest.state.position import UNKNOWN_NS
from alarmdigest.store.base import Checkpoint
from alarmdigest.wire.buckets import BUCKETS

log = logging.getLogger(__name__)


def arrival_at_start(stored_ns: int, settings: Settings) -> int:
    """The arrival clock as the store has it; our clock, where that is to be accepted instead."""
    now_ns = time.time_ns()
    if stored_ns <= now_ns + DAY_NS or not settings.accept_clock_step:
        return stored_ns
    log.warning(
        "the store's arrival clock is set back to ours, as --accept-clock-step says:%s",
        Fields(store=timestamps.to_text(stored_ns), clock=timestamps.to_text(now_ns)),
    )
    return now_ns


def make_router(
    settings: Settings, rejections: Rejections, trace: Trace, last: Checkpoint | None
) -> Router:
    """The router of these settings, with its clock where the checkpoint left it."""
    router = Router(
        workers=settings.workers,
        buckets=BUCKETS,
        hash32=mmh3.hash,
        skew_ns=settings.clock_skew,
        read_or_reject=SlowPath(rejections, trace).read_or_reject,
        count_if_sampled_out=rejections.count_if_sampled_out,
        event_subject=settings.event_subject.encode(),
        request_subject=settings.request_subject.encode(),
        forget_subject=settings.forget_subject.encode(),
    )
    if last is not None:
        router.arrival_ns = arrival_at_start(last.arrival_ns, settings)
        position = last.position
        router.stepped_back_ns = UNKNOWN_NS if position is None else position.stepped_back_ns
    return router
