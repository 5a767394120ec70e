"""A start loads the alarm books from the store."""

from __future__ import annotations

import logging
import time

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.rows import split_by_worker
from alarmdigest.runtime.logs import Fields
from alarmdigest.store.base import Store, StoreDamaged

log = logging.getLogger(__name__)


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
