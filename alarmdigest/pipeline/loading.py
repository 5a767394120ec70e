"""What a start takes from the store: the alarm books, and the router's arrival clock."""

from __future__ import annotations

import logging
import time

import mmh3

from alarmdigest._ext import timestamps
from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.router import Router
from alarmdigest._ext.rows import split_by_worker
from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.runtime.logs import Fields
from alarmdigest.settings import Settings
from alarmdigest.state.position import UNKNOWN_NS
from alarmdigest.store.base import Checkpoint, Store, StoreDamaged
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


def make_router(settings: Settings, rejections: Rejections, last: Checkpoint | None) -> Router:
    """The router of these settings, with its clock where the checkpoint left it."""
    router = Router(
        workers=settings.workers,
        buckets=BUCKETS,
        hash32=mmh3.hash,
        skew_ns=settings.clock_skew,
        read_or_reject=rejections.read_or_reject,
        only_count=rejections.only_count,
        event_subject=settings.event_subject.encode(),
        request_subject=settings.request_subject.encode(),
        forget_subject=settings.forget_subject.encode(),
    )
    if last is not None:
        router.arrival_ns = arrival_at_start(last.arrival_ns, settings)
        position = last.position
        router.stepped_back_ns = UNKNOWN_NS if position is None else position.stepped_back_ns
    return router


def load_books(store: Store, books: list[AlarmBook]) -> None:
    """Load every row of a store, if it has a checkpoint, into the book of the worker that its
    bucket belongs to, and log that.

    Raises StoreError; the books are useless then.
    """
    last = store.last
    if last is None:
        return
    started = time.monotonic()
    for chunk in store.rows():
        for book, part in zip(books, split_by_worker(chunk, len(books)), strict=True):
            if part:
                try:
                    book.load_rows(part)
                except ValueError as error:
                    raise StoreDamaged(f"the store is damaged: {error}") from error
    log.info(
        "went on from%s",
        Fields(
            checkpoint=last.number,
            alarms=sum(book.alarm_count for book in books),
            users=sum(book.user_count for book in books),
            position=last.position.sequence if last.position is not None else None,
            seconds=time.monotonic() - started,
        ),
    )
