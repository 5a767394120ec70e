"""What an instance in a group has beside a single one: who it is, and its part in the protocol."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable

from alarmdigest import __version__
from alarmdigest._ext.digest_sums import DigestSums
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import StreamConfigs
from alarmdigest.pipeline.group_checks import content_of
from alarmdigest.pipeline.inflight.fenced import FencedConfirmer
from alarmdigest.pipeline.startup import StartPlan
from alarmdigest.replication.exchange import Exchange, Identity
from alarmdigest.replication.folder_note import DIVERGED, MISSED, FolderNote
from alarmdigest.replication.group import Group
from alarmdigest.replication.word import Word
from alarmdigest.runtime.service_thread import TICK_S
from alarmdigest.settings import Settings
from alarmdigest.store.base import Checkpoint

log = logging.getLogger(__name__)

#: How long a leader that stops waits for another one to be elected.
RESIGN_FOR_S = 1.0


def default_name() -> str:
    """The host's name, as far as it may be a part of a subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:64] or "replica"


class Replica:
    """``group`` is the thread that hears the others; ``exchange`` is what it and the publisher
    know. ``missed`` says which input the state lacks; empty if none."""

    def __init__(self, settings: Settings, last: Checkpoint | None, plan: StartPlan) -> None:
        """``last`` is the checkpoint that it goes on from."""
        name = settings.replica_name or default_name()
        self.identity = Identity(
            settings.group,
            name,
            f"{name}-{secrets.token_hex(8)}",
            settings.leader_priority,
            {"version": __version__, "host": socket.gethostname(), "pid": os.getpid()},
        )
        self._divergence = FolderNote(settings, DIVERGED)
        self._missing = FolderNote(settings, MISSED)
        self.missed = self._missing.read()
        self.exchange = Exchange(
            diverged=self._divergence.read(), keeps_snapshots=settings.keeps_snapshots
        )
        self.group: Group | None = None
        self._settings = settings
        self._was_ready = False
        self._last = last
        self._content = content_of(settings, plan.content_settings)
        self._start = plan.group_start

    def make_confirmer(self, configs: StreamConfigs, lookups: Reconnector) -> FencedConfirmer:
        last, settings = self._last, self._settings
        kept = last.replica if last is not None else None
        through = last.arrival_ns if last is not None else 0
        if kept is None:
            # A state from before the group, if any: what belongs to it was published.
            word = Word(through)
            if last is not None and (output := last.outputs.get(configs.digests.name)):
                sequence = last.position.sequence if last.position is not None else 0
                word = Word(through, sequence, output.sequence, output.message_id)
            sums = DigestSums(through)
        else:
            word = Word.from_json(kept.word)
            sums = DigestSums(through, kept.digests, int(kept.ids, 16))
        return FencedConfirmer(
            settings.digest_subject,
            settings.rejected_subject,
            (configs.digests, configs.rejected),
            lookups,
            create=not settings.no_create_streams,
            domain=settings.js_domain,
            outputs=last.outputs if last is not None else {},
            word=word,
            sums=sums,
            exchange=self.exchange,
            identity=self.identity,
            content=self._content,
            start=self._start,
            on_diverged=self._divergence.write,
        )

    def make_group(
        self,
        reconnector: Reconnector,
        position: Callable[[], int],
        ready: Callable[[], bool],
        missed: Callable[[], bool],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> Group:
        settings = self._settings

        def tell_ready() -> bool:
            now = ready()
            if now != self._was_ready:
                self._was_ready = now
                log.info("caught up: could lead at once" if now else "far behind the input again")
            return now

        self.group = Group(
            reconnector,
            self.identity,
            self.exchange,
            digests_stream=settings.digests_stream,
            domain=settings.js_domain,
            stream_replicas=settings.stream_replicas,
            position=position,
            ready=tell_ready,
            missed=missed,
            on_failure=on_failure,
        )
        return self.group

    def note_missed(self, messages: int) -> bool:
        """``messages`` of the input were deleted before this process has read them; whether any
        were, now or before."""
        if messages and not self.missed:
            self.missed = f"{messages} input messages were deleted before they were read"
            self._missing.write(self.missed)
        return bool(self.missed)

    @property
    def leads(self) -> bool:
        return self.exchange.token > 0 and not self.exchange.diverged

    def term(self) -> int | None:
        """See ``Store.share``. A state that lacks input is not written over one that may not."""
        return None if self.missed else self.exchange.term

    def makes_snapshots(self) -> bool:
        return self.group is not None and self.group.makes_snapshots()

    def resign(self) -> None:
        """Have another replica elected, if we lead; return once it is, or nobody was in time."""
        if self.group is None:
            return
        self.group.resign()
        deadline = time.monotonic() + RESIGN_FOR_S
        while self.leads and time.monotonic() < deadline:
            time.sleep(TICK_S / 20)
